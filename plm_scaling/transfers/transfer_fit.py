"""`TransferFit`: effectively transferred tokens of every scratch/transferred pair, as a value."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from plm_scaling.core.records import Record
from plm_scaling.core.run import Objective
from plm_scaling.laws.law_fit import Interval, Refusal

__all__ = [
    "Estimate",
    "ExchangeTrend",
    "JointFit",
    "Overlap",
    "SourceShare",
    "TransferFit",
    "TransferLaw",
    "TransferPair",
]

Overlap = Literal["shared", "disjoint", "unknown"]


class Estimate(Record):
    """D_t of one pair as one estimator reads it."""

    name: str
    """A form of the scratch law, or `same-N runs`."""
    D_t: float | None
    """None where the estimator's scratch runs never reach the transferred loss."""
    weight: float
    """Share in the mixture that the pair's D_t and interval are taken from; 0: shown, not used."""


class TransferPair(Record):
    """One transferred run against the scratch run of equal N, D and schedule."""

    source_run_id: str
    target_run_id: str
    scratch_run_id: str
    """Empty where the scratch loss is a law's (LAW_ONLY)."""
    source_objective: Objective
    objective: Objective
    N: float
    D: float
    """Tokens of the target run, D_f."""
    D_source: float
    loss_scratch: float
    """Of the scratch run; with LAW_ONLY the law's at the target's N and D."""
    loss_transfer: float
    gap: float
    """loss_transfer - loss_scratch, nats; negative is a gain."""
    gap_se: float | None = None
    """Paired standard error of the gap over validation sequences, seeds not included."""
    gap_total_se: float | None = None
    """Standard error of the gap with the noise of both runs' seeds; None where that noise is unknown."""
    overlap: Overlap = "unknown"
    """Whether the target was trained on tokens that its source had seen."""
    replayed_share: float | None = None
    """Share of the target's distinct tokens that its source had seen."""
    D_t: float | None = None
    """Extra target tokens a scratch run would need to reach the transferred loss; 0 at a gap of 0.

    The weighted median of `estimates`."""
    D_t_low: float | None = None
    """Ends of the 95 % interval: noise of the gap, of the seeds, of the scratch law, and the choice of its form."""
    D_t_high: float | None = None
    D_t_fixed_seeds: Interval | None = None
    """The interval without the noise of the seeds: validation, the scratch law and the choice of its form. None where
    no seeds' noise is known: then it is the interval itself."""
    estimates: tuple[Estimate, ...] = ()
    """Every estimator's D_t."""
    D_t_per_source_token: float | None = None
    D_t_per_source_token_low: float | None = None
    D_t_per_source_token_high: float | None = None
    source_worth: float | None = None
    """Target tokens that the source's compute would have paid for."""
    net_tokens: float | None = None
    """D_t minus `source_worth`."""
    net_tokens_low: float | None = None
    net_tokens_high: float | None = None
    net_loss_gain: float | None = None
    """Loss of a scratch run given the source's compute as well, minus the transferred loss; positive: transfer pays."""
    control_run_id: str = ""
    """Run of equal settings whose source was trained on shuffled residues, where the table has one."""
    D_t_control: float | None = None
    """D_t of that run: what any trained weights are worth, whatever they were trained on."""
    D_t_net_of_control: Interval | None = None
    rewarmed_run_id: str = ""
    """Run of equal settings whose source had the target's own objective, where the table has one."""
    gap_over_rewarmed: float | None = None
    """loss_transfer minus that run's loss, nats: negative where the other objective passed on more than its own."""
    gap_over_rewarmed_se: float | None = None
    """Its paired standard error, with the noise of both runs' seeds where that is known."""
    method: str = ""
    flags: tuple[str, ...] = ()


class ExchangeTrend(Record):
    """How the worth of a source changes with size in one direction: ln(D_t / source_worth) = c + slope ln(N)."""

    source_objective: Objective
    objective: Objective
    N: tuple[float, ...]
    """Sizes measured, rising."""
    rate: tuple[float, ...]
    """D_t per target token that the source's compute would have paid for, at each size; 1 breaks even."""
    slope: Interval
    """d ln(rate) / d ln(N): negative where a source is worth less to a larger model."""
    break_even_N: Interval | None = None
    """Size at which the rate is one; None where refused (`TransferFit.refusals`)."""
    flags: tuple[str, ...] = ()


class SourceShare(Record):
    """The best share of a total budget to spend on the source, at the size and the budget of one pair."""

    target_run_id: str
    source_objective: Objective
    objective: Objective
    N: float
    C: float
    """Compute of source and target together, FLOPs of 6 N D."""
    rate: Interval
    """D_t per target token that the source's compute would have paid for."""
    law: Literal["measured rate", "saturating law"]
    """What D_t at other shares rests on: no more than the measured rate, or the fitted law of D_t."""
    share: Interval
    """Share of C for the source at which the target's loss is lowest; 0: train from scratch."""
    share_tried: float
    """The largest share that this answer may reach: the pair's own, unless a law of D_t is identified."""
    gain_same_N: Interval
    """Loss of a scratch run of the same size and total compute, minus the loss at `share`, nats; never below zero."""
    gain_best_N: Interval | None = None
    """The same against a scratch run of the size optimal at C; negative where the size should change instead."""
    N_best: float | None = None
    """That size."""
    flags: tuple[str, ...] = ()


class TransferLaw(Record):
    """D_t = k (D_f / D0)^a (N / N0)^b of one direction.

    **Source:** Hernandez et al. 2021, eq. 1.2; the rate limits it as in 1/D_t = 1/(k D_f^a N^b) + 1/(rate D_source).
    """

    source_objective: Objective
    objective: Objective
    D0: float
    N0: float
    k: Interval
    """Tokens at D0 and N0."""
    a: Interval
    b: Interval
    residual_sd: float
    """Of ln D_t about the law."""
    n_pairs: int
    n_censored: int
    """Pairs of which only a bound of D_t is known."""
    condition: float
    """Condition number of ln D_f and ln N."""
    rate: Interval | None = None
    """Largest worth of a source token, where sources of different lengths identify it beside k, a and b (all four
    are then those of the limited law)."""


class JointFit(Record):
    """Scratch and transferred runs on one surface, transferred ones at D_f + k (D_f / D0)^a (N / N0)^b tokens."""

    source_objective: Objective
    objective: Objective
    form: str
    D0: float
    N0: float
    k: Interval
    a: Interval
    b: Interval
    n_scratch: int
    n_transferred: int
    """With or without a scratch partner."""
    rms_relative_error: float


class TransferFit(Record):
    """All pairs of a table (`transfer.json`)."""

    SCHEMA_VERSION: ClassVar[int] = 2

    pairs: tuple[TransferPair, ...]
    controls: tuple[TransferPair, ...] = ()
    """Runs from sources of shuffled residues, read like the pairs."""
    trends: tuple[ExchangeTrend, ...] = ()
    shares: tuple[SourceShare, ...] = ()
    laws: tuple[TransferLaw, ...] = ()
    joint: tuple[JointFit, ...] = ()
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    data_hash: str

    @property
    def answered(self) -> bool:
        """Whether any pair has a D_t."""
        return any(pair.D_t is not None for pair in self.pairs)

    @classmethod
    def migrate(cls, data: dict[str, Any], version: int) -> dict[str, Any]:
        """Version 1 knew one estimator at a time; its fields kept their names and meaning."""
        del version
        return data
