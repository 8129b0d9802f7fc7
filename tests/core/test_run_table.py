from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.errors import RecordError
from plm_scaling.core.run import Objective
from plm_scaling.core.run_table import RunRow, RunTable

NUMBER = st.floats(1e-300, 1e300)
# Commas, quotes and line ends included.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), min_size=1, max_size=8)
OF_KIND = {
    str: TEXT,
    float: NUMBER,
    bool: st.booleans(),
    Objective: st.sampled_from(["clm", "mlm"]),
    str | None: st.none() | TEXT,
    int | None: st.none() | st.integers(0, 2**40),
    float | None: st.none() | NUMBER,
    Objective | None: st.sampled_from([None, "clm", "mlm"]),
}
# Every column there is; those a later version adds are covered by their kind.
ROWS = st.builds(RunRow, **{name: OF_KIND[field.annotation] for name, field in RunRow.model_fields.items()})


def row(**changes: Any) -> RunRow:
    return RunRow.model_validate({"run_id": "a", "objective": "clm", "N": 1e3, "D": 1e5, "loss": 2.5} | changes)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@settings(deadline=None, max_examples=40)
@given(rows=st.lists(ROWS, max_size=4))
def test_a_table_is_the_same_after_a_round_trip(
    tmp_path_factory: pytest.TempPathFactory, ending: str, rows: list[RunRow]
) -> None:
    table = RunTable(tuple(rows))
    path = table.write(tmp_path_factory.mktemp("table") / f"runs.{ending}")
    assert RunTable.read(path) == table
    assert RunTable.read(path).content_hash() == table.content_hash()


@settings(deadline=None, max_examples=20)
@given(st.lists(ROWS, min_size=1, max_size=4), st.randoms())
def test_the_hash_knows_the_rows_but_not_their_order(rows: list[RunRow], random: Any) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert RunTable(tuple(shuffled)).content_hash() == RunTable(tuple(rows)).content_hash()
    changed = (rows[0].model_copy(update={"loss": rows[0].loss * 2}), *rows[1:])
    assert RunTable(changed).content_hash() != RunTable(tuple(rows)).content_hash()


def test_a_table_of_somebody_else_needs_five_columns(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("run_id,objective,N,D,loss\nx,mlm,1.5e3,2e5,2.75\n")
    table = RunTable.read(tmp_path / "t.csv")
    assert table.rows == (RunRow(run_id="x", objective="mlm", N=1500, D=2e5, loss=2.75),)
    assert table.rows[0].schedule_complete


def test_missing_numbers_are_nan() -> None:
    table = RunTable((row(), row(loss_se=0.25)))
    np.testing.assert_array_equal(table.column("loss_se"), [math.nan, 0.25])
    assert table.column("N").dtype == np.float64


def test_rows_are_chosen_by_what_they_say() -> None:
    table = RunTable((row(run_id="a"), row(run_id="b", objective="mlm"), row(run_id="c", role="grid,replicate")))
    assert [r.run_id for r in table.of("mlm")] == ["b"]
    assert [r.run_id for r in table.where(lambda r: r.has_role("replicate"))] == ["c"]
    assert not row(role="grid,replicate").has_role("repl")
    assert len(table) == 3


@pytest.mark.parametrize(
    ("text", "line", "complaint", "hint"),
    [
        ("run_id,objective,N,D,loss\na,clm,1,2,3\nb,clm,1,two,3\n", 3, "D: ", ""),
        ("run_id,objective,N,D,los\na,clm,1,2,3\n", 2, "los: unknown key", "did you mean loss?"),
        ("run_id,objective,N,D\na,clm,1,2\n", 2, "loss: Field required", ""),
        ("run_id,objective,N,D,loss\na,clm,1,2,\n", 2, "loss: Field required", ""),
        ("run_id,objective,N,D,loss\na,rtd,1,2,3\n", 2, "objective: ", ""),
        ("run_id,objective,N,D,loss\na,clm,1,2,3,4\n", 2, "more fields than the header", ""),
    ],
)
def test_a_row_that_cannot_be_read_is_named(tmp_path: Path, text: str, line: int, complaint: str, hint: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(RecordError) as caught:
        RunTable.read(path)
    assert caught.value.where == f"{path}:{line}"
    assert complaint in caught.value.what
    assert caught.value.hint == hint


def test_an_unknown_column_of_a_parquet_table_is_named(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([row().model_dump() | {"perplexity": 3.0}]), tmp_path / "t.parquet")
    with pytest.raises(RecordError, match="perplexity: unknown key"):
        RunTable.read(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("t.csv", b"\xff\xfe\x00\x00,\n1,2\n"),
        ("t.csv", b"run_id,objective\na\xff,clm\n"),
        ("t.parquet", b"PAR1 but not really"),
        ("t.parquet", b""),
    ],
)
def test_a_damaged_table_is_an_error_that_names_it(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(RecordError, match="not a readable") as caught:
        RunTable.read(tmp_path / name)
    assert caught.value.where == str(tmp_path / name)


def test_a_spreadsheets_byte_order_mark_is_no_part_of_a_column(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("run_id,objective,N,D,loss\na,clm,1e3,1e5,2.5\n", encoding="utf-8-sig")
    assert RunTable.read(tmp_path / "t.csv").rows == (row(),)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_an_empty_cell_is_a_default(tmp_path: Path, ending: str) -> None:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    values = row().model_dump(exclude_unset=True) | {"role": None, "schedule_complete": None, "seed": None}
    table = pa.Table.from_pylist([values])
    path = tmp_path / f"t.{ending}"
    if ending == "csv":
        pa.csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    assert RunTable.read(path).rows == (row(),)


def test_no_table_is_an_error_that_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no run table here") as caught:
        RunTable.read(tmp_path / "t.csv")
    assert "runs folder" in caught.value.hint
