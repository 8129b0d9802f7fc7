"""`Interval`: an estimate with its interval, the unit every law states its numbers in."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from plm_scaling.core.records import Record

__all__ = [
    "Interval",
    "binomial_interval",
    "interval_of",
    "normal_strata",
    "percentile_interval",
    "quantiles",
    "weighted_quantiles",
]

FloatArray = npt.NDArray[np.float64]


class Interval(Record):
    """An estimate and its interval."""

    value: float
    low: float
    high: float
    level: float = 0.95


def quantiles(values: FloatArray, at: npt.ArrayLike) -> FloatArray:
    """Quantiles of values [n], straight between order statistics: `np.quantile` without the imports it makes."""
    return np.asarray(np.interp(np.asarray(at) * (len(values) - 1), np.arange(len(values)), np.sort(values)))


def weighted_quantiles(values: FloatArray, weights: FloatArray, at: npt.ArrayLike) -> FloatArray:
    """Quantiles of values [n] with weights [n] that sum to 1: the middle of each value's share, straight between."""
    order = np.argsort(values, kind="stable")
    share = np.cumsum(weights[order]) - 0.5 * weights[order]
    return np.asarray(np.interp(np.asarray(at), share, values[order]))


def normal_strata(count: int) -> FloatArray:
    """Middles of equally likely parts of a standard normal, float64[count], ascending."""
    from statistics import NormalDist

    return np.array([NormalDist().inv_cdf((k + 0.5) / count) for k in range(count)])


def percentile_interval(value: float, draws: FloatArray, level: float = 0.95) -> Interval:
    """The percentile interval of bootstrap draws around an estimate. **Source:** Efron 1979."""
    low, high = quantiles(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value), level=level)


def interval_of(value: float, draws: FloatArray, level: float = 0.95) -> Interval | None:
    """`percentile_interval`, or None where the estimate or more than half a tail of the draws is not a number."""
    finite = draws[np.isfinite(draws)]
    if not math.isfinite(value) or len(finite) < (1 - (1 - level) / 4) * len(draws) or not len(finite):
        return None
    return percentile_interval(value, finite, level)


def binomial_interval(found: int, of: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a share that was seen `found` times of `of`; (0, 1) of none.

    **Source:** Clopper & Pearson 1934.
    """
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = float(betaincinv(found, of - found + 1, tail)) if found else 0.0
    high = float(betaincinv(found + 1, of - found, 1 - tail)) if found < of else 1.0
    return low, high
