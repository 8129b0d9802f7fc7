from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.errors import RecordError
from plm_scaling.core.run import Objective, RunConfig
from plm_scaling.core.run_row import RECIPE, regularisation_text
from plm_scaling.core.run_table import RunRow, RunTable

NUMBER = st.floats(1e-300, 1e300)
COUNT = st.floats(1e3, 1e150)
LOSS = st.floats(1e-3, 30.0)
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
KINDS = {name: OF_KIND[field.annotation] for name, field in RunRow.model_fields.items()}
# What a reader refuses (counts in billions, a perplexity, C in other units) has tests of its own.
ROWS = st.builds(
    RunRow, **KINDS | {"N": COUNT, "D": COUNT, "loss": LOSS, "loss_se": st.none() | LOSS, "C_6nd": st.none()}
)


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


def read(tmp_path: Path, text: str, objective: str | None = None) -> RunTable:
    (tmp_path / "t.csv").write_text(text)
    return RunTable.read(tmp_path / "t.csv", objective=objective)


def test_a_table_of_somebody_else_needs_four_columns(tmp_path: Path) -> None:
    table = read(tmp_path, "objective,N,D,loss\nmlm,1.5e3,2e5,2.75\n")
    assert table.rows == (RunRow(run_id="row-2", objective="mlm", N=1500, D=2e5, loss=2.75),)
    assert table.rows[0].schedule_complete


def test_three_columns_are_enough_where_the_reader_is_told_the_objective(tmp_path: Path) -> None:
    text = "N,D,loss\n1.5e3,2e5,2.75\n\n1.6e3,2e5,2.74\n"
    table = read(tmp_path, text, objective="clm")
    assert [(row.run_id, row.objective) for row in table] == [("row-2", "clm"), ("row-4", "clm")]
    with pytest.raises(RecordError, match="which objective") as caught:
        read(tmp_path, text)
    assert caught.value.hint == "--objective clm|mlm"


def test_a_stated_objective_wins_over_the_readers(tmp_path: Path) -> None:
    table = read(tmp_path, "objective,N,D,loss\nmlm,1e4,2e5,2.7\n,1e4,2e5,2.7\n", objective="clm")
    assert [row.objective for row in table] == ["mlm", "clm"]


def test_C_is_another_name_of_6nd(tmp_path: Path) -> None:
    assert read(tmp_path, "objective,N,D,loss,C\nclm,1e4,2e5,2.7,1.3e10\n").rows[0].C_6nd == 1.3e10
    both = read(tmp_path, "objective,N,D,loss,C,C_6nd\nclm,1e4,2e5,2.7,9,1.2e10\n")
    assert both.rows[0].C_6nd == 1.2e10
    assert both.ignored == ("C",)


def test_other_columns_are_left_out_and_named(tmp_path: Path) -> None:
    table = read(tmp_path, "objective,N,D,loss,who,perplexity,\nclm,1e4,2e5,2.7,me,14.9,x\n")
    assert table.ignored == ("who", "perplexity", "")
    plain = read(tmp_path, "objective,N,D,loss\nclm,1e4,2e5,2.7\n")
    assert plain == table
    assert plain.content_hash() == table.content_hash()


@pytest.mark.parametrize(
    ("word", "value"), [("true", True), ("False", False), ("1", True), ("0", False), ("yes", True), ("no", False)]
)
def test_truth_in_the_words_people_use(tmp_path: Path, word: str, value: bool) -> None:
    table = read(tmp_path, f"objective,N,D,loss,schedule_complete\nclm,1e4,2e5,2.7,{word}\n")
    assert table.rows[0].schedule_complete is value


@pytest.mark.parametrize(
    ("cells", "complaint"),
    [
        ("1e4,2e5,", "the loss is empty"),
        ("1e4,2e5,nan", "loss = nan is no positive number"),
        ("1e4,2e5,-2.7", "loss = -2.7 is no positive number"),
        ("1e4,inf,2.7", "D = inf is no positive number"),
        ("0.125,3.2,2.7", "N = 0.125 is too few"),
        ("1.25e8,3.2,2.7", "D = 3.2 is too few"),
        ("1e4,2e5,31", "loss = 31 nats per token"),
    ],
)
def test_numbers_that_cannot_be_meant_are_errors_with_their_line(tmp_path: Path, cells: str, complaint: str) -> None:
    with pytest.raises(RecordError, match=complaint) as caught:
        read(tmp_path, f"objective,N,D,loss\nclm,1e4,2e5,2.7\nclm,{cells}\n")
    assert caught.value.where == f"{tmp_path / 't.csv'}:3"
    assert ("ln" in caught.value.hint) == ("nats per token" in complaint)


@pytest.mark.parametrize(("C", "fine"), [("1.2e10", True), ("2.4e10", True), ("12", False), ("1.2e13", False)])
def test_compute_in_other_units_is_an_error_and_a_mismatch_is_not(tmp_path: Path, C: str, fine: bool) -> None:
    text = f"objective,N,D,loss,C\nclm,1e4,2e5,2.7,{C}\n"
    if fine:
        assert read(tmp_path, text).rows[0].C_6nd == float(C)
    else:
        with pytest.raises(RecordError, match="times 6 N D"):
            read(tmp_path, text)


@pytest.mark.parametrize(
    ("flags", "excluded"),
    [
        ("", False),
        ("BUDGET_OFF", False),
        ("BUDGET_OFF,STUCK", True),
        ("LABEL_OFF MISLABELLED", True),
        ("STUCKED", False),
    ],
)
def test_some_flags_keep_a_row_out_of_every_law(flags: str, excluded: bool) -> None:
    assert row(flags=flags).excluded is excluded


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
        ("run_id,objective,N,D,loss\na,clm,1e3,2e4,3\nb,clm,1e3,two,3\n", 3, "D: ", ""),
        ("run_id,objective,N,D,los\na,clm,1,2,3\n", 1, "los: unknown column", "did you mean loss?"),
        ("run_id,objective,n,D,loss\na,clm,1,2,3\n", 1, "n: unknown column", "did you mean N?"),
        ("run_id,objective,N,D,loss,epoch\na,clm,1,2,3,1\n", 1, "epoch: unknown column", "did you mean epochs?"),
        ("run_id,objective,N,D,ppl\na,clm,1,2,9\n", 1, "no column loss", "loss=YOUR_COLUMN"),
        ("", 1, "no column N", "N=YOUR_COLUMN"),
        ("run_id,objective,N,D,loss\na,rtd,1e3,2e4,3\n", 2, "objective: ", ""),
        ("run_id,objective,N,D,loss\na,clm,1,2,3,4\n", 2, "more fields than the header", ""),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, text: str, line: int, complaint: str, hint: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(RecordError) as caught:
        RunTable.read(path)
    assert caught.value.where == f"{path}:{line}"
    assert complaint in caught.value.what
    assert hint in caught.value.hint


def test_columns_of_a_parquet_table_are_treated_alike(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = row().model_dump() | {"loss_se": math.nan}
    pq.write_table(pa.Table.from_pylist([values | {"perplexity": 3.0}]), tmp_path / "t.parquet")
    table = RunTable.read(tmp_path / "t.parquet")
    assert table.ignored == ("perplexity",)
    assert table.rows == (row(),)
    pq.write_table(pa.table({"loss": [3.0]}), tmp_path / "t.parquet")
    with pytest.raises(RecordError, match="no column N"):
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


def test_a_table_without_a_schedule_is_one_of_cosines(tmp_path: Path) -> None:
    path = tmp_path / "old.csv"
    path.write_text("run_id,objective,N,D,loss\na,mlm,1e3,1e5,2.5\n")
    (old,) = RunTable.read(path)
    assert old.recipe_key == ("cosine", "plm", None, "")
    columns, other = "objective,N,D,loss,schedule,mask_ratio,regularisation", '"dropout=0.1,weight_decay=1"'
    path.write_text(f"{columns}\nmlm,1e3,1e5,2.5,wsd,0.3,{other}\nmlm,1e3,1e5,2.5,,,\n")
    keys = [("wsd", "plm", 0.3, "dropout=0.1,weight_decay=1"), ("cosine", "plm", None, "")]
    assert [r.recipe_key for r in RunTable.read(path)] == keys


def test_a_recipe_s_key_is_of_its_columns() -> None:
    changes = {"schedule": "wsd", "architecture": "esm2", "mask_ratio": 0.3, "regularisation": "dropout=0.1"}
    assert tuple(changes) == RECIPE
    assert row(**changes).recipe_key == tuple(changes.values())


@pytest.mark.parametrize(
    ("dropout", "weight_decay", "text"),
    [(0.0, 0.1, ""), (0.1, 0.1, "dropout=0.1"), (0.0, 0.0, "weight_decay=0"), (0.1, 1.0, "dropout=0.1,weight_decay=1")],
)
def test_regularisation_in_words_is_what_differs_from_the_recipe(
    dropout: float, weight_decay: float, text: str
) -> None:
    fields = {"objective": "clm", "n_layers": 1, "d_model": 16, "context": 32, "D": 1000, "batch_tokens": 32}
    fields |= {"corpus_id": "c", "peak_lr": 1e-3, "recipe": "small"}
    config = RunConfig.model_validate(fields | {"dropout": dropout, "weight_decay": weight_decay})
    assert regularisation_text(config) == text


def test_columns_at_their_defaults_do_not_change_the_hash_of_older_tables() -> None:
    assert RunTable((row(schedule="cosine", architecture="plm"),)).content_hash() == RunTable((row(),)).content_hash()
    assert RunTable((row(schedule="wsd"),)).content_hash() != RunTable((row(),)).content_hash()


@pytest.mark.parametrize(
    ("role", "experiment"),
    [
        *(("", False), ("grid", False), ("distil", True), ("mask_ratio", True), ("grid,mask_ratio", False)),
        *(("continued_first,continued", True), ("repeats,regularisation", False), ("regularisation", True)),
    ],
)
def test_an_experiment_has_no_role_but_those_of_experiments(role: str, experiment: bool) -> None:
    assert row(role=role).is_experiment is experiment
