"""Pictures of what public models score against their size, with the floors that every size has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from plm_scaling.reporting.drawing import COLORS, KINDS, count_axis, draw_panel, flops_axis, note, write_picture
from plm_scaling.reporting.labels import line_labels
from plm_scaling.sizing.downstream_records import DownstreamView, Floor, Score

__all__ = ["draw_downstream", "floors_shown", "write_downstream_figure"]

_STYLES: Final = (*KINDS, ("#6a3d9a", "X"))
_SUSPECT: Final = (COLORS["muted"], "o")
_HEIGHT: Final = 4.2


Against = Literal["N", "D", "C"]
_AXES: Final[dict[str, str]] = {"N": "Parameters N", "D": "Training tokens D", "C": "Training compute 6 N D, FLOPs"}


def draw_downstream(view: DownstreamView, *, against: Against = "N") -> Markup:
    """One group as inline SVG: every family a line from its smallest to its largest model, floors across.

    Parameters
    ----------
    against : parameters, or training tokens or FLOPs, of which only some models' are known.
    """

    def draw(axes: Axes) -> None:
        styles = _styles([view], against)
        _draw_view(axes, view, styles, against)
        if isinstance(axes.figure, Figure):
            axes.figure.legend(handles=_handles(styles), loc="outside lower center", ncols=3)

    return draw_panel(f"downstream-{view.group}-{against}", view.answer, draw, height=_HEIGHT)


def write_downstream_figure(views: Sequence[DownstreamView], path: Path, *, against: Against = "N") -> Path:
    """Several groups beside each other as a file (.svg, .png or .pdf)."""
    styles = _styles(views, against)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(views), squeeze=False)[0]
        for axes, view in zip(panels, views, strict=True):
            _draw_view(axes, view, styles, against)
        figure.legend(handles=_handles(styles), loc="outside lower center", ncols=min(len(styles), 8))

    label = " ".join(view.answer for view in views)
    return write_picture(path, draw, size=(max(4.8 * len(views), 4.8), 4.6), label=label)


def floors_shown(view: DownstreamView) -> tuple[Floor, ...]:
    """The best floor of each kind on the same assays, best first."""
    shown: dict[str, Floor] = {}
    for floor in view.floors:
        if not floor.split:
            shown.setdefault(floor.kind, floor)
    return tuple(shown.values())


def _at(score: Score, against: Against) -> float | None:
    return {"N": score.N, "D": score.D, "C": score.C}[against]


def _styles(views: Sequence[DownstreamView], against: Against) -> dict[str, tuple[str, str]]:
    """Colour and marker of every family that is drawn, whatever the axis; those that do not count are grey."""
    scores = [score for view in views for score in view.scores]
    counted = list(dict.fromkeys(score.family for score in scores if not score.suspect))
    styles = {name: _STYLES[k % len(_STYLES)] for k, name in enumerate(counted)}
    drawn = dict.fromkeys(score.family for score in scores if _at(score, against) is not None)
    return {name: styles.get(name, _SUSPECT) for name in drawn}


def _draw_view(axes: Axes, view: DownstreamView, styles: dict[str, tuple[str, str]], against: Against) -> None:
    floors = floors_shown(view)
    known = [(x, score) for score in view.scores if (x := _at(score, against)) is not None]
    values = [score.value for _, score in known] + [floor.value for floor in floors]
    axis = [x for x, _ in known]
    if against == "C":
        flops_axis(axes, axis, _AXES[against], most=5)
    else:
        count_axis(axes, "x", axis, _AXES[against], most=5)
    room = 0.07 * (max(values) - min(values))
    axes.set_ylim(min(values) - room, max(values) + room)
    axes.set_ylabel(view.metric)
    axes.set_title(view.title)
    for floor in floors:
        axes.axhline(floor.value, color=COLORS["ink"], lw=0.9, ls=(0, (4, 2)), zorder=1)
    for height, names in line_labels([(floor.name, floor.value) for floor in floors], axes):
        note(axes, names, axes.get_xlim()[0], height, offset=(4, 5), fontsize=7.5, color=COLORS["ink"])
    for family, style in styles.items():
        _draw_family(axes, [(x, score) for x, score in known if score.family == family], *style)


def _draw_family(axes: Axes, scores: Sequence[tuple[float, Score]], color: str, marker: str) -> None:
    if not scores:
        return
    suspect = scores[0][1].suspect
    how: dict[str, Any] = {"ls": (0, (1, 1.5)), "mfc": COLORS["card"]} if suspect else {}
    for x, score in scores:
        if score.low is not None and score.high is not None and not suspect:
            axes.plot([x, x], [score.low, score.high], color=color, lw=0.8, alpha=0.35, zorder=2)
    values = [score.value for _, score in scores]
    axes.plot([x for x, _ in scores], values, color=color, marker=marker, ms=5, lw=1.4, zorder=3, **how)


def _handles(styles: dict[str, tuple[str, str]]) -> list[Line2D]:
    drawn: list[Line2D] = []
    for family, (color, marker) in styles.items():
        suspect = (color, marker) == _SUSPECT
        how: dict[str, Any] = {"ls": (0, (1, 1.5)), "mfc": COLORS["card"]} if suspect else {}
        label = f"{family} (scoring suspect)" if suspect else family
        drawn.append(Line2D([], [], color=color, marker=marker, ms=5, lw=1.4, label=label, **how))
    return drawn
