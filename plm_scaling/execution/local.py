"""A bounded pool of tasks on this machine: one process per task, forked from a server that is already warm.

A task that fails or is killed stops no other; tasks that need it are skipped and say why. When the caller is
interrupted or dies, its tasks end with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plm_scaling.core.errors import ConfigError, RunError
from plm_scaling.core.processor import cpu_count
from plm_scaling.execution.board import Board
from plm_scaling.execution.server_process import ServerProcess, exit_text
from plm_scaling.execution.tasks import (
    STOPPED,
    Cause,
    EventHandler,
    Task,
    TaskEvent,
    TaskResult,
    TaskStatus,
    rebuilt_error,
)

__all__ = ["LocalExecutor", "Task", "TaskEvent", "TaskResult", "default_workers", "run_tasks"]


def default_workers(threads: int = 1) -> int:
    """Tasks of `threads` threads that fit on the processors this process may use."""
    return max(1, cpu_count() // max(1, threads))


def run_tasks(
    tasks: Sequence[Task],
    *,
    workers: int,
    on_event: EventHandler | None = None,
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
    pool = _Pool(Board(tasks, on_event), workers, max_starts)
    while not pool.board.finished:
        with ServerProcess(threads, preload, grace_s) as server:
            pool.drive(server)
            ended = server.exit_text() if server.gone else ""
        if not pool.board.finished:
            if not server.answered:
                raise RunError("the task server ended before it ran anything", why=ended)
            pool.fail_running(ended)
    return pool.board.results()


@dataclass(frozen=True)
class LocalExecutor:
    """Runs tasks in processes on this machine: `run_tasks` with its options kept.

    Parameters
    ----------
    workers : processes at a time; None for one per `threads` cores.
    threads, preload, max_starts, grace_s : as of `run_tasks`.
    """

    workers: int | None = None
    threads: int = 1
    preload: tuple[str, ...] = ()
    max_starts: int = 1
    grace_s: float = 10.0

    def run(self, tasks: Sequence[Task], on_event: EventHandler | None = None) -> list[TaskResult]:
        """Run tasks as `run_tasks` does; one result per task, in the order given."""
        return run_tasks(
            tasks,
            workers=default_workers(self.threads) if self.workers is None else self.workers,
            on_event=on_event,
            threads=self.threads,
            preload=self.preload,
            max_starts=self.max_starts,
            grace_s=self.grace_s,
        )


@dataclass
class _Pool:
    """What the server is told and what it answers, on a board of tasks."""

    board: Board
    workers: int
    max_starts: int

    def drive(self, server: ServerProcess) -> None:
        """Feed the server until every task has its result, or the server is gone."""
        while True:
            for task in self.board.take_ready(self.workers - len(self.board.running)):
                server.start(task.key, task.target, task.args)
            if self.board.finished:
                return
            event = server.next_event()
            if event is None:
                return
            self._apply(event)

    def _apply(self, event: Mapping[str, Any]) -> None:
        """Take in an event of the server."""
        if "started" in event:
            self.board.started(event["started"], event["pid"])
            return
        code = int(event["code"])
        status: TaskStatus = "done" if code == 0 else "failed"
        cause: Cause = "" if code == 0 else "killed" if code < 0 else "stopped" if code == STOPPED else "error"
        self._end(
            TaskResult(
                event["ended"],
                status,
                code,
                "" if status == "done" else str(event.get("error") or exit_text(code)),
                str(event.get("detail", "")),
                self.board.seconds(event["ended"]),
                cause,
                rebuilt_error(event.get("raised", {})),
            )
        )

    def fail_running(self, reason: str) -> None:
        """The server is gone, and with it every running task."""
        for key in self.board.running:
            text = f"the task server ended ({reason})"
            self._end(TaskResult(key, "failed", reason=text, seconds=self.board.seconds(key), cause="killed"))

    def _end(self, result: TaskResult) -> None:
        if result.killed and self.board.starts(result.key) < self.max_starts:
            self.board.again(result.key)
        else:
            self.board.end(result)
