"""A bounded pool of tasks on this machine: one process per task, forked from a server that is already warm.

A task that fails or is killed stops no other; tasks that need it are skipped and say why. When the caller is
interrupted or dies, its tasks end with it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from plm_scaling.core.errors import ConfigError, RunError
from plm_scaling.core.processor import cpu_count
from plm_scaling.execution.server_process import ServerProcess, exit_text

__all__ = ["Task", "TaskEvent", "TaskResult", "default_workers", "run_tasks"]

TaskStatus = Literal["done", "failed", "skipped"]


@dataclass(frozen=True)
class Task:
    """A call of `target` ("module:function") with JSON-able `args`, after the tasks named in `after` succeeded.

    The function returns None or 0 for success; another integer is its exit code.
    """

    key: str
    target: str
    args: tuple[Any, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskResult:
    """How a task ended."""

    key: str
    status: TaskStatus
    exit_code: int | None = None
    """Negative: the number of the signal that killed it. None: never started, or its fate is unknown."""
    reason: str = ""
    """Why it failed or was skipped, in a line."""
    detail: str = ""
    """Traceback, if it raised."""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the task succeeded."""
        return self.status == "done"

    @property
    def killed(self) -> bool:
        """Whether the task was ended from outside: by a signal, or with the server."""
        return self.status == "failed" and (self.exit_code is None or self.exit_code < 0)


@dataclass(frozen=True)
class TaskEvent:
    """A task started (with its process id), or has its result."""

    key: str
    kind: Literal["started", "done", "failed", "skipped"]
    total: int
    """Tasks of this call."""
    pid: int | None = None
    result: TaskResult | None = None


def default_workers(threads: int = 1) -> int:
    """Tasks of `threads` threads that fit on the processors this process may use."""
    return max(1, cpu_count() // max(1, threads))


def run_tasks(
    tasks: Sequence[Task],
    *,
    workers: int,
    on_event: Callable[[TaskEvent], None] | None = None,
    threads: int = 1,
    preload: Sequence[str] = (),
    max_starts: int = 1,
    grace_s: float = 10.0,
) -> list[TaskResult]:
    """Run tasks in their order, at most `workers` at a time; one result per task, in the order given.

    Parameters
    ----------
    tasks : what to run; `after` may name any other task of the list.
    workers : processes at a time.
    on_event : called in this process whenever a task starts and when it has a result.
    threads : threads of numerical libraries in each task.
    preload : modules the server imports once, before any task is forked.
    max_starts : a task that is killed (not one that fails by itself) is started again, up to so many starts in all.
    grace_s : seconds between SIGTERM and SIGKILL when the caller stops (Ctrl-C, an exception in `on_event`).

    Raises
    ------
    RunError : the tasks are no graph that can be carried out, or the server cannot be started.
    """
    if workers < 1 or threads < 1:
        raise ConfigError(f"{workers} workers of {threads} threads", hint="give at least one of each")
    board = _Board(tasks, on_event, max_starts)
    while not board.finished:
        with ServerProcess(threads, preload, grace_s) as server:
            _drive(board, server, workers)
            ended = server.exit_text() if server.gone else ""
        if not board.finished:
            if not server.answered:
                raise RunError("the task server ended before it ran anything", why=ended)
            board.fail_running(ended)
    return board.results()


def _drive(board: _Board, server: ServerProcess, workers: int) -> None:
    """Feed the server until every task has its result, or the server is gone."""
    while True:
        for task in board.take_ready(workers):
            server.start(task.key, task.target, task.args)
        if board.finished:
            return
        event = server.next_event()
        if event is None:
            return
        board.apply(event)


@dataclass
class _Board:
    """Which tasks wait, run and have ended."""

    tasks: Sequence[Task]
    on_event: Callable[[TaskEvent], None] | None
    max_starts: int
    _waiting: dict[str, Task] = field(default_factory=dict)
    _started: dict[str, float] = field(default_factory=dict)
    _n_starts: Counter[str] = field(default_factory=Counter)
    _results: dict[str, TaskResult] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._waiting = {task.key: task for task in self.tasks}
        _check_graph(self.tasks, self._waiting)

    @property
    def finished(self) -> bool:
        return len(self._results) == len(self.tasks)

    def results(self) -> list[TaskResult]:
        return [self._results[task.key] for task in self.tasks]

    def take_ready(self, workers: int) -> list[Task]:
        """The next tasks to start; those that lost a task they need are skipped first."""
        while self._skip_lost():
            pass
        taken: list[Task] = []
        for task in list(self._waiting.values()):
            if len(self._started) < workers and all(key in self._results for key in task.after):
                del self._waiting[task.key]
                self._started[task.key] = time.monotonic()
                self._n_starts[task.key] += 1
                taken.append(task)
        return taken

    def _skip_lost(self) -> bool:
        """Skip tasks that need one that did not succeed; whether there were any (others may need them in turn)."""
        n_before = len(self._waiting)
        for task in list(self._waiting.values()):
            lost = next((r for key in task.after if (r := self._results.get(key)) and not r.ok), None)
            if lost:
                del self._waiting[task.key]
                # A skipped task's reason already names the first cause.
                reason = lost.reason if lost.status == "skipped" else f"needs {lost.key}, which failed: {lost.reason}"
                self._finish(TaskResult(task.key, "skipped", reason=reason))
        return len(self._waiting) < n_before

    def apply(self, event: Mapping[str, Any]) -> None:
        """Take in an event of the server."""
        if "started" in event:
            self._tell(TaskEvent(event["started"], "started", len(self.tasks), pid=event["pid"]))
            return
        code = int(event["code"])
        reason = str(event.get("error") or exit_text(code))
        self._end(event["ended"], "done" if code == 0 else "failed", code, reason, str(event.get("detail", "")))

    def fail_running(self, reason: str) -> None:
        """The server is gone, and with it every running task."""
        for key in list(self._started):
            self._end(key, "failed", None, f"the task server ended ({reason})", "")

    def _end(self, key: str, status: TaskStatus, code: int | None, reason: str, detail: str) -> None:
        seconds = time.monotonic() - self._started.pop(key)
        result = TaskResult(key, status, code, "" if status == "done" else reason, detail, seconds)
        if result.killed and self._n_starts[key] < self.max_starts:
            again = next(task for task in self.tasks if task.key == key)
            self._waiting = {key: again, **self._waiting}  # first in line, as others may wait for it
        else:
            self._finish(result)

    def _finish(self, result: TaskResult) -> None:
        self._results[result.key] = result
        self._tell(TaskEvent(result.key, result.status, len(self.tasks), result=result))

    def _tell(self, event: TaskEvent) -> None:
        if self.on_event:
            self.on_event(event)


def _check_graph(tasks: Sequence[Task], by_key: Mapping[str, Task]) -> None:
    if len(by_key) != len(tasks):
        raise RunError("two tasks have the same key")
    for task in tasks:
        for key in task.after:
            if key not in by_key:
                raise RunError(f"task {task.key} waits for {key}, which is not among the tasks")
    done: set[str] = set()
    waiting = list(tasks)
    while waiting:
        left = [task for task in waiting if not done.issuperset(task.after)]
        if len(left) == len(waiting):
            raise RunError(f"tasks wait for each other: {', '.join(task.key for task in left)}")
        done.update(task.key for task in waiting if done.issuperset(task.after))
        waiting = left
