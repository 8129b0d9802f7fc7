"""Names in pictures that lie on nothing else: above lines across, and beside points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from plm_scaling.reporting.drawing import COLORS

__all__ = ["PointLabel", "label_points", "line_labels"]

_STEP: Final = 0.06
"""Share of the axes' height that a line of text takes."""
_PLACES: Final = (
    *((6, 0, "left", "center"), (-6, 0, "right", "center"), (0, 6, "center", "bottom"), (0, -6, "center", "top")),
    *((5, 6, "left", "bottom"), (-5, 6, "right", "bottom"), (5, -6, "left", "top"), (-5, -6, "right", "top")),
    *((0, 15, "center", "bottom"), (0, -15, "center", "top")),
)
"""Offset in points and alignment, the better ones first."""


@dataclass(frozen=True)
class PointLabel:
    """What is to stand beside one of several points, in data coordinates; the first that leaves room is taken."""

    text: str
    points: tuple[tuple[float, float], ...]
    color: str = COLORS["muted"]


def line_labels(lines: Sequence[tuple[str, float]], axes: Axes) -> list[tuple[float, str]]:
    """Heights and names of lines across; lines too near each other for a name between them share one, highest first."""
    low, high = axes.get_ylim()
    labels: list[tuple[float, str]] = []
    below = float("inf")
    for name, value in sorted(lines, key=lambda line: -line[1]):
        if below - value < _STEP * (high - low):
            labels[-1] = (labels[-1][0], f"{labels[-1][1]}, {name}")
        else:
            labels.append((value, name))
        below = value
    return labels


def label_points(
    axes: Axes, labels: Sequence[PointLabel], avoid: Sequence[tuple[float, float]], *, size: float = 8.0
) -> tuple[str, ...]:
    """Write each label where it covers no point, no other text of the axes and no edge; returns those without room.

    Call it when the axes have their final size and limits: places are measured in pixels.

    Parameters
    ----------
    avoid : points, in data coordinates. size : of the letters, points.
    """
    figure = axes.figure
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    pixel = figure.dpi / 72.0
    inside = axes.get_window_extent()
    centres = axes.transData.transform(np.reshape(avoid, (-1, 2)))
    reach = 2.5 * pixel
    marks = np.concatenate([centres - reach, centres + reach], axis=1)
    taken = [np.array(text.get_window_extent().extents) for text in axes.texts]
    left_out = []
    for label in labels:
        for point, place in ((point, place) for place in _PLACES for point in label.points):
            dx, dy, ha, va = place
            text = axes.annotate(
                label.text, point, xytext=(dx, dy), textcoords="offset points", ha=ha, va=va, fontsize=size,
                color=label.color, annotation_clip=True,
            )  # fmt: skip
            box = text.get_window_extent()
            fits = inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1
            if fits and not _covers(box, np.concatenate([marks, *(one[None] for one in taken)])):
                taken.append(np.array(box.extents))
                break
            text.remove()
        else:
            left_out.append(label.text)
    return tuple(left_out)


def _covers(box: Bbox, others_n4: npt.NDArray[np.float64]) -> bool:
    """Whether a box lies on any of others, each x0, y0, x1, y1."""
    x0, y0, x1, y1 = others_n4.T
    return bool(((box.x0 < x1) & (x0 < box.x1) & (box.y0 < y1) & (y0 < box.y1)).any())
