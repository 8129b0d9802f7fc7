"""A metric follows the loss, turns, or does not: then the map is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from plm_scaling.core.errors import ConfigError, FitError, RefusedError
from plm_scaling.sizing.metric_map import MetricPoint, fit_metric_map, fit_metric_maps, read_metric_table


def points(losses: np.ndarray, metric: np.ndarray, objective: str | None = None) -> list[MetricPoint]:
    return [
        MetricPoint.checked(loss=a, metric=b, objective=objective)
        for a, b in zip(losses.tolist(), metric.tolist(), strict=True)
    ]


LOSSES = np.linspace(2.2, 2.9, 8)


def test_a_line_is_found_with_its_direction_and_interval() -> None:
    noise = 0.01 * np.random.default_rng(0).standard_normal(8)
    found = fit_metric_map(points(LOSSES, 0.9 - 0.2 * LOSSES + noise), "fitness")
    assert found.shape == "better with lower loss"
    assert found.at(2.5) == pytest.approx(0.4, abs=0.01)
    assert fit_metric_map(points(LOSSES, 0.2 * LOSSES), "error", higher_is_better=False).shape == found.shape
    assert fit_metric_map(points(LOSSES, 0.2 * LOSSES), "fitness").shape == "worse with lower loss"
    # Held where it was measured.
    assert found.at(1.0) == found.at(2.2)
    assert found.outside(2.1)
    assert not found.outside(2.5)


def test_draws_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for trial in range(100):
        metric = 0.9 - 0.2 * LOSSES + 0.02 * rng.standard_normal(8)
        try:
            found = fit_metric_map(points(LOSSES, metric), "m", seed=trial)
        except RefusedError:
            continue
        low, high = np.quantile(found.drawn(np.full(400, 2.4)), [0.1, 0.9])
        inside += bool(low <= 0.42 <= high)
    assert 66 <= inside <= 93, "80 % of 100"


def test_a_turn_is_found_and_not_made_up() -> None:
    bent = fit_metric_map(points(LOSSES, 0.4 - 2.0 * (LOSSES - 2.5) ** 2), "fitness")
    assert bent.shape == "best at a middle loss"
    assert bent.at(2.5) > bent.at(2.2)
    noise = 0.01 * np.random.default_rng(2).standard_normal(8)
    assert len(fit_metric_map(points(LOSSES, 0.9 - 0.2 * LOSSES + noise), "fitness").coefficients) == 2


def test_no_detectable_gain_and_too_few_are_refused() -> None:
    rng = np.random.default_rng(3)
    refused = 0
    for trial in range(60):
        try:
            fit_metric_map(points(LOSSES, rng.standard_normal(8)), "fitness", seed=trial)
        except RefusedError as error:
            refused += "no detectable gain" in error.what
    assert refused >= 48, "the metric is noise"
    with pytest.raises(RefusedError, match="no detectable gain"):
        fit_metric_map(points(LOSSES, np.full(8, 0.3)), "fitness")
    with pytest.raises(FitError, match="too few"):
        fit_metric_map(points(LOSSES[:3], LOSSES[:3]), "fitness")
    # Four points in perfect order are just enough, out of order they are not.
    assert fit_metric_map(points(LOSSES[:4], -LOSSES[:4]), "fitness").p_flat == pytest.approx(2 / 24)
    with pytest.raises(RefusedError):
        fit_metric_map(points(LOSSES[:4], LOSSES[[1, 0, 2, 3]]), "fitness")


def test_objectives_have_maps_of_their_own(tmp_path: Path) -> None:
    table = tmp_path / "metrics.csv"
    rows = ["loss,metric,objective"]
    rows += [f"{loss},{0.9 - 0.2 * loss},mlm" for loss in LOSSES]
    rows += [f"{loss + 0.3},{0.8 - 0.1 * loss},CLM" for loss in LOSSES[:3]]
    table.write_text("\n".join(rows) + "\n")
    maps, refused = fit_metric_maps(read_metric_table(table), "fitness")
    assert set(maps) == {"mlm"}
    assert "too few" in refused[0]
    mixed = read_metric_table(table)
    with pytest.raises(FitError, match="several objectives"):
        fit_metric_map(mixed, "fitness")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("loss,score\n1,2\n", "no column metric"),
        ("loss,metric\nx,2\n", ":2: loss and metric must be numbers"),
        ("loss,metric,objective\n1,2,bert\n", "unknown objective"),
        ("loss,metric\n-1,2\n", "positive"),
    ],
)
def test_tables_that_cannot_be_read_say_where(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_metric_table(path)
    assert says in str(caught.value)
    with pytest.raises(ConfigError, match="cannot read"):
        read_metric_table(tmp_path / "none.csv")
