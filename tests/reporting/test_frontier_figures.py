"""Names in pictures of frontiers cover neither points nor each other; what has no room is said, not drawn."""

from __future__ import annotations

import itertools

import numpy as np
from matplotlib.figure import Figure

from plm_scaling.reporting.labels import PointLabel, label_points, line_labels


def test_names_cover_no_point_and_no_other_name() -> None:
    rng = np.random.default_rng(0)
    figure = Figure(figsize=(4.7, 3.5), layout="constrained")
    axes = figure.add_subplot()
    points = [(float(x), float(y)) for x, y in rng.uniform(0, 1, (40, 2))]
    axes.plot(*zip(*points, strict=True), "o")
    labels = [PointLabel(f"family {k}", tuple(points[4 * k : 4 * k + 4])) for k in range(10)]
    missing = label_points(axes, labels, points)
    drawn = [text.get_window_extent() for text in axes.texts]
    assert len(drawn) + len(missing) == 10
    assert len(drawn) >= 3
    assert not any(a.overlaps(b) for a, b in itertools.combinations(drawn, 2))
    marks = axes.transData.transform(points)
    assert not any(box.contains(x, y) for box in drawn for x, y in marks)
    assert label_points(axes, [PointLabel("a name much too long " * 9, ((0.5, 0.5),))], points)


def test_lines_too_near_each_other_share_a_name() -> None:
    axes = Figure().add_subplot()
    axes.set_ylim(0, 1)
    assert line_labels([("low", 0.2), ("top", 0.52), ("next", 0.5)], axes) == [(0.52, "top, next"), (0.2, "low")]
