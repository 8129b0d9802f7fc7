"""A sweep whose larger budgets are paused and decided about: what is halted, what goes on, what is never touched."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plm_scaling import api
from plm_scaling.core.errors import ConfigError
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.corpus.reader import Corpus
from plm_scaling.execution.inline import InlineExecutor
from plm_scaling.laws.completion import LEAST_SHARE
from plm_scaling.sweeps.halting import LEAST_PAUSE, pausing_waves
from plm_scaling.sweeps.plan import plan_sweep
from plm_scaling.sweeps.plan_records import GridArm, IsoflopArm, SweepPlan, SweepSpec, TransferArm, WsdArm
from plm_scaling.sweeps.reconcile import SweepOutcome

SIZES = ("1x16", "1x24", "1x32", "1x48", "1x64", "1x96")
BUDGETS = (1e9, 2e9, 4e9, 8e9)
SPEC = SweepSpec(
    name="t",
    corpus="c",
    context=64,
    objectives=("clm",),
    currency="C_6nd",
    validation_tokens=1000,
    isoflop=tuple(IsoflopArm(C=C, sizes=SIZES) for C in BUDGETS),
)


@pytest.fixture(scope="module")
def planned(corpus: Corpus) -> SweepPlan:
    return plan_sweep(SPEC, corpus)


@pytest.fixture
def plan_path(planned: SweepPlan, tmp_path: Path, trainer: str) -> Path:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "law").touch()
    return planned.model_copy(update={"corpus": os.path.relpath(planned.corpus, tmp_path)}).write(
        tmp_path / "plan.json"
    )


def halting(plan: Path, **options: Any) -> SweepOutcome:
    return api.run(plan, device="cpu", executor=InlineExecutor(), stop_dominated=True, **options)


def test_far_runs_are_halted_and_the_minima_are_those_of_the_law(plan_path: Path, planned: SweepPlan) -> None:
    outcome = halting(plan_path)
    runs = plan_path.parent / "runs"
    attempts = {run.run_id: len(RunFolder(runs / run.run_id).attempts()) for run in planned.runs}
    larger = {run_id for wave in pausing_waves(planned) for run_id in wave.run_ids}
    assert len(larger) == 12
    assert (outcome.all_complete, outcome.exit_code) == (True, 0)
    assert set(outcome.halted) <= larger
    assert 4 <= len(outcome.halted) <= 8
    assert attempts == {i: 2 if i in larger - set(outcome.halted) else 1 for i in attempts}

    report, by_id = outcome.halting, {run.run_id: run for run in planned.runs}
    assert report is not None
    assert {v.run_id for v in report.verdicts if v.halt} == set(outcome.halted)
    assert report.n_halted == len(outcome.halted)
    assert report.C_saved == pytest.approx(0.5 * sum(by_id[i].C_exact for i in outcome.halted), rel=0.02)
    assert [line.n_halted for line in report.optima][:2] == [0, 0]
    for line in report.optima:
        assert line.N_opt is not None
        assert line.N_opt.low <= 18e3 * math.sqrt(line.C / 2e9) <= line.N_opt.high
    for run_id in outcome.halted:  # none beside the minimum
        config = by_id[run_id].config
        assert abs(math.log(config.N / 18e3 / math.sqrt(config.C_6nd / 2e9))) > 0.5
        halt = RunFolder(runs / run_id).halt()
        assert halt is not None
        assert halt.loss_low < halt.loss < halt.loss_high
        assert halt.effect <= 0.1 * halt.half_width
        assert halt.share == 0.5
    # Those that went on are learned from when the next budget is decided.
    went_on = len(set(pausing_waves(planned)[0].run_ids) - set(outcome.halted))
    assert {halt.n_known for halt in api.halted_runs(runs).values()} == {12, 12 + went_on}
    found = {line.run_id: line for line in api.status(runs)}
    assert {i for i, line in found.items() if line.status == "halted"} == set(outcome.halted)
    assert all("half-width" in found[i].reason for i in outcome.halted)
    assert api.status(runs).all_complete
    assert len(api.collect(runs)) == 24 - len(outcome.halted)
    assert len(api.completed_runs(runs).completions) == len(outcome.halted)

    again = halting(plan_path)
    assert again.started == {}
    assert again.halting is not None
    assert again.halting.optima == report.optima
    left = api.run(plan_path, executor=InlineExecutor())
    assert (left.started, set(left.halted)) == ({}, set(outcome.halted))
    whole = api.run(plan_path, executor=InlineExecutor(), resume_halted=True)
    assert (set(whole.started), whole.n_complete) == (set(outcome.halted), 24)
    assert api.halted_runs(runs) == {}


def test_nothing_is_decided_while_a_run_to_learn_from_is_under_way(plan_path: Path, planned: SweepPlan) -> None:
    runs = plan_path.parent / "runs"
    stopped = runs / min(planned.runs, key=lambda run: run.C_exact).run_id
    stopped.mkdir()
    (stopped / "behave").write_text("stop")
    outcome = halting(plan_path)
    assert outcome.exit_code == 3
    assert (outcome.halted, outcome.incomplete[stopped.name]) == ({}, "SIGTERM")
    assert list(outcome.incomplete.values()).count("paused") == 12
    # Whoever decides against it has the paused ones go on.
    assert api.run(plan_path, executor=InlineExecutor()).n_complete == 24


@pytest.mark.parametrize("how", ["stopped", "running elsewhere"])
def test_nothing_is_decided_before_every_run_stands_at_its_pause(plan_path: Path, planned: SweepPlan, how: str) -> None:
    folder = RunFolder(plan_path.parent / "runs" / pausing_waves(planned)[0].run_ids[2])
    folder.path.mkdir()
    with contextlib.ExitStack() as held:
        if how == "stopped":
            (folder.path / "behave").write_text("stop")
        else:
            held.enter_context(folder.locked())
        first = halting(plan_path)
    assert (first.halted, first.n_complete, first.exit_code) == ({}, 12, 3)
    assert list(first.incomplete.values()).count("paused") == 11
    assert first.halting is not None
    assert first.halting.verdicts == ()
    [remark] = first.halting.remarks
    state = "interrupted" if how == "stopped" else "running"
    assert remark.endswith(f"get on (call again): {folder.path.name}: {state}")
    second = halting(plan_path)
    assert second.all_complete
    assert second.halting is not None
    assert second.halting.remarks == ()
    assert folder.path.name in {verdict.run_id for verdict in second.halting.verdicts}
    assert len(second.halting.verdicts) == 12
    assert second.halted


@pytest.mark.parametrize(("word", "roles"), [("fail", ()), ("diverge", ()), ("fail", ("replicate",))])
def test_a_budget_with_a_failed_run_goes_on_whole(
    plan_path: Path, planned: SweepPlan, word: str, roles: tuple[str, ...]
) -> None:
    first, second = pausing_waves(planned)
    lost = first.run_ids[0]
    runs = tuple(
        run.model_copy(update={"roles": (*run.roles, *roles)}) if run.run_id == lost else run for run in planned.runs
    )
    plan = SweepPlan.read(plan_path).model_copy(update={"runs": runs})
    plan.write(plan_path)
    assert len(pausing_waves(plan)[0].run_ids) == 5 if roles else 6
    (plan_path.parent / "runs" / lost).mkdir()
    (plan_path.parent / "runs" / lost / "behave").write_text(word)
    outcome = halting(plan_path)
    assert set(outcome.failed) == {lost}
    assert outcome.n_complete + len(outcome.halted) == 23
    assert outcome.halted.keys() <= set(second.run_ids)
    assert outcome.halted
    assert outcome.halting is not None
    reasons = {verdict.run_id: verdict.reason for verdict in outcome.halting.verdicts}
    beside = [run_id for run_id in first.run_ids if run_id != lost]
    why = f"the minimum of its budget may lie elsewhere with what it lacks ({lost}: failed)"
    assert {reasons[run_id] for run_id in beside} == {why}
    assert reasons.keys() == {*beside, *second.run_ids}


def test_a_budget_with_a_run_whose_end_is_not_predicted_goes_on_whole(
    plan_path: Path, planned: SweepPlan, trainer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pausing_waves(planned)
    module, silent = importlib.import_module(trainer), first.run_ids[0]
    whole = module.lines_of
    config = next(run.config for run in planned.runs if run.run_id == silent)
    monkeypatch.setattr(
        module, "lines_of", lambda told, last: iter(()) if told["D"] == config.D and last < 100 else whole(told, last)
    )
    outcome = halting(plan_path)
    assert outcome.all_complete
    assert outcome.halted
    assert outcome.halted.keys() <= set(second.run_ids)
    assert outcome.halting is not None
    reasons = {verdict.run_id: verdict.reason for verdict in outcome.halting.verdicts}
    assert reasons[silent] == "no losses on its way are known"
    assert {reasons[run_id] for run_id in first.run_ids[1:]} == {
        f"the minimum of its budget may lie elsewhere with what it lacks ({silent}: no predicted end)"
    }


def test_a_law_that_cannot_be_fitted_halts_nothing_and_says_why(plan_path: Path, planned: SweepPlan) -> None:
    odd = min(planned.runs, key=lambda run: run.C_exact)
    config = odd.config.model_copy(update={"dropout": 0.1})
    other = odd.model_copy(update={"config": config, "run_id": config.run_id})
    runs = tuple(other if run is odd else run for run in planned.runs)
    SweepPlan.read(plan_path).model_copy(update={"runs": runs}).write(plan_path)
    outcome = halting(plan_path)
    assert (outcome.n_complete, outcome.halted) == (24, {})
    assert outcome.halting is not None
    assert len(outcome.halting.verdicts) == 12
    assert all("mix values of regularisation" in verdict.reason for verdict in outcome.halting.verdicts)
    [remark] = outcome.halting.remarks
    assert "mix values of regularisation" in remark
    assert remark.endswith("they are not on one law: each has losses of its own at equal N and D")


def test_at_the_least_share_of_a_pause_enough_is_logged(
    plan_path: Path, planned: SweepPlan, trainer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(trainer)
    whole = module.lines_of

    def short(config: dict[str, Any], last: int) -> Iterator[str]:
        """The last line well ahead of the pause, and steps of fewer tokens than planned."""
        yield from whole({**config, "D": 0.95 * config["D"]}, last - 2 if last < 100 else last)

    monkeypatch.setattr(module, "lines_of", short)
    outcome = halting(plan_path, pause_share=LEAST_PAUSE)
    assert outcome.halting is not None
    assert len(outcome.halting.verdicts) == 12
    for verdict in outcome.halting.verdicts:
        assert verdict.completion is not None
        assert LEAST_SHARE < verdict.completion.share < 0.27


def test_a_dry_run_and_options_that_contradict(plan_path: Path) -> None:
    outcome = halting(plan_path, dry_run=True)
    assert list(outcome.started.values()).count("not begun; up to 50%") == 12
    assert [path.name for path in (plan_path.parent / "runs").iterdir()] == ["law"]
    with pytest.raises(ConfigError, match="do not go together"):
        halting(plan_path, resume_halted=True)
    for share in (0.1, LEAST_SHARE, 0.299, 1.0):
        with pytest.raises(ConfigError, match="cannot be paused at"):
            halting(plan_path, pause_share=share)


def test_only_runs_of_a_law_in_large_budgets_are_paused(corpus: Corpus, planned: SweepPlan) -> None:
    waves = pausing_waves(planned)
    assert [wave.C for wave in waves] == pytest.approx(BUDGETS[2:], rel=0.05)
    assert all(wave.budget == wave.run_ids for wave in waves)
    spec = SPEC.model_copy(
        update={
            "objectives": ("clm", "mlm"),
            "isoflop": (*SPEC.isoflop, IsoflopArm(C=1.6e10, sizes=SIZES, seeds=(0, 1), objectives=("clm",))),
            "grid": (GridArm(sizes=SIZES[:2], D=(2e4, 3e5), objectives=("clm",)),),
            "transfer": (TransferArm(size="1x48", D=2e4, D_source=3e4),),
            "wsd": (WsdArm(size="1x16", D=(4e4, 8e4), warmup_tokens=2000),),
        }
    )
    plan = plan_sweep(spec, corpus)
    role = {run.run_id: run.roles for run in plan.runs}
    waves = pausing_waves(plan)
    assert [(wave.turn, wave.objective) for wave in waves] == [(0, "clm"), (0, "mlm"), (1, "clm"), (1, "mlm")]
    assert {role[run_id] for wave in waves for run_id in wave.run_ids} == {("isoflop",)}
    assert sum(len(wave.run_ids) for wave in waves) == 24
