"""One budget of an IsoFLOP analysis on given axes: losses, curve, minimum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from plm_scaling.core.run_table import RunRow
from plm_scaling.laws.jets import FloatArray
from plm_scaling.laws.law_fit import IsoflopRow
from plm_scaling.reporting.drawing import COLORS, note
from plm_scaling.reporting.study import WEAK_ROW
from plm_scaling.reporting.wording import power_of_ten

__all__ = ["curve_loss", "draw_row", "fitted_sizes"]

_WINDOW: Final = 1.2
"""|ln N| from the lowest loss within which a fit takes the sizes of a row; fits of the first version took all."""
_BEYOND: Final = 0.1
"""Share of a row's span of losses by which a curve may rise above its highest loss."""


def draw_row(axes: Axes, row: IsoflopRow, color: str, noise_sd: float | None, singles: Sequence[RunRow] = ()) -> None:
    """One budget: its losses, its curve, and the minimum with the interval of N_opt, or the edge that stands lowest.

    Parameters
    ----------
    noise_sd : bar of every point, nats.
    singles : the runs whose means are the row's points, drawn faintly.
    """
    for run in singles:
        axes.plot(run.N, run.loss, ".", color=color, alpha=0.35, ms=4, zorder=2)
    axes.errorbar(row.N, row.loss, yerr=noise_sd, fmt="o", color=color, ms=4.5, lw=0.9, zorder=3)
    if row.curvature is not None and row.N_opt is not None and row.L_opt is not None and row.curvature > 0:
        _draw_curve(axes, row, row.N_opt.value, color)
        low, high = (min(max(x, min(row.N) / 2), max(row.N) * 2) for x in (row.N_opt.low, row.N_opt.high))
        axes.plot([low, high], [row.L_opt] * 2, color=color, lw=5, alpha=0.33, solid_capstyle="butt", zorder=1)
        fill = COLORS["card"] if WEAK_ROW & set(row.flags) else color
        edge = color if WEAK_ROW & set(row.flags) else COLORS["card"]
        axes.plot(row.N_opt.value, row.L_opt, "D", mfc=fill, mec=edge, mew=1.3, ms=7.5, zorder=4)
    elif len(row.N) > 1:
        axes.plot(row.N, row.loss, color=color, lw=1.0, ls=(0, (2, 2)), zorder=2)
        lowest = min(range(len(row.N)), key=lambda i: row.loss[i])
        axes.plot(row.N[lowest], row.loss[lowest], "o", mfc="none", mec=color, mew=1.3, ms=9, zorder=4)
    if len(row.N) < 2:
        return  # a lone run is no row to be named
    last = max(range(len(row.N)), key=lambda i: row.N[i])
    note(axes, power_of_ten(row.C), row.N[last], row.loss[last], color=color, offset=(7, 0), weight="bold")


def _draw_curve(axes: Axes, row: IsoflopRow, N_opt: float, color: str) -> None:
    """The curve over the sizes it was fitted to; dotted beyond, as far as it does not leave the losses."""
    used = np.array(row.N)[fitted_sizes(row)]
    low, high = min(used.min(), N_opt), max(used.max(), N_opt)
    N = np.geomspace(low, high, 80)
    axes.plot(N, curve_loss(row, N), color=color, zorder=2)
    top = max(row.loss) + _BEYOND * (max(row.loss) - min(row.loss))
    for end, border in ((min(row.N), low), (max(row.N), high)):
        N = np.geomspace(border, end, 60)
        loss = curve_loss(row, N)
        near = (loss <= top) & (loss >= min(row.loss))
        axes.plot(N[near], loss[near], color=color, lw=1.0, ls=(0, (1, 2)), zorder=2)


def curve_loss(row: IsoflopRow, N: FloatArray) -> FloatArray:
    """Loss of a row's curve at sizes N, nats; a cubic's third coefficient follows from the sizes it was fitted to."""
    N_opt, lowest, curvature = row.N_opt.value if row.N_opt else math.nan, row.L_opt or 0.0, row.curvature or 0.0
    at, third = np.log(N / N_opt), 0.0
    if row.curve == "cubic":
        used = fitted_sizes(row)
        x, loss = np.log(np.array(row.N)[used] / N_opt), np.array(row.loss)[used]
        third = float(((loss - lowest - curvature * x**2) @ x**3) / (x**3 @ x**3))
    return np.asarray(curvature * at**2 + third * at**3 + lowest)


def fitted_sizes(row: IsoflopRow) -> npt.NDArray[np.bool_]:
    """The sizes that a row's curve was fitted to, bool[k]: those near its lowest loss, or all in older fits.

    A row does not say which; the curve through the right ones has its minimum where the row has it.
    """
    every = np.ones(len(row.N), dtype=np.bool_)
    if row.N_opt is None:
        return every
    best = int(np.argmin(row.loss))
    distance = np.abs(np.log(np.array(row.N) / row.N[best]))
    reach = max(_WINDOW, float(np.sort(distance)[:3][-1]))
    near: npt.NDArray[np.bool_] = (distance <= reach) | (np.abs(np.arange(len(distance)) - best) <= 1)
    off = [abs(_vertex(row, used) - math.log(row.N_opt.value)) for used in (near, every)]
    return near if off[0] <= off[1] else every


def _vertex(row: IsoflopRow, used: npt.NDArray[np.bool_]) -> float:
    """Ln N at the minimum of the curve through some sizes, weighted by their seeds; inf where there is none."""
    degree = 3 if row.curve == "cubic" else 2
    if used.sum() <= degree:
        return math.inf
    u = np.log(np.array(row.N)[used])
    centre = float(u.mean())
    weights = np.sqrt(np.array(row.n_seeds, dtype=np.float64)[used])
    slope = np.polyder(np.polyfit(u - centre, np.array(row.loss)[used], degree, w=weights))
    roots = np.roots(slope)
    minima = [root.real for root in roots if abs(root.imag) < 1e-12 and np.polyval(np.polyder(slope), root.real) > 0]
    return centre + float(minima[0]) if minima else math.inf
