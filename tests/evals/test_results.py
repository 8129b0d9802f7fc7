"""Rows of results survive kills, are read back as they were, and stand for one question each."""

from __future__ import annotations

from pathlib import Path

import pytest

from plm_scaling.core.errors import RecordError
from plm_scaling.evals.adapters.base import ModelInfo
from plm_scaling.evals.results import FloorScore, ResultRow, append_rows, latest_rows, read_rows

MODEL = ModelInfo(name="m", family="own", objective="mlm", origin="run r", abilities=("masked", "embed"), sha256="ab")


def row(value: float, **more: object) -> ResultRow:
    said = {
        "task": "aav28.sampled", "task_version": 1, "data_sha256": "cd", "model": MODEL, "protocol": "mean + ridge",
        "metric": "spearman", "higher_is_better": True, "value": value, "n": 10, "versions": {"torch": "2"},
    }  # fmt: skip
    return ResultRow.model_validate(said | more)


def test_rows_come_back_and_the_last_of_a_question_counts(tmp_path: Path) -> None:
    path = tmp_path / "evals" / "rows.jsonl"
    rows = [row(0.5, low=0.4, high=0.6), row(0.7, seed=1, floors=(FloorScore(name="one-hot", value=0.8),)), row(0.6)]
    append_rows(path, rows[:2])
    append_rows(path, rows[2:])
    assert read_rows(path) == rows
    assert [one.value for one in latest_rows(read_rows(path))] == [0.6, 0.7]
    assert [one.beats_floors() for one in rows] == [None, False, None]
    assert row(0.9, higher_is_better=False, floors=(FloorScore(name="f", value=1.0),)).beats_floors() is True


@pytest.mark.parametrize("left", [1, 40, -1])
def test_a_torn_line_costs_only_itself(tmp_path: Path, left: int) -> None:
    path = tmp_path / "rows.jsonl"
    append_rows(path, [row(0.1)])
    whole = path.read_bytes()
    append_rows(path, [row(0.2)])
    path.write_bytes(path.read_bytes()[: len(whole) + left] if left > 0 else path.read_bytes()[:left])
    append_rows(path, [row(0.3)])
    assert [one.value for one in read_rows(path)] == ([0.1, 0.3] if left > 0 else [0.1, 0.2, 0.3])


def test_files_of_another_kind_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with pytest.raises(RecordError, match="no results here"):
        read_rows(path)
    path.write_text('{"loss": 1.0}\n')
    with pytest.raises(RecordError, match=r"rows.jsonl:1"):
        read_rows(path)
    path.write_text('{"schema_version": 99}\n')
    with pytest.raises(RecordError, match="newer version"):
        read_rows(path)
