"""Picture of the best size against compute: the fitted form, its draws, other forms, and the isoFLOP minima."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from plm_scaling.laws.jets import FloatArray
from plm_scaling.laws.law_fit import IsoflopRow, LawFit, SurfaceFit
from plm_scaling.laws.surface import surface_optimum
from plm_scaling.reporting.drawing import COLORS, KINDS, count_axis, flops_axis, note
from plm_scaling.reporting.fit_view import Drawing, FitView
from plm_scaling.reporting.study import WEAK_ROW
from plm_scaling.reporting.wording import form_words

__all__ = ["draw_optimum"]

_BEYOND: Final = 10.0
"""How far past the largest compute the picture reaches."""
_LEAST_WEIGHT: Final = 0.05
_WIDEST: Final = 30.0
"""Bands are cut at this factor about the estimates: beyond it a fit says nothing, and the rest must stay readable."""


def draw_optimum(view: FitView) -> Drawing | None:
    """N_opt against compute with the band of the draws, the range of the forms and the minima of the budgets."""
    law, surface = view.law, view.law.surface
    if surface is None or surface.a_N is None:
        return None
    bottom, top = float(view.sample.C.min()), float(view.sample.C.max())
    C = np.geomspace(bottom, _BEYOND * top, 40)
    N, low, high = _band(surface, C)
    others = _other_forms(law, C)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axvspan(top, _BEYOND * top * 1e3, color=COLORS["grid"], alpha=0.55, lw=0, zorder=0)
        axes.fill_between(C, low, high, color=KINDS[0][0], alpha=0.25, lw=0, zorder=2)
        axes.plot(C, N, color=KINDS[0][0], lw=2.2, zorder=4)
        if others is not None:
            for edge in others:
                axes.plot(C, edge, color=KINDS[1][0], lw=1.2, ls=(0, (3, 2)), zorder=3)
        rows = _rows(law)
        for row in rows:
            _draw_row(axes, row)
        bounds = [*low, *high, *(np.concatenate(others) if others else ())]
        bounds = [min(max(x, N.min() / _WIDEST), N.max() * _WIDEST) for x in bounds if math.isfinite(x)]
        bounds += [size for row in rows for size in _bar(row)]
        flops_axis(axes, [bottom, _BEYOND * top], "Training compute 6 N D, FLOPs")
        count_axis(axes, "y", bounds, "Compute-optimal parameters N")
        note(axes, "beyond the runs", top, axes.get_ylim()[0], offset=(5, 9), fontsize=8, color=COLORS["muted"])
        axes.legend(handles=_handles(rows, others=others is not None), loc="upper left")

    a = surface.a_N
    about = f"{form_words(surface)}; N grows as C to the power {a.value:.2f} ({a.low:.2f} to {a.high:.2f})"
    return Drawing(draw, (9.6, 5.2), about)


def _band(surface: SurfaceFit, C: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """N_opt and the central 95 % of its draws, float64[k] each."""
    found = np.array([surface_optimum(surface, float(c))[0] for c in C])
    low, high = np.nanquantile(found[:, 1:], [0.025, 0.975], axis=1)
    return found[:, 0], low, high


def _other_forms(law: LawFit, C: FloatArray) -> tuple[FloatArray, FloatArray] | None:
    """Smallest and largest N_opt over the forms with a weight of at least 5 %; None where there is one only."""
    members = [score.surface for score in law.forms if score.surface and score.weight >= _LEAST_WEIGHT]
    bare = [fit.model_copy(update={"draws": ()}) for fit in members]
    sizes = np.array([[surface_optimum(fit, float(c))[0][0] for c in C] for fit in bare])
    sizes = sizes[np.isfinite(sizes).all(axis=1)] if len(sizes) else sizes
    return (sizes.min(axis=0), sizes.max(axis=0)) if len(sizes) > 1 else None


def _rows(law: LawFit) -> list[IsoflopRow]:
    """The budgets with a minimum, placed on 6 N D if the fit holds that."""
    fits = [fit for fit in (law.isoflop, law.isoflop_other_currency) if fit]
    chosen = next((fit for fit in fits if fit.currency == "C_6nd"), law.isoflop)
    return [row for row in (chosen.rows if chosen else ()) if row.N_opt and row.D_opt]


def _bar(row: IsoflopRow) -> tuple[float, float]:
    """Interval of N_opt, cut at twice the sizes tried."""
    if row.N_opt is None:
        return math.nan, math.nan
    return max(row.N_opt.low, min(row.N) / 2), min(row.N_opt.high, max(row.N) * 2)


def _draw_row(axes: Axes, row: IsoflopRow) -> None:
    """The minimum of a budget at its own 6 N D, whatever compute it was placed on."""
    if row.N_opt is None or row.D_opt is None:
        return
    C = 6.0 * row.N_opt.value * row.D_opt
    fill = COLORS["card"] if _is_weak(row) else COLORS["ink"]
    axes.plot([C, C], _bar(row), color=COLORS["ink"], lw=1.2, zorder=5)
    axes.plot(C, row.N_opt.value, "D", mfc=fill, mec=COLORS["ink"], ms=6.5, zorder=6)


def _is_weak(row: IsoflopRow) -> bool:
    return bool(WEAK_ROW & set(row.flags))


def _handles(rows: list[IsoflopRow], *, others: bool) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=KINDS[0][0], lw=2.2, label="fitted surface"),
        Patch(color=KINDS[0][0], alpha=0.25, lw=0, label="95 % of bootstrap draws"),
    ]
    if others:
        label = f"smallest and largest of the forms with a weight of {100 * _LEAST_WEIGHT:.0f} % or more"
        handles.append(Line2D([], [], color=KINDS[1][0], lw=1.2, ls=(0, (3, 2)), label=label))
    if any(not _is_weak(row) for row in rows):
        handles.append(
            Line2D([], [], marker="D", color=COLORS["ink"], ls="", ms=6, label="isoFLOP minimum, 95 % interval")
        )
    if any(_is_weak(row) for row in rows):
        label = "isoFLOP minimum no deeper than the noise, or open at an edge"
        handles.append(Line2D([], [], marker="D", mfc=COLORS["card"], mec=COLORS["ink"], ls="", ms=6, label=label))
    return handles
