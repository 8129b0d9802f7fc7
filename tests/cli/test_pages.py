"""`report`, `doctor` and `demo`: what they print, what they write, what they are given."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from plm_scaling import api
from plm_scaling.sweeps.plan_records import SweepPlan

Cli = Callable[..., Any]
FilesOf = Callable[[Path], dict[str, tuple[int, int]]]


def test_a_report_is_written_and_its_path_is_the_output(cli: Cli, study: Path, tmp_path: Path) -> None:
    screen = cli("report", study)
    assert (screen.code, screen.out) == (0, f"{study / 'report.html'}\n")
    page = (study / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert page.rstrip().endswith("</html>")
    elsewhere = cli("report", study, "-o", tmp_path / "far" / "page.html")
    assert (elsewhere.code, elsewhere.out) == (0, f"{tmp_path / 'far' / 'page.html'}\n")
    assert (tmp_path / "far" / "page.html").exists()


def test_a_dry_report_writes_nothing(cli: Cli, study: Path, files_of: FilesOf) -> None:
    before = files_of(study)
    screen = cli("report", study, "--dry-run")
    assert screen.code == 0
    assert f"would write {study / 'report.html'}" in screen.err
    assert files_of(study) == before


def test_nothing_to_report(cli: Cli, tmp_path: Path) -> None:
    screen = cli("report", tmp_path)
    assert screen.code == 1
    assert "nothing to report yet" in screen.err
    assert list(tmp_path.iterdir()) == []
    assert cli("report", tmp_path / "no").code == 2


@pytest.fixture
def quick_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No seconds of matrix products."""
    from plm_scaling.training import machine

    monkeypatch.setattr(machine, "matmul_peak", lambda dtype: 90e9)


def test_doctor_in_every_format(cli: Cli, quick_machine: None) -> None:
    human, as_json, as_csv = (cli("doctor", "--format", f) for f in ("human", "json", "csv"))
    assert human.code == as_json.code == as_csv.code == 0
    assert "90 GFLOP/s fp32, 90 bf16" in human.out
    assert "agrees with fair-esm's" in human.out
    value = json.loads(as_json.out)
    assert value["alphabet_agrees"]
    assert value["versions"]["torch"] in human.out
    rows = {row["what"]: row["found"] for row in csv.DictReader(io.StringIO(as_csv.out))}
    assert rows["torch"] == value["versions"]["torch"]
    assert rows["python"] == value["python"]


def test_a_dry_demo_says_what_it_would_do(cli: Cli, tmp_path: Path) -> None:
    screen = cli("demo", "--dry-run", "--minutes", "2.5", "-o", tmp_path / "demo")
    assert (screen.code, screen.out) == (0, "")
    assert screen.err == (
        f"would simulate a corpus, train about 2.5 minutes and write {tmp_path / 'demo' / 'report.html'}\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_demo_hands_on_its_options_and_tells_its_stages(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def demo(out: Path, *, on_stage: Callable[[str], None], on_event: object, **options: Any) -> Path:
        asked.update(options, out=out)
        on_stage("simulating")
        assert callable(on_event)
        return out / "report.html"

    monkeypatch.setattr(api, "demo", demo)
    screen = cli("demo", "-o", tmp_path, "--minutes", "0.5", "--seed", "3", "--workers", "2")
    assert asked == {"out": tmp_path, "minutes": 0.5, "seed": 3, "workers": 2}
    assert (screen.code, screen.out) == (0, f"{tmp_path / 'report.html'}\n")
    assert "- simulating" in screen.err
    assert f"next: open {tmp_path / 'report.html'}" in screen.err


@pytest.mark.slow
def test_a_demo_is_the_whole_path(cli: Cli, tmp_path: Path, trainer: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but training itself, which is a stand-in; on a corpus a fortieth of the size, with few draws."""
    from plm_scaling.sweeps import forecast

    simulate = api.simulate
    monkeypatch.setattr(api, "simulate", lambda out, *, seed: simulate(out, residues=200_000, seed=seed))
    monkeypatch.setattr(api, "fit", partial(api.fit, draws=50))
    monkeypatch.setattr(forecast, "measure_steps", lambda shapes, *, workers: dict.fromkeys(shapes, 2e-3))
    screen = cli("demo", "-o", tmp_path / "demo", "--minutes", "1", "--workers", "2")
    assert screen.code == 0, screen.err
    assert screen.out == f"{tmp_path / 'demo' / 'report.html'}\n"
    stages = [line.removeprefix("- ") for line in screen.err.splitlines() if line.startswith("- ")]
    assert [stage.split()[0] for stage in stages] == [
        "simulating",
        "preparing",
        "timing",
        "training",
        "fitting",
        "writing",
    ]
    left = {path.name for path in (tmp_path / "demo").iterdir()}
    assert left >= {"fasta", "corpus", "sweep.toml", "plan.json", "runs", "fit-clm.json", "fit-mlm.json"}
    assert left >= {"transfer.json", "report.html"}
    plan = SweepPlan.read(tmp_path / "demo" / "plan.json")
    assert 0 < plan.scale < 1
    assert f"budgets x {plan.scale:.2f}" in stages[3]
    assert len(list((tmp_path / "demo" / "runs").glob("*/record.json"))) == len(plan.runs)


def test_a_demo_of_no_time_is_a_usage_error(cli: Cli, tmp_path: Path) -> None:
    assert cli("demo", "-o", tmp_path / "demo", "--minutes", "0").code == 2
    assert not (tmp_path / "demo").exists()


def test_a_run_is_exported(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from plm_scaling.models.export import Exported

    def export(source: Path, out: Path, **choices: Any) -> Exported:
        assert (source, choices) == (tmp_path, {"overwrite": False, "memorisation": None, "without_memorisation": True})
        return Exported(out, "EsmForMaskedLM", 1234, "run abc", warnings=("gives something away",))

    monkeypatch.setattr(api, "export", export)
    screen = cli("export", tmp_path, "-o", tmp_path / "made", "--without-memorisation", "--format", "json")
    assert screen.code == 0
    assert json.loads(screen.out) == [
        {"folder": str(tmp_path / "made"), "loads_as": "EsmForMaskedLM", "parameters": 1234, "weights": "run abc"}
    ]
    assert "gives something away" in screen.err
