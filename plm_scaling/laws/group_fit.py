"""`GroupFit`: the laws of groups of sequences beside the law of all (`groups-clm.json`, `groups-mlm.json`)."""

from __future__ import annotations

from typing import ClassVar, Literal

from plm_scaling.core.objective import Objective
from plm_scaling.core.records import Record
from plm_scaling.laws.interval import Interval
from plm_scaling.laws.law_fit import LawFit

__all__ = ["GroupFit", "GroupLaw", "HomologyEffect"]


class GroupLaw(Record):
    """One group's law, drawn towards the other groups' laws.

    L_g(N, D) = L(N, D) + a + b phi_N(N) + c phi_D(D) [+ d phi_N(N) ln(N/N0) + e phi_D(D) ln(D/D0)]
    """

    name: str
    sequences: int
    """Validation sequences of the group."""
    targets: int
    """Tokens scored in them."""
    homologous_tokens: float | None = None
    """Training tokens of the group that the largest run saw; None where nobody knows."""
    loss: Interval
    """At the N and D of the largest run, nats per token."""
    per_doubling_N: Interval
    """Change of the loss per doubling of N at the centre of the runs, nats; negative: it falls."""
    per_doubling_D: Interval
    alone: tuple[float, float, float]
    """Loss and the two changes from this group's data alone, without shrinkage."""
    kept: tuple[float, float, float]
    """How far shrunk loss and changes go from the other groups' line to `alone`: 1 is no shrinkage."""
    rank_N: Interval
    """Place among the groups by how fast the loss falls with N, 1 the fastest: median and 95 % of the draws."""
    rank_D: Interval
    fastest_N: float
    """Probability of being among the `fastest_of` groups whose loss falls fastest with N."""
    fastest_D: float
    loading: float
    """How much of an error of the law of all is this group's: 1 all of it, 0 none."""
    coefficients: tuple[float, ...]
    """a, b, c, with bends also d, e: posterior means."""
    covariance: tuple[tuple[float, ...], ...]
    """Of the coefficients: posterior."""
    flags: tuple[str, ...] = ()
    """FEW_SEQUENCES, NO_HOMOLOGOUS_TOKENS."""


class HomologyEffect(Record):
    """How groups' laws differ by the training tokens of their own kind: a line in ln(tokens), between groups."""

    groups: int
    loss: Interval
    """Change of the loss at the largest run per doubling of a group's training tokens, nats."""
    per_doubling_N: Interval
    """Change of `per_doubling_N` per doubling of them."""
    per_doubling_D: Interval
    loss_given_length: Interval | None = None
    """`loss` among groups of equal mean sequence length."""
    length_correlation: float
    """Of ln tokens with ln mean length over the groups."""
    flags: tuple[str, ...] = ()
    """BETWEEN_GROUPS_ONLY, CONFOUNDED."""


class GroupFit(Record):
    """What the validation losses of a sweep say about groups of sequences."""

    SCHEMA_VERSION: ClassVar[int] = 1

    objective: Objective
    by: str
    """source, set, taxon, cluster50, cluster90, identity, or a column of the user's file."""
    validation: str
    """The sets whose sequences were grouped, comma between."""
    law: LawFit
    """The law of all sequences of the first of these sets; its draws resample runs alone."""
    basis: Literal["law", "log"]
    """`law`: phi_N = L(N, D0) - L(N0, D0) and phi_D likewise, the law's own cuts; `log`: ln(N/N0) and ln(D/D0)."""
    bends: bool = False
    """Whether groups have bends d, e: enough runs, spread widely enough."""
    N0: float
    D0: float
    """Centre of the runs."""
    N_largest: float
    D_largest: float
    n_runs: int
    groups: tuple[GroupLaw, ...]
    """By falling number of targets."""
    fastest_of: int
    """How many groups count as the fastest: a tenth of them, at least one."""
    homology: HomologyEffect | None = None
    spread: tuple[float, float, float]
    """Standard deviation between these groups of the loss at the largest run and of the changes per doubling of N and
    D, without the scatter of their estimates."""
    reliability: tuple[float, float, float]
    """Mean of `kept`: near 0, groups cannot be told apart by it."""
    run_sd: float
    """Of one group's loss in one run about its law, beyond what its sequences explain; nats."""
    left_out: int = 0
    """Groups of too few sequences, or beyond the largest ones."""
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """A plain sentence for every flag."""
    data_hash: str

    def group(self, name: str) -> GroupLaw:
        """A group by its name.

        Raises
        ------
        ConfigError : no group of this name.
        """
        from plm_scaling.core.errors import ConfigError, did_you_mean

        for group in self.groups:
            if group.name == name:
                return group
        raise ConfigError(f"no group is called {name!r}", hint=did_you_mean(name, [g.name for g in self.groups]))
