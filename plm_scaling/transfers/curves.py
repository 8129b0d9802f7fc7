"""Loss against tokens at one size, read both ways: what a loss costs in tokens, and what tokens buy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.forms import FloatArray, log_loss
from plm_scaling.laws.law_fit import SurfaceFit
from plm_scaling.laws.surface import form_of, rows_at, theta_draws, theta_of

__all__ = [
    "SAME_LENGTH",
    "LossCurves",
    "ScratchCurve",
    "by_length",
    "curve_of",
    "curves_through",
    "non_increasing",
    "surface_curves",
]

SAME_LENGTH: Final = 0.01
"""Runs whose tokens differ by no more than this share are of one length."""

_NO_LOSS: Final = 1e-6
"""Noise drawn on a loss near zero must leave it positive."""
_BETWEEN: Final = 160
_DECADES: Final = (-2.0, 2.5)
_REACH: Final = 140
"""Points of a surface's curve to either side of its middle, denser near it."""


@dataclass(frozen=True)
class LossCurves:
    """Several curves of ln loss over one grid of ln D, none of them rising."""

    log_D: FloatArray
    """float64[G], rising."""
    log_loss: FloatArray
    """float64[B, G]."""

    def at(self, log_D: FloatArray | float) -> FloatArray:
        """Ln loss float64[B] after exp(log_D) tokens (one, or one per curve); NaN outside the grid."""
        wanted = np.broadcast_to(np.asarray(log_D, dtype=np.float64), len(self.log_loss))
        if len(self.log_D) == 1:
            return np.where(np.abs(wanted - self.log_D[0]) <= 1e-9, self.log_loss[:, 0], np.nan)
        right = np.clip(np.searchsorted(self.log_D, wanted), 1, len(self.log_D) - 1)
        rows = np.arange(len(wanted))
        step = self.log_D[right] - self.log_D[right - 1]
        share = (wanted - self.log_D[right - 1]) / step
        value = (1.0 - share) * self.log_loss[rows, right - 1] + share * self.log_loss[rows, right]
        inside = (wanted >= self.log_D[0] - 1e-9) & (wanted <= self.log_D[-1] + 1e-9)
        return np.where(inside, value, np.nan)

    def log_D_for(self, log_loss: FloatArray | float) -> FloatArray:
        """Ln D float64[B] at which every curve has a ln loss; -inf or inf where it is never that bad or that good.

        On a flat stretch, its middle.
        """
        wanted = np.broadcast_to(np.asarray(log_loss, dtype=np.float64), len(self.log_loss))[:, None]
        # Curves fall, so the entries above a level come first: their number is where the curve crosses it.
        above = (self.log_loss > wanted + 1e-13).sum(axis=1)
        not_below = (self.log_loss >= wanted - 1e-13).sum(axis=1)
        middle = 0.5 * (self._crossing(above, wanted[:, 0]) + self._crossing(not_below, wanted[:, 0]))
        out = np.where(above == len(self.log_D), np.inf, middle)
        return np.where(not_below == 0, -np.inf, out)

    def _crossing(self, count: FloatArray, wanted: FloatArray) -> FloatArray:
        """Ln D float64[B] at which the segment that ends at point `count` has the wanted value."""
        if len(self.log_D) == 1:
            return np.full(len(wanted), self.log_D[0])
        right = np.clip(count, 1, len(self.log_D) - 1).astype(np.intp)
        rows = np.arange(len(wanted))
        high, low = self.log_loss[rows, right - 1], self.log_loss[rows, right]
        share = np.clip((high - wanted) / np.maximum(high - low, 1e-300), 0.0, 1.0)
        # A curve that ends flat is crossed at its end, one that begins flat at its beginning.
        share = np.where(count == 0, 0.0, np.where(count == len(self.log_D), 1.0, share))
        return self.log_D[right - 1] + share * (self.log_D[right] - self.log_D[right - 1])


@dataclass(frozen=True)
class ScratchCurve:
    """Mean losses of scratch runs of one size at rising D."""

    log_D: FloatArray
    """ln of tokens, float64[k], rising."""
    loss: FloatArray
    """Mean over seeds, nats, float64[k]."""
    n_seeds: FloatArray
    """Different seeds, float64[k]."""

    def nearest(self, log_D: float) -> int:
        """Index of the point closest to exp(log_D) tokens."""
        return int(np.argmin(np.abs(self.log_D - log_D)))


def by_length(runs: RunTable) -> list[list[RunRow]]:
    """Runs by rising D, those of one length together."""
    groups: list[list[RunRow]] = []
    for row in sorted(runs, key=lambda row: row.D):
        if groups and row.D / groups[-1][0].D <= 1.0 + SAME_LENGTH:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def curve_of(runs: RunTable) -> ScratchCurve:
    """Mean losses of runs of one size by D."""
    groups = by_length(runs)
    return ScratchCurve(
        log_D=np.array([float(np.mean(np.log([row.D for row in group]))) for group in groups]),
        loss=np.array([float(np.mean([row.loss for row in group])) for group in groups]),
        n_seeds=np.array([float(len({row.seed for row in group})) for group in groups]),
    )


def non_increasing(values: FloatArray, weights: FloatArray) -> FloatArray:
    """The non-increasing rows closest to float64[B, k] in weighted squares; weights float64[k].

    **Source:** Ayer et al. 1955 (isotonic regression), by its min-max formula.
    """
    if (np.diff(values, axis=1) <= 0).all():
        return values
    k = values.shape[1]
    start = np.concatenate([[0.0], np.cumsum(weights)])
    sums = np.concatenate([np.zeros((len(values), 1)), np.cumsum(values * weights, axis=1)], axis=1)
    # mean[b, i, j] over points i..j; below the diagonal there is none.
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (sums[:, None, 1:] - sums[:, :-1, None]) / (start[None, None, 1:] - start[None, :-1, None])
    mean = np.where(np.tril(np.ones((k, k), dtype=bool), -1), -np.inf, mean)
    highest = np.maximum.accumulate(mean[:, :, ::-1], axis=2)[:, :, ::-1]
    allowed = np.where(np.tril(np.ones((k, k), dtype=bool), -1), np.inf, highest)
    return np.asarray(allowed.min(axis=1))


def curves_through(
    curve: ScratchCurve, loss: FloatArray, surface: SurfaceFit | None, N: float, batch_tokens: float | None
) -> LossCurves:
    """Curves through points of one size, float64[B, k] nats at the curve's D, made to fall where noise lets them rise.

    Between two points ln loss moves in proportion to the surface's ln loss at size N: exact on any curve that is a
    power of the surface's. Without a surface, to a parabola through four points or more, else in proportion to ln D.
    """
    between = np.linspace(curve.log_D[0], curve.log_D[-1], _BETWEEN)
    apart = np.abs(between[:, None] - curve.log_D).min(axis=1) > 1e-6
    grid = np.sort(np.concatenate([between[apart], curve.log_D]))
    nodes = np.searchsorted(grid, curve.log_D)
    level = np.log(np.maximum(non_increasing(loss, np.maximum(curve.n_seeds, 1.0)), _NO_LOSS))
    scale = _scale(curve, grid, surface, N, batch_tokens)
    if len(curve.log_D) == 1:
        return LossCurves(grid, level)
    left = np.clip(np.searchsorted(curve.log_D, grid, side="right") - 1, 0, len(nodes) - 2)
    share = (scale - scale[nodes[left]]) / (scale[nodes[left + 1]] - scale[nodes[left]])
    return LossCurves(grid, (1.0 - share) * level[:, left] + share * level[:, left + 1])


def _scale(
    curve: ScratchCurve, grid: FloatArray, surface: SurfaceFit | None, N: float, batch_tokens: float | None
) -> FloatArray:
    """What ln loss is straight in between two points, float64[G]: strictly falling, or ln D."""
    if surface is not None:
        scale = _log_loss(surface, theta_of(surface), N, grid, batch_tokens)[0]
    elif len(curve.log_D) >= 4:
        scale = np.polyval(np.polyfit(curve.log_D, np.log(curve.loss), 2), grid)
    else:
        return grid
    return scale if (np.diff(scale) < -1e-12).all() else grid


def surface_curves(
    surface: SurfaceFit, N: float, log_D: float, batch_tokens: float | None = None
) -> tuple[LossCurves, LossCurves]:
    """A surface at size N around exp(log_D) tokens: the estimate's curve, and one per bootstrap draw.

    They reach 2 decades down and 2.5 up; beyond a minimum in D (log_quadratic) they stay flat.
    """
    t = np.linspace(0.0, 1.0, _REACH)
    bend = np.sinh(5.0 * t) / np.sinh(5.0) * np.log(10.0)
    grid = log_D + np.concatenate([_DECADES[0] * bend[:0:-1], _DECADES[1] * bend])
    parts = [
        LossCurves(grid, np.minimum.accumulate(_log_loss(surface, theta, N, grid, batch_tokens), axis=1))
        for theta in (theta_of(surface), theta_draws(surface))
    ]
    return parts[0], parts[1]


def _log_loss(
    surface: SurfaceFit, theta: FloatArray, N: float, log_D: FloatArray, batch_tokens: float | None
) -> FloatArray:
    rows = rows_at(surface, np.full(len(log_D), N), np.exp(log_D), batch_tokens)
    return log_loss(form_of(surface), theta, rows)
