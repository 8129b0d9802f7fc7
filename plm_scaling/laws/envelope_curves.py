"""Losses of single sizes over compute: through the end points of complete runs, or along the way of single runs."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.budgets import TOLERANCE, Currency, compute_of
from plm_scaling.laws.curves import Curve, Curves
from plm_scaling.laws.forms import FloatArray

__all__ = ["EndPoint", "SizeCurve", "curves_along_runs", "curves_through_ends", "end_points"]

_GAP: Final = math.log(10.0)
"""In ln C: end points of a size further apart are not joined."""
_WSD: Final = "WSD"
"""Flag of a run whose learning rate was constant until a final decay: its points along the way stand as they are."""


@dataclass(frozen=True)
class EndPoint:
    """Where a complete run ended."""

    run_id: str
    N: float
    log_C: float
    log_D: float
    log_loss: float


@dataclass(frozen=True)
class SizeCurve:
    """Loss of one size over a grid of compute."""

    N: float
    log_D_over_C: float
    log_loss: FloatArray
    """On the grid, float64[g]; inf where the size has no loss."""
    run_id: str = ""
    """The run, where the curve is a single run's."""


def end_points(runs: RunTable, currency: Currency) -> tuple[EndPoint, ...]:
    """The end points of all runs that have a compute."""
    return tuple(
        EndPoint(row.run_id, row.N, math.log(compute), math.log(row.D), math.log(row.loss))
        for row in runs
        if (compute := compute_of(row, currency)) > 0
    )


def curves_along_runs(
    runs: RunTable, curves: Curves, currency: Currency, *, every: bool, grid: int, ends: Iterable[EndPoint] = ()
) -> tuple[FloatArray, tuple[SizeCurve, ...]]:
    """The grid ln C float64[grid] over everything, and the losses along the way of the runs asked for.

    Parameters
    ----------
    every : all runs; otherwise those flagged WSD. A run without a curve has none.
    ends : end points the grid must span as well.
    """
    wanted = {row.run_id: row for row in runs if every or _WSD in re.split(r"[\s,]+", row.flags)}
    made = [(wanted[c.run_id], _log_points(wanted[c.run_id], c, currency)) for c in curves if c.run_id in wanted]
    kept = [(row, *points) for row, points in made if points is not None]
    edges = [end.log_C for end in ends] + [float(x) for _, log_C, _ in kept for x in log_C[[0, -1]]]
    if not edges:
        return np.zeros(0), ()
    log_C = np.linspace(min(edges), max(edges), max(grid, 2))
    return log_C, tuple(
        SizeCurve(row.N, math.log(row.D / compute_of(row, currency)), _means(x, y, log_C), row.run_id)
        for row, x, y in kept
    )


def _log_points(row: RunRow, curve: Curve, currency: Currency) -> tuple[FloatArray, FloatArray] | None:
    """Rising ln C and ln loss of a curve; compute grows with the tokens. None below two points."""
    compute = compute_of(row, currency)
    keep = np.isfinite(curve.loss) & (curve.loss > 0) & (curve.D > 0)
    if not compute > 0 or keep.sum() < 2:
        return None
    order = np.argsort(curve.D[keep], kind="stable")
    return np.log(curve.D[keep][order] * (compute / row.D)), np.log(curve.loss[keep][order])


def _means(x: FloatArray, y: FloatArray, log_C: FloatArray) -> FloatArray:
    """Points y(x) on the grid: means over cells that hold several, straight lines between the others, inf outside."""
    half = 0.5 * float(log_C[1] - log_C[0])
    first, last = np.searchsorted(x, log_C - half), np.searchsorted(x, log_C + half)
    sums = np.concatenate([[0.0], np.cumsum(y)])
    count = last - first
    means = (sums[last] - sums[first]) / np.maximum(count, 1)
    value = np.where(count >= 3, means, np.interp(log_C, x, y))
    return np.asarray(np.where((log_C >= x[0]) & (log_C <= x[-1]), value, np.inf))


def curves_through_ends(ends: Iterable[EndPoint], log_C: FloatArray) -> list[SizeCurve]:
    """One curve per size through its end points; runs of equal compute are averaged."""
    by_size: defaultdict[float, list[EndPoint]] = defaultdict(list)
    for end in ends:
        by_size[end.N].append(end)
    made = []
    for N, group in by_size.items():
        group.sort(key=lambda end: end.log_C)
        x = np.array([end.log_C for end in group])
        cells = np.concatenate([[0], np.cumsum(np.diff(x) > math.log1p(TOLERANCE))])
        count = np.bincount(cells)
        points = np.bincount(cells, x) / count
        losses = np.bincount(cells, [end.log_loss for end in group]) / count
        ratio = float(np.mean([end.log_D - end.log_C for end in group]))
        made.append(SizeCurve(N, ratio, _smooth(points, losses, log_C)))
    return made


def _smooth(x: FloatArray, y: FloatArray, log_C: FloatArray) -> FloatArray:
    """A smooth curve through the points y(x) on the grid, float64[g]; inf where there is no point near.

    Cubic Hermite pieces: straight lines would put sparse sizes too high between their points.
    """
    reach = max(math.log1p(TOLERANCE), 0.5 * float(log_C[1] - log_C[0]))
    result = np.full(len(log_C), np.inf)
    for part in np.split(np.arange(len(x)), np.flatnonzero(np.diff(x) > _GAP) + 1):
        px, py = x[part], y[part]
        inside = (log_C >= px[0] - reach) & (log_C <= px[-1] + reach)
        if len(px) == 1:
            result[inside] = py[0]
            continue
        slope = np.gradient(py, px)
        at = log_C[inside]
        i = np.clip(np.searchsorted(px, at) - 1, 0, len(px) - 2)
        width = px[i + 1] - px[i]
        t = np.clip((at - px[i]) / width, 0.0, 1.0)
        beyond = at - np.clip(at, px[0], px[-1])
        value = (1 + 2 * t) * (1 - t) ** 2 * py[i] + t**2 * (3 - 2 * t) * py[i + 1]
        value += width * t * (1 - t) * ((1 - t) * slope[i] - t * slope[i + 1])
        result[inside] = value + beyond * np.where(beyond < 0, slope[0], slope[-1])
    return result
