"""What a fitted law of repeated data says: losses, the epochs after which the loss turns, the compute U can use."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.laws.forms import Form, log_loss
from plm_scaling.laws.interval import Interval, percentile_interval
from plm_scaling.laws.jets import FloatArray
from plm_scaling.laws.repeat_fit import RepeatFit
from plm_scaling.laws.repeat_forms import base_form, make_repeat_rows, repeat_form

__all__ = [
    "best_epochs",
    "log_repeat_effect",
    "repeat_loss",
]

_BEYOND: Final = 10.0
"""A turn beyond this many times the most epochs that were run is not claimed; sizes likewise."""
_FINE: Final = 513


def _form_of(fit: RepeatFit) -> Form:
    return repeat_form(fit.form, base_form(fit.base, fit.plateau), {}, offset="offset" in fit.parameters)


def _theta(fit: RepeatFit) -> FloatArray:
    return _form_of(fit).theta(np.array([[interval.value for interval in fit.parameters.values()]]))


def _theta_draws(fit: RepeatFit) -> FloatArray:
    return _form_of(fit).theta(np.array(fit.draws)) if fit.draws else _theta(fit)


def _losses(
    fit: RepeatFit, theta: FloatArray, N: FloatArray, D: FloatArray, U: FloatArray, batch: float | None, moved: bool
) -> FloatArray:
    """Loss float64[B, n] at points [n]."""
    form = _form_of(fit)
    centres = (math.log(fit.N0), math.log(fit.D0), math.log(fit.R0), math.log(fit.ratio0))
    tokens = batch if batch is not None else fit.batch_typical
    batches = np.full(len(N), 1.0 if tokens is None else tokens)
    rows = make_repeat_rows(N, D, U, batches, np.full(len(N), float(moved)), centres)
    return np.asarray(np.exp(log_loss(form, theta, rows)))


def repeat_loss(
    fit: RepeatFit,
    N: npt.ArrayLike,
    D: npt.ArrayLike,
    U: npt.ArrayLike,
    *,
    batch_tokens: float | None = None,
    shifted: bool = False,
) -> FloatArray:
    """Loss of a law of repeats, nats per token, float64 of the broadcast shape of N, D and U.

    Parameters
    ----------
    N : parameters. D : tokens trained on, repeats included. U : unique tokens; at most D counts.
    batch_tokens : batch, for base laws with a batch term; None is the runs' median.
    shifted : the loss on the other corpus, where an offset was fitted.

    **Source:** Muennighoff et al. 2023, eq. 5-6; Lovelace et al. 2026.
    """
    points = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (N, D, U)))
    n, d, u = (v.ravel() for v in points)
    return np.asarray(_losses(fit, _theta(fit), n, d, u, batch_tokens, shifted)[0].reshape(points[0].shape))


def log_repeat_effect(fit: RepeatFit, N: FloatArray, D: FloatArray, U: FloatArray) -> FloatArray:
    """Ln L(N, D, U) - ln L(N, D, D) at points [n], float64[1 + B, n]: the estimate's, then the draws'.

    What repeating costs or turns, as a factor on the loss that any law of fresh data predicts.
    """
    theta = np.concatenate([_theta(fit), _theta_draws(fit)])
    repeated, fresh = (_losses(fit, theta, N, D, unique, None, False) for unique in (U, D))
    return np.asarray(np.log(repeated) - np.log(fresh))


def best_epochs(fit: RepeatFit, N: float, U: float) -> Interval | None:
    """Epochs over U unique tokens after which the loss of N parameters rises; None if it never turns.

    A turn beyond ten times the most epochs that were run is not claimed; the upper end is infinite where more than
    2.5 % of the draws have none before.
    """
    if fit.form != "penalty":
        # A decay never turns; where it is worn out the loss is flat but for rounding.
        return None
    value = float(_turn(fit, _theta(fit), N, U)[0])
    if not math.isfinite(value):
        return None
    draws = _turn(fit, _theta_draws(fit), N, U)
    finite = np.where(np.isfinite(draws), draws, 10.0 * draws[np.isfinite(draws)].max(initial=value))
    interval = percentile_interval(value, finite)
    return interval.model_copy(update={"high": math.inf}) if np.isinf(draws).mean() > 0.025 else interval


def _turn(fit: RepeatFit, theta: FloatArray, N: float, U: float) -> FloatArray:
    """Epochs of the lowest loss float64[B]; inf where it lies at the end of the search."""
    grid = np.linspace(0.0, math.log(_BEYOND * max(fit.range_epochs[1], 1.0)), _FINE)
    losses = _losses(fit, theta, np.full(_FINE, N), U * np.exp(grid), np.full(_FINE, U), None, False)
    best = losses.argmin(axis=1)
    inside = np.clip(best, 1, _FINE - 2)
    before, here, after = (losses[np.arange(len(theta)), inside + step] for step in (-1, 0, 1))
    bend = before - 2.0 * here + after
    # The vertex of the parabola through the lowest point and its neighbours.
    shift = np.where(bend > 0, 0.5 * (before - after) / np.where(bend > 0, bend, 1.0), 0.0)
    found = np.where(best == 0, 1.0, np.exp(grid[inside] + np.clip(shift, -1.0, 1.0) * grid[1]))
    return np.asarray(np.where(best == _FINE - 1, np.inf, found))
