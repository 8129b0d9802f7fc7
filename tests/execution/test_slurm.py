"""The Slurm executor against a cluster played in this process: what it submits, waits for, restarts and takes over."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from plm_scaling.core.errors import ConfigError, CorpusError, RecordError, RunError
from plm_scaling.execution import slurm_task
from plm_scaling.execution.inline import InlineExecutor
from plm_scaling.execution.slurm import SlurmExecutor
from plm_scaling.execution.slurm_commands import Element, JobState, log_path
from plm_scaling.execution.slurm_endings import STARTED, ending_of
from plm_scaling.execution.slurm_folder import Attempt, WorkFolder
from plm_scaling.execution.slurm_limits import job_minutes
from plm_scaling.execution.slurm_options import SlurmOptions
from plm_scaling.execution.tasks import Cause, Task, TaskEvent, TaskResult

Fate = Callable[["Cluster", str, int], str]


@dataclass
class Cluster:
    """Plays a scheduler. A job's fate decides what is done at its submission and which state it then has."""

    folder: WorkFolder
    fates: list[Fate] = field(default_factory=list)
    """Of the jobs in the order of their submission; those beyond run their tasks and are done."""
    sizes: list[tuple[int, int]] = field(default_factory=list)
    """Jobs and limit of each submission."""
    minutes: list[int] = field(default_factory=list)
    """Time limit of each submission."""
    jobs: dict[Element, JobState] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    silent: int = 0
    """So many questions are not answered."""
    accounting: dict[str, str] = field(default_factory=dict)
    killed: set[str] = field(default_factory=set)
    """Ids of jobs of which it knows that a signal ended them."""
    on_question: list[Callable[[], None]] = field(default_factory=list)
    """Called one by one, whenever the jobs' states are asked for."""

    def submit(
        self, name: str, call: Callable[..., Any], calls: Sequence[tuple[Any, ...]], limit: int, minutes: int
    ) -> str:
        self.minutes.append(minutes)
        self.sizes.append((len(calls), limit))
        number = str(len(self.sizes))
        for index, (work, called_name, called_index, settings) in enumerate(calls):
            assert (work, called_name, called_index) == (str(self.folder.path), name, index)
            assert call is slurm_task.run_job
            json.dumps(settings)
            state = (self.fates.pop(0) if self.fates else run)(self, name, index)
            job_id = f"{number}_{index}" if len(calls) > 1 else number
            if state:
                self.jobs[name, index] = JobState(job_id, *state.split("/"))
        return number

    def states(self, names: Sequence[str]) -> dict[Element, JobState] | None:
        if self.on_question:
            self.on_question.pop(0)()
        if self.silent:
            self.silent -= 1
            return None
        return {element: state for element, state in self.jobs.items() if element[0] in names}

    def history(self, job_ids: Sequence[str]) -> dict[str, str]:
        return {job_id: state for job_id, state in self.accounting.items() if job_id in job_ids}

    def was_killed(self, job_id: str) -> bool:
        return job_id in self.killed

    def cancel(self, names: Sequence[str] = (), job_ids: Sequence[str] = ()) -> None:
        self.cancelled += [*names, *job_ids]
        for element, state in self.jobs.items():
            if (element[0] in names or state.job_id in job_ids) and not state.ended:
                self.jobs[element] = JobState(state.job_id, "CANCELLED")


def begin(cluster: Cluster, name: str, index: int) -> list[Attempt]:
    attempts = cluster.folder.read(name).jobs[index]
    cluster.folder.set_alive((name, index))
    for attempt in attempts:
        cluster.folder.set_started(attempt, {"job": "1", "node": "n", "pid": 5, "restart": 0})
    return list(attempts)


def run(cluster: Cluster, name: str, index: int) -> str:
    """Run a job's tasks here and now."""
    for attempt in begin(cluster, name, index):
        [result] = InlineExecutor().run([Task(attempt.key, attempt.target, attempt.args)])
        cluster.folder.set_result(attempt, result)
    return "COMPLETED"


def left(state: str, *, started: int = 99, log: str = "", alive: bool = True) -> Fate:
    """The job ends in `state` (or stays in it); of its tasks, `started` have begun and none has a result."""

    def fate(cluster: Cluster, name: str, index: int) -> str:
        if alive:
            cluster.folder.set_alive((name, index))
        for attempt in cluster.folder.read(name).jobs[index][:started]:
            cluster.folder.set_started(attempt, {"job": "1", "node": "n", "pid": 5, "restart": 0})
        if log:
            path = log_path(cluster.folder.jobs_dir, str(len(cluster.sizes)))
            path.parent.mkdir(exist_ok=True)
            path.write_text(log)
        return state

    return fate


def killed(state: str) -> Fate:
    """The job's tasks are killed one by one, and it says so."""

    def fate(cluster: Cluster, name: str, index: int) -> str:
        for attempt in begin(cluster, name, index):
            result = TaskResult(attempt.key, "failed", -9, "killed by SIGKILL", cause="killed")
            cluster.folder.set_result(attempt, result)
        return state

    return fate


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(WorkFolder(tmp_path / "work"))


def executor(cluster: Cluster, max_starts: int = 3, patience_s: float = 60.0, **options: Any) -> SlurmExecutor:
    return SlurmExecutor(
        cluster.folder.path,
        SlurmOptions(**options),
        max_starts=max_starts,
        poll_s=0.0,
        lag_s=0.0,
        patience_s=patience_s,
        grace_s=0.0,
        scheduler=cluster,
    )


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def appending(targets: str, log: Path, n: int, **fields: Any) -> list[Task]:
    return [Task(f"t{i}", f"{targets}:append", (str(log), f"t{i}"), **fields) for i in range(n)]


def test_a_wave_is_an_array(cluster: Cluster, targets: str, log: Path) -> None:
    tasks = [*appending(targets, log, 3), Task("z", f"{targets}:append", (str(log), "z"), ("t0", "t2"))]
    events: list[TaskEvent] = []
    assert all(r.ok for r in executor(cluster).run(tasks, events.append))
    assert cluster.sizes == [(3, 3), (1, 1)]
    assert log.read_text().split() == ["t0", "t1", "t2", "z"]
    assert [(e.key, e.kind, e.place) for e in events[:2]] == [("t0", "started", "job 1 on n"), ("t0", "done", "")]
    assert not cluster.cancelled
    assert cluster.folder.open_submissions() == []


def test_a_task_that_fails_does_so_once_and_with_its_own_error(cluster: Cluster, targets: str, log: Path) -> None:
    tasks = [Task("bad", f"{targets}:complain", ("no",)), *appending(targets, log, 1, after=("bad",))]
    bad, lost = executor(cluster).run(tasks)
    assert isinstance(bad.raised, CorpusError)
    assert bad.raised.hint == "hint"
    assert (bad.status, lost.status) == ("failed", "skipped")
    assert cluster.sizes == [(1, 1)]


def test_no_tasks_need_no_cluster(tmp_path: Path) -> None:
    assert SlurmExecutor(tmp_path / "work").run([]) == []
    with pytest.raises(ConfigError, match="max_starts = 0"):
        SlurmExecutor(tmp_path / "work", max_starts=0).run([Task("a", "m:f")])
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("n", "options", "sizes"),
    [
        (10, {"tasks_per_job": 4}, [(3, 3)]),
        (10, {"array_size": 4}, [(4, 4), (4, 4), (2, 2)]),
        (10, {"array_limit": 3}, [(10, 3)]),
        (10, {"array_limit": 3, "array_size": 4}, [(4, 3), (4, 3), (2, 2)]),
        (10, {"array_limit": 3, "array_size": 2, "tasks_per_job": 2}, [(2, 2), (2, 2), (1, 1)]),
        (1, {"array_limit": 3}, [(1, 1)]),
    ],
)
def test_how_tasks_are_spread_over_jobs(
    cluster: Cluster, targets: str, log: Path, n: int, options: dict[str, int], sizes: list[tuple[int, int]]
) -> None:
    assert all(r.ok for r in executor(cluster, **options).run(appending(targets, log, n)))
    assert cluster.sizes == sizes
    assert log.read_text().split() == [f"t{i}" for i in range(n)]


def test_what_is_to_run_again_waits_for_room(cluster: Cluster, targets: str, log: Path) -> None:
    """Of an array of four with a limit of two, one job is killed at once: it must not be a third beside them."""
    cluster.fates = [left("FAILED"), left("RUNNING"), left("RUNNING"), left("PENDING", started=0)]

    def finish(index: int, sizes: list[tuple[int, int]]) -> Callable[[], None]:
        def act() -> None:
            assert cluster.sizes == sizes
            name = next(iter(cluster.jobs))[0]
            cluster.jobs[name, index] = JobState(f"1_{index}", run(cluster, name, index))

        return act

    cluster.on_question = [finish(1, [(4, 2)]), finish(2, [(4, 2)]), finish(3, [(4, 2), (1, 1)])]
    assert all(r.ok for r in executor(cluster, array_limit=2).run(appending(targets, log, 4)))
    assert not cluster.on_question


@pytest.mark.parametrize("state", ["FAILED", "NODE_FAIL", "PREEMPTED", "COMPLETED", ""])
def test_what_is_lost_is_started_again(cluster: Cluster, targets: str, log: Path, state: str) -> None:
    cluster.fates = [left(state), left(state)]
    [result] = executor(cluster, max_starts=3).run(appending(targets, log, 1))
    assert result.ok
    assert len(cluster.sizes) == 3
    attempts = cluster.folder.path / "tasks/t0/attempts"
    assert sorted(path.name for path in attempts.iterdir()) == ["1", "2", "3"]
    cluster.fates = [left(state)] * 3
    [result] = executor(cluster, max_starts=2).run(appending(targets, log, 1))
    assert (result.status, result.exit_code, result.killed) == ("failed", None, True)
    assert len(cluster.sizes) == 5


@pytest.mark.parametrize(
    ("state", "cause"), [("CANCELLED", "cancelled"), ("TIMEOUT", "time limit"), ("OUT_OF_MEMORY", "out of memory")]
)
def test_what_would_end_the_same_way_is_not_started_again(
    cluster: Cluster, targets: str, log: Path, state: str, cause: str
) -> None:
    cluster.fates = [left(state, log="last words\n")]
    [result] = executor(cluster).run(appending(targets, log, 1))
    assert (result.status, result.cause) == ("failed", cause)
    assert f"(job 1 {state})" in result.reason
    assert result.detail == "last words\n"
    assert len(cluster.sizes) == 1


def test_a_time_limit_may_be_followed_by_another_start(cluster: Cluster, targets: str, log: Path) -> None:
    cluster.fates = [left("TIMEOUT")]
    resuming = executor(cluster)
    resuming = SlurmExecutor(
        resuming.work, poll_s=0, lag_s=0, restart_after=frozenset({"time limit"}), scheduler=cluster
    )
    assert resuming.run(appending(targets, log, 1))[0].ok


def test_accounting_is_asked_about_jobs_the_queue_has_forgotten(cluster: Cluster, targets: str, log: Path) -> None:
    cluster.fates = [left("")]
    cluster.accounting = {"1": "TIMEOUT"}
    [result] = executor(cluster).run(appending(targets, log, 1))
    assert result.cause == "time limit"


def test_tasks_that_did_not_begin_lose_no_start(cluster: Cluster, targets: str, log: Path) -> None:
    """Of three tasks of a job, the first has it killed; the others had nothing to do with it."""
    cluster.fates = [left("FAILED", started=1)]
    results = executor(cluster, max_starts=1, tasks_per_job=3).run(appending(targets, log, 3))
    assert [r.status for r in results] == ["failed", "done", "done"]
    cluster.fates = [left("NODE_FAIL", started=0), left("FAILED")]
    assert executor(cluster, max_starts=2).run(appending(targets, log, 1))[0].ok


def test_jobs_that_never_begin_are_given_up(cluster: Cluster, targets: str, log: Path) -> None:
    cluster.fates = [left("NODE_FAIL", started=0, alive=False)] * 9
    [result] = executor(cluster).run(appending(targets, log, 1))
    assert result.cause == "node failure"
    assert len(cluster.sizes) == 4


def test_a_script_that_fails_is_not_tried_again(cluster: Cluster, targets: str, log: Path) -> None:
    cluster.fates = [left("FAILED", started=0, alive=False, log="x\nmodule: command not found\n")]
    [result] = executor(cluster).run(appending(targets, log, 1))
    assert (result.cause, result.exit_code) == ("error", 1)
    assert result.reason == "its job failed before any task began: module: command not found (job 1 FAILED)"


def test_a_job_that_is_killed_before_its_tasks_is_submitted_again(cluster: Cluster, targets: str, log: Path) -> None:
    cluster.fates = [left("FAILED", started=0, alive=False, log="submitit INFO Loading pickle\n")] * 2
    cluster.killed = {"1"}
    [result] = executor(cluster, max_starts=1).run(appending(targets, log, 1))
    assert (result.cause, len(cluster.sizes)) == ("error", 2)  # the first was killed, the second failed by itself
    cluster.fates = [left("FAILED", started=0, alive=False)] * 9
    cluster.killed = {str(number) for number in range(99)}
    [result] = executor(cluster).run(appending(targets, log, 1))
    assert (result.cause, result.killed, len(cluster.sizes)) == ("killed", True, 2 + 4)  # but not for ever


def test_a_job_that_will_never_start_is_cancelled(cluster: Cluster, targets: str, log: Path) -> None:
    cluster.fates = [left("PENDING/BadConstraints", started=0)]
    [result] = executor(cluster).run(appending(targets, log, 1))
    assert result.cause == "refused"
    assert "BadConstraints (job 1)" in result.reason
    assert cluster.cancelled == ["1"]


def test_a_killed_task_is_only_started_again_once_its_job_is_gone(cluster: Cluster, targets: str, log: Path) -> None:
    cluster.fates = [killed("RUNNING")]

    def end() -> None:
        assert len(cluster.sizes) == 1
        cluster.jobs = {element: JobState("1", "COMPLETED") for element in cluster.jobs}

    cluster.on_question = [lambda: None, lambda: None, end]
    assert executor(cluster).run(appending(targets, log, 1))[0].ok
    assert not cluster.on_question
    assert len(cluster.sizes) == 2


def test_the_job_knows_better_than_the_task_why_it_was_killed(cluster: Cluster, targets: str, log: Path) -> None:
    cluster.fates = [killed("OUT_OF_MEMORY")]
    [result] = executor(cluster).run(appending(targets, log, 1))
    assert (result.cause, result.exit_code) == ("out of memory", -9)
    cluster.fates = [killed("FAILED")] * 3
    [result] = executor(cluster).run(appending(targets, log, 1))
    assert (result.cause, result.reason) == ("killed", "killed by SIGKILL")


def test_a_scheduler_that_is_silent_for_a_while_does_no_harm(cluster: Cluster, targets: str, log: Path) -> None:
    cluster.fates = [left("RUNNING")]
    cluster.silent = 3
    steps = iter(range(9))

    def work() -> None:
        if next(steps) == 2:  # results are seen even while the scheduler says nothing
            name = next(iter(cluster.jobs))[0]
            run(cluster, name, 0)

    cluster.on_question = [work] * 4
    assert executor(cluster).run(appending(targets, log, 1))[0].ok
    assert len(cluster.on_question) == 1
    assert len(cluster.sizes) == 1


def test_a_scheduler_out_of_reach_leaves_jobs_to_be_found_again(cluster: Cluster, targets: str, log: Path) -> None:
    cluster.fates = [left("RUNNING")]
    cluster.silent = 5
    tasks = appending(targets, log, 1)
    with pytest.raises(RunError, match="does not answer"):
        executor(cluster, patience_s=0.0).run(tasks)
    assert not cluster.cancelled
    cluster.silent = 0
    cluster.on_question = [lambda: None, lambda: run(cluster, next(iter(cluster.jobs))[0], 0) and None]
    assert executor(cluster).run(tasks)[0].ok
    assert len(cluster.sizes) == 1


def dies(cluster: Cluster, tasks: Sequence[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    """Submit, then end as a killed process does: without cancelling or closing anything."""
    with monkeypatch.context() as patch:
        patch.setattr("plm_scaling.execution.slurm_session.Session.__exit__", lambda *_: None)
        patch.setattr("plm_scaling.execution.slurm_session.Session.look", _die)
        with pytest.raises(MemoryError):
            executor(cluster, tasks_per_job=2).run(tasks)


def _die(_self: object) -> None:
    raise MemoryError


def test_what_a_dead_process_left_is_taken_over(
    cluster: Cluster, targets: str, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs of two tasks each: done; running; failed and running; lost."""
    tasks = [*appending(targets, log, 8), Task("z", f"{targets}:append", (str(log), "z"), ("t0",))]

    def fail_first(cluster: Cluster, name: str, index: int) -> str:
        first, _ = begin(cluster, name, index)
        cluster.folder.set_result(first, TaskResult(first.key, "failed", 1, "disk full", cause="error"))
        return "RUNNING"

    cluster.fates = [run, left("RUNNING"), fail_first, left("NODE_FAIL")]
    dies(cluster, tasks, monkeypatch)
    [name] = {element[0] for element in cluster.jobs}
    assert log.read_text().split() == ["t0", "t1"]

    def finish() -> None:
        second, fourth = cluster.folder.read(name).jobs[1], cluster.folder.read(name).jobs[2][1]
        for attempt in (*second, fourth):
            cluster.folder.set_result(attempt, TaskResult(attempt.key, "done", 0))

    cluster.on_question = [lambda: None, finish]
    events: list[TaskEvent] = []
    assert all(r.ok for r in executor(cluster).run(tasks, events.append))
    assert [(e.key, e.kind) for e in events[:2]] == [("t0", "done"), ("t1", "done")]
    assert cluster.sizes == [(4, 4), (4, 4)]
    assert sorted(log.read_text().split()[2:]) == ["t4", "t6", "t7", "z"]  # what failed or was lost, what comes next
    assert not cluster.cancelled
    assert cluster.folder.open_submissions() == []


def test_only_the_same_calls_are_taken_over(
    cluster: Cluster, targets: str, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [
        Task("a", f"{targets}:append", (str(log), "a")),
        Task("gone", f"{targets}:append", (str(log), "gone")),
        Task("b", f"{targets}:append", (str(log), "b"), ("a",)),
    ]
    cluster.fates = [run]
    dies(cluster, tasks[:1], monkeypatch)
    cluster.fates = [left("RUNNING"), left("RUNNING")]
    with monkeypatch.context() as patch:
        patch.setattr("plm_scaling.execution.slurm_session.Session.__exit__", lambda *_: None)
        patch.setattr("plm_scaling.execution.slurm_session.Session.look", _die)
        with pytest.raises(MemoryError):
            executor(cluster).run(tasks)
    assert cluster.sizes == [(1, 1), (2, 2)]
    changed = [Task("a", f"{targets}:append", (str(log), "other")), tasks[2]]
    assert all(r.ok for r in executor(cluster).run(changed))
    assert sorted(cluster.cancelled) == ["2_0", "2_1"]  # one is not wanted, the other was after another call of a
    assert log.read_text().split() == ["a", "other", "b"]


def test_a_submission_that_came_to_nothing_is_forgotten(
    cluster: Cluster, targets: str, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after it wrote down what it was about to submit, and before it did."""
    with monkeypatch.context() as patch:
        patch.setattr("plm_scaling.execution.slurm_session.Session.__exit__", lambda *_: None)
        patch.setattr(cluster, "submit", lambda *_: _die(None))
        with pytest.raises(MemoryError):
            executor(cluster).run(appending(targets, log, 1))
    assert len(cluster.folder.open_submissions()) == 1
    assert executor(cluster).run(appending(targets, log, 1))[0].ok
    assert cluster.sizes == [(1, 1)]
    assert cluster.folder.open_submissions() == []


def test_an_exception_cancels_what_runs(cluster: Cluster, targets: str, log: Path) -> None:
    cluster.fates = [left("RUNNING"), left("PENDING", started=0)]

    def stop(_: TaskEvent) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        executor(cluster).run(appending(targets, log, 2), stop)
    assert cluster.cancelled == [next(iter(cluster.jobs))[0]]
    assert all(state.ended for state in cluster.jobs.values())
    assert cluster.folder.open_submissions() == []


def test_jobs_that_do_not_go_are_not_forgotten(
    cluster: Cluster, targets: str, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.fates = [left("RUNNING")]
    monkeypatch.setattr(cluster, "cancel", lambda **_: None)

    def stop(_: TaskEvent) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        executor(cluster).run(appending(targets, log, 1), stop)
    assert "still in the queue" in caught.value.__notes__[0]
    assert len(cluster.folder.open_submissions()) == 1


def test_one_process_per_folder(cluster: Cluster, targets: str, log: Path) -> None:
    with cluster.folder.locked(), pytest.raises(RunError, match="another process"):
        executor(cluster).run(appending(targets, log, 1))
    assert cluster.sizes == []


@pytest.mark.parametrize("key", ["a/b", "../x", "", "é", ".hidden", "x" * 200])
def test_any_key_has_a_folder_of_its_own(cluster: Cluster, targets: str, log: Path, key: str) -> None:
    tasks = [Task(key, f"{targets}:append", (str(log), "1")), Task("a-b", f"{targets}:append", (str(log), "2"))]
    assert all(r.ok for r in executor(cluster).run(tasks))
    folders = sorted((cluster.folder.path / "tasks").iterdir())
    assert len(folders) == 2
    assert all((folder / "attempts/1/result.json").exists() for folder in folders)


def test_a_damaged_list_of_tasks_is_said(cluster: Cluster) -> None:
    submission = cluster.folder.create("x", [[Task("t", "m:f")]])
    (cluster.folder.path / "submissions" / f"{submission.name}.json").write_text("{")
    with pytest.raises(RecordError, match="not a readable list"):
        cluster.folder.open_submissions()


OLD = "slurmstepd: error: *** JOB 5 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO PREEMPTION ***\n"
OOM = "slurmstepd-n1: error: StepId=6.batch exceeded memory limit (790106112 > 524288000), being killed\n"


@pytest.mark.parametrize(
    ("state", "log", "cause"),
    [
        ("FAILED", "", "killed"),
        ("FAILED", OOM + OLD.replace(" DUE TO PREEMPTION", ""), "out of memory"),
        ("CANCELLED", "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=7.batch.", "out of memory"),
        ("OUT_OF_MEMORY", "", "out of memory"),
        ("CANCELLED", OLD.replace("PREEMPTION", "TIME LIMIT"), "time limit"),
        ("CANCELLED", OLD, "preempted"),
        ("", OLD.replace("PREEMPTION", "NODE FAILURE"), "node failure"),
        ("", OLD.replace(" DUE TO PREEMPTION", ""), "cancelled"),
        ("TIMEOUT", OLD, "time limit"),
        ("FAILED", f"{OLD}{STARTED} on n1\n", "killed"),  # the words are those of an earlier start
        ("COMPLETED", "", "vanished"),
        ("", "", "vanished"),
    ],
)
def test_how_a_job_ended(state: str, log: str, cause: str) -> None:
    ending = ending_of("17_3", state, log, was_alive=True)
    assert ending.cause == cause
    assert "job 17_3" in ending.reason


def test_an_ending_of_a_job_without_id_or_log() -> None:
    assert ending_of("", "", "", was_alive=False).reason == "its job left the queue without a result"
    assert "nothing in its log" in ending_of("", "FAILED", "", was_alive=False).reason
    assert ending_of("", "FAILED", "", was_alive=False, was_killed=True).cause == "killed"
    assert ending_of("", "FAILED", OOM, was_alive=False, was_killed=True).cause == "out of memory"


# -- on the node


@pytest.fixture
def _old_handlers() -> Iterator[None]:
    old = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in old.items():
        signal.signal(number, handler)


def job(folder: WorkFolder, name: str) -> int:
    settings = {"workers": 1, "threads": 3, "preload": [], "sys_path": ["/nowhere"]}
    with pytest.raises(SystemExit) as ended:
        slurm_task.run_job(str(folder.path), name, 0, settings)
    return int(ended.value.code or 0)


@pytest.mark.usefixtures("_old_handlers")
def test_a_job_leaves_results_and_logs_and_does_nothing_twice(
    tmp_path: Path, targets: str, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    folder = WorkFolder(tmp_path / "work")
    twice = tmp_path / "twice"
    tasks = [
        Task("facts", f"{targets}:facts", (str(tmp_path / "facts"),)),
        Task("bad", f"{targets}:complain", ("no",)),
        Task("killed", f"{targets}:killed_twice", (str(twice),)),
        Task("append", f"{targets}:append", (str(log), "append")),
    ]
    submission = folder.create("x", [tasks])
    attempts = {attempt.key: attempt for attempt in submission.jobs[0]}
    assert job(folder, submission.name) == 1
    results = {key: folder.result(attempt) for key, attempt in attempts.items()}
    assert {key: r and r.status for key, r in results.items()} == {
        "facts": "done",
        "bad": "failed",
        "killed": "failed",
        "append": "done",
    }
    assert isinstance(results["bad"] and results["bad"].raised, CorpusError)
    assert results["killed"]
    assert results["killed"].killed
    assert folder.was_alive((submission.name, 0))
    assert folder.log(attempts["facts"]).read_text() == "text on stdout\n"
    assert json.loads((tmp_path / "facts").read_text())["omp"] == "3"
    assert (folder.started(attempts["facts"]) or {})["job"] == "17_3"
    # Started again by the scheduler: only what was killed is run again.
    assert job(folder, submission.name) == 1
    assert twice.read_text().split() == ["start"] * 2
    assert job(folder, submission.name) == 0
    assert twice.read_text().split() == ["start"] * 3
    assert log.read_text().split() == ["append"]
    assert all(folder.result(attempts[key]) and folder.result(attempts[key]).ok for key in ("facts", "killed"))


@pytest.mark.usefixtures("_old_handlers")
def test_a_job_asked_to_end_ends_its_tasks_and_leaves_no_result(tmp_path: Path, targets: str) -> None:
    folder = WorkFolder(tmp_path / "work")
    mark = tmp_path / "pid"
    submission = folder.create("x", [[Task("t", f"{targets}:terminate_job", (str(mark),))]])
    assert job(folder, submission.name) == 128 + signal.SIGTERM
    [attempt] = submission.jobs[0]
    assert folder.started(attempt) is not None
    assert folder.result(attempt) is None
    assert Path(f"{mark}.left").exists()  # it had SIGTERM and time to leave


def stopped(cluster: Cluster, name: str, index: int) -> str:
    """The job's tasks are asked to stop, and do."""
    for attempt in begin(cluster, name, index):
        result = TaskResult(attempt.key, "failed", 3, "stopped by SIGUSR1", cause="stopped")
        cluster.folder.set_result(attempt, result)
    return "FAILED"


def resuming(cluster: Cluster, **settings: Any) -> SlurmExecutor:
    causes: frozenset[Cause] = frozenset({"stopped", "time limit", "killed"})
    return replace(executor(cluster), restart_after=causes, **settings)


def test_what_was_asked_to_stop_goes_on_where_that_is_wanted(cluster: Cluster, targets: str, log: Path) -> None:
    tasks = appending(targets, log, 1)
    cluster.fates = [stopped]
    [result] = executor(cluster).run(tasks)
    assert (result.cause, result.exit_code, len(cluster.sizes)) == ("stopped", 3, 1)
    cluster.fates = [stopped, stopped]
    assert resuming(cluster).run(tasks)[0].ok
    assert len(cluster.sizes) == 1 + 3
    cluster.fates = [stopped] * 9
    [result] = resuming(cluster, max_starts=2).run(tasks)
    assert (result.cause, len(cluster.sizes)) == ("stopped", 4 + 2)


def test_a_second_start_waits_longer_every_time(
    cluster: Cluster, targets: str, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, starts = [0.0], []
    monkeypatch.setattr("plm_scaling.execution.board.time.monotonic", lambda: now[0])

    def fate(cluster: Cluster, name: str, index: int) -> str:
        starts.append(now[0])
        return (stopped if len(starts) < 4 else run)(cluster, name, index)

    def pass_time(_seconds: float) -> None:
        now[0] += 5.0

    monkeypatch.setattr("plm_scaling.execution.slurm.time.sleep", pass_time)
    cluster.fates = [fate] * 4
    assert resuming(cluster, max_starts=4, backoff_s=20.0).run(appending(targets, log, 1))[0].ok
    rests = [later - earlier for earlier, later in pairwise(starts)]
    assert rests == [25.0, 45.0, 85.0]  # one look to see it ended, then the rest


@pytest.mark.parametrize(
    ("seconds", "options", "expected"),
    [
        ([None, 60], {"minutes": 100}, 100),
        ([60], {"minutes": 100}, 15),
        ([60], {"minutes": 1}, 1),
        ([1200], {"minutes": 100}, 60),  # 1.5 * 20 + 5 minutes
        ([1200, 1200], {"minutes": 100}, 100),
        ([1200, 1200], {"minutes": 100, "workers_per_job": 2}, 60),
        ([2400, 60], {"minutes": 1000, "workers_per_job": 2}, 120),  # the longest sets the least
    ],
)
def test_time_limits_follow_from_what_tasks_will_take(
    seconds: list[float | None], options: dict[str, int], expected: int
) -> None:
    tasks = [Task(f"t{i}", "m:f", seconds=s) for i, s in enumerate(seconds)]
    assert job_minutes(tasks, SlurmOptions(**options)) == expected


def test_jobs_of_one_limit_are_one_array(cluster: Cluster, targets: str, log: Path) -> None:
    times = (60, 5000, 60, 5000, 60)
    tasks = [replace(task, seconds=s) for task, s in zip(appending(targets, log, 5), times, strict=True)]
    assert all(r.ok for r in executor(cluster, minutes=600).run(tasks))
    assert cluster.sizes == [(3, 3), (2, 2)]
    assert cluster.minutes == [15, 240]
    assert log.read_text().split() == ["t0", "t2", "t4", "t1", "t3"]
    # Two arrays at once would be four jobs at a time.
    assert all(r.ok for r in executor(cluster, minutes=600, array_limit=2).run(tasks))
    assert cluster.sizes[2:] == [(3, 2), (2, 2)]
    texts = executor(cluster, minutes=600, array_limit=2).scripts(tasks)
    assert ["--array=0-2%2" in text and "--time=15" in text for text in texts] == [True, False]
    assert ["--array=0-1%2" in text and "--time=240" in text for text in texts] == [False, True]


def test_a_warning_ahead_of_the_limit_is_asked_for(cluster: Cluster) -> None:
    lines = executor(cluster, warning_s=120).scripts([Task("t", "m:f")])[0].splitlines()
    assert "#SBATCH --signal=B:USR1@120" in lines
    assert "trap '' USR1" in lines
    assert not any("USR1" in line for line in executor(cluster).scripts([Task("t", "m:f")])[0].splitlines())


def test_what_a_dead_process_left_running_can_be_asked(
    cluster: Cluster, targets: str, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert executor(cluster).held() == frozenset()
    cluster.fates = [run, left("RUNNING"), left("PENDING", started=0), left("FAILED")]
    with monkeypatch.context() as patch:
        patch.setattr("plm_scaling.execution.slurm_session.Session.__exit__", lambda *_: None)
        patch.setattr("plm_scaling.execution.slurm_session.Session.look", _die)
        with pytest.raises(MemoryError):
            executor(cluster).run(appending(targets, log, 4))
    assert executor(cluster).held() == {"t1", "t2"}
    cluster.silent = 1
    with pytest.raises(RunError, match="does not answer"):
        executor(cluster).held()


@pytest.mark.usefixtures("_old_handlers")
@pytest.mark.parametrize("code", [3, 1])
def test_a_job_that_is_warned_has_itself_started_again_if_work_was_saved(
    tmp_path: Path, targets: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], code: int
) -> None:
    folder, asked = WorkFolder(tmp_path / "work"), []
    task = Task("t", f"{targets}:stop_with", (str(tmp_path / "running"), code))
    [[attempt]] = folder.create("x", [[task]]).jobs
    name = folder.open_submissions()[0].name
    monkeypatch.setattr("plm_scaling.execution.slurm_task.subprocess.run", lambda *words, **_: asked.append(words[0]))
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    warner = threading.Thread(target=_warn_when, args=(tmp_path / "running",))
    warner.start()
    settings = {"workers": 1, "threads": 1, "preload": [], "sys_path": [], "warning_s": 60, "requeue": True}
    with pytest.raises(SystemExit) as caught:
        slurm_task.run_job(str(folder.path), name, 0, settings)
    warner.join()
    assert caught.value.code == 128 + signal.SIGUSR1
    assert asked == ([["scontrol", "requeue", "17"]] if code == 3 else [])
    assert folder.has_stopped(attempt) == (code == 3)
    assert folder.result(attempt) is None
    printed = capfd.readouterr().out
    assert ending_of("17", "FAILED", printed, was_alive=True).cause == "time limit"


def _warn_when(path: Path) -> None:
    end = time.monotonic() + 30
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGUSR1)


def test_what_ran_out_of_memory_while_nobody_watched_is_not_started_again(
    cluster: Cluster, targets: str, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [*appending(targets, log, 3), Task("z", f"{targets}:append", (str(log), "z"), ("t1",))]
    cluster.fates = [left("NODE_FAIL"), left("OUT_OF_MEMORY"), killed("FAILED")]
    with monkeypatch.context() as patch:
        patch.setattr("plm_scaling.execution.slurm_session.Session.__exit__", lambda *_: None)
        patch.setattr("plm_scaling.execution.slurm_session.Session.look", _die)
        with pytest.raises(MemoryError):
            executor(cluster).run(tasks)
    results = executor(cluster).run(tasks)
    assert [r.status for r in results] == ["done", "failed", "done", "skipped"]
    assert (results[1].cause, cluster.sizes) == ("out of memory", [(3, 3), (2, 2)])
    assert executor(cluster).run(tasks[:2])[1].ok  # asked for anew, perhaps with more memory
