"""Curves beside a decision: the lowest loss against compute, and the loss of one size against passes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from plm_scaling.laws.jets import FloatArray
from plm_scaling.laws.repeat_fit import RepeatFit
from plm_scaling.sizing.decision_record import Decision
from plm_scaling.sizing.law_ensemble import LawEnsemble, TokenDecay
from plm_scaling.sizing.spending import quantile_interval, run_interval

__all__ = ["Frontier", "RepeatCurve", "frontier_of", "repeat_curve"]


@dataclass(frozen=True)
class Frontier:
    """Lowest expected loss against compute, float64[n] each."""

    C: FloatArray
    N: FloatArray
    loss: FloatArray
    low: FloatArray
    high: FloatArray
    """80 % of single runs."""


@dataclass(frozen=True)
class RepeatCurve:
    """Loss of one size against passes over the unique tokens, float64[n] each."""

    N: float
    unique_tokens: float
    epochs: FloatArray
    loss: FloatArray
    low: FloatArray
    high: FloatArray
    """10 and 90 % of the draws."""
    fresh: FloatArray
    """With as many new tokens instead."""
    best_epochs: float | None
    """Where the loss turns upwards; None where it never does."""
    measured: tuple[float, float] | None
    """Epochs of the runs behind the law of repeats; None where it is borrowed from text."""


def frontier_of(law: LawEnsemble, made: Decision) -> Frontier:
    """The lowest mean loss at budgets from the smallest run to three times the decision's.

    A budget is "at most C": where repeats turn the loss upwards the frontier stays level. Where only the worth of
    repeated tokens is known the sizes are those of unlimited data, as the decision's own is.
    """
    low, high = law.range_C or (made.C_budget / 1e3, made.C_budget)
    C = np.geomspace(min(low, made.C_budget / 10.0), 3.0 * max(high, made.C_budget), 41)
    steps = np.geomspace(1.0 / 40.0, 40.0, 97)
    N = made.N * np.sqrt(C / made.C_budget)[:, None] * steps
    D = C[:, None] / (6.0 * N)
    with np.errstate(over="ignore", under="ignore"):
        losses = law.losses(N.ravel(), D.ravel(), made.unique_tokens).reshape(-1, *N.shape)
    mean = decides = np.tensordot(law.draw_weights, losses, axes=1)
    if isinstance(law.repeats, TokenDecay) and made.unique_tokens is not None:
        decides = (law.draw_weights @ law.losses(N.ravel(), D.ravel())).reshape(N.shape)
    at = decides.argmin(axis=1)
    rows = np.arange(len(C))
    kept = _running_best(mean[rows, at])
    bands = [run_interval(law, losses[:, k, at[k]][:, None], float(mean[k, at[k]]), float(C[k])) for k in kept]
    low_end, high_end = (np.array([getattr(band, side) for band in bands]) for side in ("low", "high"))
    return Frontier(C=C, N=N[kept, at[kept]], loss=mean[kept, at[kept]], low=low_end, high=high_end)


def _running_best(values: FloatArray) -> npt.NDArray[np.intp]:
    """For every position the one at or before it with the lowest value."""
    best = np.zeros(len(values), dtype=np.intp)
    for k in range(1, len(values)):
        best[k] = k if values[k] <= values[best[k - 1]] else best[k - 1]
    return best


def repeat_curve(law: LawEnsemble, made: Decision, unique: float) -> RepeatCurve:
    """Loss of the size decided on, from half a pass to at least 64 and four times as many as are planned."""
    epochs = np.geomspace(0.5, max(64.0, 4.0 * made.D / unique), 81)
    D = epochs * unique
    losses, weights = law.losses(made.N, D, unique), law.draw_weights
    bands = [quantile_interval(column, weights) for column in losses.T]
    mean = weights @ losses
    lowest = int(mean.argmin())
    own = law.repeats if isinstance(law.repeats, RepeatFit) else None
    return RepeatCurve(
        N=made.N,
        unique_tokens=unique,
        epochs=epochs,
        loss=mean,
        low=np.array([band.low for band in bands]),
        high=np.array([band.high for band in bands]),
        fresh=weights @ law.losses(made.N, D),
        best_epochs=float(epochs[lowest]) if lowest < len(epochs) - 1 else None,
        measured=own.range_epochs if own else None,
    )
