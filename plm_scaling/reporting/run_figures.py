"""Pictures of the runs a law was fitted to: losses, residuals, isoFLOP rows, contours of the surface."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from plm_scaling.core.units import format_count
from plm_scaling.laws.jets import FloatArray
from plm_scaling.laws.law_fit import SurfaceFit
from plm_scaling.laws.problem import Sample
from plm_scaling.laws.surface import form_of, surface_loss
from plm_scaling.reporting.drawing import COLORS, KINDS, SCALE, budget_color, count_axis, flops_axis, log_ticks, note
from plm_scaling.reporting.fit_view import Drawing, FitView, group_levels
from plm_scaling.reporting.isoflop_rows import draw_row
from plm_scaling.reporting.law_figures import optimal_path
from plm_scaling.reporting.wording import form_words, power_of_ten

__all__ = ["draw_contours", "draw_minima", "draw_residuals", "draw_runs"]

_COMPUTE: Final = "Training compute 6 N D, FLOPs"
_LOSS: Final = "loss, nats per token"
_SAME_SIZE: Final = 0.02
_Z95: Final = 1.959964
_MANY: Final = 30
"""Runs from which a running median is drawn."""
_WORST: Final = 3
"""Runs that are named beside their residuals."""


# --- the runs against the law --------------------------------------------------------------------------------------


def draw_runs(view: FitView) -> Drawing | None:
    """Loss against compute with the law's line for every size, and fitted against measured losses."""
    surface = view.law.surface
    sizes = [*view.sample.N, *(view.held_sample.N if view.held_sample else ())]
    norm = LogNorm(min(sizes), max(sizes) if max(sizes) > min(sizes) else 2 * max(sizes))

    def draw(figure: Figure) -> None:
        left, *right = figure.subplots(
            1, 2 if surface else 1, width_ratios=(1.3, 1.0) if surface else None, squeeze=False
        )[0]
        _draw_losses(left, view, norm)
        for axes in right:
            _draw_agreement(axes, view, norm)
        _size_bar(figure, norm)

    about = form_words(surface) if surface else "no loss surface could be fitted"
    return Drawing(draw, (9.6, 4.4), f"{about}; {view.runs_line()}")


def _size_bar(figure: Figure, norm: LogNorm) -> None:
    bar = figure.colorbar(ScalarMappable(norm, SCALE), ax=figure.axes, pad=0.015, aspect=32)
    bar.ax.yaxis.set_major_locator(FixedLocator(log_ticks(float(norm.vmin or 1.0), float(norm.vmax or 1.0), 7)))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_count(value)))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.set_label("Parameters N")
    bar.outline.set_visible(False)


def _draw_points(axes: Axes, view: FitView, norm: LogNorm, x: FloatArray, y: FloatArray, sample: Sample) -> None:
    """Dots coloured by size; open squares for runs that the law was not fitted to."""
    colors = SCALE(norm(sample.N))
    if sample is view.sample:
        axes.scatter(x, y, s=22, c=colors, lw=0.5, ec=COLORS["card"], zorder=3)
    else:
        axes.scatter(x, y, s=26, marker="s", facecolors="none", edgecolors=colors, lw=1.2, zorder=3)
        axes.plot([], [], "s", mfc="none", mec=COLORS["ink"], ls="", ms=5, label="left out of the fit")


def _draw_losses(axes: Axes, view: FitView, norm: LogNorm) -> None:
    """Loss against compute; the surface as one line per size, and the lowest loss at every compute."""
    surface = view.law.surface
    if surface is not None:
        for group in group_levels(view.sample.N, _SAME_SIZE):
            _draw_size(axes, surface, view.sample.take(group), norm)
        N, D = optimal_path(surface)
        seen = (view.sample.C.min() / 1.3 <= 6 * N * D) & (1.3 * max(s.C.max() for s in view.samples) >= 6 * N * D)
        if seen.any():
            N, D = N[seen], D[seen]
            axes.plot(6 * N * D, surface_loss(surface, N, D), color=COLORS["ink"], lw=1.8, ls=(0, (4, 2)), zorder=4,
                      label="best size at each compute")  # fmt: skip
    for sample in view.samples:
        _draw_points(axes, view, norm, sample.C, sample.loss, sample)
    flops_axis(axes, [C for sample in view.samples for C in sample.C], _COMPUTE)
    axes.set_ylabel(f"Validation {_LOSS}")
    axes.set_title("Loss against compute" + (", one line per model size" if surface else ""))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper right")


def _draw_size(axes: Axes, surface: SurfaceFit, runs: Sample, norm: LogNorm) -> None:
    """The law's line for the runs of one size, at their median batch."""
    N = float(np.median(runs.N))
    batch = float(np.median(runs.batch)) if np.isfinite(runs.batch).all() else None
    D = np.geomspace(runs.D.min() / 1.3, runs.D.max() * 1.3, 60)
    axes.plot(6 * N * D, surface_loss(surface, N, D, batch), color=SCALE(norm(N)), lw=1.0, alpha=0.9, zorder=2)


def _draw_agreement(axes: Axes, view: FitView, norm: LogNorm) -> None:
    """Fitted against measured loss, with the line on which they agree."""
    ends: list[float] = []
    for sample in view.samples:
        predicted = view.predicted(sample)
        if predicted is not None:
            _draw_points(axes, view, norm, sample.loss, predicted, sample)
            ends += [*sample.loss, *predicted]
    pad = 0.04 * (max(ends) - min(ends))
    low, high = min(ends) - pad, max(ends) + pad
    axes.plot([low, high], [low, high], color=COLORS["muted"], lw=1.0, zorder=1)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_xlabel(f"Measured {_LOSS}")
    axes.set_ylabel(f"Fitted {_LOSS}")
    axes.set_title("Fitted against measured loss")


# --- residuals -----------------------------------------------------------------------------------------------------


def draw_residuals(view: FitView) -> Drawing | None:
    """Fitted minus measured loss by size, tokens and compute, coloured by batch; None without a surface."""
    deviation = view.deviation(view.sample)
    if deviation is None or view.law.surface is None:
        return None
    sd = 100.0 * (view.law.surface.residual_sd or view.law.surface.rms_relative_error)
    groups = view.batches()

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, 3, sharey=True)
        columns = (("Parameters N", "N"), ("Training tokens D", "D"), (_COMPUTE, "C"))
        for axes, (label, name) in zip(panels, columns, strict=True):
            axes.axhspan(-_Z95 * sd, _Z95 * sd, color=COLORS["muted"], alpha=0.13, lw=0, zorder=0)
            axes.axhline(0.0, color=COLORS["muted"], lw=1.0, zorder=1)
            x = getattr(view.sample, name)
            for group, (color, marker) in zip(groups, KINDS, strict=False):
                at = group.members
                axes.plot(x[at], deviation[at], marker, color=color, ms=4.8, mec=COLORS["card"], mew=0.5, zorder=3)
            _draw_trend(axes, x, deviation)
            if name == "C":
                flops_axis(axes, list(x), label, most=4)
            else:
                count_axis(axes, "x", list(x), label, most=5)
        reach = 1.15 * max(float(np.abs(deviation).max()), _Z95 * sd)
        panels[0].set_ylim(-reach, reach)
        panels[0].set_ylabel("Fitted minus measured, % of the loss")
        _name_worst(panels[2], view, deviation, sd)
        _residual_legend(figure, view, sd)

    return Drawing(draw, (9.6, 4.1), form_words(view.law.surface))


def _draw_trend(axes: Axes, x: FloatArray, y: FloatArray) -> None:
    """Running median over a fifth of the runs: what a better law would still find."""
    n = len(x)
    if n < _MANY:
        return
    width = n // 5
    order = np.argsort(x, kind="stable")
    windows = [order[i : i + width] for i in range(0, n - width + 1, max(1, width // 4))]
    centre = [float(np.exp(np.log(x[w]).mean())) for w in windows]
    axes.plot(centre, [float(np.median(y[w])) for w in windows], color=COLORS["ink"], lw=1.5, zorder=4)


def _name_worst(axes: Axes, view: FitView, deviation: FloatArray, sd: float) -> None:
    """Names of the runs furthest from the law, where they lie outside the band."""
    worst = [i for i in np.argsort(-np.abs(deviation))[:_WORST] if abs(deviation[i]) > _Z95 * sd]
    middle = float(np.exp(np.log(view.sample.C).mean()))
    line = 0.045 * (axes.get_ylim()[1] - axes.get_ylim()[0])
    above, below = -math.inf, math.inf
    for i in sorted(worst, key=lambda i: abs(deviation[i])):  # names move outwards, where there is room
        if deviation[i] > 0:
            height = above = max(float(deviation[i]), above + line)
        else:
            height = below = min(float(deviation[i]), below - line)
        side, x = ("right", -6) if view.sample.C[i] > middle else ("left", 6)
        text, C = view.runs.rows[i].run_id, float(view.sample.C[i])
        note(axes, text, C, height, offset=(x, 0), ha=side, fontsize=7.5, color=COLORS["muted"])


def _residual_legend(figure: Figure, view: FitView, sd: float) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Line2D | Patch] = []
    groups = view.batches()
    if len(groups) > 1:
        for group, (color, marker) in zip(groups, KINDS, strict=False):
            label = f"batch {group.label}" + ("" if group.label == "not stated" else " tokens")
            handles.append(Line2D([], [], marker=marker, color=color, ls="", ms=5, label=label))
    if len(view.runs) >= _MANY:
        handles.append(Line2D([], [], color=COLORS["ink"], lw=1.5, label="running median"))
    band = f"95 % band, robust sd {sd:.2f} %"
    handles.append(Patch(color=COLORS["muted"], alpha=0.2, lw=0, label=band))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


# --- isoFLOP rows --------------------------------------------------------------------------------------------------


def draw_minima(view: FitView) -> Drawing | None:
    """Loss against size, one colour per compute budget, with curves and minima; None without a row of two sizes."""
    fit = view.law.isoflop
    rows = [row for row in fit.rows if len(row.N) > 1] if fit else []
    if fit is None or not rows:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for i, row in enumerate(rows):
            draw_row(axes, row, budget_color(i, len(rows)), view.law.noise_sd)
        sizes = [N for row in rows for N in row.N]
        count_axis(axes, "x", [*sizes, max(sizes) ** 1.08 / min(sizes) ** 0.08], "Parameters N")
        axes.set_ylabel(f"Validation {_LOSS}")
        axes.set_title(
            "Diamond: lowest point of the curve, with the 95 % interval of its size (open: noise may have made it). "
            "Circle: no minimum inside.",
            fontsize=9,
        )

    words = "compute counted as 6 N D" if fit.currency == "C_6nd" else "exact FLOPs"
    return Drawing(draw, (9.6, 5.4), f"{len(rows)} {'budget' if len(rows) == 1 else 'budgets'}, {words}")


# --- contours ------------------------------------------------------------------------------------------------------


def draw_contours(view: FitView) -> Drawing | None:
    """Lines of equal fitted loss over N and D, the runs in the colour of their loss, and the efficient frontier."""
    surface = view.law.surface
    if surface is None:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        N = [N for sample in view.samples for N in sample.N]
        D = [D for sample in view.samples for D in sample.D]
        count_axis(axes, "x", N, "Parameters N")
        count_axis(axes, "y", D, "Training tokens D")
        _draw_compute(axes, view)
        _draw_levels(axes, view, surface)
        _draw_frontier(axes, surface)
        axes.set_title("Dots: measured losses in the colours of the lines. Dotted: equal compute 6 N D, FLOPs.")

    about = form_words(surface)
    if form_of(surface).has_batch and surface.batch_typical:
        about += f", at a batch of {format_count(surface.batch_typical)} tokens"
    return Drawing(draw, (9.6, 6.2), about)


def _draw_levels(axes: Axes, view: FitView, surface: SurfaceFit) -> None:
    grid_N, grid_D = np.meshgrid(np.geomspace(*axes.get_xlim(), 120), np.geomspace(*axes.get_ylim(), 120))
    fitted = surface_loss(surface, grid_N, grid_D)
    measured = np.concatenate([sample.loss for sample in view.samples])
    norm = Normalize(float(measured.min()), float(measured.max()))
    scale = SCALE.reversed()
    lines = axes.contour(grid_N, grid_D, fitted, 14, cmap=scale, norm=norm, linewidths=1.1, zorder=2)
    for sample in view.samples:
        colors = scale(norm(sample.loss))
        if sample is view.sample:
            axes.scatter(sample.N, sample.D, s=30, c=colors, lw=0.6, ec=COLORS["card"], zorder=4)
        else:
            axes.scatter(sample.N, sample.D, s=30, marker="s", facecolors="none", edgecolors=colors, lw=1.2, zorder=4)
    axes.clabel(lines, fontsize=8, fmt=lambda level: f"{level:.2f}", inline_spacing=3)


def _draw_compute(axes: Axes, view: FitView) -> None:
    """Diagonals of equal 6 N D, a decade apart, named where they leave the picture at the bottom or the right."""
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    low, high = np.log10(6 * x0 * y0), np.log10(6 * x1 * y1)
    for decade in range(int(np.ceil(low)), int(np.floor(high)) + 1):
        C = 10.0**decade
        N = np.array([max(x0, C / 6 / y1), min(x1, C / 6 / y0)])
        axes.plot(N, C / 6 / N, color=COLORS["muted"], lw=0.7, ls=(0, (1, 3)), zorder=1)
        offset = (3, 7) if N[0] == x0 else (8, -5)
        note(axes, power_of_ten(C), N[0], C / 6 / N[0], fontsize=7.5, color=COLORS["muted"], offset=offset, ha="left")


def _draw_frontier(axes: Axes, surface: SurfaceFit) -> None:
    N, D = optimal_path(surface)
    inside = (surface.range_N[0] <= N) & (surface.range_N[1] >= N)
    if not N.size:
        return
    axes.plot(N, D, color=COLORS["ink"], lw=1.4, ls=(0, (4, 2)), zorder=3)
    axes.plot(N[inside], D[inside], color=COLORS["ink"], lw=2.4, zorder=3, label="best size at each compute")
    axes.legend(loc="lower right", frameon=True, facecolor="white", edgecolor="none", framealpha=0.9)
