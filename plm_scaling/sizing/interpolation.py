"""Smooth curves of many laws from few points: Chebyshev nodes on panels, asked for anywhere by one product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

__all__ = ["PanelGrid", "lowest_point"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PanelGrid:
    """Interpolation between `breaks`, smooth on every panel and free to have a kink where two meet."""

    breaks: tuple[float, ...]
    """Rising, at least two."""
    count: int
    """Nodes of a panel."""

    @property
    def nodes(self) -> FloatArray:
        """Chebyshev points of the second kind, panel after panel, float64[panels * count]; ends are nodes."""
        unit = 0.5 * (1.0 - np.cos(np.pi * np.arange(self.count) / (self.count - 1)))
        return np.concatenate([low + (high - low) * unit for low, high in self._panels()])

    def matrix(self, at: FloatArray) -> FloatArray:
        """float64[nodes, n]: values at the nodes times this are values at points `at` [n].

        **Source:** Berrut & Trefethen 2004, barycentric Lagrange interpolation, eq. 4.2 and 5.4.
        """
        nodes, made = self.nodes, np.zeros((len(self.breaks[1:]) * self.count, len(at)))
        panel = np.clip(np.searchsorted(self.breaks, at, side="right") - 1, 0, len(self.breaks) - 2)
        weight = (-1.0) ** np.arange(self.count)
        weight[[0, -1]] *= 0.5
        for k in range(len(self.breaks) - 1):
            rows, here = slice(k * self.count, (k + 1) * self.count), np.flatnonzero(panel == k)
            distance = at[here] - nodes[rows][:, None]
            exact = distance == 0.0
            share = weight[:, None] / np.where(exact, 1.0, distance)
            hit = exact.any(axis=0)
            share[:, hit] = exact[:, hit]
            made[rows, here] = share / share.sum(axis=0)
        return made

    def _panels(self) -> Sequence[tuple[float, float]]:
        return list(pairwise(self.breaks))


def lowest_point(values: FloatArray, step: float) -> tuple[FloatArray, FloatArray, npt.NDArray[np.intp]]:
    """Where rows float64[K, n] on a grid of even `step` are lowest: offset from the first point, value, index, [K].

    The vertex of the parabola through the lowest value and its neighbours; the value itself at either end.
    """
    index = values.argmin(axis=1)
    rows, inside = np.arange(len(values)), np.clip(index, 1, values.shape[1] - 2)
    before, here, after = (values[rows, inside + side] for side in (-1, 0, 1))
    bend = before - 2.0 * here + after
    good = (index == inside) & (bend > 0)
    shift = np.where(good, 0.5 * (before - after) / np.where(good, bend, 1.0), 0.0)
    lowest = np.where(good, here - 0.25 * (before - after) * shift, values[rows, index])
    return (np.where(good, inside + shift, index)) * step, lowest, index
