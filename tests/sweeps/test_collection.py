from __future__ import annotations

import csv
import json
import os
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plm_scaling import api
from plm_scaling.core.errors import ConfigError, RecordError
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import RunOrder, StatusFile
from plm_scaling.corpus.reader import Corpus
from plm_scaling.sweeps.collection import METRIC_COLUMNS, RUN_COLUMNS, query_runs
from plm_scaling.sweeps.plan import plan_sweep
from plm_scaling.sweeps.plan_records import GridArm, SweepSpec
from plm_scaling.sweeps.run_log import merged_metrics

ALL = tuple(name for name in METRIC_COLUMNS if name != "run_id")


def metrics(folder: RunFolder, columns: tuple[str, ...] = ALL, steps: int = 3) -> None:
    """`metrics.parquet`, as this or an older release writes it; the loss at step k is k / 2."""
    types = {"step": pa.int64(), "D": pa.int64(), "memory_bytes": pa.int64(), "D_unique": pa.int64()}
    values = {"step": list(range(1, steps + 1)), "loss": [k / 2 for k in range(1, steps + 1)]}
    table = {name: pa.array(values.get(name, [7] * steps), types.get(name, pa.float64())) for name in columns}
    pq.write_table(pa.table(table), folder.metrics_path)


def lines(*values: dict[str, Any]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


@pytest.fixture(scope="module")
def _built(corpus: Corpus, _trainer_folder: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    grid = GridArm(sizes=("1x16", "1x24", "1x32", "1x48", "1x64"), D=(2e4,))
    plan = plan_sweep(SweepSpec(name="t", corpus="c", context=64, objectives=("clm",), grid=(grid,)), corpus)
    path = tmp_path_factory.mktemp("collection") / "runs"
    folders = [RunFolder(path / run.run_id) for run in plan.runs]
    for folder, run in zip(folders, plan.runs, strict=True):
        RunOrder(config=run.config, roles=run.roles, corpus="c").write(folder.order_path)
    for folder in folders[:3]:
        import_module(_trainer_folder).run_one(str(folder.path))
    metrics(folders[0])
    metrics(folders[1])
    metrics(folders[2], ("step", "D", "loss"))
    for folder in folders[3:]:
        attempt = folder.new_attempt()
        StatusFile(status="interrupted", reason="SIGTERM", D=30).write(attempt.status_path)
        steps = ({"step": 1, "D": 10, "loss": 5.0}, {"flag": "X", "remark": "y"}, {"step": 2, "D": 20, "loss": 4.0})
        attempt.metrics_path.write_text(lines(*steps))
    again = folders[3].new_attempt()
    again.metrics_path.write_text(lines({"step": 2, "D": 20, "loss": 3.5}) + '{"step": 3, "D": 3')
    return path, [folder.path.name for folder in folders]


@pytest.fixture
def runs(_built: tuple[Path, list[str]], tmp_path: Path) -> list[RunFolder]:
    """Three complete runs (the last by a release that logged less), one interrupted twice, one interrupted once."""
    path, names = _built
    shutil.copytree(path, tmp_path / "runs")
    return [RunFolder(tmp_path / "runs" / name) for name in names]


def rows(folders: list[RunFolder], sql: str) -> list[tuple[Any, ...]]:
    return list(query_runs(folders[0].path.parent, sql).rows)


def test_metrics_of_all_runs_the_last_attempt_wins(runs: list[RunFolder]) -> None:
    found = query_runs(runs[0].path.parent, "select run_id, step, loss from metrics order by all")
    assert found.columns == ("run_id", "step", "loss")
    expected = [(folder.path.name, k, k / 2) for folder in runs[:3] for k in (1, 2, 3)]
    expected += [(runs[3].path.name, 1, 5.0), (runs[3].path.name, 2, 3.5)]
    expected += [(runs[4].path.name, 1, 5.0), (runs[4].path.name, 2, 4.0)]
    assert sorted(found.rows) == sorted(expected)
    assert found.remarks == ()
    # What an older release did not log is null.
    assert rows(runs, f"select count(lr), count(D) from metrics where run_id = '{runs[2].path.name}'") == [(0, 3)]
    assert rows(runs, f"select lr from metrics where run_id = '{runs[0].path.name}' and step = 1") == [(7.0,)]


def test_runs_have_their_state_configuration_and_record(runs: list[RunFolder]) -> None:
    found = rows(runs, "select run_id, status, N, d_model, loss, D, roles, dropout, reason from runs")
    by_id = {row[0]: row[1:] for row in found}
    for folder in runs:
        order = folder.order()
        status, N, d_model, loss, D, roles, dropout, reason = by_id[folder.path.name]
        done = folder.record() is not None
        assert (N, d_model, roles, dropout) == (order.config.N, order.config.d_model, "grid", 0.0)
        assert (status, loss) == (("complete", 2.0) if done else ("interrupted", None))
        assert (order.config.D if done else 0 if folder is runs[3] else 30) == D
        assert (reason is None) == done
    joined = rows(runs, "select count(*) from runs join metrics using (run_id) where status = 'complete'")
    assert joined == [(9,)]
    assert rows(runs, "select set_name, per_token, n_targets from losses") == [("val_iid", 2.0, 100)] * 3
    assert rows(runs, "select count(*) from val") == [(0,)]


def test_damaged_files_are_left_out_by_name(runs: list[RunFolder]) -> None:
    good = runs[1].metrics_path.read_bytes()
    runs[0].metrics_path.write_bytes(good[:-20])  # no footer
    runs[1].metrics_path.write_bytes(b"\x00" * (len(good) - 1200) + good[-1200:])  # a footer, but no data
    runs[2].record_path.write_text("{")  # its metrics are whole, and count
    runs[4].order_path.write_text("[]")
    found = query_runs(runs[0].path.parent, "select run_id, count(loss), sum(loss) from metrics group by all")
    assert {row[0] for row in found.rows} == {folder.path.name for folder in runs[2:]}
    assert [str(folder.path) in "".join(found.remarks) for folder in runs[:2]] == [True, True]
    states = dict(rows(runs, "select run_id, status from runs"))
    assert [states[folder.path.name] for folder in runs] == [
        *("complete", "complete", "damaged", "interrupted", "damaged")
    ]


def test_metrics_full_of_garbage_keep_their_whole_lines(runs: list[RunFolder]) -> None:
    path = runs[4].attempts()[0].metrics_path
    odd = lines({"step": "x", "loss": 1}, {"step": 4, "loss": "high", "D": 2**70, "lr": True}, {"step": 5, "loss": 1.5})
    path.write_bytes(path.read_bytes() + b"\xff\x00{{\n[1]\n\n" + odd.encode() + b'{"step": 6')
    sql = f"select step, loss, D from metrics where run_id = '{runs[4].path.name}' order by step"
    assert rows(runs, sql) == [(1, 5.0, 10), (2, 4.0, 20), (4, None, None), (5, 1.5, None)]
    assert [line["step"] for line in merged_metrics(runs[4])] == [1, 2, 4, 5]


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("selec 1", "syntax error"),
        ("select nope from runs", "nope"),
        ("select * from elsewhere", "elsewhere"),
        ("", "no statement"),
        ("select 1; select 2", "2 statements"),
        ("copy runs to 'x.csv'", "a COPY"),
        ("create table t as select 1", "a CREATE"),
        ("install httpfs", "a LOAD"),
        ("set threads = 1", "a SET"),
        ("attach 'x.db'", "an? ATTACH"),
        ("select * from read_text('/etc/hostname')", "/etc/hostname"),
        ("select * from 'https://example.com/x.parquet'", "example.com"),
    ],
)
def test_what_is_no_single_select_over_the_folder_is_refused(
    runs: list[RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sql: str, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=why) as refused:
        query_runs(runs[0].path.parent, sql)
    for view in ("runs(run_id, ", "metrics(run_id, step, D, loss, ", "losses(", "val("):
        assert view in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_variables_of_the_caller_and_other_folders_are_out_of_reach(runs: list[RunFolder], tmp_path: Path) -> None:
    secret = pa.table({"a": [1]})
    assert duckdb.sql("select a from secret").fetchall() == [(1,)]  # what would happen
    with pytest.raises(ConfigError, match="secret"):
        query_runs(runs[0].path.parent, "select a from secret")
    del secret
    (tmp_path / "other.csv").write_text("a\n1\n")
    with pytest.raises(ConfigError, match="Permission"):
        query_runs(runs[0].path.parent, f"select * from '{runs[0].path.parent}/../other.csv'")


def test_columns_of_equal_names_and_numbers_that_json_cannot_hold(runs: list[RunFolder]) -> None:
    found = query_runs(runs[0].path.parent, "select 1 a, 2 a, 'nan'::double n, 1.5 d, sum(step) s from metrics")
    assert found.columns == ("a", "a_1", "n", "d", "s")
    assert found.rows == ((1, 2, None, 1.5, 24),)


def test_no_folder_no_runs(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no runs folder"):
        query_runs(tmp_path / "no", "select 1")
    assert query_runs(tmp_path, "select count(*) from runs").rows == ((0,),)
    assert query_runs(tmp_path, "select count(*) from metrics").rows == ((0,),)


def test_csv_holds_the_views(runs: list[RunFolder], tmp_path: Path) -> None:
    out = tmp_path / "csv"
    assert api.runs_export(runs[0].path.parent, csv=out) == ()
    with (out / "metrics.csv").open() as handle:
        read = list(csv.DictReader(handle))
    assert list(read[0]) == list(METRIC_COLUMNS)
    ids = sorted(folder.path.name for folder in runs)
    assert [row["run_id"] for row in read] == [
        i for i in ids for _ in range(2 if i in {r.path.name for r in runs[3:]} else 3)
    ]
    with (out / "runs.csv").open() as handle:
        assert [row["run_id"] for row in csv.DictReader(handle)] == ids
    with pytest.raises(ConfigError, match="already"):
        api.runs_export(runs[0].path.parent, csv=out)
    with pytest.raises(ConfigError, match="nothing to export"):
        api.runs_export(runs[0].path.parent)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["csv", "runs"]


def test_an_export_that_fails_leaves_nothing(
    runs: list[RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyarrow import csv as arrow_csv

    written = []

    def full(table: pa.Table, path: Path) -> None:
        path.write_text("half")
        written.append(path)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(arrow_csv, "write_csv", full)
    with pytest.raises(OSError, match="No space"):
        api.runs_export(runs[0].path.parent, csv=tmp_path / "csv")
    assert written
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]


def test_tensorboard_reads_the_events(runs: list[RunFolder], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    assert api.runs_export(runs[0].path.parent, tensorboard=tmp_path / "tb") == ()
    assert sorted(os.listdir(tmp_path / "tb")) == sorted(folder.path.name for folder in runs)
    (file,) = (tmp_path / "tb" / runs[3].path.name).iterdir()
    found = {
        (event.step, value.tag): value.tensor.float_val[0] if value.HasField("tensor") else value.simple_value
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
    }
    assert found == {(10, "train/step"): 1, (10, "train/loss"): 5.0, (20, "train/step"): 2, (20, "train/loss"): 3.5}


def test_the_run_table_is_that_of_collect(runs: list[RunFolder], tmp_path: Path) -> None:
    folder = runs[0].path.parent
    for name in ("runs.csv", "runs.parquet"):
        assert api.runs_table(folder, tmp_path / name) == api.collect(folder)
        assert api.collect(tmp_path / name) == api.collect(folder)
    with pytest.raises(ConfigError, match="xlsx"):
        api.runs_table(folder, tmp_path / "runs.xlsx")
    assert set(RUN_COLUMNS) > {"run_id", "status", "N", "D", "loss", "C_exact"}
