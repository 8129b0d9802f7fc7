"""Smooth curves of many laws from few points: Chebyshev nodes on panels, asked for anywhere by one product."""

from __future__ import annotations

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
    counts: tuple[int, ...]
    """Nodes of every panel, at least two each."""

    @property
    def nodes(self) -> FloatArray:
        """Chebyshev points of the second kind, panel after panel; ends are nodes, so that breaks stand twice."""
        made = []
        for (low, high), count in zip(pairwise(self.breaks), self.counts, strict=True):
            made.append(low + (high - low) * 0.5 * (1.0 - np.cos(np.pi * np.arange(count) / (count - 1))))
        return np.concatenate(made)

    def matrix(self, at: FloatArray) -> FloatArray:
        """float64[nodes, n]: values at the nodes times this are values at points `at` [n].

        **Source:** Berrut & Trefethen 2004, barycentric Lagrange interpolation, eq. 4.2 and 5.4.
        """
        nodes, made = self.nodes, np.zeros((sum(self.counts), len(at)))
        panel = np.clip(np.searchsorted(self.breaks, at, side="right") - 1, 0, len(self.counts) - 1)
        start = 0
        for k, count in enumerate(self.counts):
            rows, here = slice(start, start + count), np.flatnonzero(panel == k)
            weight = (-1.0) ** np.arange(count)
            weight[[0, -1]] *= 0.5
            distance = at[here] - nodes[rows][:, None]
            exact = distance == 0.0
            share = weight[:, None] / np.where(exact, 1.0, distance)
            hit = exact.any(axis=0)
            share[:, hit] = exact[:, hit]
            made[rows, here] = share / share.sum(axis=0)
            start += count
        return made


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
