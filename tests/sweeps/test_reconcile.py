from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from plm_scaling.core.errors import CorpusError, PlanError, RunError, TakenOver
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import StatusFile
from plm_scaling.corpus.batches import Batches
from plm_scaling.corpus.reader import Corpus
from plm_scaling.execution.inline import InlineExecutor
from plm_scaling.execution.tasks import EventHandler, Task, TaskEvent, TaskResult
from plm_scaling.sweeps import reconcile
from plm_scaling.sweeps.plan import plan_sweep
from plm_scaling.sweeps.plan_records import GridArm, PlannedRun, SweepPlan, SweepSpec, TransferArm
from plm_scaling.sweeps.reconcile import SweepOutcome, run_plan
from plm_scaling.sweeps.watching import watch_plan

SPEC = SweepSpec(name="test", corpus="c", context=64, objectives=("clm",), validation_tokens=1000)
GRID = GridArm(sizes=("1x16", "1x24", "1x32"), D=(2e4,))
TRANSFER = TransferArm(size="2x16", D=2e4, D_source=3e4)


class Study:
    """A plan on disk and its runs folder."""

    def __init__(self, folder: Path, plan: SweepPlan) -> None:
        self.plan = plan.model_copy(update={"corpus": os.path.relpath(plan.corpus, folder)})
        self.plan_path = self.plan.write(folder / "plan.json")
        self.runs = folder / "runs"
        self.events: list[TaskEvent] = []

    def run(self, **options: object) -> SweepOutcome:
        options = {"workers": 2, "on_event": self.events.append, **options}
        return run_plan(self.plan, self.plan_path, self.runs, **options)

    def folder(self, run: PlannedRun) -> RunFolder:
        return RunFolder(self.runs / run.run_id)

    def behave(self, run: PlannedRun, words: str) -> None:
        self.folder(run).path.mkdir(parents=True, exist_ok=True)
        (self.folder(run).path / "behave").write_text(words)

    def with_role(self, role: str) -> PlannedRun:
        [run] = [run for run in self.plan.runs if role in run.roles]
        return run

    def started(self) -> list[str]:
        return [event.key for event in self.events if event.kind == "started"]

    def snapshot(self) -> dict[str, tuple[int, bytes]]:
        paths = (path for path in self.runs.rglob("*") if path.is_file())
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


@pytest.fixture
def grid(corpus: Corpus, tmp_path: Path, trainer: str) -> Study:
    return Study(tmp_path, plan_sweep(SPEC.model_copy(update={"grid": (GRID,)}), corpus))


@pytest.fixture
def pair(corpus: Corpus, tmp_path: Path, trainer: str) -> Study:
    """Source, target and scratch partner."""
    return Study(tmp_path, plan_sweep(SPEC.model_copy(update={"transfer": (TRANSFER,)}), corpus))


def test_a_plan_is_trained_and_a_rerun_does_nothing(grid: Study) -> None:
    outcome = grid.run()
    ids = tuple(run.run_id for run in grid.plan.runs)
    assert outcome.complete == ids
    assert (outcome.failed, outcome.incomplete, outcome.skipped) == ({}, {}, {})
    assert (outcome.all_complete, outcome.exit_code, outcome.n_complete) == (True, 0, 3)
    assert set(outcome.started.values()) == {"not begun"}
    before = grid.snapshot()
    grid.events.clear()
    again = grid.run()
    assert again.complete == ids
    assert again.started == {}
    assert set(again.skipped.values()) == {"already complete"}
    assert grid.events == []
    assert grid.snapshot() == before


def test_run_json_says_what_training_needs(grid: Study, corpus: Corpus) -> None:
    grid.run(threads=2, device="cpu", checkpoint_every_s=5.0, workers=1)
    for run in grid.plan.runs:
        order = grid.folder(run).order()
        assert order.config == run.config
        assert order.roles == run.roles == ("grid",)
        assert (order.threads, order.device, order.checkpoint_every_s) == (2, "cpu", 5.0)
        assert not Path(order.corpus).is_absolute()  # a study's folder can be moved
        assert order.corpus_path(grid.folder(run).path) == corpus.path.resolve()


def test_windows_are_packed_before_training_starts(grid: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "TRAINER", "os:no_such_function")  # nothing trains
    grid.run()
    corpus = Corpus.open(grid.plan_path.parent / grid.plan.corpus)
    monkeypatch.setattr("plm_scaling.corpus.packing._write", None)  # packing now would fail
    assert Batches(corpus, grid.plan.runs[0].config).n_steps == grid.plan.runs[0].steps


def test_dry_run_tells_and_touches_nothing(grid: Study, pair: Study) -> None:
    outcome = grid.run(dry_run=True)
    assert outcome.dry_run
    assert outcome.started == {run.run_id: "not begun" for run in grid.plan.runs}
    assert {line.state for line in outcome.lines} == {"planned"}
    assert outcome.exit_code == 3
    assert not grid.runs.exists()
    assert set(pair.run(dry_run=True).started) == {run.run_id for run in pair.plan.runs}


def test_a_failing_run_stops_no_other_and_starts_again_only_if_asked(grid: Study) -> None:
    victim = grid.plan.runs[0]
    grid.behave(victim, "fail")
    outcome = grid.run()
    assert outcome.failed == {victim.run_id: "no such thing"}
    assert outcome.n_complete == 2
    assert outcome.exit_code == 3
    again = grid.run()
    assert again.started == {}
    assert again.failed == {victim.run_id: "failed: no such thing"}
    assert again.skipped[victim.run_id] == "failed: no such thing"
    last = grid.run(retry_failed=True)
    assert last.started == {victim.run_id: "failed: no such thing"}
    assert last.all_complete


def test_a_killed_run_is_resumed_in_the_same_call(grid: Study) -> None:
    victim = grid.plan.runs[1]
    grid.behave(victim, "kill kill ok")
    outcome = grid.run(max_attempts=3)
    assert outcome.all_complete
    assert len(grid.folder(victim).attempts()) == 3
    assert grid.started().count(victim.run_id) == 3
    assert len(grid.started()) == 5  # the others once


def test_a_run_that_is_always_killed_is_given_up(grid: Study) -> None:
    victim = grid.plan.runs[0]
    grid.behave(victim, "kill kill kill")
    outcome = grid.run(max_attempts=2)
    assert set(outcome.incomplete) == {victim.run_id}
    assert "SIGKILL" in outcome.incomplete[victim.run_id]
    assert len(grid.folder(victim).attempts()) == 2
    again = grid.run(max_attempts=2)
    assert again.started == {}
    assert again.failed == {victim.run_id: "killed 2 times in a row at step 40 of 100 (the process is gone)"}
    last = grid.run(max_attempts=2, retry_failed=True)  # killed once more, then resumed
    assert last.all_complete
    assert len(grid.folder(victim).attempts()) == 4


def test_a_run_that_was_told_to_stop_resumes_with_the_next_call(grid: Study) -> None:
    victim = grid.plan.runs[0]
    grid.behave(victim, "stop")
    outcome = grid.run()
    assert outcome.incomplete == {victim.run_id: "SIGTERM"}
    assert {line.state for line in outcome.lines} == {"interrupted", "complete"}
    again = grid.run()
    assert again.started == {victim.run_id: "interrupted at step 40 of 100 (SIGTERM)"}
    assert again.all_complete


def test_a_diverged_run_never_starts_again(grid: Study) -> None:
    victim = grid.plan.runs[0]
    grid.behave(victim, "diverge")
    assert grid.run().failed == {victim.run_id: "the loss is nan"}
    again = grid.run(retry_failed=True)
    assert again.started == {}
    assert "lower lr_factor" in again.failed[victim.run_id]


def test_a_trainer_that_leaves_no_record_is_a_failure(grid: Study) -> None:
    victim = grid.plan.runs[0]
    grid.behave(victim, "vanish")
    assert set(grid.run().failed) == {victim.run_id}


def test_a_trainer_that_cannot_even_start_is_a_failure(grid: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "TRAINER", "no_such_trainer:run_one")
    outcome = grid.run()
    assert all("no_such_trainer" in reason for reason in outcome.failed.values())
    assert len(outcome.failed) == 3
    assert grid.run(dry_run=True).started  # nothing was tried in earnest: the next call may


def test_sources_come_before_their_targets(pair: Study) -> None:
    assert pair.run(workers=3).all_complete  # the stand-in fails where the source has no record yet
    ends = [event.key for event in pair.events if event.kind == "done"]
    started = pair.started()
    source, target = pair.with_role("transfer_source"), pair.with_role("transfer_target")
    assert started.index(target.run_id) > started.index(source.run_id)
    assert target.run_id in ends


def test_targets_of_a_failed_source_are_skipped_with_the_reason(pair: Study) -> None:
    source, target = pair.with_role("transfer_source"), pair.with_role("transfer_target")
    pair.behave(source, "fail")
    outcome = pair.run()
    assert set(outcome.failed) == {source.run_id}
    assert set(outcome.incomplete) == {target.run_id}
    assert source.run_id in outcome.incomplete[target.run_id]
    assert pair.with_role("transfer_scratch").run_id in outcome.complete
    again = pair.run()  # decided before anything starts
    assert again.skipped[target.run_id] == f"needs {source.run_id}: failed: no such thing"
    assert again.started == {}
    assert pair.run(retry_failed=True).all_complete


def test_targets_of_a_killed_source_run_after_its_resume(pair: Study) -> None:
    source = pair.with_role("transfer_source")
    pair.behave(source, "kill")
    assert pair.run().all_complete


def test_only_takes_the_named_runs_and_their_sources(pair: Study) -> None:
    target = pair.with_role("transfer_target")
    outcome = pair.run(only=[target.run_id[:7]])
    assert {line.run_id for line in outcome.lines} == {target.run_id, target.config.init_from}
    assert outcome.all_complete
    assert not pair.folder(pair.with_role("transfer_scratch")).path.exists()


def test_only_of_an_unknown_run_is_an_error(pair: Study) -> None:
    with pytest.raises(PlanError, match="no run 'zzz'"):
        pair.run(only=["zzz"])
    with pytest.raises(PlanError, match="has no run ''"):
        pair.run(only=[""])


def test_a_source_outside_the_plan_must_be_complete(pair: Study) -> None:
    target, source = pair.with_role("transfer_target"), pair.with_role("transfer_source")
    whole = pair.plan
    pair.plan = whole.model_copy(update={"runs": (target,)})
    outcome = pair.run()
    assert outcome.started == {}
    assert "not part of this plan" in outcome.skipped[target.run_id]
    pair.plan = whole.model_copy(update={"runs": (source,)})
    assert pair.run().all_complete
    pair.plan = whole.model_copy(update={"runs": (target,)})
    assert pair.run(only=[target.run_id]).all_complete


def test_a_changed_corpus_is_an_error(grid: Study, make_corpus: Callable[..., Corpus], tmp_path: Path) -> None:
    make_corpus(tmp_path / "other", sequences={"known": 50, "meta": 50}, seed=1)
    grid.plan = grid.plan.model_copy(update={"corpus": "other"})
    with pytest.raises(CorpusError, match="not the corpus the plan was made for"):
        grid.run()
    assert not grid.runs.exists()


def test_a_plan_edited_by_hand_is_an_error(grid: Study) -> None:
    first = grid.plan.runs[0]
    edited = first.model_copy(update={"config": first.config.model_copy(update={"seed": 5})})
    grid.plan = grid.plan.model_copy(update={"runs": (edited,)})
    with pytest.raises(PlanError, match=first.run_id):
        grid.run()


def test_a_folder_of_another_run_is_not_overwritten(grid: Study) -> None:
    grid.run()
    first, second = grid.plan.runs[:2]
    grid.folder(first).record_path.unlink()
    grid.folder(first).order_path.write_bytes(grid.folder(second).order_path.read_bytes())
    (grid.folder(first).path / "attempts" / "0001" / "status.json").unlink()
    with pytest.raises(RunError, match=f"belongs to run {second.run_id}"):
        grid.run()


def test_damaged_files_are_told_or_mended(grid: Study) -> None:
    grid.run()
    first, second = grid.plan.runs[:2]
    grid.folder(first).record_path.write_text("{")
    grid.folder(second).record_path.unlink()
    grid.folder(second).order_path.write_text("{")  # the plan says what belongs there
    outcome = grid.run()
    assert set(outcome.failed) == {first.run_id}
    assert "delete it to train again" in outcome.failed[first.run_id]
    assert second.run_id in outcome.complete
    assert grid.folder(second).order().config == second.config


def test_a_resume_keeps_the_threads_it_began_with(grid: Study) -> None:
    victim = grid.plan.runs[0]
    grid.behave(victim, "stop")
    grid.run(threads=1)
    grid.run(threads=2)
    assert grid.folder(victim).order().threads == 1


def test_a_run_that_another_process_trains_is_left_alone(grid: Study, trainer: str) -> None:
    victim = grid.plan.runs[0]
    grid.run(only=[grid.plan.runs[1].run_id])
    grid.behave(victim, "wait")
    order = grid.folder(grid.plan.runs[1]).order().model_copy(update={"config": victim.config})
    order.write(grid.folder(victim).order_path)
    code = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    code += "import fake_trainer; fake_trainer.run_one(sys.argv[2])"
    other = subprocess.Popen([sys.executable, "-c", code, json.dumps(sys.path), str(grid.folder(victim).path)])
    try:
        end = time.monotonic() + 30
        while not (grid.folder(victim).path / "waiting").exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        outcome = grid.run()
        assert outcome.skipped[victim.run_id] == f"process {other.pid} on here is training it"
        assert set(outcome.incomplete) == {victim.run_id}
        assert outcome.n_complete == 2
        assert len(grid.folder(victim).attempts()) == 1
    finally:
        other.kill()
        other.wait()
    assert grid.run().all_complete


def test_a_later_plan_adds_its_roles_to_complete_runs(grid: Study) -> None:
    grid.run()
    first = grid.plan.runs[0]
    more = first.model_copy(update={"roles": ("repeats", "grid")})
    grid.plan = grid.plan.model_copy(update={"runs": (more,)})
    assert grid.run().started == {}
    assert grid.folder(first).order().roles == ("grid", "repeats")


@pytest.mark.slow
def test_an_interruption_of_the_caller_goes_through_and_leaves_runs_to_resume(grid: Study) -> None:
    for run in grid.plan.runs:
        grid.behave(run, "wait")

    def stop(event: TaskEvent) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grid.run(on_event=stop)
    outcome = grid.run(dry_run=True)
    assert len(outcome.started) == 3


def test_an_attempt_that_died_before_its_first_report_counts_as_a_death(grid: Study) -> None:
    victim = grid.plan.runs[0]
    for _ in range(2):
        grid.folder(victim).new_attempt()
    assert grid.run(dry_run=True, max_attempts=2).failed == {
        victim.run_id: "killed 2 times in a row (the process is gone)"
    }
    StatusFile(status="interrupted").write(grid.folder(victim).attempts()[-1].status_path)
    assert grid.run(dry_run=True, max_attempts=2).started[victim.run_id] == "interrupted"


# ---- elsewhere -----------------------------------------------------------------------------------------------------


@dataclass
class Cluster:
    """Runs tasks here and now; what it holds, and how some of them end, is said beforehand."""

    keys: frozenset[str] = frozenset()
    endings: dict[str, TaskResult] = field(default_factory=dict)
    tasks: list[Task] = field(default_factory=list)

    def run(self, tasks: Sequence[Task], on_event: EventHandler | None = None) -> list[TaskResult]:
        self.tasks = list(tasks)
        mine = [task for task in tasks if task.key not in self.endings]
        ended = {result.key: result for result in InlineExecutor().run(mine, on_event)}
        return [self.endings.get(task.key) or ended[task.key] for task in tasks]

    def held(self) -> frozenset[str]:
        return self.keys

    def scripts(self, tasks: Sequence[Task]) -> list[str]:
        return [f"{len(tasks)} tasks"]


def test_runs_train_where_the_executor_says(grid: Study) -> None:
    cluster = Cluster()
    assert grid.run(executor=cluster, dry_run=True).scripts == ("3 tasks",)
    first, *others = grid.plan.runs
    timed = first.model_copy(update={"predicted_seconds": 77.0})
    grid.plan = grid.plan.model_copy(update={"runs": (timed, *others)})
    assert grid.run(executor=cluster).all_complete
    assert [task.seconds for task in cluster.tasks] == [77.0, None, None]
    assert grid.run(executor=cluster).started == {}


def test_a_run_whose_job_goes_on_is_handed_to_the_executor_again(grid: Study) -> None:
    run = grid.plan.runs[0]
    StatusFile(status="running").write(grid.folder(run).new_attempt().status_path)
    with grid.folder(run).locked():
        assert run.run_id in grid.run(executor=Cluster(), dry_run=True).skipped
        outcome = grid.run(executor=Cluster(frozenset({run.run_id})), dry_run=True)
    assert outcome.started[run.run_id] == "its job goes on and is taken over"


def test_a_run_out_of_memory_has_failed_and_is_not_started_again(grid: Study) -> None:
    run = grid.plan.runs[0]
    reason = "killed for using more memory than the job was given"
    grid.folder(run).new_attempt()
    ending = TaskResult(run.run_id, "failed", reason=reason, cause="out of memory")
    assert grid.run(executor=Cluster(endings={run.run_id: ending})).failed == {run.run_id: reason}
    again = grid.run(dry_run=True)
    assert again.failed == {run.run_id: f"failed: {reason}"}
    assert again.started == {}


def test_a_run_that_another_process_has_got_is_running(grid: Study) -> None:
    run = grid.plan.runs[0]
    ending = TaskResult(run.run_id, "failed", TakenOver.exit_code, "exit code 5", cause="error")
    outcome = grid.run(executor=Cluster(endings={run.run_id: ending}))
    assert outcome.incomplete == {run.run_id: "exit code 5"}
    assert outcome.failed == {}


def test_deaths_count_only_where_the_run_gets_no_further(grid: Study) -> None:
    run = grid.plan.runs[0]
    for step in (10, 20, 30):
        StatusFile(status="running", step=step).write(grid.folder(run).new_attempt().status_path)
    assert run.run_id in grid.run(dry_run=True, max_attempts=2).started
    StatusFile(status="running", step=30).write(grid.folder(run).new_attempt().status_path)
    assert "killed 2 times in a row" in grid.run(dry_run=True, max_attempts=2).failed[run.run_id]


def test_watching_goes_on_until_all_is_settled(grid: Study) -> None:
    first, second, _ = grid.plan.runs
    grid.behave(first, "stop stop ok")
    grid.behave(second, "fail")
    rests: list[float] = []
    outcome = watch_plan(grid.run, grid.runs, every_s=60.0, sleep=rests.append)
    assert set(outcome.failed) == {second.run_id}
    assert outcome.n_complete == 2
    assert len(grid.folder(first).attempts()) == 3
    assert rests == [60.0, 120.0]  # the stand-in stops at the same step every time


def test_watching_gives_up_what_gets_no_further(grid: Study) -> None:
    run = grid.plan.runs[0]
    grid.behave(run, "stop stop stop stop")
    rests: list[float] = []
    outcome = watch_plan(grid.run, grid.runs, max_attempts=3, every_s=1.0, sleep=rests.append)
    assert set(outcome.incomplete) == {run.run_id}
    assert len(grid.folder(run).attempts()) == 3
    assert rests == [1.0, 2.0]
