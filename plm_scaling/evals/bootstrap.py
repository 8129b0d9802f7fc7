"""Intervals of metrics and of differences between models, by resampling rows or whole clusters of them.

Rows of one protein or family are no independent evidence: where clusters are named they are drawn, not their rows.

n: rows, K: clusters, B: draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.core.records import Record
from plm_scaling.evals.metrics import MetricName, find_metric, paired_columns
from plm_scaling.evals.resampled_metrics import Statistic, metric_statistic, ratio_statistic
from plm_scaling.laws.interval import Interval, quantiles

__all__ = [
    "Bootstrapped",
    "Comparison",
    "NoiseCeiling",
    "bootstrap_mean",
    "bootstrap_metric",
    "bootstrapped_draws",
    "compare_models",
    "holm",
    "measured_twice",
    "noise_ceiling",
    "paired_difference",
    "paired_mean_difference",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Method = Literal["percentile", "bca"]

_BLOCK: Final = 1_000_000
_FEW_CLUSTERS: Final = 10
_LOST: Final = 0.01
_JACKKNIFE: Final = 200


class Bootstrapped(Interval):
    """An estimate and its interval by resampling."""

    draws: int
    method: Method
    se: float
    """Standard deviation of the draws."""
    unit: Literal["row", "cluster"]
    """What was drawn."""
    units: int
    """How many of them there are."""
    p_value: float | None = None
    """Of a difference only: two-sided, of its being 0; at least 2 / (draws + 1)."""
    flags: tuple[Literal["few_clusters", "lost_draws"], ...] = ()
    """few_clusters: fewer than 10, the interval may be short; lost_draws: more than 1 % of the draws had no value."""


class Comparison(Record):
    """One model of a table against the one it is compared with."""

    model: str
    difference: Bootstrapped
    p_holm: float
    """The p value that holds for the whole table: each difference at 0.05 of it is wrong in 5 % of such tables."""
    note: str


class NoiseCeiling(Record):
    """What a perfect predictor would reach on measurements that repeat themselves only so well."""

    replicates: int
    """Rows that were measured twice."""
    reliability: Bootstrapped
    """Spearman's correlation of the first with the second measurement."""
    single: float
    """Best correlation to be expected with one measurement: the root of the reliability."""
    mean_of_two: float
    """With the mean of two."""
    note: str


@dataclass(frozen=True)
class _Units:
    """Rows by the unit that is drawn."""

    of_row: IntArray
    count: int
    kind: Literal["row", "cluster"]


def bootstrap_metric(
    metric: MetricName,
    truth: npt.ArrayLike,
    scores: npt.ArrayLike,
    *,
    clusters: Sequence[Any] | None = None,
    draws: int = 1000,
    level: float = 0.95,
    method: Method = "percentile",
    seed: int = 0,
) -> Bootstrapped:
    """A metric with its interval.

    Parameters
    ----------
    truth, scores : float64[n], as the metric takes them.
    clusters : name of every row's protein or family, [n]; rows are drawn one by one without.
    method : percentile, or bca: corrected for bias and skewness, which needs 200 more evaluations. Both reach further
        out the fewer units there are.

    Raises
    ------
    RefusedError : the metric is not defined on these rows, or on more than half of the draws.
    ConfigError : columns of different lengths.

    **Source:** Efron 1979 (percentile), expanded as in Hesterberg 2015; Efron 1987 (BCa), acceleration from a
    jackknife of up to 200 groups of units.
    """
    value = find_metric(metric)(truth, scores)
    statistic = metric_statistic(metric, np.asarray(truth), np.asarray(scores))
    return _bootstrapped(value, statistic, _units(len(np.asarray(truth)), clusters), draws, level, method, seed)


def paired_difference(
    metric: MetricName,
    truth: npt.ArrayLike,
    scores: npt.ArrayLike,
    against: npt.ArrayLike,
    *,
    clusters: Sequence[Any] | None = None,
    draws: int = 1000,
    level: float = 0.95,
    method: Method = "percentile",
    seed: int = 0,
) -> Bootstrapped:
    """Metric of `scores` less that of `against` on the same rows: every draw holds the same rows for both.

    A model against itself differs by 0, interval and all. Raises as `bootstrap_metric`.
    """
    function = find_metric(metric)
    value = function(truth, scores) - function(truth, against)
    ours, theirs = (metric_statistic(metric, np.asarray(truth), np.asarray(column)) for column in (scores, against))
    units = _units(len(np.asarray(truth)), clusters)
    return _bootstrapped(value, lambda w: ours(w) - theirs(w), units, draws, level, method, seed, difference=True)


def bootstrap_mean(
    values: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    clusters: Sequence[Any] | None = None,
    draws: int = 1000,
    level: float = 0.95,
    method: Method = "percentile",
    seed: int = 0,
) -> Bootstrapped:
    """A (weighted) mean of values per row, such as losses per token by sequence, the weights resampled with them.

    Parameters
    ----------
    values : float64[n].
    weights : float64[n], such as tokens; all 1 without.

    Raises
    ------
    RefusedError : no row, or a value that is no finite number.
    """
    return _mean(*_weighted(values, weights), clusters, draws, level, method, seed, difference=False)


def paired_mean_difference(
    values: npt.ArrayLike,
    against: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    clusters: Sequence[Any] | None = None,
    draws: int = 1000,
    level: float = 0.95,
    method: Method = "percentile",
    seed: int = 0,
) -> Bootstrapped:
    """Mean of `values` less mean of `against`, row by row the same things, such as scores of two models by assay."""
    ours, theirs = paired_columns("mean", values, against)
    return _mean(*_weighted(ours - theirs, weights), clusters, draws, level, method, seed, difference=True)


def compare_models(
    metric: MetricName,
    truth: npt.ArrayLike,
    scores: Mapping[str, npt.ArrayLike],
    against: str,
    *,
    clusters: Sequence[Any] | None = None,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """Every model of a table against one of them, with p values that hold for the table as a whole.

    Raises
    ------
    ConfigError : `against` is not in the table.
    RefusedError : as `bootstrap_metric`.
    """
    if against not in scores:
        raise ConfigError(f"{against!r} is not among the models", hint=f"choose one of {', '.join(sorted(scores))}")
    others = [name for name in scores if name != against]
    found = [
        paired_difference(
            metric, truth, scores[name], scores[against], clusters=clusters, draws=draws, level=level, seed=seed
        )
        for name in others
    ]
    adjusted = holm([difference.p_value or 0.0 for difference in found])
    return tuple(
        Comparison(model=name, difference=one, p_holm=p, note=_comparison_note(name, against, one, p, len(others)))
        for name, one, p in zip(others, found, adjusted, strict=True)
    )


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """P values adjusted for how many there are, in their order. **Source:** Holm 1979."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1.0)
    return tuple(adjusted.tolist())


def noise_ceiling(
    first: npt.ArrayLike, second: npt.ArrayLike, *, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> NoiseCeiling:
    """The best rank correlation to be expected of a predictor, from things that were measured twice.

    Which of the two measurements is called the first must not matter for the measurements.

    Raises
    ------
    RefusedError : fewer than 3 rows, a constant, or measurements that do not agree at all (no positive correlation).

    **Source:** Spearman 1904 (attenuation), Spearman 1910 and Brown 1910 (mean of two): root r and root (2r / (1 + r)),
    exact for linear correlations, an approximation for rank correlations.
    """
    reliability = bootstrap_metric("spearman", first, second, draws=draws, level=level, seed=seed)
    r = reliability.value
    if r <= 0.0:
        raise RefusedError(
            f"no noise ceiling: the two measurements correlate by {r:.3f}",
            why="nothing can predict what does not repeat itself",
            hint="see whether the second column belongs to the same rows",
        )
    single, mean = math.sqrt(r), math.sqrt(2.0 * r / (1.0 + r))
    n = len(np.asarray(first))
    agree = f"two measurements of {n} rows correlate by {r:.3f}"
    note = f"{agree}: a perfect predictor reaches about {single:.3f} on one of them, {mean:.3f} on their mean"
    return NoiseCeiling(replicates=n, reliability=reliability, single=single, mean_of_two=mean, note=note)


def measured_twice(names: Sequence[str], values: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """First and second measurement of what is named more than once, float64[r] each, in the order of first naming.

    Raises
    ------
    ConfigError : names and values of different lengths.
    """
    value_n = np.asarray(values, dtype=np.float64)
    if len(names) != len(value_n):
        raise ConfigError(f"{len(names)} names for {len(value_n)} measurements", why="there must be one per row")
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    pairs = np.array([found[:2] for found in rows.values() if len(found) > 1], dtype=np.int64).reshape(-1, 2)
    return value_n[pairs[:, 0]], value_n[pairs[:, 1]]


# ---- resampling ----------------------------------------------------------------------------------------------------


def _bootstrapped(
    value: float,
    statistic: Statistic,
    units: _Units,
    draws: int,
    level: float,
    method: Method,
    seed: int,
    *,
    difference: bool = False,
) -> Bootstrapped:
    if units.count < 2:
        raise RefusedError("no interval from one cluster", why="all rows belong to it", hint="draw rows instead")
    found = _drawn(statistic, units, draws, seed)
    kept = found[np.isfinite(found)]
    if 2 * len(kept) < draws:
        raise RefusedError(
            f"the metric is not defined on {draws - len(kept)} of {draws} draws",
            why="there are too few different rows",
            hint="give more rows, or a metric that needs fewer",
        )
    ends = None
    if method == "bca":
        ends = _bca_ends(value, kept, _jackknife(statistic, units, seed), _reach(level, units.count))
    return bootstrapped_draws(value, found, units.count, unit=units.kind, level=level, ends=ends, difference=difference)


def bootstrapped_draws(
    value: float,
    found: FloatArray,
    units: int,
    *,
    unit: Literal["row", "cluster"] = "cluster",
    level: float = 0.95,
    ends: FloatArray | None = None,
    difference: bool = False,
) -> Bootstrapped:
    """An estimate with the interval of draws that were made elsewhere.

    Parameters
    ----------
    found : float64[B]; nan where a draw has no value.
    units : how many rows or clusters were drawn from.
    ends : shares of the draws where the interval ends; the same on both sides by default.
    difference : whether 0 means that there is none; then there is a p value.
    """
    from scipy.special import ndtr

    kept = found[np.isfinite(found)]
    low, high = quantiles(kept, ndtr(_reach(level, units)) if ends is None else ends)
    flags: list[Literal["few_clusters", "lost_draws"]] = []
    if unit == "cluster" and units < _FEW_CLUSTERS:
        flags.append("few_clusters")
    if len(kept) < (1.0 - _LOST) * len(found):
        flags.append("lost_draws")
    return Bootstrapped(
        value=value,
        low=min(float(low), value),
        high=max(float(high), value),
        level=level,
        draws=len(found),
        method="percentile" if ends is None else "bca",
        se=float(np.std(kept)),
        unit=unit,
        units=units,
        p_value=_p_value(kept, units) if difference else None,
        flags=tuple(flags),
    )


def _mean(
    value_n: FloatArray,
    weight_n: FloatArray,
    clusters: Sequence[Any] | None,
    draws: int,
    level: float,
    method: Method,
    seed: int,
    *,
    difference: bool,
) -> Bootstrapped:
    """Sums by cluster say all there is to say of a mean: what is drawn is K numbers, not n."""
    units = _units(len(value_n), clusters)
    sum_K, weight_K = (
        np.bincount(units.of_row, column, units.count).astype(np.float64) for column in (value_n * weight_n, weight_n)
    )
    statistic = ratio_statistic(sum_K, weight_K)
    value = float(sum_K.sum() / weight_K.sum())
    of_itself = _Units(np.arange(units.count), units.count, units.kind)
    return _bootstrapped(value, statistic, of_itself, draws, level, method, seed, difference=difference)


def _units(n: int, clusters: Sequence[Any] | None) -> _Units:
    if clusters is None:
        return _Units(np.arange(n), n, "row")
    if len(clusters) != n:
        raise ConfigError(f"{len(clusters)} names of clusters for {n} rows", why="there must be one per row")
    place: dict[Any, int] = {}
    of_row = np.array([place.setdefault(name, len(place)) for name in clusters], dtype=np.int64)
    return _Units(of_row, len(place), "cluster")


def _drawn(statistic: Statistic, units: _Units, draws: int, seed: int) -> FloatArray:
    """Values of the draws, float64[B], a block at a time so that memory stays bounded."""
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // max(1, len(units.of_row)))
    even = np.full(units.count, 1.0 / units.count)
    parts = []
    for start in range(0, draws, block):
        counts_BK = rng.multinomial(units.count, even, size=min(block, draws - start))
        parts.append(statistic(counts_BK[:, units.of_row]))
    return np.concatenate(parts)


def _jackknife(statistic: Statistic, units: _Units, seed: int) -> FloatArray:
    """Values without one group of units each; up to 200 groups of random units."""
    groups = min(units.count, _JACKKNIFE)
    group_of = np.random.default_rng([seed, 1]).permutation(units.count) % groups
    values = [statistic((group_of[units.of_row] != k)[None].astype(np.int64)) for k in range(groups)]
    return np.concatenate(values)


def _reach(level: float, units: int) -> FloatArray:
    """Normal quantiles of an interval's ends, moved outwards for how few units there are.

    The spread of draws from k units is too small by sqrt((k - 1) / k), and known to k - 1 degrees of freedom.

    **Source:** Hesterberg 2015, section 4.3 (expanded percentile interval).
    """
    from scipy.special import stdtrit

    return np.asarray(math.sqrt(units / (units - 1)) * stdtrit(units - 1, np.array([(1 - level) / 2, (1 + level) / 2])))


def _bca_ends(value: float, drawn: FloatArray, without: FloatArray, reach: FloatArray) -> FloatArray:
    """Shares of the draws where a BCa interval ends. **Source:** Efron 1987, equation 3.9."""
    from scipy.special import ndtr, ndtri

    below = float(np.mean(drawn < value) + np.mean(drawn == value) / 2)
    bias = ndtri(np.clip(below, 1.0 / len(drawn), 1.0 - 1.0 / len(drawn)))
    away = np.mean(without[np.isfinite(without)]) - without[np.isfinite(without)]
    spread = float((away**2).sum())
    acceleration = float((away**3).sum()) / (6.0 * spread**1.5) if spread > 0.0 else 0.0
    z = bias + reach
    return np.asarray(ndtr(bias + z / (1.0 - acceleration * z)))


def _p_value(drawn: FloatArray, units: int) -> float:
    """Two-sided: 1 less the level at which the interval would end at 0; a difference that is 0 in every draw has 1.

    **Source:** Davison & Hinkley 1997, section 4.4 (share of the draws beyond 0), moved as `_reach` moves the ends:
    few units cannot all fall on one side by less chance than their number allows.
    """
    from scipy.special import ndtri, stdtr

    tail = min(int((drawn <= 0.0).sum()), int((drawn >= 0.0).sum()))
    share = min(0.5, (tail + 1) / (len(drawn) + 1))
    return float(2.0 * stdtr(units - 1, ndtri(share) / math.sqrt(units / (units - 1))))


# ---- what goes in and out -------------------------------------------------------------------------------------------


def _weighted(values: npt.ArrayLike, weights: npt.ArrayLike | None) -> tuple[FloatArray, FloatArray]:
    value_n = np.asarray(values, dtype=np.float64)
    value_n, weight_n = paired_columns("mean", value_n, np.ones(len(value_n)) if weights is None else weights)
    if not len(value_n) or weight_n.min() < 0.0 or not weight_n.sum() > 0.0:
        raise RefusedError("no mean", why="there are no rows, or no weights above 0")
    return value_n, weight_n


def _comparison_note(model: str, against: str, difference: Bootstrapped, p_holm: float, tests: int) -> str:
    how = f"{difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"
    if p_holm <= 1.0 - difference.level:
        return f"{model} differs from {against} by {how}, also among {tests} comparisons"
    if (difference.p_value or 0.0) <= 1.0 - difference.level:
        return f"{model} against {against}: {how} alone, which {tests} comparisons may yield by chance"
    return f"no difference of {model} to {against} can be told: {how}"
