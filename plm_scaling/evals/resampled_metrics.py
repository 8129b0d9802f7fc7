"""Metrics of rows that count several times, for all draws of a bootstrap at once.

A column is sorted once; ranks, percentiles and gains of a draw follow from sums of counts in that order, which is exact
and costs no sort per draw.

n: rows, G: groups of equal values, B: draws.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError, did_you_mean
from plm_scaling.evals.metrics import METRICS, MetricName

__all__ = ["Statistic", "metric_statistic", "ratio_statistic"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
Statistic = Callable[[IntArray], FloatArray]
"""Counts of the rows in each draw, int64[B, n], to values float64[B]; nan where a draw has none."""

_ROUNDING: Final = 1e-18
_TOP: Final = 0.1


def metric_statistic(metric: MetricName, truth: npt.NDArray[Any], scores: npt.NDArray[Any]) -> Statistic:
    """A metric of `evals.metrics`, with its default options, as a function of counts.

    Raises
    ------
    ConfigError : an unknown metric.
    """
    if metric == "accuracy":
        return ratio_statistic((truth == scores).astype(np.float64), np.ones(len(truth)))
    x_n, y_n = truth.astype(np.float64), scores.astype(np.float64)
    if metric == "pearson":
        x_n, y_n = x_n - x_n.mean(), y_n - y_n.mean()
        return lambda counts_Bn: _correlation(x_n[None], y_n[None], counts_Bn)
    x, y = _Sorted(x_n), _Sorted(y_n)
    if metric == "spearman":
        return lambda counts_Bn: _correlation(x.midranks(counts_Bn), y.midranks(counts_Bn), counts_Bn)
    if metric == "auc":
        return lambda counts_Bn: _auc(y.midranks(counts_Bn), x_n == 1.0, counts_Bn)
    if metric == "mcc":
        return lambda counts_Bn: _correlation(x_n[None], y.at_least(counts_Bn, 0.5).astype(np.float64), counts_Bn)
    if metric == "top_recall":
        return lambda counts_Bn: _top_recall(x, y, counts_Bn)
    if metric == "ndcg":
        return lambda counts_Bn: _ndcg(x_n, x, y, counts_Bn)
    raise ConfigError(f"no metric is called {metric!r}", hint=did_you_mean(metric, METRICS))


def ratio_statistic(sum_n: FloatArray, weight_n: FloatArray) -> Statistic:
    """Sum of one column over that of another."""

    def mean(counts_Bn: IntArray) -> FloatArray:
        total = counts_Bn @ weight_n
        return _ratio(counts_Bn @ sum_n, total, total > 0.0)

    return mean


class _Sorted:
    """A column in ascending order, equal values together."""

    def __init__(self, column: FloatArray) -> None:
        self._value_G, group_n, size_G = np.unique(column, return_inverse=True, return_counts=True)
        self._order = np.argsort(group_n, kind="stable")
        self._group_n = group_n
        self._starts = None if len(size_G) == len(group_n) else np.cumsum(size_G) - size_G

    def sizes(self, counts_Bn: IntArray) -> FloatArray:
        """How often each value occurs in a draw, float64[B, G]."""
        size_BG = counts_Bn[:, self._order].astype(np.float64)
        return size_BG if self._starts is None else np.asarray(np.add.reduceat(size_BG, self._starts, axis=1))

    def midranks(self, counts_Bn: IntArray) -> FloatArray:
        """Mean rank that each row's copies have in a draw, float64[B, n]."""
        size_BG = self.sizes(counts_Bn)
        rank_BG = np.cumsum(size_BG, axis=1)
        rank_BG -= size_BG / 2.0
        rank_BG += 0.5
        return np.asarray(rank_BG[:, self._group_n])

    def at_least(self, counts_Bn: IntArray, share: float) -> BoolArray:
        """Rows at or above a draw's quantile (straight between order statistics, as np.percentile), bool[B, n]."""
        last_BG = np.cumsum(self.sizes(counts_Bn), axis=1)
        place_B = (last_BG[:, -1] - 1.0) * share
        low_B, high_B = (
            self._value_G[(last_BG <= np.floor(place)[:, None]).sum(axis=1)]
            for place in (place_B, np.minimum(np.floor(place_B) + 1.0, last_BG[:, -1] - 1.0))
        )
        cut_B = low_B + (high_B - low_B) * (place_B - np.floor(place_B))
        return np.asarray(self._value_G[None] >= cut_B[:, None])[:, self._group_n]

    def discounts(self, counts_Bn: IntArray, cut_B: FloatArray) -> FloatArray:
        """Of the best `cut` places of a draw the discounts that each row's copies have together, float64[B, n]."""
        size_BG = self.sizes(counts_Bn)[:, ::-1]
        last_BG = np.minimum(np.cumsum(size_BG, axis=1), cut_B[:, None])
        first_BG = np.minimum(np.cumsum(size_BG, axis=1) - size_BG, cut_B[:, None])
        places = int(cut_B.max(initial=0.0))
        upto = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(places) + 2.0))])
        of_group = upto[last_BG.astype(np.int64)] - upto[first_BG.astype(np.int64)]
        of_copy = np.divide(of_group, size_BG, out=np.zeros_like(of_group), where=size_BG > 0.0)[:, ::-1]
        return np.asarray(of_copy[:, self._group_n] * counts_Bn)


def _ndcg(truth_n: FloatArray, truth: _Sorted, scores: _Sorted, counts_Bn: IntArray) -> FloatArray:
    there = counts_Bn > 0
    least_B = np.where(there, truth_n, np.inf).min(axis=1)
    spread_B = np.where(there, truth_n, -np.inf).max(axis=1) - least_B
    cut_B = np.floor(counts_Bn.sum(axis=1) * _TOP)
    gain_Bn = truth_n[None] - least_B[:, None]
    ours, best = (_dot(column.discounts(counts_Bn, cut_B), gain_Bn) for column in (scores, truth))
    return _ratio(ours, best, (spread_B > 0.0) & (cut_B >= 1.0))


def _top_recall(truth: _Sorted, scores: _Sorted, counts_Bn: IntArray) -> FloatArray:
    best, found = truth.at_least(counts_Bn, 1.0 - _TOP), scores.at_least(counts_Bn, 1.0 - _TOP)
    constant = (truth.sizes(counts_Bn) > 0.0).sum(axis=1) < 2
    return _ratio(_dot(best & found, counts_Bn), _dot(best, counts_Bn), ~constant)


def _correlation(x_Bn: FloatArray, y_Bn: FloatArray, counts_Bn: IntArray) -> FloatArray:
    """Correlation of rows that count several times, float64[B], nan where a column is constant in a draw."""
    total_B = counts_Bn.sum(axis=1)
    mean_x, mean_y = (_dot(column_Bn, counts_Bn) / total_B for column_Bn in (x_Bn, y_Bn))
    x, y = x_Bn - mean_x[:, None], y_Bn - mean_y[:, None]
    weighted = x * counts_Bn
    xx, xy, yy = _dot(x, weighted), _dot(y, weighted), _dot(y * y, counts_Bn)
    # What is constant in a draw leaves rounding errors of its mean behind, which are no spread.
    defined = (xx > _ROUNDING * total_B * mean_x**2) & (yy > _ROUNDING * total_B * mean_y**2) & (xx * yy > 0.0)
    return _ratio(xy, np.sqrt(xx * yy), defined)


def _dot(a_Bn: npt.NDArray[Any], b_Bn: npt.NDArray[Any]) -> FloatArray:
    """Row by row, float64[B], without writing the products down."""
    return np.asarray(np.einsum("bn,bn->b", *np.broadcast_arrays(a_Bn, b_Bn)), dtype=np.float64)


def _auc(rank_Bn: FloatArray, positive: npt.NDArray[np.bool_], counts_Bn: IntArray) -> FloatArray:
    ones = counts_Bn[:, positive].sum(axis=1).astype(np.float64)
    pairs = ones * (counts_Bn.sum(axis=1) - ones)
    above = (rank_Bn[:, positive] * counts_Bn[:, positive]).sum(axis=1) - ones * (ones + 1.0) / 2.0
    return _ratio(above, pairs, pairs > 0.0)


def _ratio(above: FloatArray, below: FloatArray, defined: npt.NDArray[np.bool_]) -> FloatArray:
    return np.asarray(np.divide(above, below, out=np.full(len(above), np.nan), where=defined))
