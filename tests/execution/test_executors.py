"""What every executor promises, and the board and the errors they share."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plm_scaling.core.errors import CheckpointError, CorpusError, PlmScalingError, RunError
from plm_scaling.execution.board import Board, in_order
from plm_scaling.execution.inline import InlineExecutor
from plm_scaling.execution.local import LocalExecutor
from plm_scaling.execution.tasks import (
    Executor,
    Task,
    TaskEvent,
    TaskResult,
    error_fields,
    rebuilt_error,
)

EXECUTORS: list[Executor] = [InlineExecutor(), LocalExecutor(workers=2)]


@pytest.mark.parametrize("executor", EXECUTORS, ids=["inline", "local"])
def test_results_events_and_errors(executor: Executor, targets: str, tmp_path: Path) -> None:
    tasks = [
        Task("last", f"{targets}:append", (str(tmp_path / "log"), "last"), after=("first",)),
        Task("first", f"{targets}:append", (str(tmp_path / "log"), "first")),
        Task("ours", f"{targets}:complain", ("no sequences",)),
        Task("lost", f"{targets}:append", (str(tmp_path / "log"), "lost"), after=("ours", "last")),
        Task("other", f"{targets}:fail", ("text",)),
        Task("code", f"{targets}:leave", (3,)),
    ]
    events: list[TaskEvent] = []
    results = executor.run(tasks, events.append)
    assert [r.key for r in results] == [t.key for t in tasks]
    assert [r.status for r in results] == ["done", "done", "failed", "skipped", "failed", "failed"]
    assert [r.cause for r in results] == ["", "", "error", "", "error", "stopped"]
    assert [r.exit_code for r in results] == [0, 0, 1, None, 1, 3]
    assert [r.reason for r in results][2:] == [
        "a.fasta:3: no sequences (why)",
        "needs ours, which failed: a.fasta:3: no sequences (why)",
        "ValueError: text",
        "exit code 3",
    ]
    assert (tmp_path / "log").read_text().split() == ["first", "last"]
    ended = [event for event in events if event.kind != "started"]
    assert sorted((event.key, event.kind) for event in ended) == sorted((r.key, r.status) for r in results)
    assert sorted(event.key for event in events if event.kind == "started") == sorted({t.key for t in tasks} - {"lost"})
    error = results[2].to_error()
    assert isinstance(error, CorpusError)
    assert (error.what, error.where, error.why, error.hint) == ("no sequences", "a.fasta:3", "why", "hint")
    assert isinstance(results[4].to_error(), RunError)
    assert results[4].to_error().why == "ValueError: text"
    assert "in fail" in results[4].detail


@pytest.mark.parametrize("executor", EXECUTORS, ids=["inline", "local"])
def test_no_tasks_no_results_and_bad_graphs(executor: Executor) -> None:
    assert executor.run([]) == []
    with pytest.raises(RunError, match="wait for each other: a, b"):
        executor.run([Task("a", "m:f", after=("b",)), Task("b", "m:f", after=("a",))])


def test_inline_keeps_the_exception_itself(targets: str) -> None:
    [ours, other] = InlineExecutor().run(
        [Task("a", f"{targets}:complain_specially", ("Special",)), Task("b", f"{targets}:fail", ("x",))]
    )
    assert type(ours.raised).__name__ == "Special"
    assert ours.to_error() is ours.raised
    assert isinstance(other.raised, ValueError)
    assert other.to_error().__cause__ is other.raised
    with pytest.raises(KeyboardInterrupt):
        InlineExecutor().run([Task("a", f"{targets}:interrupt")])


def test_an_error_of_a_class_unknown_here_becomes_the_nearest_known(targets: str) -> None:
    [result] = LocalExecutor(workers=1).run([Task("a", f"{targets}:complain_specially", ("Unknown",))])
    assert type(result.raised) is CheckpointError
    assert "number 7" in str(result.raised)


def test_a_long_error_fits_a_pipe(targets: str) -> None:
    [result] = LocalExecutor(workers=1).run([Task("a", f"{targets}:complain", ("\U0001f9ec" * 50_000,) * 2)])
    assert isinstance(result.raised, CorpusError)
    assert result.raised.what == "\U0001f9ec" * 700


def test_a_local_executor_fills_the_machine_unless_told(targets: str) -> None:
    [result] = LocalExecutor(max_starts=2, preload=(targets,)).run([Task("a", f"{targets}:exit_code", (0,))])
    assert result.ok


def test_a_skipped_task_has_an_error_too() -> None:
    assert "task t was skipped" in str(TaskResult("t", "skipped", reason="because").to_error())


TEXT = st.text(max_size=50)


@given(TEXT, TEXT, TEXT, TEXT)
def test_errors_survive_being_text(what: str, where: str, why: str, hint: str) -> None:
    rebuilt = rebuilt_error(error_fields(CorpusError(what, where=where, why=why, hint=hint)))
    assert type(rebuilt) is CorpusError
    assert (rebuilt.what, rebuilt.where, rebuilt.why, rebuilt.hint) == (what, where, why, hint)


def test_other_errors_have_no_fields() -> None:
    assert error_fields(ValueError("x")) == {}
    assert rebuilt_error({}) is None
    fields = error_fields(CorpusError("x")) | {"type": "NobodyKnows"}
    assert type(rebuilt_error(fields)) is PlmScalingError


def graphs() -> st.SearchStrategy[list[Task]]:
    """Tasks in any order, each after some of lower number."""

    def build(n: int, seed: int) -> list[Task]:
        choice = random.Random(seed)
        tasks = []
        for i in range(n):
            after = tuple(str(j) for j in range(i) if choice.random() < 0.3)
            tasks.append(Task(str(i), "m:f", after=after + after[:1]))  # naming one twice changes nothing
        choice.shuffle(tasks)
        return tasks

    return st.builds(build, st.integers(0, 12), st.integers(0, 10**6))


@given(graphs(), st.integers(0, 10**6), st.integers(1, 4))
def test_the_board_starts_a_task_once_all_it_needs_succeeded(tasks: list[Task], seed: int, room: int) -> None:
    choice = random.Random(seed)
    fate = {task.key: choice.random() < 0.8 for task in tasks}
    by_key = {task.key: task for task in tasks}
    board = Board(tasks)
    succeeded: set[str] = set()
    while not board.finished:
        taken = board.take_ready(room - len(board.running))
        assert len(board.running) <= room
        assert all(succeeded.issuperset(task.after) for task in taken)
        key = choice.choice(board.running)
        if choice.random() < 0.2:
            board.again(key)
            continue
        board.end(TaskResult(key, "done" if fate[key] else "failed", reason="r"))
        succeeded |= {key} if fate[key] else set()

    def may_run(key: str) -> bool:
        return all(fate[k] and may_run(k) for k in by_key[key].after)

    for result in board.results():
        expected = "skipped" if not may_run(result.key) else "done" if fate[result.key] else "failed"
        assert result.status == expected
        assert ("which failed: r" in result.reason) == (expected == "skipped")


@given(graphs())
def test_in_order_puts_each_task_behind_what_it_needs(tasks: list[Task]) -> None:
    ordered = in_order(tasks)
    assert sorted(t.key for t in ordered) == sorted(t.key for t in tasks)
    place = {task.key: number for number, task in enumerate(ordered)}
    assert all(place[key] < place[task.key] for task in tasks for key in task.after)


def test_starts_are_counted_unless_lost_through_no_fault_of_the_task() -> None:
    board = Board([Task("t", "m:f")])
    for counted, starts in ((True, 2), (False, 2), (True, 3)):
        board.take_ready()
        board.again("t", counted=counted)
        board.take_ready()
        assert board.starts("t") == starts
        board.again("t", counted=False)
        assert board.starts("t") == starts - 1
