from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plm_scaling.cli.cmd_run import command
from plm_scaling.laws.law_fit import Interval
from plm_scaling.sweeps.halting import LEAST_PAUSE, PAUSE_SHARE
from plm_scaling.sweeps.halting_report import HaltingReport, Optimum, Verdict
from plm_scaling.sweeps.reconcile import RunOutcome, SweepOutcome

Cli = Callable[..., Any]
WriteSpec = Callable[[str], Path]
FilesOf = Callable[[Path], dict[str, tuple[int, int]]]

PAIR = '[[transfer]]\nsize = "1x16"\nD = 2e4\nD_source = 3e4\noverlap = "shared"\n'
UNLUCKY = '[[grid]]\nsizes = ["1x16"]\nD = [2e4]\nobjectives = ["clm"]\nseeds = [0, 13]\n'

STATUS = """\
run  roles           objective  shape    D  status    progress   loss  tokens/s  MFU  ETA  reason
 ID  grid,replicate  clm         1x16  20k  complete     100 %   3.11      123k  -    -
 ID  grid,replicate  clm         1x16  20k  failed        40 %    2.5         -  -    -    unlucky
"""


@pytest.fixture
def pair(cli: Cli, write_spec: WriteSpec, trainer: None) -> Path:
    """Plan of a source, the run that starts from it, and its scratch partner."""
    spec = write_spec(PAIR)
    assert cli("plan", spec).code == 0
    return spec.parent / "plan.json"


@pytest.fixture
def unlucky(cli: Cli, write_spec: WriteSpec, trainer: None) -> Path:
    """Plan of two runs, one of which fails."""
    spec = write_spec(UNLUCKY)
    assert cli("plan", spec).code == 0
    return spec.parent / "plan.json"


def by_role(plan: Path) -> dict[str, str]:
    return {role: run["run_id"] for run in json.loads(plan.read_text())["runs"] for role in run["roles"]}


def states(screen: Any) -> dict[str, str]:
    return {row["run"]: row["state"] for row in json.loads(screen.out)}


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(cli: Cli, pair: Path) -> None:
    screen = cli("run", pair, "--dry-run")
    assert screen.code == 0
    assert screen.out.count("not begun") == 3
    assert not (pair.parent / "runs").exists()


def test_a_sweep_is_trained_once(cli: Cli, pair: Path, files_of: FilesOf) -> None:
    first = cli("run", pair, "--workers", "2")
    assert first.code == 0
    assert first.out.count("complete") == 3
    assert "3 of 3 runs complete" in first.err
    assert "[3/3]" in first.err
    runs = pair.parent / "runs"
    assert f"next: plm-scaling fit {runs}" in first.err
    before = files_of(runs)
    again = cli("run", pair)
    assert again.code == 0
    assert again.out.count("already complete") == 3
    assert "[1/" not in again.err
    assert files_of(runs) == before


def test_a_target_brings_its_source_along(cli: Cli, pair: Path, tmp_path: Path) -> None:
    ids = by_role(pair)
    target, source = ids["transfer_target"], ids["transfer_source"]
    screen = cli("run", pair, "-o", tmp_path / "elsewhere", "--only", target[:6], "--format", "json")
    assert screen.code == 0
    assert states(screen) == {source: "complete", target: "complete"}
    assert {path.name for path in (tmp_path / "elsewhere").iterdir()} == {source, target}
    assert not (pair.parent / "runs").exists()


def test_an_id_the_plan_does_not_have_is_a_usage_error(cli: Cli, pair: Path) -> None:
    screen = cli("run", pair, "--only", "zzz")
    assert screen.code == 2
    assert "the plan has no run 'zzz'" in screen.err


def test_a_run_that_fails_stops_no_other_and_leaves_exit_code_3(cli: Cli, unlucky: Path) -> None:
    screen = cli("run", unlucky, "--format", "json")
    assert screen.code == 3
    assert sorted(states(screen).values()) == ["complete", "failed"]
    (reason,) = (row["reason"] for row in json.loads(screen.out) if row["state"] == "failed")
    assert "unlucky" in reason
    assert "1 of 2 runs complete" in screen.err
    assert "--retry-failed" in screen.err


def test_a_failed_run_starts_again_only_if_asked(cli: Cli, unlucky: Path, files_of: FilesOf) -> None:
    runs = unlucky.parent / "runs"
    assert cli("run", unlucky).code == 3
    (runs / "mended").touch()
    before = files_of(runs)
    assert cli("run", unlucky).code == 3
    assert files_of(runs) == before
    assert cli("run", unlucky, "--retry-failed").code == 0
    assert cli("status", runs).code == 0


def test_what_was_halted_and_what_that_saved_is_told(cli: Cli, pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optima = tuple(
        Optimum("clm", C, 6, halted, Interval(value=2e6, low=1e6, high=3e6) if halted else None)
        for C, halted in ((1e15, 0), (4e15, 2))
    )
    verdicts = tuple(Verdict(run_id, False, "it stands next to the minimum") for run_id in ("c", "d", "e"))
    remarks = ("mlm: no complete run",)
    report = HaltingReport(24, 2, 4e16, 1e16, 7200.0, optima, (*verdicts, Verdict("b", True, "far off")), remarks)
    lines = (RunOutcome("a", "complete", ""), RunOutcome("b", "halted", "halted: at 50%: its end moves ln N_opt by 0"))
    given: dict[str, Any] = {}

    def run(*args: object, **options: object) -> SweepOutcome:
        given.update(options)
        return SweepOutcome(lines, halting=report)

    monkeypatch.setattr("plm_scaling.api.run", run)
    screen = cli("run", pair, "--stop-dominated", "--pause-share", "0.4", "--halt-tolerance", "0.2")
    assert (given["stop_dominated"], given["pause_share"], given["halt_tolerance"]) == (True, 0.4, 0.2)
    assert screen.code == 0
    assert "at 50%: its end moves" in screen.out
    assert "1 of 2 runs complete" in screen.err
    assert "2 of 24 runs halted; saved 1e+16 of 4e+16 FLOPs (25.0%), 2.0 h of devices" in screen.err
    assert "\n3 not halted: c, d, e: it stands next to the minimum\n" in screen.err
    assert "far off" not in screen.err
    assert "mlm: no complete run" in screen.err
    assert "--partial" in screen.err.splitlines()[-1]
    table = [line.split() for line in screen.out.splitlines()]
    assert ["clm", "1e+15", "6", "0", "-", "-"] in table
    assert ["clm", "4e+15", "6", "2", "2M", "1M", "to", "3M"] in table


@pytest.mark.parametrize("option", ["--pause-share", "--halt-tolerance"])
def test_what_only_halting_heeds_is_refused_without_it(cli: Cli, pair: Path, option: str) -> None:
    screen = cli("run", pair, option, "0.5", "--dry-run")
    assert screen.code == 2
    assert f"{option} goes with --stop-dominated, which is missing" in screen.err
    assert not (pair.parent / "runs").exists()
    assert cli("run", pair, option, "0.5", "--stop-dominated", "--dry-run").code == 0


def test_a_pause_at_which_nothing_could_be_decided_is_refused(cli: Cli, pair: Path) -> None:
    for share in ("0.25", "0.29", "1"):
        screen = cli("run", pair, "--stop-dominated", "--pause-share", share, "--dry-run")
        assert screen.code == 2
        assert "0.3<=x<1" in screen.err
    option = next(param for param in command.params if param.name == "pause_share")
    assert option.type.to_info_dict()["min"] == LEAST_PAUSE
    assert option.default == PAUSE_SHARE


def test_status_tells_every_run_and_the_reason(cli: Cli, unlucky: Path, masked: Callable[[str], str]) -> None:
    runs = unlucky.parent / "runs"
    cli("run", unlucky, "--workers", "1")
    screen = cli("status", runs)
    lines = masked(screen.out).splitlines()
    assert screen.code == 3
    assert [line.split() for line in sorted(lines[1:])] == [line.split() for line in STATUS.splitlines()[1:]]
    assert lines[0].split() == STATUS.splitlines()[0].split()
    assert screen.err.startswith("1 complete, 1 failed; ")


def test_json_of_status_keeps_its_columns_and_has_totals_on_request(cli: Cli, unlucky: Path) -> None:
    runs = unlucky.parent / "runs"
    cli("run", unlucky, "--workers", "1")
    rows = json.loads(cli("status", runs, "--format", "json").out)
    first = ["run", "roles", "objective", "shape", "D", "status", "progress", "loss", "tokens/s", "reason"]
    assert list(rows[0])[:10] == first
    screen = cli("status", runs, "--totals", "--isoflop", "--format", "json", "--usd-per-hour", "3600")
    value = json.loads(screen.out)
    assert screen.code == 3
    assert value["runs"] == rows
    assert value["isoflop"] == []
    totals = value["totals"]
    assert (totals["n_runs"], totals["counts"]["complete"], totals["counts"]["failed"]) == (2, 1, 1)
    assert totals["usd"] == pytest.approx(totals["device_s"])
    assert totals["D"] == sum(row["D_done"] for row in rows) > 0
    table = cli("status", runs, "--totals", "--format", "csv").out.splitlines()
    assert len(table) == 2
    assert "1 complete, 1 failed; " in cli("status", runs, "--totals").out


def test_the_early_isoflop_view_marks_the_least_loss(cli: Cli, study: Path) -> None:
    rows = json.loads(cli("status", study / "runs", "--isoflop", "--format", "json").out)
    budgets = [[row for row in rows if row["C"] == C] for C in dict.fromkeys(row["C"] for row in rows)]
    assert [len(budget) for budget in budgets] == [3, 4]
    for budget in budgets:
        (best,) = (row for row in budget if row["best"])
        assert best["loss"] == min(row["loss"] for row in budget)


def test_watch_ends_with_the_codes_of_status(cli: Cli, unlucky: Path) -> None:
    assert cli("run", unlucky, "--workers", "1").code == 3
    screen = cli("watch", unlucky.parent / "runs")
    assert screen.code == 3
    assert screen.out.startswith("1 complete, 1 failed; ")
    (unlucky.parent / "runs" / "mended").touch()
    assert cli("run", unlucky, "--retry-failed").code == 0
    done = cli("watch", unlucky.parent / "runs")
    assert (done.code, done.out.count("\n")) == (0, 1)


def test_watch_on_a_terminal_shows_what_matters_first(
    cli: Cli, unlucky: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from plm_scaling import api
    from plm_scaling.cli import cmd_watch

    cli("run", unlucky, "--workers", "1")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("LINES", "6")  # room for one row
    capsys.readouterr()
    last = cmd_watch._live(api.watch(unlucky.parent / "runs"))
    shown = capsys.readouterr().out
    assert last.is_settled
    assert "unlucky" in shown
    assert "... and 1 more" in shown


def test_status_without_runs_shows_the_plan(cli: Cli, pair: Path, tmp_path: Path) -> None:
    (pair.parent / "runs").mkdir()
    beside = cli("status", pair.parent / "runs", "--format", "json")
    assert beside.code == 3
    assert [row["status"] for row in json.loads(beside.out)] == ["planned"] * 3
    (tmp_path / "empty").mkdir()
    named = cli("status", tmp_path / "empty", "--plan", pair, "--format", "csv")
    assert named.out.count(",planned,") == 3
    nothing = cli("status", tmp_path / "empty")
    assert "nothing" in nothing.out


def test_status_needs_a_folder(cli: Cli, tmp_path: Path) -> None:
    assert cli("status", tmp_path / "no").code == 2


def test_a_plan_that_is_missing_or_damaged_is_named(cli: Cli, tmp_path: Path) -> None:
    assert cli("run", tmp_path / "plan.json").code == 1
    (tmp_path / "plan.json").write_text('{"schema_version": 1, "na')
    screen = cli("run", tmp_path / "plan.json")
    assert screen.code == 1
    assert "not a readable SweepPlan" in screen.err


def test_a_corpus_that_changed_is_refused(cli: Cli, pair: Path, fasta: Path, tmp_path: Path) -> None:
    assert cli("prep", fasta / "known.fasta", "-o", tmp_path / "other").code == 0
    text = json.loads(pair.read_text())
    pair.write_text(json.dumps(text | {"corpus": str(tmp_path / "other")}))
    screen = cli("run", pair)
    assert screen.code == 1
    assert "not the corpus the plan was made for" in screen.err
    assert not (pair.parent / "runs").exists()


def test_interrupted_by_the_user(cli: Cli, pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from plm_scaling import api

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "run", interrupted)
    screen = cli("run", pair)
    assert screen.code == 130
    assert "interrupted" in screen.err
