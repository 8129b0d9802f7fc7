from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import RunOrder, StatusFile
from plm_scaling.corpus.reader import Corpus
from plm_scaling.sweeps.plan import plan_sweep
from plm_scaling.sweeps.plan_records import GridArm, SweepPlan, SweepSpec, TransferArm
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
@pytest.mark.parametrize(
    "content", [b"{", b"", b"[]", b"null", b"\xff\xfe\x00garbage", b'{"schema_version": 99}', None]
)
def test_a_damaged_file_is_a_state_of_its_own(
    plan: SweepPlan, tmp_path: Path, name: str, content: bytes | None
) -> None:
    folder = begin(tmp_path, plan, 0, status="running")
    if content is None:
        (folder.path / name).unlink(missing_ok=True)
        (folder.path / name / "not a file").mkdir(parents=True)
    else:
        (folder.path / name).write_bytes(content)
    found = sweep_status(tmp_path, plan)
    if content is None:  # a folder of that name is no file: as if there were none
        assert found[0].status == "interrupted"
        return
    assert (found[0].status, found[1].status) == ("damaged", "planned")
    assert name in found[0].reason
    assert "\n" not in found[0].reason
    without_plan = sweep_status(tmp_path)
    assert [line.status for line in without_plan] == ["damaged"]


@pytest.mark.parametrize("content", [b'{"status": "runn', b"", b"\x00" * 100])
def test_a_status_cut_short_is_named_and_survived(plan: SweepPlan, tmp_path: Path, content: bytes) -> None:
    folder = begin(tmp_path, plan, 0, status="running")
    folder.attempts()[-1].status_path.write_bytes(content)
    line = sweep_status(tmp_path, plan)[0]
    assert line.status == "interrupted"
    assert "status.json cannot be read" in line.reason


def test_garbage_in_metrics_and_logs_is_survived(plan: SweepPlan, tmp_path: Path) -> None:
    folder = begin(tmp_path, plan, 0, status="failed", reason="", D=1000)
    attempt = folder.attempts()[-1]
    good = b'{"step": 5, "D": 2000, "flops": 8000.0}\n'
    attempt.metrics_path.write_bytes(b"\xff\xfe{{{\n" + good + b'["step"]\n{"step": 6, "D": 24')
    attempt.log_path.write_bytes(
        b"x" * 40_000 + b"\n\x1b[31mtorch.OutOfMemoryError: CUDA out of memory\x1b[0m\n  by\x00e\xff\n\n"
    )
    line = sweep_status(tmp_path, plan)[0]
    assert line.last_error == "torch.OutOfMemoryError: CUDA out of memory"
    assert (line.D_done, line.C_exact) == (2000, 8000.0)


def test_a_folder_deleted_while_we_look_is_not_begun(
    plan: SweepPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begin(tmp_path, plan, 0, status="running")
    removed = []

    def read(self: RunFolder) -> RunOrder:
        shutil.rmtree(self.path)
        removed.append(self.path)
        return RunOrder.read(self.order_path)

    monkeypatch.setattr(RunFolder, "order", read)
    assert [line.status for line in sweep_status(tmp_path, plan)] == ["planned", "planned"]
    assert removed == [folder.path]


def test_a_run_tells_what_it_waits_for(tmp_path: Path, corpus: Corpus) -> None:
    arm = TransferArm(size="1x16", D=2e4, D_source=3e4, overlap="shared")
    plan = plan_sweep(SweepSpec(name="t", corpus="c", context=64, transfer=(arm,)), corpus)
    lines = {line.roles: line for line in sweep_status(tmp_path, plan)}
    assert lines["transfer_target"].reason == f"waits for {lines['transfer_source'].run_id} (planned)"
    assert lines["transfer_source"].reason == ""


def test_work_done_is_counted_from_all_attempts(plan: SweepPlan, tmp_path: Path) -> None:
    folder = begin(tmp_path, plan, 0, status="interrupted", D=8_000, seconds=30.0, mfu=0.25)
    StatusFile(status="running", D=5_000, seconds=10.0, mfu=0.5).write(folder.new_attempt().status_path)
    line = sweep_status(tmp_path, plan)[0]
    assert (line.device_s, line.attempts, line.mfu) == (40.0, 2, 0.5)
    assert line.D_done == 5_000
    assert line.C_exact == pytest.approx(plan.runs[0].C_exact * 5_000 / 20_000)  # no line of metrics: as planned
