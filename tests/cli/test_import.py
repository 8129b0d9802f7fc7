from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plm_scaling import api
from plm_scaling.core.run_table import RunTable
from plm_scaling.laws.curves import Curves, curves_path
from plm_scaling.laws.imported import ImportReport

Cli = Callable[..., Any]
NAME = "run-mlm_34M_1024l_1e18flops_all0.02ep-tag-lm-loss-validation_valid_lm loss validation vs gigaflos.csv"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.csv"
    path.write_text("params,tokens,eval,who\n1e8,3e9,2.7,me\n2e8,3e9,2.6,me\n2e8,3e9,,me\n")
    return path


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Five runs of one size on the same validation batches, one of them filed twice and one cut short."""
    folder = tmp_path / "mlm_valid" / "34M_flops"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    common = 6e-3 * rng.standard_normal(200)
    spacing = 6e-9 * 33_690_624 * 300 * 512 * 1024
    for run, (budget, n) in enumerate(
        [("1e18", 31.5), ("2e18", 63.0), ("3e18", 94.1), ("6e18", 188.8), ("5e18", 80.0)]
    ):
        k = np.append(np.arange(1, int(n) + 1), n) if n % 1 else np.arange(1, n + 1)
        loss = 2.3 + 0.02 * run + 0.5 / k + common[: len(k)] + 5e-4 * rng.standard_normal(len(k))
        lines = [
            f"{1.7e9 + 1e6 * run + i},{round(a * spacing)},{v}" for i, (a, v) in enumerate(zip(k, loss, strict=True))
        ]
        text = "\n".join(["Wall time,Step,Value", *lines]) + "\n"
        (folder / NAME.replace("1e18", budget).replace("_all0.02ep", "")).write_text(text)
        if run == 0:
            (folder / f"run-tensorboard_{NAME[4:]}").write_text(text)
    return tmp_path / "mlm_valid"


def test_a_table_of_somebody_else(cli: Cli, table: Path) -> None:
    out = table.parent / "runs.csv"
    words = ["--column", "N=params", "--column", "D=tokens", "--column", "loss=eval", "--objective", "clm"]
    screen = cli("import", "csv", table, "-o", out, *words)
    assert screen.code == 0
    assert "NO_NUMBERS" in screen.out
    assert "clm: 2 of 2 runs can enter a law" in screen.err
    assert "columns that mean nothing here: who" in screen.err
    assert f"next: plm-scaling fit {out} --objective clm --form auto" in screen.err
    assert [(row.N, row.loss) for row in RunTable.read(out)] == [(1e8, 2.7), (2e8, 2.6)]
    assert ImportReport.read(table.parent / "runs.import.json").ignored_columns == ("who",)
    assert not curves_path(out).exists()


def test_logs_come_with_findings_and_the_noise_before_and_after(cli: Cli, logs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "runs.csv"
    screen = cli("import", "cheng2024", logs, "-o", out)
    assert screen.code == 0
    for word in ("DUPLICATE", "TRUNCATED_SCHEDULE", "sd before", "times less", "524,288"):
        assert word in screen.out
    assert "mlm: 4 of 5 runs can enter a law" in screen.err
    rows = {row.run_id: row for row in RunTable.read(out)}
    assert {row.final_loss for row in rows.values()} >= {"denoised"}
    assert not rows["mlm-34M-5e18"].schedule_complete
    assert len(list(Curves.read(curves_path(out)))) == 5


def test_a_dry_run_says_all_and_writes_nothing(cli: Cli, logs: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    screen = cli("import", "cheng2024", logs, "-o", tmp_path / "runs.csv", "-n")
    assert screen.code == 0
    assert "would write" in screen.err
    assert "next:" not in screen.err
    assert sorted(tmp_path.rglob("*")) == before


def test_findings_for_programs(cli: Cli, logs: Path, tmp_path: Path) -> None:
    screen = cli("import", "cheng2024", logs, "-o", tmp_path / "runs.csv", "--format", "json")
    report = json.loads(screen.out)
    assert report["importer"] == "cheng2024"
    assert report["noise"]["groups"][0]["n_runs"] == 5
    screen = cli("import", "cheng2024", logs, "-o", tmp_path / "runs.csv", "--format", "csv")
    counts = {row["finding"]: int(row["count"]) for row in csv.DictReader(io.StringIO(screen.out))}
    assert counts["DUPLICATE"] == counts["TRUNCATED_SCHEDULE"] == 1


def test_final_losses_as_asked_for(cli: Cli, logs: Path, tmp_path: Path) -> None:
    losses = {}
    for loss in ("last", "last5", "denoised"):
        assert cli("import", "cheng2024", logs, "-o", tmp_path / "runs.csv", "--loss", loss).code == 0
        losses[loss] = RunTable.read(tmp_path / "runs.csv").column("loss")
    curves = Curves.read(tmp_path / "runs.curves.parquet")
    np.testing.assert_array_equal(losses["last"], [c.loss[-1] for c in curves])
    np.testing.assert_allclose(losses["last5"], [c.loss[-5:].mean() for c in curves])
    assert not np.allclose(losses["denoised"], losses["last5"], atol=1e-4)


def test_our_own_runs_folder(cli: Cli, study: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs.csv"
    runs = api.collect(study / "runs")
    lines = study / "runs" / runs.rows[0].run_id / "attempts" / "9" / "metrics.jsonl"
    lines.parent.mkdir(parents=True)
    lines.write_text('{"step": 1, "D": 4e3, "val_loss": 2.9}\n{"step": 2, "D": 8e3, "val_loss": 2.8}\n')
    screen = cli("import", "runs", study / "runs", "-o", out)
    assert screen.code == 0
    assert RunTable.read(out) == runs
    (curve,) = Curves.read(curves_path(out))
    assert (curve.run_id, curve.loss.tolist()) == (runs.rows[0].run_id, [2.9, 2.8])
    assert "sd before" not in screen.out


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (("csv", "TABLE", "--column", "params"), 2, "is not NAME=COLUMN"),
        (("csv", "TABLE", "--column", "N=parms"), 2, "did you mean params?"),
        (("csv", "TABLE"), 1, "no run could be read"),
        (("csv", "nowhere.csv"), 1, "no table here"),
        (("cheng2024", "TABLE"), 1, "not a folder or an archive"),
        (("cheng2024", "TABLE", "--objective", "clm"), 2, "state columns and objectives themselves"),
        (("wandbb", "TABLE"), 2, "is not one of"),
        (("runs", "nowhere"), 1, "no run table here"),
    ],
)
def test_what_cannot_be_read_is_an_error_and_writes_nothing(
    cli: Cli, table: Path, words: tuple[str, ...], code: int, complaint: str
) -> None:
    out = table.parent / "runs.csv"
    screen = cli("import", *(str(table) if word == "TABLE" else word for word in words), "-o", out)
    assert screen.code == code
    assert complaint in screen.err
    assert not out.exists()


def test_the_function_does_what_the_verb_does(table: Path, tmp_path: Path) -> None:
    columns = {"N": "params", "D": "tokens", "loss": "eval"}
    imported = api.import_runs("csv", table, tmp_path / "x.parquet", columns=columns, objective="clm")
    assert RunTable.read(tmp_path / "x.parquet") == imported.table
