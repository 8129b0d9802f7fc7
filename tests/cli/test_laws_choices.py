from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plm_scaling import api
from plm_scaling.core.errors import ConfigError, FitError
from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.choices import CHOICE_SENTENCES
from plm_scaling.laws.curves import Curve, Curves, curves_path
from plm_scaling.laws.envelope import ENVELOPE_SENTENCES
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.laws.zoo import find_law

Cli = Callable[..., Any]
BUDGETS = (1e16, 3e16, 1e17, 3e17, 1e18)
CHOICES = ("laws", "choices", "--draws", 5)


def loss_of(N: float, D: float) -> float:
    return 1.5 + 40.0 * N**-0.3 + 120.0 * D**-0.3


def runs_at(budgets: Sequence[float], sizes: int = 7, objective: str = "clm") -> RunTable:
    """Budgets x sizes about N_opt = 0.06 C^.5, off centre by turns; the truth has a = 1/2."""
    rows = []
    for i, C in enumerate(budgets):
        for j in range(sizes):
            N = 0.064 * math.sqrt(C) * 1.7 ** (j - (sizes - 1) / 2 + 0.2 * (-1) ** i)
            D = C / 6 / N
            values = {"run_id": f"{C:g}-{j}", "objective": objective, "N": N, "D": D, "C_6nd": C, "role": "isoflop"}
            rows.append(RunRow.model_validate(values | {"loss": loss_of(N, D), "validation_id": "v"}))
    return RunTable(tuple(rows))


def curves_of(runs: RunTable, sd: float) -> Curves:
    """Forty evaluations of every run on the same batches, which lift all runs together."""
    rng = np.random.default_rng(0)
    common = sd * rng.standard_normal(40)
    share = np.arange(1, 41) / 40
    made = []
    for row in runs:
        loss = row.loss + 0.2 * (1 - share) + common + 0.05 * sd * rng.standard_normal(40)
        names = np.array([f"batch-{k}" for k in range(40)])
        made.append(Curve(row.run_id, 1000 * share, row.D * share, loss, names))
    return Curves.joined(made)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return runs_at(BUDGETS).write(tmp_path / "runs.csv")


@pytest.fixture
def with_curves(table: Path) -> Path:
    curves_of(RunTable.read(table), sd=0.01).write(curves_path(table))
    return table


def test_the_table_alone(cli: Cli, table: Path) -> None:
    screen = cli(*CHOICES, table, "--flops", "1e18")
    assert screen.code == 0
    lines = screen.out.splitlines()
    assert lines[0] == "clm: 16 ways to analyse the same runs"
    moved = [float(line.split()[-1]) for line in lines[2:4]]
    assert moved == sorted(moved, reverse=True)
    assert all(line.endswith("-") for line in lines if line.startswith("which loss is final"))
    assert any(line.startswith("exponent a of N_opt ~ C^a") for line in lines)
    assert any(line.startswith("N_opt at 1e+18 FLOPs") for line in lines)
    assert "envelope of end points" in screen.out
    assert "along the way" not in screen.out
    assert "EXTRAPOLATION:" not in screen.err


def test_choices_find_the_truth_where_there_is_no_noise(table: Path) -> None:
    found = api.laws_choices(table, draws=5)
    assert found.answered
    assert found.choices is not None
    assert found.choices.a_N is not None
    near = [row for row in found.choices.rows if row.rule == "cubic"]
    assert [row.a_N for row in near] == pytest.approx([0.5] * len(near), abs=0.01)
    assert found.choices.a_N[0] < 0.5 < found.choices.a_N[1]
    assert found.losses == ("table",)
    assert pytest.approx(max(BUDGETS)) == found.C


def test_with_curves_the_final_loss_is_a_choice(cli: Cli, with_curves: Path) -> None:
    screen = cli(*CHOICES, with_curves, "--format", "json")
    assert screen.code == 0
    value = json.loads(screen.out)
    assert value["losses"] == ["last", "last5", "denoised"]
    assert len(value["choices"]["rows"]) == 48
    assert value["choices"]["a_N_moved_by"]["loss"] > 0
    ends, along = value["envelopes"]
    assert (ends["intermediate"], along["intermediate"]) == (False, True)
    assert "UNDECAYED" in along["flags"]
    assert "UNDECAYED" not in ends["flags"]
    assert any(note.startswith("UNDECAYED: ") for note in value["notes"])


def test_curves_of_other_runs_are_no_choice(table: Path) -> None:
    others = runs_at(BUDGETS[:2], objective="mlm")
    renamed = [row.model_copy(update={"run_id": f"mlm-{row.run_id}"}) for row in others]
    curves_of(RunTable(tuple(renamed)), sd=0.01).write(curves_path(table))
    assert api.laws_choices(table, draws=5).losses == ("table",)


def test_every_way_for_programs(cli: Cli, with_curves: Path) -> None:
    words = (*CHOICES, with_curves, "--objective", "clm", "--flops", "1e20")
    rows = list(csv.DictReader(io.StringIO(cli(*words, "--format", "csv").out)))
    ways = [row for row in rows if row["kind"] == "choice"]
    assert len({(row["loss"], row["rule"], row["tolerance"], row["space"]) for row in ways}) == len(ways) == 48
    assert {row["C"] for row in rows} == {"1e+20"}
    for row in ways:
        assert float(row["N_opt"]) == pytest.approx(float(row["k_N"]) * 1e20 ** float(row["a_N"]))
    other = {row["name"]: row for row in rows if row["kind"] != "choice"}
    assert list(other) == ["envelope of end points", "envelope of points along the way", "cheng-clm"]
    assert float(other["cheng-clm"]["a_N"]) == 0.578
    assert float(other["cheng-clm"]["N_opt"]) == pytest.approx(find_law("cheng-clm").optimum(1e20)[0])
    screen = cli(*words)
    assert "EXTRAPOLATION: 1e+20 FLOPs lie 2.0 decades outside the runs" in screen.err
    flags = {flag for row in rows for flag in row["flags"].split(",")} & {*CHOICE_SENTENCES, *ENVELOPE_SENTENCES}
    assert flags
    assert all(f"{flag}: " in screen.err for flag in flags)


def test_tolerances_that_change_nothing_share_a_line(cli: Cli, table: Path) -> None:
    lines = [line for line in cli(*CHOICES, table).out.splitlines() if line.startswith("table ")]
    assert [line.split()[1] for line in lines] == ["argmin", "parabola", "near_parabola", "cubic"]
    assert all("3 %, 10 %" in line and "5 of 5" in line for line in lines)


def test_a_fit_of_ones_own_beside_them(cli: Cli, table: Path, tmp_path: Path) -> None:
    fit = api.fit(table, form="chinchilla", draws=50, out=tmp_path / "fit.json")
    assert fit.surface is not None
    assert fit.surface.a_N is not None
    screen = cli(*CHOICES, table, "--laws", tmp_path / "fit.json", "--format", "json")
    readings = {one["name"]: one for one in json.loads(screen.out)["readings"]}
    assert readings["own-clm-surface"]["a_N"] == fit.surface.a_N.value
    assert readings["own-clm-isoflop"]["kind"] == "own fit"
    assert readings["own-clm-surface"]["a_N"] == pytest.approx(0.5, abs=0.01)
    other = fit.model_copy(update={"objective": "mlm"}).write(tmp_path / "fit-mlm.json")
    screen = cli(*CHOICES, table, "--laws", other)
    assert screen.code == ConfigError.exit_code
    assert "this fit is of mlm, the runs are of clm" in screen.err
    silent = LawFit(objective="clm", currency="C_6nd", n_runs=3, range_C=(1.0, 2.0), data_hash="")
    assert "does not say which size" in cli(*CHOICES, table, "--laws", silent.write(tmp_path / "no.json")).err


def test_nothing_to_say_is_exit_code_4(cli: Cli, tmp_path: Path) -> None:
    two = runs_at(BUDGETS, sizes=2).write(tmp_path / "two.csv")
    screen = cli(*CHOICES, two)
    assert screen.code == 4
    assert "REFUSED: choices of a minimum: no budget of 'clm' has three sizes" in screen.err
    value = json.loads(cli(*CHOICES, two, "--format", "json").out)
    assert value["choices"] is None
    assert {refusal["code"] for refusal in value["refusals"]} == {"NO_ISOFLOP", "FEW_SIZES_ON_ENVELOPE"}


def test_no_usable_run_is_an_error(cli: Cli, table: Path) -> None:
    cut = [row.model_copy(update={"schedule_complete": False}) for row in RunTable.read(table)]
    RunTable(tuple(cut)).write(table)
    assert cli(*CHOICES, table).code == FitError.exit_code
    assert cli(*CHOICES, table, "--objective", "mlm").code == ConfigError.exit_code
    assert cli(*CHOICES, table, "--currency", "C_exact").code == FitError.exit_code


@pytest.mark.slow
def test_published_logs_disagree_with_themselves(cli: Cli, test_data: Path, tmp_path: Path) -> None:
    """On the released logs a_N moves by more than .15 with choices alone, and the published exponents lie inside."""
    api.import_runs("cheng2024", test_data / "cheng2024_logs", tmp_path / "runs.csv")
    for objective in ("clm", "mlm"):
        found = api.laws_choices(tmp_path / "runs.csv", objective, flops=1e22, draws=5)
        assert found.choices is not None
        assert found.choices.a_N is not None
        low, high = found.choices.a_N
        assert high - low > 0.15
        published = next(one for one in found.readings if one.kind == "published")
        assert low < published.a_N < high
        assert "CHOICES_DISAGREE" in found.choices.flags
