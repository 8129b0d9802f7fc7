"""Tasks one after another in this process: for tiny work, and where a debugger should reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plm_scaling.execution.board import Board
from plm_scaling.execution.server_process import exit_text
from plm_scaling.execution.task_server import invoke, report_of
from plm_scaling.execution.tasks import STOPPED, EventHandler, Task, TaskResult

__all__ = ["InlineExecutor"]


@dataclass(frozen=True)
class InlineExecutor:
    """Runs tasks in this process, in an order that respects what they need.

    A task that raises becomes a failed result, as in a pool, with the exception itself in `raised`; Ctrl-C comes
    through. A task that kills its process kills this one.
    """

    def run(self, tasks: Sequence[Task], on_event: EventHandler | None = None) -> list[TaskResult]:
        """Run tasks; one result per task, in the order given."""
        board = Board(tasks, on_event)
        while not board.finished:
            for task in board.take_ready(1):
                board.started(task.key)
                board.end(_result(board, task))
        return board.results()


def _result(board: Board, task: Task) -> TaskResult:
    try:
        code = invoke(task.target, task.args)
    except Exception as error:
        report = report_of(error)
        return TaskResult(
            task.key, "failed", 1, report["error"], report["detail"], board.seconds(task.key), "error", error
        )
    seconds = board.seconds(task.key)
    if code == 0:
        return TaskResult(task.key, "done", 0, seconds=seconds)
    return TaskResult(
        task.key, "failed", code, exit_text(code), seconds=seconds, cause="stopped" if code == STOPPED else "error"
    )
