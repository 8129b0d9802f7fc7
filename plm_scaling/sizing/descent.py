"""The lowest point of a smooth or kinked function of a few bounded variables, asked for at many points at once."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["descend"]

FloatArray = npt.NDArray[np.float64]

_SHRINK: Final = 0.35


def descend(
    values: Callable[[FloatArray], FloatArray],
    start: FloatArray,
    low: FloatArray,
    high: FloatArray,
    step: FloatArray,
    rounds: int = 80,
    finest: float = 1e-4,
) -> tuple[FloatArray, float]:
    """A local minimum by a compass search with Newton's point among its candidates.

    Parameters
    ----------
    values : points float64[n, d] -> float64[n].
    start, low, high : float64[d]; the start lies within the bounds.
    step : first step of each variable, float64[d]; the search ends when steps are `finest` of it.

    Returns
    -------
    point float64[d] and its value.

    **Source:** Kolda, Lewis & Torczon 2003, section 3 (compass search), with a quadratic model of its stencil.
    """
    x, scale = start.astype(np.float64), 1.0
    best = float(values(x[None])[0])
    stencil = _stencil(len(x))
    for _ in range(rounds):
        points = np.clip(x + scale * step * stencil, low, high)
        found = values(points)
        newton = _newton(stencil, found, best)
        if newton is not None:
            points = np.vstack([points, np.clip(x + scale * step * newton, low, high)])
            found = np.append(found, values(points[-1:]))
        at = int(np.argmin(found))
        if found[at] < best - 1e-14 * abs(best):
            inside = newton is not None and at == len(points) - 1 and bool(np.all(np.abs(newton) < 1.0))
            x, best = points[at], float(found[at])
            scale *= _SHRINK if inside else 1.0
        else:
            scale *= _SHRINK
        if scale < finest:
            break
    return x, best


def _stencil(d: int) -> FloatArray:
    """Plus and minus every axis, then plus and minus both diagonals of every pair, float64[2d + 2d(d-1), d]."""
    axes = np.eye(d)
    rows = [sign * axes[k] for k in range(d) for sign in (1.0, -1.0)]
    for i, j in combinations(range(d), 2):
        rows += [sign * (axes[i] + turn * axes[j]) for turn in (1.0, -1.0) for sign in (1.0, -1.0)]
    return np.array(rows)


def _newton(stencil: FloatArray, found: FloatArray, centre: float) -> FloatArray | None:
    """Newton's step in units of the stencil; None where the quadratic through it has no minimum."""
    d = stencil.shape[1]
    up, down = found[: 2 * d : 2], found[1 : 2 * d : 2]
    gradient = 0.5 * (up - down)
    hessian = np.diag(up - 2.0 * centre + down)
    for k, (i, j) in enumerate(combinations(range(d), 2)):
        both = found[2 * d + 4 * k : 2 * d + 4 * k + 4]
        hessian[i, j] = hessian[j, i] = 0.25 * (both[0] + both[1] - both[2] - both[3])
    if not np.all(np.isfinite(hessian)) or np.linalg.eigvalsh(hessian)[0] <= 0:
        return None
    step = -np.linalg.solve(hessian, gradient)
    return np.asarray(step * min(1.0, 3.0 / max(float(np.abs(step).max()), 1e-300)))
