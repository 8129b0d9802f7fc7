from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plm_scaling.sweeps.plan_records import SweepPlan

Cli = Callable[..., Any]
WriteSpec = Callable[[str], Path]

GRID = '[[grid]]\nsizes = ["1x16", "2x24"]\nD = [2e4, 6e4]\nobjectives = ["clm"]\n'
TEACHER = '[[grid]]\nsizes = ["1x16"]\nD = [2e4]\nobjectives = ["mlm"]\n'
TRANSFER = '[[transfer]]\nsize = "1x16"\nD = 2e4\nD_source = 3e4\noverlap = "shared"\n'

SCREEN = """\
run  roles  objective  shape      N    D  epochs   C_exact     C_6nd  batch  steps  peak lr  seed  notes
 ID  grid   clm         2x24  13.9k  60k    2.16  7.21e+09  5.01e+09    256    250  0.00712     0
 ID  grid   clm         2x24  13.9k  20k    0.72   2.4e+09  1.67e+09    256     83  0.00712     0  FEW_STEPS
 ID  grid   clm         1x16   3.1k  60k    2.16  1.94e+09  1.12e+09    256    250   0.0112     0
 ID  grid   clm         1x16   3.1k  20k    0.72  6.46e+08  3.72e+08    256     83   0.0112     0  FEW_STEPS
"""


def single_spaced(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_the_table_of_a_plan(cli: Cli, write_spec: WriteSpec, masked: Callable[[str], str]) -> None:
    spec = write_spec(GRID)
    screen = cli("plan", spec)
    assert screen.code == 0
    assert single_spaced(masked(screen.out)) == single_spaced(SCREEN)
    summary, following = masked(screen.err).splitlines()
    assert summary == "4 runs, 1.22e+10 FLOPs exactly counted, corpus ID"
    assert following == f"next: plm-scaling run {spec.parent / 'plan.json'}"


def test_teachers_are_counted_beside_the_runs_or_named_as_unknown(cli: Cli, write_spec: WriteSpec) -> None:
    known = json.loads(cli("plan", write_spec(TEACHER), "-n", "--format", "json").out)["runs"][0]["run_id"]
    student = '[[distil]]\nsizes = ["1x8"]\nteacher = "{}"\nobjective = "mlm"\nD = 2e4\n'
    spec = write_spec(TEACHER + student.format(known) + student.format("0123456789ab"))
    rows = list(csv.DictReader(io.StringIO(cli("plan", spec, "-n", "--format", "csv").out)))
    costs = {row["varies"].partition("teacher ")[2][:12]: row["C_teacher"] for row in rows}
    assert (costs[""], costs["0123456789ab"]) == ("", "unknown")
    screen = cli("plan", spec, "-n")
    assert f" and {float(costs[known]):.3g} of teachers (the teachers of 1 runs not counted: " in screen.err
    assert "unknown" in screen.out


def test_json_is_the_plan_that_was_written(cli: Cli, write_spec: WriteSpec) -> None:
    spec = write_spec(GRID + TRANSFER)
    screen = cli("plan", spec, "--format", "json")
    plan = SweepPlan.read(spec.parent / "plan.json")
    assert screen.out == plan.to_json()
    assert (len(plan.runs), plan.scale) == (4 + 3, 1.0)
    assert not Path(plan.corpus).is_absolute()


def test_csv_has_a_line_per_run(cli: Cli, write_spec: WriteSpec) -> None:
    spec = write_spec(GRID + TRANSFER)
    rows = list(csv.DictReader(io.StringIO(cli("plan", spec, "--format", "csv").out)))
    assert [row["run"] for row in rows] == [run.run_id for run in SweepPlan.read(spec.parent / "plan.json").runs]
    assert {row["shape"] for row in rows} == {"1x16", "2x24"}
    assert [row["roles"] for row in rows].count("transfer_target") == 1


def test_a_dry_run_shows_the_same_table_and_writes_nothing(cli: Cli, write_spec: WriteSpec) -> None:
    spec = write_spec(GRID)
    dry = cli("plan", spec, "--dry-run")
    assert dry.code == 0
    assert [path.name for path in spec.parent.iterdir()] == ["sweep.toml"]
    assert "next:" not in dry.err
    assert cli("plan", spec).out == dry.out


def test_scale_multiplies_every_D(cli: Cli, write_spec: WriteSpec) -> None:
    spec = write_spec(GRID + TRANSFER)
    one = json.loads(cli("plan", spec, "-n", "--format", "json").out)
    half = json.loads(cli("plan", spec, "-n", "--format", "json", "--scale", "0.5").out)
    tokens = [sorted(run["config"]["D"] for run in plan["runs"]) for plan in (one, half)]
    assert tokens[1] == [D // 2 for D in tokens[0]]
    assert half["scale"] == 0.5


@pytest.mark.parametrize("scale", ["0", "-1", "nan", "1e-9"])
def test_a_scale_that_leaves_nothing_is_refused(cli: Cli, write_spec: WriteSpec, scale: str) -> None:
    spec = write_spec(GRID)
    screen = cli("plan", spec, "--scale", scale)
    assert screen.code == 2
    assert screen.err.startswith("error: ")
    assert not (spec.parent / "plan.json").exists()


def test_corpus_replaces_the_specs(cli: Cli, write_spec: WriteSpec, corpus: Path, tmp_path: Path) -> None:
    spec = write_spec(GRID)
    spec.write_text(spec.read_text().replace(str(corpus), "elsewhere"))
    missing = cli("plan", spec)
    assert missing.code == 1
    assert str(spec.parent / "elsewhere") in missing.err
    assert cli("plan", spec, "--corpus", corpus, "-o", tmp_path / "far" / "away.json").code == 0
    plan = SweepPlan.read(tmp_path / "far" / "away.json")
    assert (tmp_path / "far" / plan.corpus).resolve() == corpus.resolve()
    spec.write_text("".join(line for line in spec.read_text().splitlines(True) if not line.startswith("corpus")))
    unnamed = cli("plan", spec)
    assert unnamed.code == 2
    assert "no corpus is named" in unnamed.err
    assert "--corpus" in unnamed.err
    assert cli("plan", spec, "--corpus", corpus, "-o", tmp_path / "far" / "named.json").code == 0
    named = SweepPlan.read(tmp_path / "far" / "named.json")
    assert [run.run_id for run in named.runs] == [run.run_id for run in plan.runs]


@pytest.mark.parametrize(
    ("arms", "complaint"),
    [
        ("", "asks for no run"),
        ('[[grid]]\nsizes = ["2*16"]\nD = [1e4]\n', "'2*16' is no size"),
        ('[[repeats]]\nsize = "1x16"\nD = 1e4\nunique_tokens = [1e9]\n', "unique tokens wanted"),
        ('sources = ["unknown"]\n' + GRID, "unknown"),
        ("[[grid]\n", "not valid TOML"),
    ],
)
def test_a_spec_that_cannot_be_planned_is_refused(cli: Cli, write_spec: WriteSpec, arms: str, complaint: str) -> None:
    spec = write_spec(arms)
    screen = cli("plan", spec)
    assert screen.code in (1, 2)
    assert complaint in screen.err
    assert not (spec.parent / "plan.json").exists()


def test_no_spec_is_a_usage_error(cli: Cli, tmp_path: Path) -> None:
    screen = cli("plan", tmp_path / "no.toml")
    assert screen.code == 2
    assert "no.toml" in screen.err


# ---- what it costs -------------------------------------------------------------------------------------------------


def test_a_device_adds_columns_and_a_summary(cli: Cli, write_spec: WriteSpec) -> None:
    spec = write_spec(GRID)
    screen = cli("plan", spec, "--hardware", "h100", "--devices", 2, "--time-limit-h", "0.0001")
    header = screen.out.splitlines()[0].split()
    assert header[-6:] == ["memory", "hours", "USD", "kWh", "jobs", "notes"]
    plan = SweepPlan.read(spec.parent / "plan.json")
    assert plan.costs is not None
    assert plan.costs.segments > len(plan.runs)
    assert f"{plan.costs.segments} jobs of at most 0.0001 h" in screen.err
    assert " h on 2" in screen.err
    assert all(run.predicted_seconds for run in plan.runs)
    rows = list(csv.DictReader(io.StringIO(cli("plan", spec, "-n", "--hardware", "h100", "--format", "csv").out)))
    assert sum(float(row["USD"]) for row in rows) == pytest.approx(plan.costs.usd)
    assert "jobs" not in rows[0]


def test_a_budget_lists_what_it_cuts_and_the_prices_are_of_what_is_left(cli: Cli, write_spec: WriteSpec) -> None:
    spec = write_spec(GRID + TRANSFER)
    assert cli("plan", spec, "--hardware", "a100").code == 0
    whole = SweepPlan.read(spec.parent / "plan.json")
    screen = cli("plan", spec, "--hardware", "a100", "--budget-flops", 0.9 * whole.total_C_exact)
    plan = SweepPlan.read(spec.parent / "plan.json")
    assert plan.costs is not None
    assert [cost.run_id for cost in plan.costs.runs] == [run.run_id for run in plan.runs]
    assert len(plan.runs) + len(plan.cut) == len(whole.runs)
    assert screen.out.count("\ncut\n") == 1
    assert all(cut.run_id in screen.out.partition("\ncut\n")[2] for cut in plan.cut)
    assert "note: cut to " in screen.err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--hardware", "abacus"), "unknown accelerator"),
        (("--usd", "5"), "need a device"),
        (("--usd", "5", "--gpu-hours", "5"), "one budget"),
        (("--time-limit-h", "24"), "how fast a device is"),
        (("--budget-flops", "1"), "do not pay for any question"),
    ],
)
def test_prices_and_budgets_that_cannot_be_used(
    cli: Cli, write_spec: WriteSpec, options: tuple[str, ...], complaint: str
) -> None:
    spec = write_spec(GRID)
    screen = cli("plan", spec, *options)
    assert screen.code == 2
    assert complaint in screen.err
    assert not (spec.parent / "plan.json").exists()


def test_the_next_budget_needs_runs(cli: Cli, write_spec: WriteSpec, tmp_path: Path) -> None:
    spec = write_spec('[[isoflop]]\nC = 1e9\nsizes = ["1x16", "2x24"]\n')
    (tmp_path / "runs").mkdir()
    screen = cli("plan", spec, "--next", tmp_path / "runs")
    assert screen.code == 4
    assert "complete at least two budgets" in screen.err
    assert not (spec.parent / "plan.json").exists()
    assert cli("plan", write_spec(GRID), "--next", tmp_path / "runs").code == 2
