from __future__ import annotations

import dataclasses
import math

import pytest

from plm_scaling.core.run import Stream
from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.reporting import arms
from plm_scaling.reporting.loading import comparison_pairs
from plm_scaling.reporting.study import Study


def test_repeats_are_compared_with_all_seeds_of_the_unlimited_run(full_study: Study) -> None:
    clm, mlm = arms.repeat_series(full_study)
    assert (clm.objective, mlm.objective) == ("clm", "mlm")
    assert [arm.label for arm in clm.arms] == ["4 epochs", "15 epochs", "60 epochs"]
    assert clm.reference
    assert len(clm.reference.rows) == 3
    reference = 1.345 - 0.004 / 3
    assert clm.reference.loss == pytest.approx(reference)
    change = clm.arms[-1].change
    assert change
    assert change.value == pytest.approx(3.474 - reference)
    assert change.se == pytest.approx(math.sqrt(0.0041**2 + 0.0125**2 * (1 + 1 / 3)))
    assert change.clear
    assert clm.arms[0].change
    assert clm.arms[0].change.clear is False


def test_a_second_source_alone_is_no_reference_of_the_repeats(full_study: Study) -> None:
    for series in arms.repeat_series(full_study):
        assert series.reference
        assert not any(row.has_role("diversity") for row in series.reference.rows)


def test_without_unlimited_runs_there_is_no_reference(full_study: Study) -> None:
    only = dataclasses.replace(full_study, table=full_study.table.where(lambda row: row.has_role("repeats")))
    assert [series.reference for series in arms.repeat_series(only)] == [None, None]
    assert all(arm.change is None for series in arms.repeat_series(only) for arm in series.arms)


def test_pairs_hold_every_stated_difference(full_study: Study) -> None:
    pairs = comparison_pairs(full_study)
    assert len(pairs) == len(set(pairs)) == 2 * (3 * 3 + 2)


def test_difference_without_noise_or_pairs_has_no_error(full_study: Study) -> None:
    bare = Study(name="bare", table=full_study.table.where(lambda row: row.seed == 0))
    rows = bare.table.of("clm").rows
    assert arms.difference(bare, rows[:1], rows[1:2]).se is None
    assert arms.difference(bare, rows[:1], rows[1:2]).clear is None


def row(**more: object) -> RunRow:
    return RunRow.model_validate({"run_id": "x", "objective": "mlm", "N": 1e4, "D": 1e6, "loss": 2.0, **more})


def test_tables_without_records_or_streams_still_give_repeats() -> None:
    rows = (
        row(run_id="a", role="isoflop", epochs=0.4),
        row(run_id="b", role="repeats", epochs=8.0, loss=2.1),
        row(run_id="c", role="repeats", D_unique=5e5, streams='[{"unique_tokens": 500000}]', loss=2.05),
    )
    (series,) = arms.repeat_series(Study(name="bare", table=RunTable(rows)))
    assert [arm.label for arm in series.arms] == ["2 epochs", "8 epochs"]
    assert series.reference


def test_fixed_masks_are_their_own_arm(full_study: Study) -> None:
    old = next(r for r in full_study.table.of("mlm") if r.has_role("repeats"))
    record = full_study.records[old.run_id]
    config = record.config.model_copy(update={"mask_refresh": False})
    twin = old.model_copy(update={"run_id": "fixed"})
    study = dataclasses.replace(
        full_study,
        table=RunTable((*full_study.table.rows, twin)),
        records={**full_study.records, "fixed": record.model_copy(update={"config": config})},
    )
    series = arms.repeat_series(study)[1]
    assert [arm.fixed_masks for arm in series.arms] == [False, False, False, True]
    assert series.arms[-1].label.endswith("fixed masks")


def test_streams_come_from_the_record_first(full_study: Study) -> None:
    known = full_study.table.rows[0]
    assert arms.streams_of(full_study, known.model_copy(update={"streams": None})) == (Stream(),)
