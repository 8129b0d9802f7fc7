"""Pictures of the laws: IsoFLOP curves, N_opt(C) and D_opt(C), the fitted surface."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from plm_scaling.core.run import Objective
from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.core.units import format_count
from plm_scaling.laws.jets import FloatArray
from plm_scaling.laws.law_fit import Interval, IsoflopFit, IsoflopRow, LawFit, SurfaceFit
from plm_scaling.laws.surface import surface_loss, surface_optimum
from plm_scaling.reporting.drawing import COLORS, budget_color, count_axis, draw_panel, flops_axis, note
from plm_scaling.reporting.isoflop_rows import draw_row
from plm_scaling.reporting.study import OBJECTIVES, WEAK_ROW, Study, fitted_set, is_on_page, on_set, weak_exponents
from plm_scaling.reporting.wording import interval_se

__all__ = [
    "budgets_of",
    "draw_data",
    "draw_isoflop",
    "draw_sizes",
    "draw_surface",
    "optimal_path",
    "runs_at",
]

_SAME_C = 0.10
"""Rows of the two objectives whose compute differs by less (relative) share a colour."""
_SAME_BUDGET = 0.06
"""Runs of a row lie within 3 % of its middle, which need not be its median."""


def budgets_of(study: Study) -> list[float]:
    """Compute budgets of all IsoFLOP rows, both objectives together, ascending; within 10 % counts as one."""
    budgets: list[float] = []
    rows = [row for law in study.laws.values() if law.isoflop for row in law.isoflop.rows]
    for C in sorted(row.C for row in rows):
        if not budgets or budgets[-1] * (1 + _SAME_C) < C:
            budgets.append(C)
    return budgets


def _color_of(study: Study, C: float) -> str:
    budgets = budgets_of(study)
    nearest = min(range(len(budgets)), key=lambda i: abs(math.log(budgets[i] / C)))
    return budget_color(nearest, len(budgets))


def runs_at(study: Study, fit: LawFit, row: IsoflopRow) -> tuple[RunRow, ...]:
    """The runs (every seed) whose means are the row's points."""
    currency = fit.isoflop.currency if fit.isoflop else fit.currency

    def belongs(run: RunRow) -> bool:
        C = getattr(run, currency)
        on_row = C is not None and abs(C / row.C - 1) < _SAME_BUDGET and any(math.isclose(run.N, N) for N in row.N)
        return bool(on_row and any(run.has_role(role) for role in ("isoflop", "grid", "replicate")))

    return study.table.of(fit.objective).where(belongs).rows


def draw_isoflop(study: Study, objective: Objective) -> Markup | None:
    """Loss against N, one colour per budget, with its parabola and the interval of N_opt; None without a fit."""
    law = study.laws.get(objective)
    if law is None or law.isoflop is None or not law.isoflop.rows:
        return None
    rows = law.isoflop.rows
    fitted = fitted_set(study, law)
    seen = on_set(study, fitted) if fitted else dataclasses.replace(study, table=RunTable(()), floors={})

    def draw(axes: Axes) -> None:
        for row in rows:
            draw_row(axes, row, _color_of(seen, row.C), law.noise_sd, runs_at(seen, law, row))
        sizes = [N for row in rows for N in row.N]
        sizes += [row.N_opt.value for row in rows if row.N_opt]
        count_axis(axes, "x", [*sizes, max(sizes) ** 1.06 / min(sizes) ** 0.06], "Parameters N")
        axes.set_ylabel("Validation loss, nats per token")
        axes.set_title(_title(study, law, objective.upper()))
        _floor_line(axes, seen, objective)

    return draw_panel(f"isoflop-{objective}", f"IsoFLOP curves of {objective.upper()}", draw, height=3.9)


def _title(study: Study, law: LawFit, text: str) -> str:
    """The title, with the validation set where it is not the page's."""
    return text if is_on_page(study, law) else f"{text}, fitted on {fitted_set(study, law) or 'another set'}"


def _floor_line(axes: Axes, study: Study, objective: Objective) -> None:
    """The loss of residue frequencies alone: a line where it is in sight, else a word at the top."""
    floor = study.floors.get(objective)
    if floor is None:
        return
    low, high = axes.get_ylim()
    text = f"residue frequencies alone: {floor:.3f}"
    if low < floor < high + 0.3 * (high - low):
        axes.axhline(floor, color=COLORS["muted"], lw=1, ls=(0, (5, 3)), zorder=1)
        axes.set_ylim(low, max(high, floor + 0.08 * (high - low)))
        note(axes, text, axes.get_xlim()[0], floor, color=COLORS["muted"], offset=(4, 6), fontsize=8)
    else:
        arrow = "\u2191" if floor > high else "\u2193"
        axes.text(1.0, 1.03, f"{arrow} {text}", transform=axes.transAxes, ha="right", va="bottom", fontsize=8,
                  color=COLORS["muted"])  # fmt: skip


def draw_sizes(study: Study) -> Markup | None:
    """N_opt against C for both objectives with the fitted power laws and their bands; None without a minimum."""
    points = [
        (row.C, row.N_opt.value) for law in study.laws.values() for row in _rows(law) if row.N_opt and row.N_opt.value
    ]
    if not points:
        return None

    def draw(axes: Axes) -> None:
        for objective in OBJECTIVES:
            if objective in study.laws:
                _draw_optima(axes, study.laws[objective])
        bounds = [x for law in study.laws.values() for row in _rows(law) if row.N_opt for x in _clipped(row)]
        flops_axis(axes, [C for C, _ in points], "Training compute C, FLOPs")
        count_axis(axes, "y", bounds, "Best number of parameters")
        axes.set_title("How large the model should be")

    return draw_panel("optimal-size", "Optimal model size against training compute", draw)


def draw_data(study: Study) -> Markup | None:
    """D_opt against C for both objectives, and the unique tokens at hand; None without a minimum."""
    points = [(row.C, row.D_opt) for law in study.laws.values() for row in _rows(law) if row.D_opt]
    if not points:
        return None
    unique = study.unique_train_tokens

    def draw(axes: Axes) -> None:
        for objective in OBJECTIVES:
            law = study.laws.get(objective)
            rows = [row for row in _rows(law) if row.D_opt] if law else []
            if not law or not rows:
                continue
            color = COLORS[objective]
            for row in rows:
                axes.plot(
                    row.C,
                    row.D_opt or 0,
                    "D",
                    mfc=COLORS["card"] if WEAK_ROW & set(row.flags) else color,
                    mec=color,
                    ms=6,
                )
            if law.isoflop and law.isoflop.k_D and law.isoflop.a_D:
                C = np.geomspace(rows[0].C, rows[-1].C, 30)
                style = (0, (4, 3)) if weak_exponents(law) else "-"
                axes.plot(C, law.isoflop.k_D * C**law.isoflop.a_D.value, color=color, ls=style)
            note(axes, objective.upper(), rows[-1].C, rows[-1].D_opt or 0, color=color, offset=(7, 0), weight="bold")
        ends = [D for _, D in points] + ([unique] if unique else [])
        flops_axis(axes, [C for C, _ in points], "Training compute C, FLOPs")
        count_axis(axes, "y", ends, "Best number of training tokens")
        axes.set_title("How many tokens it should see")
        if unique:
            axes.axhline(unique, color=COLORS["muted"], lw=1, ls=(0, (5, 3)))
            text = f"unique training tokens here: {format_count(unique)}"
            note(axes, text, axes.get_xlim()[0], unique, color=COLORS["muted"], offset=(3, -7), fontsize=8)

    return draw_panel("optimal-data", "Optimal number of tokens against training compute", draw)


def _rows(law: LawFit) -> tuple[IsoflopRow, ...]:
    return law.isoflop.rows if law.isoflop else ()


def _clipped(row: IsoflopRow) -> tuple[float, float]:
    """Interval of N_opt, cut at three times the sizes tried: one loose row must not set the axis."""
    if row.N_opt is None:
        return (math.nan, math.nan)
    low, high = min(row.N) / 3, max(row.N) * 3
    return min(max(row.N_opt.low, low), high), max(min(row.N_opt.high, high), low)


def _draw_optima(axes: Axes, law: LawFit) -> None:
    color = COLORS[law.objective]
    rows = [row for row in _rows(law) if row.N_opt]
    for row in rows:
        if row.N_opt is None:
            continue
        low, high = _clipped(row)
        axes.plot([row.C, row.C], [low, high], color=color, lw=1.1, zorder=3)
        fill = COLORS["card"] if WEAK_ROW & set(row.flags) else color
        axes.plot(row.C, row.N_opt.value, "D", mfc=fill, mec=color, mew=1.2, ms=6, zorder=4)
    if not rows or rows[-1].N_opt is None:
        return
    fit = law.isoflop
    inner = [row for row in rows if row.N_opt and "NO_INTERIOR_MINIMUM" not in row.flags]
    if fit and fit.a_N and fit.k_N and len(inner) > 1:
        C = np.geomspace(rows[0].C, rows[-1].C, 60)
        N = fit.k_N * C**fit.a_N.value
        if math.isfinite(fit.a_N.high - fit.a_N.low):
            spread = np.exp(1.96 * _log_error(fit, inner, C))
            axes.fill_between(C, N / spread, N * spread, color=color, alpha=0.15, lw=0, zorder=1)
        axes.plot(C, N, color=color, zorder=2, ls=(0, (4, 3)) if weak_exponents(law) else "-")
    note(axes, law.objective.upper(), rows[-1].C, rows[-1].N_opt.value, color=color, offset=(7, 0), weight="bold")


def _log_error(fit: IsoflopFit, rows: list[IsoflopRow], C: np.ndarray) -> np.ndarray:
    """Standard error of ln N_opt(C): that of the points' centre and that of the exponent, in quadrature."""
    errors = [interval_se(_logged(row.N_opt)) for row in rows if row.N_opt]
    center = np.mean([math.log(row.C) for row in rows])
    level = math.sqrt(sum(error**2 for error in errors)) / len(errors)
    slope = interval_se(fit.a_N) if fit.a_N else 0.0
    combined: np.ndarray = np.hypot(level, slope * (np.log(C) - center))
    return combined


def _logged(interval: Interval) -> Interval:
    low, high = max(interval.low, interval.value / 100), min(interval.high, interval.value * 100)
    return Interval(value=math.log(interval.value), low=math.log(low), high=math.log(high))


def draw_surface(study: Study, objective: Objective) -> Markup | None:
    """Contours of the fitted L(N, D) with the runs it was fitted to; None without a surface."""
    law = study.laws.get(objective)
    if law is None or law.surface is None:
        return None
    fit = law.surface

    def draw(axes: Axes) -> None:
        count_axis(axes, "x", list(fit.range_N), "Parameters N")
        count_axis(axes, "y", list(fit.range_D), "Training tokens D")
        N, D = np.geomspace(*axes.get_xlim(), 90), np.geomspace(*axes.get_ylim(), 90)
        grid_N, grid_D = np.meshgrid(N, D)
        lines = axes.contour(
            grid_N, grid_D, surface_loss(fit, grid_N, grid_D), 9, colors=[COLORS["muted"]], linewidths=0.8
        )
        for row in _rows(law):
            color = _color_of(study, row.C)
            axes.plot(row.N, row.D, "o", color=color, ms=4.5, mec=COLORS["card"], mew=0.6, zorder=3)
        _draw_path(axes, fit, objective)
        axes.clabel(lines, fontsize=7.5, fmt=lambda level: f"{level:.2f}", inline_spacing=2)
        axes.set_title(_title(study, law, f"{objective.upper()}: fitted loss, nats"))

    return draw_panel(f"surface-{objective}", f"Fitted loss surface of {objective.upper()}", draw, height=3.7)


def _draw_path(axes: Axes, fit: SurfaceFit, objective: Objective) -> None:
    """Where the surface is lowest at equal 6 N D, inside the sizes and tokens that were run."""
    N, D = optimal_path(fit)
    inside = (fit.range_N[0] <= N) & (fit.range_N[1] >= N)
    if inside.any():
        axes.plot(N[inside], D[inside], color=COLORS[objective], lw=2.2, zorder=2)


def optimal_path(fit: SurfaceFit, points: int = 60) -> tuple[FloatArray, FloatArray]:
    """Compute-optimal (N, D) float64[k] over the tokens that were run; empty where the form has no optimum."""
    C = 6.0 * np.geomspace(fit.range_N[0] * fit.range_D[0], fit.range_N[1] * fit.range_D[1], points)
    one = fit.model_copy(update={"draws": ()})
    N, D = (
        np.array(side) for side in zip(*((n[0], d[0]) for n, d in (surface_optimum(one, c) for c in C)), strict=True)
    )
    inside = np.isfinite(N) & (fit.range_D[0] <= D) & (fit.range_D[1] >= D)
    return N[inside], D[inside]
