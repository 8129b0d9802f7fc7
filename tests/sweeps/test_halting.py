"""A sweep whose larger budgets are paused and decided about: what is halted, what goes on, what is never touched."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from plm_scaling import api
from plm_scaling.core.errors import ConfigError
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.corpus.reader import Corpus
from plm_scaling.execution.inline import InlineExecutor
from plm_scaling.sweeps.halting import pausing_waves
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


def halting(plan: Path, **options: bool) -> SweepOutcome:
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


def test_a_dry_run_and_options_that_contradict(plan_path: Path) -> None:
    outcome = halting(plan_path, dry_run=True)
    assert list(outcome.started.values()).count("not begun; up to 50%") == 12
    assert [path.name for path in (plan_path.parent / "runs").iterdir()] == ["law"]
    with pytest.raises(ConfigError, match="do not go together"):
        halting(plan_path, resume_halted=True)
    with pytest.raises(ConfigError, match="cannot be paused at"):
        api.run(plan_path, executor=InlineExecutor(), stop_dominated=True, pause_share=0.1)


def test_only_runs_of_a_law_in_large_budgets_are_paused(corpus: Corpus, planned: SweepPlan) -> None:
    waves = pausing_waves(planned)
    assert [wave.C for wave in waves] == pytest.approx(BUDGETS[2:], rel=0.05)
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
