"""One call of `SlurmExecutor.run`: submits what is ready, follows its jobs, and takes over what a dead process left."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Self

from plm_scaling.core.errors import RunError
from plm_scaling.execution.board import Board, in_order
from plm_scaling.execution.slurm_commands import Element, JobState, Scheduler, log_path
from plm_scaling.execution.slurm_endings import Ending, ending_of
from plm_scaling.execution.slurm_folder import Attempt, Submission, WorkFolder
from plm_scaling.execution.slurm_limits import Batch, batches
from plm_scaling.execution.slurm_options import SlurmOptions
from plm_scaling.execution.slurm_task import run_job
from plm_scaling.execution.tasks import Cause, Task, TaskResult

__all__ = ["Session", "Terms"]

_NEVER: Final = frozenset({"BadConstraints", "DependencyNeverSatisfied", "InvalidAccount", "InvalidQOS"})
"""Reasons for which a job waits for ever."""
_LONGEST_REST_S: Final = 3600.0
_FREE_STARTS: Final = 3
"""Submissions that a task may lose before it began, through no fault of its own, beyond `max_starts`."""


@dataclass(frozen=True)
class Terms:
    """The settings of a `SlurmExecutor` that a session needs; seconds."""

    label: str
    preload: tuple[str, ...]
    max_starts: int
    restart_after: frozenset[Cause]
    lag_s: float
    patience_s: float
    grace_s: float
    backoff_s: float = 0.0


@dataclass
class _Watched:
    """A task that is in the scheduler's hands."""

    task: Task
    attempt: Attempt
    element: Element
    told: bool = False
    gone_since: float | None = None


class Unreachable(RunError):
    """The scheduler does not answer."""


class Session:
    """See the top of this module. As a context: left by an exception, it cancels its jobs."""

    def __init__(
        self, board: Board, folder: WorkFolder, scheduler: Scheduler, options: SlurmOptions, terms: Terms
    ) -> None:
        self._board, self._folder, self._scheduler = board, folder, scheduler
        self._options, self._terms = options, terms
        self._by_key = {task.key: task for task in board.tasks}
        self._watched: dict[str, _Watched] = {}
        self._submissions: dict[str, Submission] = {}
        self._free: dict[str, int] = {}
        self._answered = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Unreachable):
            return  # nothing can be cancelled; the next call takes the jobs over
        if error is not None:
            try:
                self._cancel(sorted({name for name, _ in self._live()}))
            except Unreachable as trouble:
                error.add_note(str(trouble))
                return
        for name in self._submissions:
            self._folder.close(name)

    # -- submitting

    def submit_ready(self) -> None:
        """Submit the tasks that nothing keeps from running, as far as the limit of jobs at a time allows."""
        options = self._options
        n_live = len(self._live())
        room: int | None = None
        limit = options.array_limit
        if limit is not None:
            # An array throttles itself. While one is there, others may only fill the room it leaves.
            n_jobs = options.array_size if n_live == 0 else min(limit - n_live, options.array_size)
            if n_jobs <= 0:
                return
            room = n_jobs * options.tasks_per_job
        ready = batches(self._board.take_ready(room), options)
        if limit is not None:  # arrays know nothing of each other's limits: the others wait for room
            for task in reversed([task for batch in ready[1:] for job in batch.jobs for task in job]):
                self._board.again(task.key, counted=False)
            ready = ready[:1]
        for batch in ready:
            self._submit(batch)

    def _submit(self, batch: Batch) -> None:
        jobs = batch.jobs
        submission = self._folder.create(self._terms.label, jobs)
        self._watch(submission)
        settings = {
            "workers": self._options.workers_per_job,
            "threads": self._options.task_threads,
            "preload": list(self._terms.preload),
            "warning_s": self._options.warning_s,
            "requeue": self._options.requeue,
            "shape": self._options.shape,
            "sys_path": [entry for entry in sys.path if entry],
        }
        calls = [(str(self._folder.path), name, index, settings) for name, index in submission.elements]
        limit = min(self._options.array_limit or len(jobs), len(jobs))
        job_id = self._scheduler.submit(submission.name, run_job, calls, limit, batch.minutes)
        self._folder.set_job_id(submission.name, job_id)

    def _watch(self, submission: Submission) -> None:
        self._submissions[submission.name] = submission
        for element, attempts in zip(submission.elements, submission.jobs, strict=True):
            for attempt in attempts:
                self._watched[attempt.key] = _Watched(self._by_key[attempt.key], attempt, element)

    def _live(self) -> set[Element]:
        """Jobs that still have to do something for us."""
        return {watched.element for watched in self._watched.values()}

    # -- following

    def look(self) -> None:
        """Take in what has happened since the last look."""
        live = self._live()
        states = self._states(sorted({name for name, _ in live})) if live else {}
        lost: list[_Watched] = []
        for watched in list(self._watched.values()):
            state = states.get(watched.element) if states is not None else None
            if state is not None and state.state == "PENDING":
                self._refuse_if_stuck(watched, state)
                continue
            self._tell_start(watched)
            result = self._folder.result(watched.attempt)
            if result is not None and not result.killed and not self._goes_on(result):
                self._end(watched, result)
            elif states is None or (state is not None and not state.ended):
                watched.gone_since = None  # a killed task's job may have others to run, or be started again
            elif result is not None or self._is_overdue(watched):
                lost.append(watched)
        if lost:
            self._settle(lost, states or {})

    def _states(self, names: Sequence[str]) -> dict[Element, JobState] | None:
        states = self._scheduler.states(names)
        now = time.monotonic()
        if states is not None:
            self._answered = now
        elif now - self._answered > self._terms.patience_s:
            raise Unreachable(
                "the scheduler does not answer",
                why=f"squeue has failed for {now - self._answered:.0f} s",
                hint="jobs go on; run this again once squeue works, and their results are found",
            )
        return states

    def _goes_on(self, result: TaskResult) -> bool:
        """Whether a task stopped that is to be started again."""
        return result.cause == "stopped" and "stopped" in self._terms.restart_after

    def _is_overdue(self, watched: _Watched) -> bool:
        """Whether a job that is gone has had the time to show its results."""
        now = time.monotonic()
        watched.gone_since = watched.gone_since or now
        return now - watched.gone_since >= self._terms.lag_s

    def _tell_start(self, watched: _Watched) -> None:
        if watched.told or (facts := self._folder.started(watched.attempt)) is None:
            return
        watched.told = True
        self._board.started(watched.task.key, facts["pid"], f"job {facts['job']} on {facts['node']}")

    def _refuse_if_stuck(self, watched: _Watched, state: JobState) -> None:
        if state.reason not in _NEVER:
            return
        self._scheduler.cancel(job_ids=[state.job_id])
        reason = f"the scheduler will never start it: {state.reason} (job {state.job_id})"
        self._end(watched, TaskResult(watched.task.key, "failed", reason=reason, cause="refused"))

    def _end(self, watched: _Watched, result: TaskResult) -> None:
        del self._watched[watched.task.key]
        self._board.end(result)

    # -- what ended from outside

    def _settle(self, lost: Sequence[_Watched], states: dict[Element, JobState]) -> None:
        """Start lost tasks again, or say why they are lost."""
        unknown = {self._job_id(w.element) for w in lost if w.element not in states} - {""}
        history = self._scheduler.history(sorted(unknown))
        for watched in lost:
            key = watched.task.key
            job_id = self._job_id(watched.element)
            state = states[watched.element].state if watched.element in states else history.get(job_id, "")
            began = self._folder.started(watched.attempt) is not None
            ending = self._ending(watched.element, job_id, state)
            result = self._folder.result(watched.attempt)
            cause: Cause = "stopped" if result is not None and self._goes_on(result) else ending.cause
            if self._may_start_again(key, cause, began):
                del self._watched[key]
                rest_s = self._terms.backoff_s * 2.0 ** (self._board.starts(key) - 1) if began else 0.0
                self._board.again(key, counted=began, rest_s=min(rest_s, _LONGEST_REST_S))
            else:
                self._end(watched, self._lost_result(watched, ending))

    def _ending(self, element: Element, job_id: str, state: str) -> Ending:
        log = self._folder.log_tail(log_path(self._folder.jobs_dir, job_id))
        was_alive = self._folder.was_alive(element)
        was_killed = not was_alive and state == "FAILED" and job_id != "" and self._scheduler.was_killed(job_id)
        return ending_of(job_id, state, log, was_alive=was_alive, was_killed=was_killed)

    def _may_start_again(self, key: str, cause: Cause, began: bool) -> bool:
        if began:
            return cause in self._terms.restart_after and self._board.starts(key) < self._terms.max_starts
        # It waited in its job for another task to end, or its node was lost at once: no start of its own was lost.
        self._free[key] = self._free.get(key, 0) + 1
        return cause not in ("cancelled", "error") and self._free[key] <= _FREE_STARTS

    def _lost_result(self, watched: _Watched, ending: Ending) -> TaskResult:
        """The result of a task whose job is gone: the job's ending explains what the task's own result may not know."""
        result = self._folder.result(watched.attempt)
        log = self._folder.log_tail(self._folder.log(watched.attempt))
        log = log or self._folder.log_tail(log_path(self._folder.jobs_dir, self._job_id(watched.element)))
        if result is None:
            exit_code = 1 if ending.cause == "error" else None
            seconds = self._board.seconds(watched.task.key)
            return TaskResult(watched.task.key, "failed", exit_code, ending.reason, log, seconds, ending.cause)
        if ending.cause in ("killed", "vanished") or result.cause == "stopped":
            return result
        return replace(result, reason=ending.reason, cause=ending.cause, detail=log)

    def _job_id(self, element: Element) -> str:
        return self._folder.job_id(element, len(self._submissions[element[0]].jobs))

    # -- a dead process's jobs

    def adopt(self) -> None:
        """Take over the jobs that a process left which died: finished tasks are done, running ones are waited for.

        Only what was submitted for the very same call, after the very same calls, counts; other jobs are cancelled.
        """
        left = {submission.name: submission for submission in self._folder.open_submissions()}
        if not left:
            return
        states = self._states_at_last(sorted(left))
        alive = {element for element, state in states.items() if not state.ended}
        done, running = self._usable(left.values(), alive)
        unwanted = sorted(alive - {element for _, element in running.values()})
        if unwanted:
            self._scheduler.cancel(job_ids=[states[element].job_id for element in unwanted])
            self._wait_until_gone(set(unwanted))
        self._submissions.update(left)
        for key in [*done, *running]:
            self._board.take(key)
        for key, (attempt, element) in running.items():
            self._watched[key] = _Watched(self._by_key[key], attempt, element)
        for result in done.values():
            self._board.end(result)
        for key, result in self._out_of_memory(left.values(), {*done, *running}).items():
            self._board.take(key)
            self._board.end(result)

    def _out_of_memory(self, submissions: Iterable[Submission], known: set[str]) -> dict[str, TaskResult]:
        """Tasks that were killed for their memory while nobody watched: they would be again."""
        found: dict[str, TaskResult] = {}
        states = self._states_at_last(sorted(self._submissions))
        for key, (attempt, element) in _latest(submissions).items():
            task = self._by_key.get(key)
            result = self._folder.result(attempt)
            if task is None or key in known or not attempt.is_of(task) or (result and not result.killed):
                continue
            ending = self._ending(element, self._job_id(element), states[element].state if element in states else "")
            if ending.cause == "out of memory":
                log = self._folder.log_tail(self._folder.log(attempt))
                found[key] = TaskResult(key, "failed", None, ending.reason, log, cause=ending.cause)
        return found

    def _usable(
        self, submissions: Iterable[Submission], alive: set[Element]
    ) -> tuple[dict[str, TaskResult], dict[str, tuple[Attempt, Element]]]:
        """Of old submissions, the newest first: the results that still count, and the attempts to wait for."""
        latest = _latest(submissions)
        done: dict[str, TaskResult] = {}
        running: dict[str, tuple[Attempt, Element]] = {}
        for task in in_order(self._board.tasks):
            if task.key not in latest or not latest[task.key][0].is_of(task) or not all(k in done for k in task.after):
                continue
            attempt, element = latest[task.key]
            result = self._folder.result(attempt)
            if result is not None and result.ok:
                done[task.key] = result
            elif element in alive and (result is None or result.killed):
                running[task.key] = (attempt, element)
        return done, running

    def _states_at_last(self, names: Sequence[str]) -> dict[Element, JobState]:
        while (states := self._states(names)) is None:
            time.sleep(1.0)
        return states

    # -- cancelling

    def _cancel(self, names: Sequence[str]) -> None:
        """Cancel whole submissions, and wait until they are gone."""
        if names:
            self._scheduler.cancel(names=names)
            self._wait_until_gone({element for name in names for element in self._submissions[name].elements})

    def _wait_until_gone(self, elements: set[Element]) -> None:
        names = sorted({name for name, _ in elements})
        end = time.monotonic() + self._terms.grace_s
        while True:
            states = self._scheduler.states(names)
            if states is not None and not any(e in states and not states[e].ended for e in elements):
                return
            if time.monotonic() > end:
                raise Unreachable(
                    "cancelled jobs are still in the queue",
                    why=f"they did not leave it within {self._terms.grace_s:.0f} s",
                    hint=f"look at squeue --name={','.join(names)}; run this again when they are gone",
                )
            time.sleep(0.2)


def _latest(submissions: Iterable[Submission]) -> dict[str, tuple[Attempt, Element]]:
    """The newest attempt at each task, and its job; the submissions are given newest first."""
    latest: dict[str, tuple[Attempt, Element]] = {}
    for submission in submissions:
        for element, attempts in zip(submission.elements, submission.jobs, strict=True):
            for attempt in attempts:
                latest.setdefault(attempt.key, (attempt, element))
    return latest
