"""`LrCorner`: what the recipe's learning rate costs at one corner of a study."""

from __future__ import annotations

from plm_scaling.core.records import Record
from plm_scaling.laws.interval import Interval

__all__ = ["LrCorner"]


class LrCorner(Record):
    """Losses of one size and number of tokens at several peak learning rates."""

    N: float
    D: float
    """Median tokens of the runs."""
    peak_lr: float
    """The recipe's, at which the runs of the laws were trained."""
    factors: tuple[float, ...]
    """Peak learning rates over the recipe's, rising."""
    losses: tuple[float, ...]
    """Nats per token, mean over seeds."""
    lost: Interval
    """Loss at the recipe's rate minus the lowest the parabola reaches among the rates tried, nats; never below 0."""
    best_factor: float | None = None
    """Where that lowest loss lies; None where the losses do not tell."""
    flags: tuple[str, ...] = ()
    """Keys of `plm_scaling.laws.tuning.SENTENCES`."""
