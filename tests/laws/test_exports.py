"""Tables and logs as other tools leave them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from plm_scaling.core.errors import ConfigError, RecordError
from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.curves import Curves, curves_path
from plm_scaling.laws.exports import imported_own_runs, read_csv_table, read_tensorboard, read_wandb
from plm_scaling.laws.imported import ImportReport
from plm_scaling.laws.published import IMPORTERS, import_table, report_path, with_final_losses, write_imported


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# ---- any table -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "cells"),
    [
        ({"N": "params", "D": "tokens"}, "params,tokens\n125M,3.2B"),
        ({"N": "params", "C": "flops"}, "params,flops\n1.25e8,2.4e18"),
        ({"D": "tokens", "C": "flops"}, "tokens,flops\n3.2e9,2.4e18"),
        ({"N": "params", "D": "3.2e9"}, "params,x\n125000000,"),
    ],
)
def test_two_of_N_D_and_C_are_enough(tmp_path: Path, columns: dict[str, str], cells: str) -> None:
    header, row = cells.split("\n")
    path = put(tmp_path / "t.csv", f"{header},eval\n{row},2.75\n")
    imported = read_csv_table(path, columns | {"loss": "eval"}, "mlm")
    (found,) = imported.table
    assert (found.run_id, found.objective, found.loss) == ("row-2", "mlm", 2.75)
    assert pytest.approx(1.25e8) == found.N
    assert pytest.approx(3.2e9) == found.D
    assert found.C_6nd == pytest.approx(2.4e18)


def test_our_own_names_need_no_words(tmp_path: Path) -> None:
    path = put(tmp_path / "t.tsv", "run_id\tobjective\tN\tD\tloss\tseed\tnote\na\tclm\t1e8\t3e9\t2.7\t1\tx\n")
    imported = read_csv_table(path, {})
    assert imported.table.rows == (
        RunRow(run_id="a", objective="clm", N=1e8, D=3e9, loss=2.7, seed=1, C_6nd=6 * 1e8 * 3e9),
    )
    assert imported.table.ignored == ("note",)


def test_runs_without_numbers_are_left_out_and_named(tmp_path: Path) -> None:
    path = put(tmp_path / "t.csv", "N,D,loss\n1e8,3e9,2.7\n1e8,3e9,\n1e8,,2.7\n")
    imported = read_csv_table(path, {}, "clm")
    assert len(imported.table) == 1
    assert [f.what for f in imported.of_kind("NO_NUMBERS")] == ["row-3: no loss", "row-4: no D"]


def test_a_parquet_table(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"n": [1.25e8, None], "tok": [3_200_000_000, 1], "l": [2.75, 2.0]}), tmp_path / "t.parquet")
    imported = read_csv_table(tmp_path / "t.parquet", {"N": "n", "D": "tok", "loss": "l"}, "clm")
    assert [row.D for row in imported.table] == [3.2e9]
    assert len(imported.of_kind("NO_NUMBERS")) == 1


@pytest.mark.parametrize(
    ("columns", "complaint", "hint"),
    [
        ({"N": "parms"}, "N=parms: no such column", "did you mean params?"),
        ({"M": "params"}, "M=params: no such quantity", "allowed"),
    ],
)
def test_words_that_name_nothing(tmp_path: Path, columns: dict[str, str], complaint: str, hint: str) -> None:
    path = put(tmp_path / "t.csv", "params,D,loss\n1e8,3e9,2.7\n")
    with pytest.raises(ConfigError, match=complaint) as caught:
        read_csv_table(path, columns, "clm")
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "objective", "complaint"),
    [
        ("N,D,loss\n1e8,3e9,2.7\n", None, "which objective"),
        ("N,D,loss\n1e8,many,2.7\n", "clm", "not a positive number"),
        ("N,D,loss\n0.1,3,2.7\n", "clm", "too few"),
        ("N,D,loss\n1e8,3e9,\n", "clm", "no run could be read"),
        ("N,D,loss,seed\n1e8,3e9,2.7,x\n", "clm", "a value cannot be read"),
    ],
)
def test_tables_that_cannot_be_meant(tmp_path: Path, text: str, objective: str | None, complaint: str) -> None:
    with pytest.raises(RecordError, match=complaint) as caught:
        read_csv_table(put(tmp_path / "t.csv", text), {}, objective)
    assert caught.value.where.startswith(str(tmp_path / "t.csv"))


@pytest.mark.parametrize("name", ["missing.csv", "bad.csv", "bad.parquet"])
def test_files_that_are_no_tables(tmp_path: Path, name: str) -> None:
    if name != "missing.csv":
        (tmp_path / name).write_bytes(b"\xff\xfe,\n")
    with pytest.raises(RecordError, match=r"no table here|not a readable"):
        read_csv_table(tmp_path / name, {}, "clm")


# ---- Weights & Biases ----------------------------------------------------------------------------------------------

CHART = (
    '"Step","small - eval/loss","small - eval/loss__MIN","small - eval/loss__MAX","big - eval/loss"\n'
    '"1000","3.0","3.0","3.0",""\n"2000","2.8","2.8","2.8","2.9"\n"3000","","","","2.6"\n'
)
RUNS = (
    '"Name","State","Created","n_params","batch","eval/loss"\n"small","finished","x","1e7","524288","2.81"\n'
    '"big","crashed","x","1e8","524288","2.61"\n'
)


def test_a_runs_table_of_wandb(tmp_path: Path) -> None:
    columns = {"N": "n_params", "loss": "eval/loss", "D": "1.5e9", "batch_tokens": "batch"}
    imported = read_wandb(put(tmp_path / "runs.csv", RUNS), columns, "clm")
    assert [(row.run_id, row.N, row.loss, row.schedule_complete) for row in imported.table] == [
        ("small", 1e7, 2.81, True),
        ("big", 1e8, 2.61, False),
    ]
    assert [f.kind for f in imported.findings] == ["UNFINISHED"]
    assert not len(imported.curves)


def test_a_chart_of_wandb_joined_with_its_runs_table(tmp_path: Path) -> None:
    put(tmp_path / "chart.csv", CHART)
    put(tmp_path / "runs.csv", RUNS)
    imported = read_wandb(tmp_path, {"N": "n_params", "batch_tokens": "batch"}, "clm")
    small, big = imported.table
    assert (small.N, small.D, small.batch_tokens) == (1e7, 2000 * 524288, 524288)
    assert small.loss == pytest.approx(2.9)  # the mean of what there is, up to five
    assert (big.run_id, big.D, big.schedule_complete) == ("big", 3000 * 524288, False)
    curve = imported.curves.of("big")
    assert curve is not None
    np.testing.assert_array_equal(curve.step, [2000, 3000])
    np.testing.assert_array_equal(curve.loss, [2.9, 2.6])


def test_names_of_runs_may_state_what_charts_do_not(tmp_path: Path) -> None:
    path = put(tmp_path / "c.csv", CHART.replace("small", "N=10M_bs=524288").replace("big", "N=1e8,bs=1048576,seed=0"))
    small, big = read_wandb(path, {}, "mlm").table
    assert (small.N, small.D) == (1e7, 2000 * 524288)
    assert (big.N, big.batch_tokens, big.seed) == (1e8, 1048576, 0)


def test_an_axis_that_counts_tokens(tmp_path: Path) -> None:
    text = CHART.replace('"1000"', '"1e9"').replace('"2000"', '"2e9"').replace('"3000"', '"3e9"')
    by_name = read_wandb(put(tmp_path / "a.csv", text.replace("Step", "train/tokens")), {"N": "1e8"}, "clm").table
    by_word = read_wandb(put(tmp_path / "b.csv", text), {"N": "1e8", "D": "Step"}, "clm").table
    assert [row.D for row in by_name] == [row.D for row in by_word] == [2e9, 3e9]


def test_of_several_metrics_one_must_be_chosen(tmp_path: Path) -> None:
    text = CHART.replace("big - eval/loss", "big - train/loss")
    path = put(tmp_path / "c.csv", text)
    said = {"N": "1e8", "batch_tokens": "524288"}
    with pytest.raises(ConfigError, match="2 metrics: which") as caught:
        read_wandb(path, said, "clm")
    assert "eval/loss, train/loss" in caught.value.hint
    assert [row.run_id for row in read_wandb(path, said | {"loss": "eval/loss"}, "clm").table] == ["small"]
    with pytest.raises(ConfigError, match="loss=ppl: no such metric"):
        read_wandb(path, said | {"loss": "ppl"}, "clm")


def test_a_chart_without_tokens_asks_for_them(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="how many tokens is a step of small") as caught:
        read_wandb(put(tmp_path / "c.csv", CHART), {"N": "1e8"}, "clm")
    assert "batch_tokens" in caught.value.hint
    table = read_wandb(put(tmp_path / "c.csv", CHART), {"N": "1e8", "D": "2e10"}, "clm").table
    assert [row.D for row in table] == [2e10, 2e10]


# ---- TensorBoard ---------------------------------------------------------------------------------------------------


def board(path: Path, losses: list[float], every: int = 100) -> Path:
    lines = [f"{1.7e9 + k},{every * (k + 1)},{loss}" for k, loss in enumerate(losses)]
    return put(path, "\n".join(["Wall time,Step,Value", *lines]) + "\n")


def test_a_folder_of_tensorboard(tmp_path: Path) -> None:
    board(tmp_path / "run-N=85M_bs=524288-tag-val_loss.csv", [3.0, 2.5])
    board(tmp_path / "deep" / "run-N=170M_bs=524288-tag-val_loss.csv", [2.9, 2.4, float("nan")])
    put(tmp_path / "notes.csv", "a,b\n1,2\n")
    imported = read_tensorboard(tmp_path, {}, "mlm")
    assert sorted((row.N, row.D) for row in imported.table) == [(8.5e7, 200 * 524288), (1.7e8, 200 * 524288)]
    assert sorted(f.kind for f in imported.findings) == ["NOT_FINITE", "UNREADABLE"]
    assert len(imported.curves) == 4


def test_one_file_of_tensorboard_and_what_the_user_says(tmp_path: Path) -> None:
    path = board(tmp_path / "mine.csv", [3.0, 2.5])
    (row,) = read_tensorboard(path, {"N": "85M", "batch_tokens": "1e6"}, "clm").table
    assert (row.run_id, row.N, row.D) == ("mine", 8.5e7, 2e8)
    (row,) = read_tensorboard(board(path, [3.0, 2.5], 10**9), {"N": "85M", "D": "Step"}, "clm").table
    assert row.D == 2e9


def test_of_several_tags_one_must_be_chosen(tmp_path: Path) -> None:
    for tag in ("train", "val"):
        board(tmp_path / f"run-N=85M_bs=524288-tag-{tag}.csv", [3.0, 2.5])
    with pytest.raises(ConfigError, match="2 tags"):
        read_tensorboard(tmp_path, {}, "clm")
    assert len(read_tensorboard(tmp_path, {"loss": "val"}, "clm").table) == 1


def test_a_run_of_nothing_but_rubbish(tmp_path: Path) -> None:
    board(tmp_path / "run-N=85M_bs=524288-tag-val.csv", [float("nan")])
    with pytest.raises(RecordError, match="no run could be read"):
        read_tensorboard(tmp_path, {}, "clm")


# ---- our own, and the door to all ----------------------------------------------------------------------------------


def test_our_own_runs_keep_their_losses_and_bring_their_curves(tmp_path: Path) -> None:
    lines = [{"step": s, "D": 1e3 * s, "val_loss": v} for s, v in ((1, None), (10, 3.0), (20, 2.5))]
    put(tmp_path / "r" / "attempts" / "1" / "metrics.jsonl", "\n".join(map(json.dumps, lines)) + "\n")
    rows = tuple(
        RunRow(run_id=name, objective="clm", N=1e4, D=2e4, loss=2.4, validation_id="v") for name in ("r", "other")
    )
    imported = imported_own_runs(tmp_path, RunTable(rows), with_curves=True)
    assert [row.loss for row in imported.table] == [2.4, 2.4]
    curve = imported.curves.of("r")
    assert curve is not None
    assert curve.loss.tolist() == [3.0, 2.5]
    assert set(curve.validation_batch_id) == {"v"}
    assert not len(imported_own_runs(tmp_path, RunTable(rows), with_curves=False).curves)


def test_every_importer_is_reached_by_its_name(tmp_path: Path) -> None:
    table = put(tmp_path / "t.csv", "N,D,loss\n1e8,3e9,2.7\n")
    assert len(import_table("csv", table, objective="clm").table) == 1
    assert len(import_table("wandb", table, columns={"D": "1e9"}, objective="clm").table) == 1
    log = board(tmp_path / "N=85M_bs=1e6.csv", [3.0, 2.5])
    assert len(import_table("tensorboard", log, objective="clm").table) == 1
    assert set(IMPORTERS) == {"cheng2024", "csv", "wandb", "tensorboard"}
    with pytest.raises(ConfigError, match="no such importer") as caught:
        import_table("wandbb", table)
    assert caught.value.hint == "did you mean wandb?"
    with pytest.raises(ConfigError, match="state columns and objectives themselves"):
        import_table("cheng2024", tmp_path, objective="clm")


def test_what_is_written_is_table_curves_and_report(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    common = 6e-3 * rng.standard_normal(60)
    for k in range(4):
        losses = (2.5 + 0.01 * k + 0.3 / np.arange(1, 61) + common + 5e-4 * rng.standard_normal(60)).tolist()
        board(tmp_path / "logs" / f"run-N={10 + k}M_bs=524288-tag-val.csv", losses)
    imported = with_final_losses(import_table("tensorboard", tmp_path / "logs", objective="clm"), "denoised")
    assert imported.noise is not None
    assert imported.noise.groups[0].n_runs == 4
    out = tmp_path / "out" / "runs.csv"
    written = write_imported(imported, out, importer="tensorboard", source=tmp_path / "logs")
    assert written == (out, curves_path(out), report_path(out))
    assert RunTable.read(out) == imported.table
    assert len(Curves.read(curves_path(out))) == 240
    report = ImportReport.read(report_path(out))
    assert report.table_hash == imported.table.content_hash()
    assert report.noise == imported.noise
    # A table without curves must not keep those of an earlier one.
    plain = import_table("csv", put(tmp_path / "t.csv", "N,D,loss\n1e8,3e9,2.7\n"), objective="clm")
    assert with_final_losses(plain, "last") is plain
    write_imported(plain, out, importer="csv", source=tmp_path / "t.csv")
    assert not curves_path(out).exists()
    assert ImportReport.read(report_path(out)).noise is None
