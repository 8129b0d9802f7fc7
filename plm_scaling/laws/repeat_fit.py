"""`RepeatFit`: a law of repeated data as a value, with what the runs identify of it and what they do not."""

from __future__ import annotations

from plm_scaling.core.records import Record
from plm_scaling.laws.interval import Interval

__all__ = ["Identified", "RepeatFit", "RepeatScore"]


class Identified(Record):
    """Whether the runs determine one parameter of the law of repeats, and why not."""

    quantity: str
    identified: bool
    reason: str = ""
    """A plain sentence where it is not."""


class RepeatScore(Record):
    """One of the forms that were compared on the same runs."""

    form: str
    n_parameters: int
    objective_value: float
    R2: float
    aic: float
    """Akaike's criterion with Laplace errors of ln L, relative to the first form; below zero where a form fits better
    but has too many parameters for the repeated runs there are."""
    behind: Interval | None = None
    """`aic` over resampled runs: an interval that reaches zero leaves the order of the two forms open."""
    parameters: dict[str, Interval]
    """Those of the repeats, the base law's left out."""


class RepeatFit(Record):
    """A law of repeated data: a base law L(N, D) and what becomes of it when only U of the D tokens are unique.

    R_D: repeats after which a repeated token is worth 1/e of a new one; R_N: the same for parameters beyond the best
    size for U tokens. P0: penalty at R0 repeats and (N/U)0 parameters per unique token, nats; it grows as R^delta and
    (N/U)^kappa. offset: shift of ln L of the runs from another corpus.

    **Source:** Muennighoff et al. 2023, eq. 5-6; Lovelace et al. 2026; `plm_scaling.laws.repeat_forms`.
    """

    form: str
    """Name in `plm_scaling.laws.repeat_forms.REPEAT_FORMS`."""
    base: str
    """Form of the base law; its parameters stand among `parameters`."""
    plateau: float | None = None
    """L0 of a bounded base law where it was given and not fitted, nats."""
    base_from: str = ""
    """Hash of the `SurfaceFit` the base law was taken from; empty where its values were given or fitted here."""
    fitted: tuple[str, ...]
    """The parameters that were fitted to these runs; the others were given."""
    N0: float
    D0: float
    R0: float = 1.0
    ratio0: float = 1.0
    """(N/U)0."""
    parameters: dict[str, Interval]
    """Percentile intervals; an R_D or R_N beyond ten times what was run ends at inf."""
    profiles: dict[str, Interval]
    """Profile-likelihood intervals of the fitted parameters of the repeats."""
    draws: tuple[tuple[float, ...], ...] = ()
    """Bootstrap draws over runs, columns in the order of `parameters`."""
    identified: tuple[Identified, ...]
    huber_delta: float
    objective_value: float
    """Sum of Huber losses of ln L at the optimum."""
    gradient_norm: float | None = None
    R2: float
    """1 - squared error / variance of the loss (not of its logarithm), over all runs."""
    rms_relative_error: float
    residual_sd: float
    """Robust standard deviation of ln L about the fit, corrected for the parameters."""
    starts: int
    starts_agreeing: float
    """Share of starts that end within 1e-3 relative of the best objective."""
    second_objective: float | None = None
    """Lowest objective of another optimum of the repeats' parameters, if any start ended in one."""
    second_optimum: dict[str, float] | None = None
    """The repeats' parameters there."""
    n_runs: int
    n_repeated: int
    """Runs with more than 1.1 epochs."""
    range_N: tuple[float, float]
    range_U: tuple[float, float]
    """Of the repeated runs, or of all where none repeats."""
    range_epochs: tuple[float, float]
    """Fewest and most epochs of the repeated runs."""
    range_ratio: tuple[float, float]
    """Smallest and largest N/U of the repeated runs, parameters per unique token."""
    rivals: tuple[RepeatScore, ...] = ()
    """Every form compared on these runs, this one among them, best first."""
    batch_typical: float | None = None
    """Median batch of the runs, tokens."""
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """A plain sentence for every flag."""

    def is_identified(self, quantity: str) -> bool:
        """Whether the runs determine a parameter of the repeats."""
        return any(entry.identified for entry in self.identified if entry.quantity == quantity)
