"""Power laws y = k x^a through few points, for many draws of the same points at once, with intervals."""

from __future__ import annotations

import math
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import FitError
from plm_scaling.core.records import Record
from plm_scaling.laws.forms import FloatArray
from plm_scaling.laws.law_fit import Interval
from plm_scaling.laws.noise import LossNoise

__all__ = ["FitSpace", "PowerLaw", "bootstrap_power_law", "fit_power_law", "fit_power_laws", "log_lines"]

FitSpace = Literal["log", "linear"]

_SPAN: Final = 3.0
"""How far from the log-log exponent the linear one is searched."""
_GRID: Final = 61
_BISECTIONS: Final = 50


class PowerLaw(Record):
    """The law y = k x^a with an interval of a, and of y at one x: k itself lies decades away from the points."""

    a: Interval
    k: float
    x_at: float
    y_at: Interval
    method: FitSpace
    n_points: int


def log_lines(log_x: FloatArray, log_y: FloatArray, root: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Slopes and intercepts float64[m] of lines through log_y float64[m, k], points weighted by `root` squared."""
    centre = float(np.average(log_x, weights=root**2))
    design = np.stack([np.ones_like(log_x), log_x - centre], axis=1) * root[:, None]
    level, slope = np.linalg.pinv(design) @ (log_y * root).T
    return slope, level - slope * centre


def fit_power_laws(
    log_x: FloatArray, log_y: FloatArray, root: FloatArray, method: FitSpace
) -> tuple[FloatArray, FloatArray]:
    """Exponents and ln k, float64[m] each, of power laws through log_y float64[m, k]."""
    if method == "log":
        return log_lines(log_x, log_y, root)
    if method != "linear":
        raise FitError(f"no way of fitting a power law is called {method!r}", hint="log or linear")
    # Given the exponent, k is a linear problem: the exponent alone is searched.
    centre, weight = float(log_x.max()), root**2
    top = log_y.max(axis=1)
    x, y = log_x - centre, np.exp(log_y - top[:, None])
    first, _ = log_lines(log_x, log_y, root)
    exponents = first[:, None] + np.linspace(-_SPAN, _SPAN, _GRID)
    best = np.argmin(_profile(exponents, x, y, weight)[0], axis=1)
    place = np.arange(len(best))
    low, high = exponents[place, np.maximum(best - 1, 0)], exponents[place, np.minimum(best + 1, _GRID - 1)]
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        rising = _profile(middle[:, None], x, y, weight)[1][:, 0] > 0
        low, high = np.where(rising, low, middle), np.where(rising, middle, high)
    slope = 0.5 * (low + high)
    power = np.exp(slope[:, None] * x)
    k = (weight * power * y).sum(axis=1) / (weight * power**2).sum(axis=1)
    return slope, np.log(k) + top - slope * centre


def _profile(exponent: FloatArray, x: FloatArray, y: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Sum of squares of y float64[m, k] about the best k e^(a x), and its derivative; exponent float64[m, g]."""
    power = np.exp(exponent[:, :, None] * x)
    target = y[:, None, :]
    k = (weight * power * target).sum(axis=2) / (weight * power**2).sum(axis=2)
    residual = target - k[:, :, None] * power
    derivative = -2.0 * k * (weight * residual * power * x).sum(axis=2)
    return (weight * residual**2).sum(axis=2), derivative


def fit_power_law(
    x: npt.ArrayLike, y: npt.ArrayLike, weights: npt.ArrayLike | None = None, method: FitSpace = "log"
) -> tuple[float, float]:
    """(a, k) of y = k x^a by least squares.

    Parameters
    ----------
    x, y : positive values, [n].
    weights : weight of each point, [n]; None for equal weights.
    method : `log` fits a straight line in log-log space. `linear` minimises squares of y - k x^a itself, as published
        recipes do: the largest point then decides almost alone, and two fits that differ by it alone differ widely.

    Raises
    ------
    FitError : fewer than two different x, or values that are not positive.
    """
    log_x, log_y, root = _checked(x, y, weights)
    slope, level = fit_power_laws(log_x, log_y[None], root, method)
    return float(slope[0]), math.exp(float(level[0]))


def bootstrap_power_law(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    method: FitSpace = "log",
    *,
    at: float | None = None,
    draws: int = 4000,
    seed: int = 0,
    level: float = 0.95,
) -> PowerLaw:
    """A power law with intervals from the scatter of its points; x, y, weights and method as in `fit_power_law`.

    Points are too few to resample: their logs are drawn anew about the log-log line with the scatter they have there
    (Student's t) and the law is fitted again. In linear space the same points move, so that the interval shows what
    the largest one does there.

    Parameters
    ----------
    at : x at which y gets an interval; None for the largest x.

    Raises
    ------
    FitError : fewer than three points, or what `fit_power_law` raises.

    **Source:** parametric bootstrap (Efron & Tibshirani 1993, section 6.5).
    """
    log_x, log_y, root = _checked(x, y, weights)
    df = int((root > 0).sum()) - 2
    if df < 1:
        raise FitError("an interval of a power law needs three or more points", hint="use fit_power_law without one")
    slope, base = (float(value[0]) for value in log_lines(log_x, log_y[None], root))
    line = base + slope * log_x
    sd = math.sqrt(float(((root * (log_y - line)) ** 2).sum()) / df)
    rng = np.random.default_rng(seed)
    size = np.divide(sd, root, out=np.zeros_like(root), where=root > 0)
    factors = LossNoise(sd, float(df)).factors(max(draws, 1), rng)
    moved = line + factors[:, None] * size * rng.standard_normal((max(draws, 1), len(log_x)))
    a, log_k = (float(value[0]) for value in fit_power_laws(log_x, log_y[None], root, method))
    drawn_a, drawn_k = fit_power_laws(log_x, moved, root, method)
    x_at = float(np.exp(log_x.max())) if at is None else at
    log_at = math.log(x_at)
    log_y_at = _around(log_k + a * log_at, drawn_k + drawn_a * log_at, level)
    y_at = Interval(
        value=math.exp(log_y_at.value), low=math.exp(log_y_at.low), high=math.exp(log_y_at.high), level=level
    )
    return PowerLaw(
        a=_around(a, drawn_a, level), k=math.exp(log_k), x_at=x_at, y_at=y_at, method=method, n_points=len(log_x)
    )


def _around(value: float, draws: FloatArray, level: float) -> Interval:
    """The percentile interval of draws, moved from their median to the estimate.

    Draws about the log-log line do not lie about an estimate in linear space.
    """
    low, middle, high = np.quantile(draws, [(1.0 - level) / 2.0, 0.5, (1.0 + level) / 2.0])
    return Interval(value=value, low=value + float(low - middle), high=value + float(high - middle), level=level)


def _checked(
    x: npt.ArrayLike, y: npt.ArrayLike, weights: npt.ArrayLike | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Values ln x, ln y and roots of the weights, float64[n] each."""
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if not ((xs > 0).all() and (ys > 0).all()) or len(np.unique(xs)) < 2:
        raise FitError("a power law needs positive values at two or more different x")
    ws = np.ones_like(xs) if weights is None else np.asarray(weights, dtype=np.float64)
    if not xs.shape == ys.shape == ws.shape:
        raise FitError(f"x, y and weights have {xs.size}, {ys.size} and {ws.size} entries")
    if not np.isfinite(ws).all() or (ws < 0).any() or len(np.unique(xs[ws > 0])) < 2:
        raise FitError("weights must be finite, not negative, and leave two or more different x")
    return np.log(xs), np.log(ys), np.sqrt(ws)
