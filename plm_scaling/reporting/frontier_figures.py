"""Pictures of a downstream metric against compute, size and loss: models evaluated here, published ones, floors."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from plm_scaling.evals.frontier import Frontier, FrontierPoint
from plm_scaling.reporting.drawing import COLORS, count_axis, flops_axis, write_picture

__all__ = ["write_frontier_figure"]

_AXES: Final = {"C": "Training compute 6 N D, FLOPs", "N": "Parameters N", "loss": "Validation loss, nats per token"}
_MARKS: Final = {"clm": ("clm", "o", "CLM, evaluated here"), "mlm": ("mlm", "s", "MLM, evaluated here")}


def write_frontier_figure(found: Frontier, path: Path) -> Path:
    """A panel for each axis of which at least two models are known (.svg, .png or .pdf)."""
    shown = [axis for axis in _AXES if len({getattr(p, axis) for p in found.points if getattr(p, axis)}) > 1] or ["N"]

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
        for axes, axis in zip(panels, shown, strict=True):
            _panel(axes, found, axis)
        panels[0].set_ylabel(f"{found.task}: {found.metric}")
        figure.legend(handles=_handles(found), loc="outside lower center", ncols=4)

    best = "higher" if found.higher_is_better else "lower"
    label = (
        f"{found.metric} of {found.task} against {', '.join(_AXES[axis].lower() for axis in shown)}; {best} is better"
    )
    return write_picture(path, draw, size=(max(4.4 * len(shown), 4.8), 4.2), label=label)


def _panel(axes: Axes, found: Frontier, axis: str) -> None:
    known = [point for point in found.points if getattr(point, axis)]
    for point in known:
        x, color = float(getattr(point, axis)), COLORS[_MARKS.get(point.objective, ("muted", "", ""))[0]]
        if point.source == "published":
            axes.plot(x, point.value, "D", ms=4, mfc="none", mec=COLORS["muted"], mew=0.9)
        elif point.control:
            axes.plot(x, point.value, "x", ms=6, color=COLORS["ink"])
        else:
            _, marker, _ = _MARKS.get(point.objective, ("muted", "o", ""))
            if point.low is not None and point.high is not None:
                axes.plot([x, x], [point.low, point.high], color=color, lw=1.1)
            axes.plot(x, point.value, marker, ms=5, color=color)
    for floor in found.floors:
        axes.axhline(floor.value, color=COLORS["muted"], lw=0.8, ls=(0, (4, 3)))
        axes.annotate(
            floor.name, (1.0, floor.value), xycoords=("axes fraction", "data"), fontsize=7.5, color=COLORS["muted"],
            ha="right", va="bottom",
        )  # fmt: skip
    values = [float(getattr(point, axis)) for point in known]
    if axis == "loss" or not values:
        axes.set_xlabel(_AXES[axis])
    elif axis == "C":
        flops_axis(axes, values, _AXES[axis])
    else:
        count_axis(axes, "x", values, _AXES[axis])


def _handles(found: Frontier) -> list[Line2D]:
    def mark(marker: str, color: str, label: str, filled: bool = True) -> Line2D:
        face = color if filled else "none"
        return Line2D([], [], marker=marker, ls="", color=color, markerfacecolor=face, label=label)

    def some(test: str) -> list[FrontierPoint]:
        return [p for p in found.points if p.source == "computed" and not p.control and p.objective == test]

    handles = [mark(marker, COLORS[color], label) for key, (color, marker, label) in _MARKS.items() if some(key)]
    if any(point.control for point in found.points):
        handles.append(mark("x", COLORS["ink"], "random weights"))
    if any(point.source == "published" for point in found.points):
        handles.append(mark("D", COLORS["muted"], "published", filled=False))
    return handles
