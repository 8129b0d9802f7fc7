"""Curves with a known end and a known noise in common: what subtraction leaves, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.curves import Curve, Curves
from plm_scaling.laws.denoise import denoise
from plm_scaling.laws.tails import end_level, mean_of_last, smooth, tail_sd

SHARED, OWN = 6e-3, 8e-4


def truth(step: np.ndarray, end: float, level: float) -> np.ndarray:
    """A fall towards `level`, steepest at first, and a last part in which the learning rate decays."""
    share = step / end
    return level + 0.5 * np.exp(-step / 3000.0) + 0.05 * np.exp(-step / (0.3 * end)) + 0.02 * (1 - share) ** 2


def simulate(
    lengths: Sequence[int],
    *,
    shared: float = SHARED,
    own: float = OWN,
    seed: int = 0,
    series: str = "a",
    named: bool = True,
) -> tuple[list[Curve], np.ndarray]:
    """Runs of these numbers of evaluations on one order of validation batches; curves and their true ends."""
    rng = np.random.default_rng(seed)
    common = shared * rng.standard_normal(max(lengths))
    curves, ends = [], []
    for i, n in enumerate(lengths):
        step = 300.0 * np.arange(1, n + 1)
        level = 2.3 + 0.03 * rng.uniform(-1, 1)
        clean = truth(step, step[-1], level)
        loss = clean + rng.uniform(0.85, 1.15) * common[:n] + own * rng.standard_normal(n)
        ids = [f"{series}-{k:04d}" if named else "" for k in range(n)]
        curves.append(Curve(f"{series}{i}", step, 5e5 * step, loss, np.array(ids)))
        ends.append(clean[-1])
    return curves, np.array(ends)


def table_of(curves: Sequence[Curve], **changes: object) -> RunTable:
    values = {"objective": "mlm", "N": 1e8, "loss": 9.0, "batch_tokens": 5e5, "validation_id": "v"} | changes
    return RunTable(tuple(RunRow.model_validate(values | {"run_id": c.run_id, "D": float(c.D[-1])}) for c in curves))


LENGTHS = [60, 75, 90, 120, 150, 180, 200, 220, 260, 300, 340, 340]
"""The last two end together: a run beyond all others is another test."""


def test_shared_noise_goes_and_the_end_stays() -> None:
    curves, ends = simulate(LENGTHS)
    read = denoise(table_of(curves), Curves.joined(curves))
    (group,) = read.report.groups
    assert group.n_runs == len(LENGTHS)
    assert group.skipped == ()
    assert group.n_denoised == len(LENGTHS)
    assert group.sd_before == pytest.approx(np.hypot(SHARED, OWN), rel=0.2)
    assert group.ratio is not None
    assert group.ratio > 3.5
    assert group.correlation == pytest.approx(SHARED**2 / (SHARED**2 + OWN**2), abs=0.05)
    error = read.table.column("loss") - ends
    assert np.abs(error).max() < 4e-3
    assert np.sqrt((error**2).mean()) < 1.5e-3
    raw = denoise(table_of(curves), Curves.joined(curves), final="last")
    assert np.sqrt((error**2).mean()) < 0.4 * np.sqrt(((raw.table.column("loss") - ends) ** 2).mean())


def test_errors_are_about_as_large_as_stated() -> None:
    ratios = []
    for seed in range(12):
        curves, ends = simulate(LENGTHS, seed=seed)
        table = denoise(table_of(curves), Curves.joined(curves)).table
        ratios.extend((table.column("loss") - ends) / table.column("loss_se"))
    assert 0.7 < np.sqrt(np.mean(np.square(ratios))) < 1.4
    assert np.mean(np.abs(ratios) < 1.96) > 0.85


def test_a_gap_between_paired_runs_is_found_below_the_noise() -> None:
    curves, ends = simulate([200] * 2 + LENGTHS, seed=3)
    table = denoise(table_of(curves), Curves.joined(curves)).table
    gap = table.rows[0].loss - table.rows[1].loss
    assert gap == pytest.approx(ends[0] - ends[1], abs=2.5e-3)


def test_steps_stand_for_batches_where_nothing_is_known_of_them() -> None:
    curves, _ = simulate(LENGTHS, named=False)
    (group,) = denoise(table_of(curves), Curves.joined(curves)).report.groups
    assert group.n_denoised == len(LENGTHS)


def test_runs_on_other_batches_are_told_apart_by_their_noise() -> None:
    """One set by name, two orders in truth: each run is cleaned by its own kind alone."""
    one, ends_one = simulate(LENGTHS, seed=1)
    other, ends_other = simulate([*LENGTHS[:7], 200], seed=2)
    other = [Curve(f"b{i}", c.step, c.D, c.loss, c.validation_batch_id) for i, c in enumerate(other)]
    curves = one + other
    read = denoise(table_of(curves), Curves.joined(curves))
    (group,) = read.report.groups
    assert group.n_denoised == len(curves)
    error = read.table.column("loss") - np.concatenate([ends_one, ends_other])
    assert np.sqrt((error**2).mean()) < 1.5e-3


def test_a_run_with_noise_of_its_own_is_left_and_named() -> None:
    curves, _ = simulate(LENGTHS)
    odd, _ = simulate([260], seed=9)
    curves.append(Curve("odd", odd[0].step, odd[0].D, odd[0].loss, odd[0].validation_batch_id))
    read = denoise(table_of(curves), Curves.joined(curves))
    (group,) = read.report.groups
    assert [(run.run_id, run.why) for run in group.skipped] == [("odd", "its noise is no other run's")]
    row = read.table.rows[-1]
    assert row.final_loss in ("last5", "end")
    assert row.loss_se is not None
    assert row.loss_se > 1e-3


@pytest.mark.parametrize(
    ("lengths", "why"),
    [([100, 120], "2 runs on these batches"), ([100, 120, 11], "2 runs on these batches")],
)
def test_too_few_runs_are_left_as_they_are(lengths: list[int], why: str) -> None:
    curves, _ = simulate(lengths)
    read = denoise(table_of(curves), Curves.joined(curves))
    (group,) = read.report.groups
    assert group.n_denoised == 0
    assert group.sd_after is None
    assert why in {run.why for run in group.skipped}
    for row, curve in zip(read.table, curves, strict=True):
        assert row.loss == mean_of_last(curve.loss)[0]
        assert row.final_loss == "last5"


def test_a_run_beyond_all_others_is_left_as_it_is() -> None:
    curves, _ = simulate([150, 180, 180, 600])
    (group,) = denoise(table_of(curves), Curves.joined(curves)).report.groups
    assert [(run.run_id, run.why) for run in group.skipped] == [("a3", "no other run at its last evaluations")]


def test_an_end_less_certain_than_a_mean_is_left() -> None:
    """A few short runs that end together: slow noise looks like their trend, and a parabola would follow it."""
    curves, _ = simulate([30, 30, 30])
    (group,) = denoise(table_of(curves), Curves.joined(curves)).report.groups
    assert {run.why for run in group.skipped} == {"its end would be less certain than a mean of five"}


def test_a_schedule_that_runs_share_is_no_noise() -> None:
    """A learning rate that drops at one step for all: curves fall together, and the fall must stay."""
    rng = np.random.default_rng(0)
    curves = []
    for i in range(6):
        step = 300.0 * np.arange(1, 201)
        drop = 0.1 / (1 + np.exp(-(step - 54_000) / 1_000))
        loss = 2.5 + 0.01 * i + 0.5 * np.exp(-step / 5000) - drop + 2e-4 * rng.standard_normal(200)
        curves.append(Curve(f"r{i}", step, 5e5 * step, loss, np.full(200, "")))
    read = denoise(table_of(curves), Curves.joined(curves))
    (group,) = read.report.groups
    assert {run.why for run in group.skipped} == {"what it shares with others changes slowly: no noise of batches"}
    np.testing.assert_allclose(read.table.column("loss"), 2.4 + 0.01 * np.arange(6), atol=2e-3)


def test_one_fixed_validation_set_has_no_noise_to_remove() -> None:
    curves, _ = simulate([60, 70, 80])
    fixed = [Curve(c.run_id, c.step, c.D, c.loss, np.full(len(c), "val")) for c in curves]
    read = denoise(table_of(fixed), Curves.joined(fixed))
    assert [row.loss for row in read.table] == [9.0] * 3
    assert read.report.groups[0].skipped[0].why.startswith("one validation set throughout")


def test_groups_are_objective_batch_and_validation_batches() -> None:
    mlm, _ = simulate(LENGTHS, seed=1)
    clm, _ = simulate(LENGTHS, seed=2)
    clm = [Curve(f"c{i}", c.step, c.D, c.loss, c.validation_batch_id) for i, c in enumerate(clm)]
    wide = [Curve(f"w{i}", c.step, c.D, c.loss, c.validation_batch_id) for i, c in enumerate(clm[:4])]
    rows = (
        *table_of(mlm, validation_id="one"),
        *table_of(clm, objective="clm"),
        *table_of(wide, objective="clm", batch_tokens=1e6),
    )
    report = denoise(RunTable(rows), Curves.joined([*mlm, *clm, *wide])).report
    assert [(g.objective, g.batch_tokens, g.n_runs) for g in report.groups] == [
        ("mlm", 5e5, 12),
        ("clm", 5e5, 12),
        ("clm", 1e6, 4),
    ]
    assert len(report.of("clm")) == 2
    assert len(report.of("clm", 1e6)) == 1


def test_sets_of_other_names_on_the_same_batches_are_one_group() -> None:
    curves, _ = simulate([150, 180, 200, 200])
    rows = tuple(row for i, c in enumerate(curves) for row in table_of([c], validation_id=f"mask{i}"))
    (group,) = denoise(RunTable(rows), Curves.joined(curves)).report.groups
    assert group.n_denoised == 4
    assert group.validation_id == "mask0,mask1,mask2,mask3"


def test_rows_without_a_curve_keep_their_loss() -> None:
    curves, _ = simulate(LENGTHS)
    table = table_of(curves)
    read = denoise(RunTable((*table, table.rows[0].model_copy(update={"run_id": "z"}))), Curves.joined(curves))
    assert read.table.rows[-1].loss == 9.0


def test_final_losses_as_asked_for() -> None:
    curves, _ = simulate(LENGTHS)
    for final, wanted in (("last", [c.loss[-1] for c in curves]), ("last5", [c.loss[-5:].mean() for c in curves])):
        read = denoise(table_of(curves), Curves.joined(curves), final=final)  # type: ignore[arg-type]
        np.testing.assert_allclose(read.table.column("loss"), wanted)
        assert {row.final_loss for row in read.table} == {final}
        assert read.report.final == final


# ---- the parts -----------------------------------------------------------------------------------------------------


def test_a_parabola_ends_where_it_should_and_a_mean_does_not() -> None:
    step = 300.0 * np.arange(1, 201)
    exact = truth(step, step[-1], 2.3)
    level, se = end_level(step, exact)
    assert level == pytest.approx(exact[-1], abs=2e-5)
    assert se is not None
    assert se < 1e-4
    assert mean_of_last(exact)[0] > exact[-1] + 1e-5


def test_the_error_of_an_end_is_that_of_repeated_draws() -> None:
    rng = np.random.default_rng(0)
    step = 300.0 * np.arange(1, 161)
    draws = [end_level(step, truth(step, step[-1], 2.3) + 1e-3 * rng.standard_normal(160)) for _ in range(400)]
    spread = np.std([level for level, _ in draws])
    stated = np.sqrt(np.mean([se**2 for _, se in draws if se is not None]))
    assert stated == pytest.approx(spread, rel=0.35)


def test_short_curves_are_means_without_errors() -> None:
    assert mean_of_last(np.array([3.0, 2.0])) == (2.5, None)
    assert end_level(np.arange(1.0, 4.0), np.array([3.0, 2.5, 2.0])) == (2.5, None)
    assert tail_sd(np.ones(9)) is None


def test_a_straight_line_is_its_own_trend() -> None:
    line = np.linspace(3.0, 2.0, 60)
    np.testing.assert_allclose(smooth(line), line, atol=1e-12)
    np.testing.assert_allclose(smooth(line[:15]), line[:15], atol=1e-12)
