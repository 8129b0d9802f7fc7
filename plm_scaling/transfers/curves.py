"""Loss against tokens at one size, read both ways: what a loss costs in tokens, and what tokens buy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.forms import FloatArray, surface_loss
from plm_scaling.laws.law_fit import SurfaceFit

__all__ = ["SAME_LENGTH", "ScratchCurve", "by_length", "curve_of", "surface_curve"]

SAME_LENGTH: Final = 0.01
"""Runs whose tokens differ by no more than this share are of one length."""


@dataclass(frozen=True)
class ScratchCurve:
    """Losses at rising D for one size; log-log straight between the points, nothing beyond them."""

    log_D: FloatArray
    """ln of tokens, float64[k], rising."""
    loss: FloatArray
    """Mean over seeds, nats, float64[k]."""
    n_seeds: FloatArray
    """Different seeds, float64[k]; 0 for a curve that is not made of runs."""

    def nearest(self, log_D: float) -> int:
        """Index of the point closest to exp(log_D) tokens."""
        return int(np.argmin(np.abs(self.log_D - log_D)))

    def monotone(self, loss: FloatArray) -> FloatArray:
        """Losses float64[k] made non-increasing in D by pooling neighbours that violate it.

        **Source:** Ayer et al. 1955 (pool adjacent violators), weighted by seeds.
        """
        if (np.diff(loss) <= 0).all():
            return loss
        values: list[float] = []
        weights: list[float] = []
        counts: list[int] = []
        for value, weight in zip(loss.tolist(), np.maximum(self.n_seeds, 1.0).tolist(), strict=True):
            values, weights, counts = [*values, value], [*weights, weight], [*counts, 1]
            while len(values) > 1 and values[-2] < values[-1]:
                total = weights[-2] + weights[-1]
                pooled = (values[-2] * weights[-2] + values[-1] * weights[-1]) / total
                values = [*values[:-2], pooled]
                weights = [*weights[:-2], total]
                counts = [*counts[:-2], counts[-2] + counts[-1]]
        return np.repeat(values, counts)

    def loss_at(self, log_D: float, loss: FloatArray | None = None) -> float:
        """Loss after exp(log_D) tokens; NaN outside the points."""
        level = self.monotone(self.loss if loss is None else loss)
        if not self.log_D[0] - 1e-9 <= log_D <= self.log_D[-1] + 1e-9:
            return float("nan")
        return float(np.exp(np.interp(log_D, self.log_D, np.log(level))))

    def log_D_for(self, wanted: float, loss: FloatArray | None = None) -> float:
        """Log of the tokens after which the loss is `wanted`; -inf or inf where no run is that bad or that good.

        On a flat stretch, its middle.
        """
        level = self.monotone(self.loss if loss is None else loss)
        if wanted > level[0] * (1 + 1e-12):
            return float("-inf")
        if wanted < level[-1] * (1 - 1e-12):
            return float("inf")
        # np.interp wants rising abscissae; reading from both sides and averaging takes the middle of a flat stretch.
        down = np.log(level)[::-1]
        first = float(np.interp(np.log(wanted), down + 1e-12 * np.arange(len(down)), self.log_D[::-1]))
        steps = 1e-12 * np.arange(len(down))[::-1]
        last = float(np.interp(np.log(wanted), down - steps, self.log_D[::-1]))
        return 0.5 * (first + last)


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


def surface_curve(surface: SurfaceFit, N: float, log_D: float, anchor: float, decades: float = 2.0) -> ScratchCurve:
    """A fitted surface at size N as a curve, scaled to pass through the loss `anchor` at exp(log_D) tokens.

    It spans `decades` in D to either side; a surface misses a single size's level by more than its slope.
    """
    grid = log_D + np.linspace(-decades, decades, 401) * np.log(10.0)
    loss = surface_loss(surface, N, np.exp(grid))
    return ScratchCurve(grid, loss * (anchor / loss[200]), np.zeros(len(grid)))
