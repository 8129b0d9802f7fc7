from __future__ import annotations

from pathlib import Path

import pytest

from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import RunOrder, StatusFile
from plm_scaling.corpus.reader import Corpus
from plm_scaling.sweeps.plan import plan_sweep
from plm_scaling.sweeps.plan_records import GridArm, SweepPlan, SweepSpec
from plm_scaling.sweeps.reconcile import run_plan
from plm_scaling.sweeps.status import sweep_status


@pytest.fixture
def plan(corpus: Corpus) -> SweepPlan:
    grid = GridArm(sizes=("1x16", "1x24"), D=(2e4,))
    return plan_sweep(SweepSpec(name="t", corpus="c", context=64, objectives=("clm",), grid=(grid,)), corpus)


def begin(runs: Path, plan: SweepPlan, number: int, **status: object) -> RunFolder:
    run = plan.runs[number]
    folder = RunFolder(runs / run.run_id)
    RunOrder(config=run.config, roles=run.roles, corpus=plan.corpus).write(folder.order_path)
    StatusFile.model_validate({"n_steps": 100, **status}).write(folder.new_attempt().status_path)
    return folder


def test_runs_not_begun_are_lines_too(plan: SweepPlan, tmp_path: Path) -> None:
    lines = sweep_status(tmp_path / "runs", plan)
    assert [(line.run_id, line.status) for line in lines] == [(run.run_id, "planned") for run in plan.runs]
    assert {line.shape for line in lines} == {"1x16", "1x24"}
    assert sweep_status(tmp_path / "runs") == []


def test_a_running_run_tells_speed_and_time_left(plan: SweepPlan, tmp_path: Path) -> None:
    folder = begin(tmp_path, plan, 1, status="running", step=25, D=5_000, loss=2.5, tokens_per_s=1_000.0)
    with folder.locked():
        line = sweep_status(tmp_path, plan)[1]
    assert (line.status, line.step, line.n_steps, line.loss, line.attempts) == ("running", 25, 100, 2.5, 1)
    assert line.seconds_left == pytest.approx(15.0)  # 20,000 tokens planned
    assert line.reason == ""


def test_a_running_run_without_a_speed_yet(plan: SweepPlan, tmp_path: Path) -> None:
    with begin(tmp_path, plan, 0, status="running").locked():
        assert sweep_status(tmp_path, plan)[0].seconds_left is None


@pytest.mark.parametrize("status", ["failed", "diverged", "interrupted"])
def test_a_stopped_run_tells_why(plan: SweepPlan, tmp_path: Path, status: str) -> None:
    begin(tmp_path, plan, 0, status=status, step=3, reason="the disk is full")
    line = sweep_status(tmp_path, plan)[0]
    assert (line.status, line.reason, line.seconds_left) == (status, "the disk is full", None)


def test_a_run_whose_process_is_gone_is_interrupted(plan: SweepPlan, tmp_path: Path) -> None:
    begin(tmp_path, plan, 0, status="running", step=3)
    line = sweep_status(tmp_path, plan)[0]
    assert (line.status, line.reason) == ("interrupted", "the process is gone")


def test_complete_runs_tell_their_validation_loss(plan: SweepPlan, tmp_path: Path, trainer: str) -> None:
    assert run_plan(plan, tmp_path / "plan.json", tmp_path / "runs", workers=2).all_complete
    lines = sweep_status(tmp_path / "runs", plan)
    for line in lines:
        record = RunFolder(tmp_path / "runs" / line.run_id).record()
        assert record is not None
        assert line.status == "complete"
        assert line.val_loss == record.validation[0].per_token
        assert line.tokens_per_s == record.tokens_per_s
        assert (line.step, line.n_steps) == (100, 100)


def test_runs_outside_the_plan_come_last(plan: SweepPlan, tmp_path: Path) -> None:
    begin(tmp_path, plan, 0, status="failed")
    short = plan.model_copy(update={"runs": plan.runs[1:]})
    assert [line.run_id for line in sweep_status(tmp_path, short)] == [plan.runs[1].run_id, plan.runs[0].run_id]
    assert [line.roles for line in sweep_status(tmp_path)] == ["grid"]


@pytest.mark.parametrize("name", ["run.json", "record.json"])
def test_a_damaged_folder_is_a_line_with_the_reason(plan: SweepPlan, tmp_path: Path, name: str) -> None:
    folder = begin(tmp_path, plan, 0, status="running")
    (folder.path / name).write_text("{")
    line = sweep_status(tmp_path, plan)[0]
    assert line.status == "failed"
    assert name in line.reason
