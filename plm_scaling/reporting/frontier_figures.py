"""Pictures of a downstream metric against compute, size and loss: models evaluated here, published ones, floors."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from plm_scaling.evals.frontier import Frontier, FrontierPoint
from plm_scaling.reporting.drawing import COLORS, count_axis, draw_panel, flops_axis, write_picture
from plm_scaling.reporting.labels import PointLabel, label_points, line_labels

__all__ = ["draw_frontier", "frontier_axes", "write_curves_figure", "write_frontier_figure"]

_AXES: Final = {"C": "Training compute 6 N D, FLOPs", "N": "Parameters N", "loss": "Validation loss, nats per token"}
_MARKS: Final = {"clm": ("clm", "o", "CLM, evaluated here"), "mlm": ("mlm", "s", "MLM, evaluated here")}
_OTHERS: Final = ("ink", "v", "other, evaluated here")
_ACROSS: Final = 3
"""Panels in a row of a picture."""
_LINE: Final = "line"
"""Id of lines that names must not cover."""
_NAMED: Final = 6
"""Most runs of ours that are named in a picture."""


def frontier_axes(found: Frontier) -> tuple[str, ...]:
    """The axes (C, N, loss) of which different values are known for two models at least; else N."""
    known = [axis for axis in _AXES if len({getattr(p, axis) for p in found.points if getattr(p, axis)}) > 1]
    return tuple(known) or ("N",)


def draw_frontier(found: Frontier, axis: str, name: str) -> Markup:
    """One axis as inline SVG; `name` is unique on its page."""

    def draw(axes: Axes) -> None:
        figure = axes.figure
        assert isinstance(figure, Figure)
        figure.legend(handles=_handles([found], (axis,)), loc="outside lower center", ncols=2)
        _panel(axes, found, axis)
        axes.set_ylabel(_metric_words(found))
        axes.set_title(found.task)
        _labels(axes, found, axis)

    return draw_panel(name, _label(found, (axis,)), draw, height=3.7)


def write_frontier_figure(found: Frontier, path: Path) -> Path:
    """A panel for each of `frontier_axes` (.svg, .png or .pdf)."""
    shown = frontier_axes(found)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
        figure.legend(handles=_handles([found], shown), loc="outside lower center", ncols=min(4, 2 * len(shown)))
        panels[0].set_ylabel(_metric_words(found))
        for axes, axis in zip(panels, shown, strict=True):
            _panel(axes, found, axis)
        panels[0].set_title(found.task)
        for axes, axis in zip(panels, shown, strict=True):
            _labels(axes, found, axis)

    return write_picture(path, draw, size=(max(4.4 * len(shown), 4.8), 4.2), label=_label(found, shown))


def write_curves_figure(found: Sequence[Frontier], path: Path) -> Path:
    """Metric against validation loss, a panel for each task (.svg, .png or .pdf)."""
    across = min(_ACROSS, len(found))
    down = -(-len(found) // across)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(down, across, squeeze=False).ravel()
        figure.legend(handles=_handles(found, ("loss",)), loc="outside lower center", ncols=min(4, 2 * across))
        for axes, one in zip(panels, found, strict=False):
            _panel(axes, one, "loss")
            axes.set_ylabel(_metric_words(one))
            axes.set_title(one.task)
        for axes in panels[len(found) :]:
            axes.remove()
        for axes, one in zip(panels, found, strict=False):
            _labels(axes, one, "loss")

    label = " ".join(f"{_label(one, ('loss',))}." for one in found)
    return write_picture(path, draw, size=(max(4.4 * across, 4.8), 3.4 * down + 0.7), label=label)


def _metric_words(found: Frontier) -> str:
    return f"{found.metric} ({'higher' if found.higher_is_better else 'lower'} is better)"


def _label(found: Frontier, shown: Sequence[str]) -> str:
    return f"{_metric_words(found)} of {found.task} against {', '.join(_AXES[axis].lower() for axis in shown)}"


def _known(found: Frontier, axis: str) -> list[tuple[float, FrontierPoint]]:
    """Points with their places on an axis; what is far off in loss would hide all else and is left out."""
    drawn = [point for point in found.points if point.model not in found.far]
    return [(float(value), point) for point in drawn if (value := getattr(point, axis))]


def _style(point: FrontierPoint) -> tuple[str, str]:
    color, marker, _ = _MARKS.get(point.objective, _OTHERS)
    return COLORS[color], marker


def _panel(axes: Axes, found: Frontier, axis: str) -> None:
    known = _known(found, axis)
    crowded = len(known) > 2 * _NAMED
    for x, point in known:
        color, marker = _style(point)
        if point.source == "published":
            axes.plot(x, point.value, "D", ms=4, mfc="none", mec=COLORS["muted"], mew=0.9)
        elif point.control:
            axes.plot(x, point.value, "x", ms=5, color=COLORS["muted"], zorder=2)
        else:
            if point.low is not None and point.high is not None:
                axes.plot([x, x], [point.low, point.high], color=color, lw=0.9, alpha=0.3 if crowded else 0.8)
            axes.plot(x, point.value, marker, ms=4.5, color=color, zorder=3)
    for family in dict.fromkeys(point.family for _, point in known if point.source == "published" and point.family):
        line = sorted((x, p.value) for x, p in known if p.source == "published" and p.family == family)
        if len(line) > 1:
            x_n, y_n = zip(*line, strict=True)
            axes.plot(x_n, y_n, color=COLORS["muted"], lw=0.8, alpha=0.6, zorder=1, gid=_LINE)
    if axis == "loss":
        _fitted(axes, found, known)
    for floor in found.floors:
        axes.axhline(floor.value, color=COLORS["muted"], lw=0.8, ls=(0, (4, 3)), zorder=1)
    values = [x for x, _ in known]
    if axis == "loss" or not values:
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(_AXES[axis])
    elif axis == "C":
        flops_axis(axes, values, _AXES[axis], most=5)
    else:
        count_axis(axes, "x", values, _AXES[axis], most=5)


def _fitted(axes: Axes, found: Frontier, known: list[tuple[float, FrontierPoint]]) -> None:
    """Least-squares lines of our runs, where all were asked alike."""
    if {"MIXED_DATA", "MIXED_SAMPLES"} & set(found.flags):
        return
    for objective, slope in found.slopes_of_loss.items():
        mine = [(x, p) for x, p in known if p.objective == objective and not p.control and p.source == "computed"]
        if len({p.protocol for _, p in mine}) == 1:
            x, y = np.array([x for x, _ in mine]), np.array([p.value for _, p in mine])
            ends = np.array([x.min(), x.max()])
            axes.plot(ends, y.mean() + slope.value * (ends - x.mean()), color=_style(mine[0][1])[0], lw=1.2, gid=_LINE)


def _labels(axes: Axes, found: Frontier, axis: str) -> None:
    """Names of floors, of published families and of what is not one of many runs, where there is room."""
    low, high = axes.get_xlim(), axes.get_ylim()
    known = _known(found, axis)
    named: dict[str, list[tuple[float, FrontierPoint]]] = {}
    runs = sum(p.family == "own" and not p.control and p.source == "computed" for _, p in known)
    for x, point in known:
        ours = point.family == "own" and point.source == "computed"
        if point.control or (ours and runs > _NAMED):
            continue
        name = (point.family or point.model) if point.source == "published" else point.model
        named.setdefault(name, []).append((x, point))
    labels = []
    for name, points in named.items():
        # The largest of a family first: it stands alone more often.
        places = tuple((x, point.value) for x, point in sorted(points, key=lambda one: -one[0]))
        color = COLORS["muted"] if points[0][1].source == "published" else _style(points[0][1])[0]
        labels.append(PointLabel(name, places, color))
    lines = [(floor.name, floor.value) for floor in found.floors]
    left_to_right = axes.transAxes + axes.transData.inverted()
    along = [float(left_to_right.transform((share, 0.5))[0]) for share in np.linspace(0.02, 0.98, 41)]
    floors = [
        PointLabel(names, tuple((along[k], height) for k in (36, 4, 28, 12, 20)))
        for height, names in line_labels(lines, axes)
    ]
    marks = [(x, point.value) for x, point in known]
    marks += [(x, floor.value) for floor in found.floors for x in along]
    marks += [point for line in axes.lines if line.get_gid() == _LINE for point in _sampled(axes, line)]
    if len(known) <= 2 * _NAMED:
        marks += [(x, y) for x, p in known if p.low and p.high for y in np.linspace(p.low, p.high, 12)]
    label_points(axes, [*labels, *floors], marks)
    axes.set_xlim(low)
    axes.set_ylim(high)


def _sampled(axes: Axes, line: Line2D) -> list[tuple[float, float]]:
    """Points along a line, evenly by pixels between its corners, in data coordinates."""
    corners = axes.transData.transform(line.get_xydata())
    steps = np.linspace(0.0, 1.0, 31)[:, None]
    pixels = np.concatenate([a + steps * (b - a) for a, b in itertools.pairwise(corners)])
    return [(float(x), float(y)) for x, y in axes.transData.inverted().transform(pixels)]


def _shown(found: Sequence[Frontier], axes: Sequence[str]) -> list[FrontierPoint]:
    return [point for one in found for axis in axes for _, point in _known(one, axis)]


def _handles(found: Sequence[Frontier], axes: Sequence[str]) -> list[Line2D]:
    points = _shown(found, axes)

    def mark(marker: str, color: str, label: str, **more: Any) -> Line2D:
        return Line2D([], [], marker=marker, ls="", color=color, label=label, **more)

    ours = [p for p in points if p.source == "computed" and not p.control]
    handles = [
        mark(marker, COLORS[color], label)
        for key, (color, marker, label) in _MARKS.items()
        if any(p.objective == key for p in ours)
    ]
    if any(p.objective not in _MARKS for p in ours):
        handles.append(mark(_OTHERS[1], COLORS[_OTHERS[0]], _OTHERS[2]))
    if any(point.control for point in points):
        handles.append(mark("x", COLORS["muted"], "random weights"))
    if any(point.source == "published" for point in points):
        handles.append(mark("D", COLORS["muted"], "published", markerfacecolor="none"))
    if far := {point.loss for one in found for point in one.points if point.model in one.far and point.loss}:
        losses = ", ".join(f"{loss:.2f}" for loss in sorted(far)[:4])
        handles.append(mark("", COLORS["muted"], f"not drawn: loss {losses}"))
    return handles
