"""Which tasks of a call wait, run and have ended; the part all executors share."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from plm_scaling.core.errors import RunError
from plm_scaling.execution.tasks import EventHandler, Task, TaskEvent, TaskResult

__all__ = ["Board", "in_order"]


class Board:
    """Hands out the tasks that are ready, in the order given, and keeps their results.

    Raises
    ------
    RunError : two tasks with one key, a task that waits for one that is not there, or tasks that wait for each other.
    """

    def __init__(self, tasks: Sequence[Task], on_event: EventHandler | None = None) -> None:
        in_order(tasks)
        self.tasks = tasks
        self._on_event = on_event
        self._by_key = {task.key: task for task in tasks}
        self._waiting = dict(self._by_key)
        self._missing = {task.key: len(set(task.after)) for task in tasks}
        self._needed_by: dict[str, list[str]] = {task.key: [] for task in tasks}
        for task in tasks:
            for key in set(task.after):
                self._needed_by[key].append(task.key)
        self._running: dict[str, float] = {}
        self._starts: Counter[str] = Counter()
        self._results: dict[str, TaskResult] = {}
        self._resting: dict[str, float] = {}

    @property
    def finished(self) -> bool:
        """Whether every task has its result."""
        return len(self._results) == len(self.tasks)

    @property
    def running(self) -> tuple[str, ...]:
        """Keys of the tasks that were taken and have not ended."""
        return tuple(self._running)

    def results(self) -> list[TaskResult]:
        """One result per task, in the order given."""
        return [self._results[task.key] for task in self.tasks]

    def starts(self, key: str) -> int:
        """How often a task was taken."""
        return self._starts[key]

    def seconds(self, key: str) -> float:
        """Time since a running task was taken."""
        return time.monotonic() - self._running[key]

    def take_ready(self, room: int | None = None) -> list[Task]:
        """The next tasks to start, at most `room` of them; from now on they count as running."""
        taken: list[Task] = []
        for task in self._waiting.values():
            if room is not None and len(taken) >= room:
                break
            if self._missing[task.key] == 0 and self._resting.get(task.key, 0.0) <= time.monotonic():
                taken.append(task)
        for task in taken:
            self.take(task.key)
        return taken

    def take(self, key: str) -> None:
        """Count a waiting task as running."""
        del self._waiting[key]
        self._running[key] = time.monotonic()
        self._starts[key] += 1

    def started(self, key: str, pid: int | None = None, place: str = "") -> None:
        """Tell that a running task has its process."""
        self._tell(TaskEvent(key, "started", len(self.tasks), pid=pid, place=place))

    def again(self, key: str, *, counted: bool = True, rest_s: float = 0.0) -> None:
        """Let a running task wait once more, first in line, as others may wait for it.

        Parameters
        ----------
        counted : whether the start that was lost counts as one of its starts.
        rest_s : seconds for which it is not ready.
        """
        self._resting[key] = time.monotonic() + rest_s
        del self._running[key]
        self._starts[key] -= not counted
        self._waiting = {key: self._by_key[key], **self._waiting}

    def end(self, result: TaskResult) -> None:
        """Keep the result of a running task; if it did not succeed, skip all that need it."""
        del self._running[result.key]
        self._finish(result)

    def _finish(self, result: TaskResult) -> None:
        ended = [result]
        for one in ended:  # grows: a task that is skipped has others skipped in turn
            self._results[one.key] = one
            self._tell(TaskEvent(one.key, one.status, len(self.tasks), result=one))
            # A skipped task's reason already names the first cause.
            reason = one.reason if one.status == "skipped" else f"needs {one.key}, which failed: {one.reason}"
            for key in self._needed_by[one.key]:
                self._missing[key] -= 1
                if not one.ok and key in self._waiting:
                    del self._waiting[key]
                    ended.append(TaskResult(key, "skipped", reason=reason))

    def _tell(self, event: TaskEvent) -> None:
        if self._on_event:
            self._on_event(event)


def in_order(tasks: Sequence[Task]) -> list[Task]:
    """The tasks, each behind all it needs.

    Raises
    ------
    RunError : they are no graph that can be carried out.
    """
    by_key: Mapping[str, Task] = {task.key: task for task in tasks}
    if len(by_key) != len(tasks):
        raise RunError("two tasks have the same key")
    for task in tasks:
        for key in task.after:
            if key not in by_key:
                raise RunError(f"task {task.key} waits for {key}, which is not among the tasks")
    done: set[str] = set()
    ordered: list[Task] = []
    waiting = list(tasks)
    while waiting:
        ready = [task for task in waiting if done.issuperset(task.after)]
        if not ready:
            raise RunError(f"tasks wait for each other: {', '.join(task.key for task in waiting)}")
        ordered += ready
        waiting = [task for task in waiting if not done.issuperset(task.after)]
        done.update(task.key for task in ready)
    return ordered
