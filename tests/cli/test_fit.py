from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plm_scaling import api
from plm_scaling.cli.fit_screen import law_rows
from plm_scaling.core.errors import RefusedError
from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.curves import Curve, Curves, curves_path
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.sweeps.runs import read_clusters
from plm_scaling.transfers.transfer_fit import TransferFit

Cli = Callable[..., Any]
FilesOf = Callable[[Path], dict[str, tuple[int, int]]]


def table(path: Path, budgets: tuple[float, ...], sizes: tuple[float, ...], objective: str = "clm") -> Path:
    """Runs on the law L = 1 + 40 N^-.5 + 120 D^-.45, whose a is .45 / .95; two seeds, 1e-3 nats apart."""
    rows = []
    for C in budgets:
        for N in sizes:
            D = C / 6 / N
            for seed, noise in ((0, -5e-4), (1, 5e-4)):
                loss = 1.0 + 40.0 * N**-0.5 + 120.0 * D**-0.45 + noise
                values = {"C_6nd": C, "C_exact": C, "seed": seed, "role": "isoflop,replicate", "validation_id": "v"}
                name = f"{objective}-{C:g}-{N:g}-{seed}"
                rows.append(
                    RunRow.model_validate(
                        values | {"run_id": name, "objective": objective, "N": N, "D": D, "loss": loss}
                    )
                )
    return RunTable(tuple(rows)).write(path)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return table(tmp_path / "runs.csv", (3e9, 1e10, 3e10), (2e3, 4e3, 8e3, 16e3, 32e3))


@pytest.fixture
def edge(tmp_path: Path) -> Path:
    """Sizes above every optimum: the smallest always wins."""
    return table(tmp_path / "runs.csv", (3e9, 1e10, 3e10), (32e3, 64e3, 128e3))


def test_a_law_is_told_with_its_intervals(cli: Cli, good: Path) -> None:
    screen = cli("fit", good, "--draws", "50")
    assert screen.code == 0
    assert "clm, 30 runs" in screen.out
    for quantity in (
        "N_opt at C = 3e+09",
        "N_opt at C = 1e+10",
        "N_opt ~ C^a, a",
        "surface (extrapolation)",
        "surface N_opt ~ C^a, a",
        "surface N_opt at C = 3e+11",
        "noise between seeds",
        "larger budgets",
        "multiplicative",
    ):
        assert quantity in screen.out
    assert f"next: plm-scaling predict {good.parent / 'fit-clm.json'} --points" in screen.err
    law = LawFit.read(good.parent / "fit-clm.json")
    assert law.isoflop is not None
    assert law.isoflop.a_N is not None
    assert law.isoflop.a_N.low < 0.45 / 0.95 < law.isoflop.a_N.high
    assert law.chosen == "extrapolation"
    assert sum(score.weight for score in law.forms) == pytest.approx(1)
    assert law.refusals == ()


def test_one_form_as_asked_for(cli: Cli, good: Path) -> None:
    screen = cli("fit", good, "--form", "chinchilla", "--draws", "50")
    assert screen.code == 0
    assert "surface (asked for)" in screen.out
    assert "larger budgets" not in screen.out
    law = LawFit.read(good.parent / "fit-clm.json")
    assert law.surface is not None
    assert (law.surface.form, law.chosen, law.forms) == ("chinchilla", "asked for", ())
    values = {name: interval.value for name, interval in law.surface.parameters.items()}
    assert values["E"] == pytest.approx(1.0, rel=0.02)
    assert values["alpha"] == pytest.approx(0.5, rel=0.05)
    assert values["beta"] == pytest.approx(0.45, rel=0.05)
    assert set(law.surface.profiles) == {*values, "a_N"}


def test_a_plateau_and_a_border_are_passed_on(cli: Cli, good: Path) -> None:
    options = ("--form", "bounded", "--plateau", "60", "--delta", "inf", "--draws", "50")
    assert cli("fit", good, *options).code == 0
    law = LawFit.read(good.parent / "fit-clm.json")
    assert law.surface is not None
    assert (law.surface.plateau, law.surface.huber_delta) == (60, float("inf"))
    assert "L0" not in law.surface.parameters


def test_larger_runs_are_left_out_and_predicted(cli: Cli, good: Path) -> None:
    assert cli("fit", good, "--form", "chinchilla", "--max-compute", "2e10", "--draws", "50").code in (0, 4)
    law = LawFit.read(good.parent / "fit-clm.json")
    assert law.n_runs == 20
    (good.parent / "points.csv").write_text("N,D\n8e3,625000\n")
    out = good.parent / "predicted.csv"
    assert cli("predict", good.parent / "fit-clm.json", "--points", good.parent / "points.csv", "-o", out).code == 0
    (row,) = csv.DictReader(io.StringIO(out.read_text()))
    assert float(row["lo90"]) < float(row["loss"]) < float(row["hi90"])
    assert float(row["loss"]) == pytest.approx(1 + 40 * 8e3**-0.5 + 120 * 625000**-0.45, rel=0.01)
    assert float(row["decades_beyond"]) == pytest.approx(0.477, abs=0.002)


@pytest.mark.parametrize("output", ["json", "csv"])
def test_a_law_for_programs(cli: Cli, good: Path, output: str) -> None:
    options = ("--form", "chinchilla", "--draws", "50", "--format", output)
    screen = cli("fit", good, *options, "-o", good.parent / "deep" / "law.json")
    assert screen.code == 0
    law = LawFit.read(good.parent / "deep" / "law.json")
    if output == "json":
        assert screen.out == law.to_json()
    else:
        rows = list(csv.DictReader(io.StringIO(screen.out)))
        assert set(rows[0]) == {"quantity", "estimate", "flags"}
        assert sum(row["quantity"].startswith("N_opt at C") for row in rows) == 3
    assert not (good.parent / "fit-clm.json").exists()


def test_refused_exponents_are_exit_code_4_and_a_valid_file_that_says_why(cli: Cli, edge: Path) -> None:
    screen = cli("fit", edge, "--form", "chinchilla", "--draws", "50")
    assert screen.code == 4
    law = LawFit.read(edge.parent / "fit-clm.json")
    assert law.isoflop is not None
    assert law.isoflop.a_N is None
    assert "TOO_FEW_MINIMA" in law.flags
    assert "not identified" in screen.out
    for row in law.isoflop.rows:
        assert row.N_opt is None
        assert f"NO_INTERIOR_MINIMUM: at C = {row.C:.3g} FLOPs the lowest loss is at N = 32k, an edge" in screen.err
    assert "no exponents are given" in screen.err


def test_predicted_ends_come_with_how_good_such_predictions_are(cli: Cli, good: Path) -> None:
    """The largest budget at .6 of its schedule: its ends are known to less than their noise, and are said to be."""
    rows, curves = [], []
    for row in RunTable.read(good):
        share = np.arange(1, 51) / 50.0
        loss = row.loss + 0.3 * (share**-0.2 - 1.0)
        if row.C_6nd == 3e10:
            share, loss = share[:30], loss[:30]
            update = {"D": 0.6 * row.D, "D_planned": row.D, "C_6nd": 1.8e10, "C_exact": 1.8e10}
            row = row.model_copy(update=update | {"schedule_complete": False})
        rows.append(row)
        D = share * (row.D_planned or row.D)
        curves.append(Curve(row.run_id, np.arange(1.0, len(share) + 1), D, loss, np.full(len(share), "")))
    path = RunTable(tuple(rows)).write(good.parent / "partial.csv")
    Curves.joined(curves).write(curves_path(path))
    screen = cli("fit", path, "--partial", "--form", "chinchilla", "--draws", "50")
    assert screen.code == 0
    assert "clm, 30 runs" in screen.out
    assert "from 60% of a run, the ends of 20 complete runs are predicted to" in screen.err
    assert "inside their intervals before they were widened to hold 95 %)" in screen.err


@pytest.mark.parametrize(
    "option",
    [
        ("--currency", "C_6nd"),
        ("--delta", "0.01"),
        ("--pictures", "figures"),
        ("--plateau", "60"),
        ("--max-compute", "1e10"),
        ("--partial",),
    ],
)
def test_laws_by_group_refuse_what_they_would_pass_over(cli: Cli, study: Path, option: tuple[str, ...]) -> None:
    screen = cli("fit", study / "runs", "--objective", "clm", "--by", "source", *option)
    assert screen.code == 2
    assert f"{option[0]} and --by do not go together" in screen.err
    assert f"leave out {option[0]}" in screen.err


def test_laws_by_group_take_the_schedule(cli: Cli, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}

    def fit_groups(runs: Path, **choices: object) -> None:
        given.update(choices)
        raise RefusedError("nothing is fitted here")

    monkeypatch.setattr(api, "fit_groups", fit_groups)
    cli("fit", study / "runs", "--by", "source", "--schedule", "wsd", "--draws", "60")
    assert (given["schedule"], given["by"], given["draws"]) == ("wsd", "source", 60)


def test_a_dry_run_writes_nothing(cli: Cli, good: Path, edge: Path) -> None:
    before = sorted(path.name for path in good.parent.iterdir())
    screen = cli("fit", good, "--form", "chinchilla", "--draws", "50", "--dry-run")
    assert screen.code == 4  # `edge` has replaced the table
    assert f"would write {good.parent / 'fit-clm.json'}" in screen.err
    assert sorted(path.name for path in good.parent.iterdir()) == before


def test_two_objectives_need_a_choice(cli: Cli, tmp_path: Path) -> None:
    budgets, sizes = (3e9, 1e10, 3e10), (2e3, 4e3, 8e3, 16e3, 32e3)
    parts = [RunTable.read(table(tmp_path / f"{o}.csv", budgets, sizes, o)) for o in ("clm", "mlm")]
    both = RunTable((*parts[0], *parts[1])).write(tmp_path / "both.parquet")
    refused = cli("fit", both)
    assert refused.code == 2
    assert "clm and mlm" in refused.err
    assert "--objective clm|mlm" in refused.err
    assert cli("fit", both, "--objective", "mlm", "--form", "chinchilla", "--draws", "50").code == 0
    assert (tmp_path / "fit-mlm.json").exists()
    other = cli("fit", tmp_path / "clm.csv", "--objective", "mlm")
    assert other.code == 2
    assert "not mlm" in other.err


@pytest.mark.parametrize(
    ("text", "code", "complaint"),
    [
        ("run_id,objective,N,D,los\na,clm,1,2,3\n", 1, "did you mean loss?"),
        ("run_id,objective,N,D,loss\n", 2, "no complete runs"),
    ],
)
def test_a_table_that_cannot_be_fitted_is_refused(
    cli: Cli, tmp_path: Path, text: str, code: int, complaint: str
) -> None:
    (tmp_path / "t.csv").write_text(text)
    screen = cli("fit", tmp_path / "t.csv")
    assert screen.code == code
    assert complaint in screen.err
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_no_table_is_a_usage_error(cli: Cli, tmp_path: Path) -> None:
    assert cli("fit", tmp_path / "no.csv").code == 2
    assert cli("transfer", tmp_path / "no.csv").code == 2


def test_a_runs_folder_is_a_table(cli: Cli, study: Path) -> None:
    screen = cli("fit", study / "runs", "--objective", "clm", "--form", "chinchilla", "--draws", "50")
    assert screen.code in (0, 4)
    assert f"next: plm-scaling report {study}" in screen.err
    # Seven of two budgets; the source of the transfer is a run from scratch like any other.
    assert LawFit.read(study / "fit-clm.json").n_runs == 8


def test_validation_sequences_are_resampled_together_with_the_runs(study: Path) -> None:
    runs = api.collect(study / "runs").of("clm")
    ids = [row.run_id for row in runs]
    clusters = read_clusters(study / "runs", ids)
    assert clusters is not None
    assert clusters.loss_sum.shape == (len(ids), 40)
    mean = clusters.loss_sum.sum(axis=1) / clusters.n_targets.sum()
    assert mean == pytest.approx(runs.column("loss"), rel=1e-9)
    assert read_clusters(study / "runs", [*ids, "nobody"]) is None
    assert read_clusters(study / "runs", []) is None
    (study / "runs" / ids[0] / "val.parquet").write_bytes(b"damaged")
    assert read_clusters(study / "runs", ids) is None
    assert api.fit(study / "runs", objective="clm", form="no_floor", draws=20).n_runs == len(ids)


def test_a_validation_set_nobody_was_scored_on_is_named(cli: Cli, study: Path) -> None:
    screen = cli("fit", study / "runs", "--objective", "clm", "--validation", "val_ood")
    assert screen.code == 1
    assert "no run was scored on 'val_ood'" in screen.err
    assert "val_iid" in screen.err


def test_what_a_source_is_worth(cli: Cli, study: Path, masked: Callable[[str], str]) -> None:
    screen = cli("transfer", study / "runs")
    assert screen.code == 0
    header, line = masked(screen.out).splitlines()
    assert header.split("  ")[0] == "source"
    assert line.split()[:4] == ["ID", "ID", "6.21k", "20k"]
    (pair,) = TransferFit.read(study / "transfer.json").pairs
    # The stand-in for training makes a transferred run 0.05 nats better; noise is 2e-3.
    assert pair.gap == pytest.approx(-0.05, abs=0.01)
    assert pair.gap_se is not None
    assert 0 < pair.gap_se < 0.005
    # What 0.05 nats are worth on the law L = 1 + 40 N^-.5 + 120 D^-.45 at D = 2e4.
    worth = (2e4**-0.45 - 0.05 / 120) ** (-1 / 0.45) - 2e4
    assert pair.D_t == pytest.approx(worth, rel=0.25)
    assert pair.D_t_per_source_token == pytest.approx(pair.D_t / 2e4)
    assert "TOO_FEW_PAIRS_FOR_EXPONENTS" in screen.err
    assert f"next: plm-scaling report {study}" in screen.err


@pytest.mark.parametrize("output", ["json", "csv"])
def test_transfer_for_programs(cli: Cli, study: Path, output: str) -> None:
    screen = cli("transfer", study / "runs", "--format", output, "-o", study / "t.json")
    assert screen.code == 0
    found = TransferFit.read(study / "t.json")
    if output == "json":
        assert screen.out == found.to_json()
    else:
        (row,) = csv.DictReader(io.StringIO(screen.out))
        assert row["source_run_id"] == found.pairs[0].source_run_id
        assert float(row["D"]) == found.pairs[0].D
        assert row["target_run_id"] == found.pairs[0].target_run_id


def test_a_dry_transfer_writes_nothing(cli: Cli, study: Path, files_of: FilesOf) -> None:
    before = files_of(study)
    screen = cli("transfer", study / "runs", "-n")
    assert screen.code == 0
    assert f"would write {study / 'transfer.json'}" in screen.err
    assert files_of(study) == before


def test_a_damaged_law_beside_the_table_is_named(cli: Cli, study: Path) -> None:
    (study / "fit-mlm.json").write_text("{")
    screen = cli("transfer", study / "runs")
    assert screen.code == 1
    assert "fit-mlm.json" in screen.err


def test_forms_that_have_nothing_in_common_give_no_fifty_digits() -> None:
    law = LawFit(objective="clm", currency="C_6nd", n_runs=9, range_C=(1.0, 2.0), data_hash="d", disagreement=6e52)
    (row,) = [row for row in law_rows(law) if row["quantity"].startswith("disagreement")]
    assert row["estimate"] == "factor over 10,000 in N_opt"


def test_the_fit_is_kept_where_its_reader_leaves_early(tmp_path: Path) -> None:
    """As `fit runs.csv | head -1` does: the reader is gone before a line is printed."""
    made = table(tmp_path / "runs.csv", budgets=(1e15, 4e15, 1.6e16), sizes=(3e5, 6e5, 1.2e6, 2.4e6))
    command = [sys.executable, "-m", "plm_scaling", "fit", str(made), "--draws", "60", "--form", "chinchilla"]
    reader, writer = os.pipe()
    os.close(reader)
    subprocess.run(command, stdout=writer, stderr=subprocess.DEVNULL, check=False)
    os.close(writer)
    assert LawFit.read(tmp_path / "fit-clm.json").n_runs == 24
