"""Profile-likelihood intervals of parameters and of what follows from them.

A quantity is pulled away from its estimate by different strengths; every minimiser is the best fit among all with its
value of the quantity, so that the minimisers trace the profile. The rise of the objective at which the interval ends
follows from the variance of the Huber loss's slope.

**Source:** Venzon & Moolgavkar 1988 (profile likelihood); Ronchetti 1982 (likelihood ratio of robust estimators).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from plm_scaling.laws.jets import FloatArray
from plm_scaling.laws.law_fit import Interval
from plm_scaling.laws.newton import Problem, Pull, expand, minimise

__all__ = ["Quantity", "profile_curve", "profile_intervals", "profile_threshold"]

Quantity = Callable[[FloatArray], FloatArray]
"""theta float64[B, p] -> float64[B]."""
_REACH: Final = (0.7, 1.3, 1.8, 2.3, 3.0, 4.5, 8.0, 14.0)
"""Targets in local standard errors from the estimate."""
_STIFF: Final = 20.0
"""Strength of a pull over the objective's own curvature in the quantity."""


def profile_threshold(problem: Problem, theta: FloatArray, weights: FloatArray, level: float = 0.95) -> float:
    """Rise of the objective at which the interval of one quantity ends.

    z^2/2 times E[psi^2] / E[psi'], z the normal quantile widened by n / (n - p) for the parameters fitted.
    """
    residual = problem.residual(theta[None])[0]
    w = weights / weights.mean()
    n, p = len(residual), len(theta)
    psi = np.clip(residual, -problem.delta, problem.delta)
    scale = float(np.median(np.abs(residual))) / 0.6745
    # psi' = 1 inside the border; the share inside is smoothed over +-h, where the border is narrow against the scatter.
    h = max(problem.delta, 0.5 * scale) if math.isfinite(problem.delta) else math.inf
    inside = float((w * (np.abs(residual) <= h)).mean())
    slope = inside * (problem.delta / h if math.isfinite(h) else 1.0)
    variance = float((w * psi**2).mean())
    return (
        0.5 * _normal_quantile(level) ** 2 * variance / max(slope, 1e-300) * n / max(n - p, 1) * float(weights.mean())
    )


def _normal_quantile(level: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(0.5 + level / 2)


def profile_curve(
    problem: Problem, theta: FloatArray, weights: FloatArray, quantity: Quantity
) -> tuple[FloatArray, FloatArray]:
    """Values of the quantity float64[k], rising, and the objective's rise above its minimum at each, float64[k]."""
    best, _, exact, irls = expand(problem, theta[None], weights[None])
    slope = Pull(quantity, np.zeros(1), 0.0).slopes(theta[None])[0]
    hessian = exact[0] if np.linalg.eigvalsh(exact[0]).min() > 0 else irls[0]
    free = (theta > problem.low) & (theta < problem.high)
    hessian, slope = hessian[np.ix_(free, free)], slope[free]
    spread = float(slope @ np.linalg.pinv(hessian, hermitian=True) @ slope)
    if not spread > 0:
        return np.array([float(quantity(theta[None])[0])]), np.zeros(1)
    unit = math.sqrt(spread * profile_threshold(problem, theta, weights, 0.6827) * 2.0)
    centre = float(quantity(theta[None])[0])
    targets = centre + unit * np.array([-reach for reach in reversed(_REACH)] + list(_REACH))
    pull = Pull(quantity, targets, _STIFF / spread)
    # To the end: a pull that stops early lies above the profile, and where it crosses is no end of the interval.
    ends, _ = minimise(problem, np.repeat(theta[None], len(targets), axis=0), weights, pull=pull)
    values = quantity(ends)
    rise = problem.value(ends, np.broadcast_to(weights, (len(ends), len(weights)))) - best[0]
    values, rise = np.append(values, centre), np.append(rise, 0.0)
    good = np.isfinite(values) & np.isfinite(rise)
    order = np.argsort(values[good], kind="stable")
    return values[good][order], np.maximum(rise[good][order], 0.0)


def profile_intervals(
    problem: Problem, theta: FloatArray, weights: FloatArray, quantities: Mapping[str, Quantity], level: float = 0.95
) -> dict[str, Interval]:
    """Interval of each quantity; an end that the profile does not reach is -inf or inf."""
    threshold = profile_threshold(problem, theta, weights, level)
    out = {}
    for name, quantity in quantities.items():
        values, rise = profile_curve(problem, theta, weights, quantity)
        value = float(quantity(theta[None])[0])
        if not math.isfinite(value):
            continue
        low, high = _crossing(values, rise, value, threshold, -1), _crossing(values, rise, value, threshold, 1)
        out[name] = Interval(value=value, low=low, high=high, level=level)
    return out


def _crossing(values: FloatArray, rise: FloatArray, centre: float, threshold: float, side: int) -> float:
    """Where the rise passes the threshold on one side; the root of the rise is close to a straight line."""
    there = values > centre if side > 0 else values < centre
    x, y = np.append(centre, values[there][::side]), np.append(0.0, np.sqrt(rise[there][::side]))
    beyond = np.flatnonzero(y >= math.sqrt(threshold))
    if not beyond.size:
        return side * math.inf
    k = int(beyond[0])
    share = (math.sqrt(threshold) - y[k - 1]) / (y[k] - y[k - 1])
    return float(x[k - 1] + share * (x[k] - x[k - 1]))
