"""`Decision`: which size to train when the laws are uncertain, what is lost if it is wrong, and why."""

from __future__ import annotations

import math
from typing import ClassVar

from plm_scaling.core.records import Record

__all__ = ["Decision", "FormSize", "LossSplit", "Regret", "Valley"]


class LossSplit(Record):
    """Variance of ln L at the plan by cause; the four add up to the total. **Source:** law of total variance."""

    parameters: float
    """Within forms: the draws of each form about its own mean."""
    form: float
    """Between the means of the forms."""
    noise: float
    """Of a single run about the law."""
    extrapolation: float
    """What the ensemble was seen to be off by beyond its runs, growing with the decades."""
    total: float


class FormSize(Record):
    """What one form of the ensemble says."""

    name: str
    weight: float
    N_low: float
    N_mid: float
    N_high: float
    """10, 50 and 90 % of its draws' best N."""
    loss: float
    """Mean over its draws at the plan, nats per token."""


class Regret(Record):
    """Another size at the same budget: how much higher its loss is than the best, on average over the draws."""

    label: str
    N: float
    D: float
    mean: float
    worst: float
    """Largest over all draws, nats."""


class Valley(Record):
    """The sizes around the best at this budget, one entry per size."""

    N: tuple[float, ...]
    D: tuple[float, ...]
    loss: tuple[float, ...]
    """Mean over draws, nats per token."""
    loss_low: tuple[float, ...]
    loss_high: tuple[float, ...]
    """10 and 90 % of the draws."""
    regret: tuple[float, ...]
    """Mean over draws."""


class Decision(Record):
    """The size with the lowest expected loss at a budget, its regret and its loss with an interval split by cause."""

    SCHEMA_VERSION: ClassVar[int] = 1

    objective: str
    source: str
    status: str
    C: float
    """Training FLOPs of the plan, 6 N D; less than the budget where more tokens would not help."""
    C_budget: float
    """6 N D FLOPs the budget pays for at this N."""
    N: float
    """Lowest expected loss, which is lowest expected regret."""
    D: float
    unique_tokens: float | None = None
    epochs: float | None = None
    N_quantiles: tuple[float, float, float]
    """10, 50 and 90 % of the draws' own best N."""
    N_minimax: float
    """Smallest largest regret over the draws."""
    N_band: tuple[float, float]
    """Sizes whose expected loss is at most 0.01 nats above the lowest."""
    N_low_regret: tuple[float, float] | None = None
    """Sizes whose mean regret is below 0.005 nats; None where no size is that safe."""
    regrets: tuple[Regret, ...]
    """The plan, twice and half its size, and the minimax size."""
    probability: float
    """Share of the draws in which the plan is within 0.01 nats of the best."""
    loss: float
    """Expected: mean over the draws, nats per token."""
    loss_low: float
    loss_high: float
    """Interval of a new run's loss, at `level`."""
    level: float
    split: LossSplit
    forms: tuple[FormSize, ...]
    form_factor: float
    """Largest over smallest median N among the forms with at least 5 % of the weight."""
    draw_factor: float
    """90 % over 10 % of N within a form, weighted mean of ln: the width of the bootstrap alone."""
    valley: Valley
    extrapolation_decades: float
    range_C: tuple[float, float] | None = None
    useful_C: float | None = None
    """FLOPs beyond which the unique tokens cannot use more; None where all of the budget lowers the loss."""
    repeats: str = ""
    """Which law says what repeated tokens are worth."""
    flags: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """A plain sentence for every flag."""

    @property
    def perplexity(self) -> tuple[float, float, float]:
        """Low, expected and high, exp of the losses."""
        return math.exp(self.loss_low), math.exp(self.loss), math.exp(self.loss_high)
