from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plm_scaling import api
from plm_scaling.corpus.ledger_report import LedgerReport
from plm_scaling.sweeps.plan_records import SweepPlan

sys.path.insert(0, str(Path(__file__).parents[1] / "corpus"))

from made import clustered_corpus, make_corpus, random_sequences

Cli = Callable[..., Any]

SPEC = """
name = "ledger"
corpus = "c"
context = 32
objectives = ["clm"]
[[repeats]]
size = "1x8"
D = 40000
unique_tokens = [2000]
[[transfer]]
size = "1x8"
D = 8000
D_source = 3000
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ledger")
    clustered_corpus(folder / "c", clusters=80, copies=30, sources=2)
    (folder / "spec.toml").write_text(SPEC)
    api.plan(folder / "spec.toml", folder / "plan.json")
    return folder / "plan.json"


def run_with(plan: Path, role: str) -> str:
    """The run of a role with the fewest unique tokens."""
    runs = [run for run in SweepPlan.read(plan).runs if role in run.roles]
    return min(runs, key=lambda run: run.unique_tokens).run_id


def test_screen(cli: Cli, plan: Path) -> None:
    run = run_with(plan, "repeats")
    screen = cli("ledger", "--plan", plan, "--run", run[:8])
    assert screen.code == 0
    head, *lines = screen.out.splitlines()
    assert head.startswith(f"run {run} (clm) at step ")
    names, *rows = [line.split() for line in lines[: lines.index("")]]
    assert names[0] == "source"
    assert "seen_earlier" not in names  # it starts from no other run
    assert [row[0] for row in rows] == ["s0", "s1", "*"]
    total = dict(zip(names, rows[-1], strict=True))
    counts = {name: int(total[name].replace(",", "")) for name in names[1:-1]}
    assert counts["tokens"] == counts["unique"] + counts["repeated_epoch"] + counts["repeated_duplicate"]
    assert float(total["epochs"]) == pytest.approx(counts["tokens"] / counts["unique"], abs=1e-3)
    assert 15 < float(total["epochs"]) < 25
    assert f"the same record again (a later epoch)  {counts['unique']:>13,}" in screen.out
    assert "an exact copy" in screen.out
    assert "never" in screen.out
    assert "50 % cluster" in screen.out


def test_lineage_of_a_transfer(cli: Cli, plan: Path) -> None:
    target = run_with(plan, "transfer_target")
    report = json.loads(cli("ledger", plan.parent / "c", "--plan", plan, "--run", target, "--format", "json").out)
    assert report["lineage"] == [run_with(plan, "transfer_source")]
    assert report["rows"][-1]["seen_earlier"] == report["rows"][-1]["seen_earlier_clm"] > 0


def test_for_programs_at_a_step_and_at_tokens(cli: Cli, plan: Path) -> None:
    words = ("ledger", "--plan", plan, "--run", run_with(plan, "repeats"))
    report = json.loads(cli(*words, "--at", "10k", "--format", "json").out)
    assert report["rows"][-1]["tokens"] >= 10_000
    rows = list(csv.DictReader(io.StringIO(cli(*words, "--step", report["step"], "--format", "csv").out)))
    assert [row["source"] for row in rows] == ["s0", "s1", "*"]
    for row, expected in zip(rows, report["rows"], strict=True):
        assert int(row["unique"]) == expected["unique"]
        assert int(row["tokens"]) == expected["tokens"]


def test_files_and_dry_run(cli: Cli, plan: Path, tmp_path: Path) -> None:
    run = run_with(plan, "repeats")
    words = ("ledger", "--plan", plan, "--run", run, "-o", tmp_path / "l.json", "--pictures", tmp_path / "p")
    dry = cli(*words, "-n")
    assert f"would write {tmp_path / 'l.json'}" in dry.err
    assert not list(tmp_path.iterdir())
    assert f"wrote {tmp_path / 'p'}" in cli(*words).err
    assert LedgerReport.read(tmp_path / "l.json") == api.ledger(plan, run)
    assert (tmp_path / "p" / f"ledger-{run}.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--run", "zzz"), 2, "no run 'zzz'"),
        (("--run", ""), 2, "no run ''"),
        (("--run", "FIRST", "--step", "10000000"), 2, "no step 10,000,000"),
        (("--run", "FIRST", "--at", "1e15"), 2, "never draws"),
        (("--run", "FIRST", "--at", "many"), 2, "--at"),
        (("--run", "FIRST", "--at", "1", "--step", "1"), 2, "exclude each other"),
    ],
)
def test_refusals(cli: Cli, plan: Path, words: tuple[str, ...], code: int, message: str) -> None:
    first = SweepPlan.read(plan).runs[0].run_id
    screen = cli("ledger", "--plan", plan, *(first if word == "FIRST" else word for word in words))
    assert screen.code == code
    assert message in screen.err
    assert not screen.out


def test_a_beginning_that_several_runs_share(cli: Cli, plan: Path, tmp_path: Path) -> None:
    made = SweepPlan.read(plan)
    same = [run.model_copy(update={"run_id": f"ab{number}"}) for number, run in enumerate(made.runs)]
    made.model_copy(update={"runs": tuple(same)}).write(tmp_path / "plan.json")
    screen = cli("ledger", "--plan", tmp_path / "plan.json", "--run", "ab")
    assert screen.code == 2
    assert f"{len(same)} runs of the plan begin with 'ab'" in screen.err


def test_without_clusters_nothing_is_said_of_near_copies(cli: Cli, tmp_path: Path) -> None:
    make_corpus(tmp_path / "c", random_sequences(np.random.default_rng(0), 60))
    (tmp_path / "spec.toml").write_text(SPEC)
    made = api.plan(tmp_path / "spec.toml", tmp_path / "plan.json")
    screen = cli("ledger", "--plan", tmp_path / "plan.json", "--run", made.runs[0].run_id)
    assert screen.code == 0
    assert "mates" not in screen.out
    assert "cluster" not in screen.out
    assert "no clusters" in screen.err
