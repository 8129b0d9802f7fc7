from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from plm_scaling.core.errors import ConfigError, RunError
from plm_scaling.execution.local import Task, TaskEvent, TaskResult, default_workers, run_tasks


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited 30 s in vain"
        time.sleep(0.005)


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.fixture(autouse=True)
def _no_process_left() -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    assert not left, f"processes left: {left}"


def test_results_come_in_the_order_given_and_each_task_runs_once(targets: str, tmp_path: Path) -> None:
    tasks = [Task(f"t{i}", f"{targets}:append", (str(tmp_path / "log"), f"t{i}")) for i in range(8)]
    results = run_tasks(tasks, workers=1)
    assert [r.key for r in results] == [t.key for t in tasks]
    assert all(r.ok and r.exit_code == 0 and r.reason == "" for r in results)
    assert (tmp_path / "log").read_text().split() == [t.key for t in tasks]  # one worker: started in order


def test_no_tasks_no_results() -> None:
    assert run_tasks([], workers=1) == []


def test_as_many_tasks_at_a_time_as_workers(targets: str, tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    tasks = [Task(n, f"{targets}:meet", (str(tmp_path), n, names)) for n in names]
    assert all(r.ok for r in run_tasks(tasks, workers=3))


def test_never_more_tasks_than_workers(targets: str, tmp_path: Path) -> None:
    running: set[str] = set()
    most = 0

    def watch(event: TaskEvent) -> None:
        nonlocal most
        (running.add if event.kind == "started" else running.discard)(event.key)
        most = max(most, len(running))

    run_tasks([Task(f"t{i}", f"{targets}:exit_code", (0,)) for i in range(9)], workers=2, on_event=watch)
    assert most == 2


def test_a_killed_task_stops_no_other(targets: str, tmp_path: Path) -> None:
    tasks = [Task(f"t{i}", f"{targets}:touch", (str(tmp_path / f"t{i}"),)) for i in range(4)]
    tasks.insert(1, Task("victim", f"{targets}:killed", (int(signal.SIGKILL),)))
    results = {r.key: r for r in run_tasks(tasks, workers=2)}
    assert results["victim"].status == "failed"
    assert results["victim"].killed
    assert results["victim"].exit_code == -signal.SIGKILL
    assert "SIGKILL" in results["victim"].reason
    assert all(results[f"t{i}"].ok and (tmp_path / f"t{i}").exists() for i in range(4))


def test_a_killed_task_is_started_again_before_others_and_its_dependents_wait(targets: str, tmp_path: Path) -> None:
    tasks = [
        Task("victim", f"{targets}:killed_twice", (str(tmp_path / "n"),)),
        Task("dependent", f"{targets}:exit_code", (0,), after=("victim",)),
        Task("other", f"{targets}:exit_code", (0,)),
    ]
    events: list[TaskEvent] = []
    results = run_tasks(tasks, workers=1, max_starts=3, on_event=events.append)
    assert all(r.ok for r in results)
    assert [(e.key, e.kind) for e in events] == [
        *[("victim", "started")] * 3,
        ("victim", "done"),
        *[(key, kind) for key in ("dependent", "other") for kind in ("started", "done")],
    ]


def test_starts_are_limited_and_failures_are_final(targets: str, tmp_path: Path) -> None:
    tasks = [
        Task("killed", f"{targets}:killed_twice", (str(tmp_path / "n"),)),
        Task("failed", f"{targets}:exit_code", (1,)),
    ]
    started: list[str] = []

    def watch(event: TaskEvent) -> None:
        if event.kind == "started":
            started.append(event.key)

    results = run_tasks(tasks, workers=1, max_starts=2, on_event=watch)
    assert [r.status for r in results] == ["failed", "failed"]
    assert started == ["killed", "killed", "failed"]


def test_dependents_of_a_failed_task_are_skipped_with_the_first_cause(targets: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    tasks = [
        Task("last", f"{targets}:touch", (str(mark),), after=("middle",)),  # given before what it needs
        Task("source", f"{targets}:fail", ("no data",)),
        Task("middle", f"{targets}:touch", (str(mark),), after=("source",)),
        Task("other", f"{targets}:exit_code", (0,)),
    ]
    results = {r.key: r for r in run_tasks(tasks, workers=2)}
    assert [results[k].status for k in ("source", "middle", "last", "other")] == [
        "failed",
        "skipped",
        "skipped",
        "done",
    ]
    assert results["middle"].reason == results["last"].reason == "needs source, which failed: ValueError: no data"
    assert not mark.exists()


def test_dependents_start_after_all_they_need(targets: str, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    tasks = [
        Task("c", f"{targets}:append", (log, "c"), after=("a", "b")),
        Task("b", f"{targets}:append", (log, "b"), after=("a",)),
        Task("a", f"{targets}:append", (log, "a")),
    ]
    assert all(r.ok for r in run_tasks(tasks, workers=3))
    assert Path(log).read_text().split() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("target", "argument", "code", "reason"),
    [
        ("exit_code", 3, 3, "exit code 3"),
        ("leave", 3, 3, "exit code 3"),
        ("leave", "text", 1, "exit code 1"),
        ("fail", "why", 1, "ValueError: why"),
        ("killed", int(signal.SIGSEGV), -signal.SIGSEGV, "killed by SIGSEGV"),
    ],
)
def test_how_a_task_fails_is_told(targets: str, target: str, argument: object, code: int, reason: str) -> None:
    [result] = run_tasks([Task("t", f"{targets}:{target}", (argument,))], workers=1)
    assert (result.status, result.exit_code, result.reason) == ("failed", code, reason)
    assert result.killed == (code < 0)


def test_a_traceback_longer_than_a_pipe_ends_normally(targets: str) -> None:
    [result] = run_tasks([Task("t", f"{targets}:shout", (200_000,))], workers=1)
    assert result.exit_code == 1
    assert result.reason.startswith("RuntimeError: \\xe9")
    assert 0 < len(result.detail) < 20_000


@pytest.mark.parametrize("target", ["no_such_module:f", "os:no_such_function", "os"])
def test_a_target_that_does_not_exist_fails_its_task_only(targets: str, target: str) -> None:
    results = run_tasks([Task("bad", target), Task("good", f"{targets}:exit_code", (0,))], workers=1)
    assert [r.status for r in results] == ["failed", "done"]
    assert "Error" in results[0].reason


def test_modules_are_preloaded_once_and_threads_are_set(targets: str, tmp_path: Path) -> None:
    tasks = [Task(n, f"{targets}:facts", (str(tmp_path / n),)) for n in "ab"]
    assert all(r.ok for r in run_tasks(tasks, workers=2, threads=3, preload=[targets, "no_such_module"]))
    first, second = (json.loads((tmp_path / n).read_text()) for n in "ab")
    assert first["loaded_in"] == second["loaded_in"]
    assert len({first["loaded_in"], first["pid"], second["pid"]}) == 3
    assert first["omp"] == "3"
    assert first["stdin"] == ""  # a task cannot read the server's commands
    assert first["main"] is None  # the caller's script is not run again
    assert first["frozen"] > 1000  # a collection in the task passes over what was there before it


def test_a_helper_left_by_a_killed_task_ends_with_it(targets: str, tmp_path: Path) -> None:
    [result] = run_tasks([Task("t", f"{targets}:with_helper", (str(tmp_path / "pid"),))], workers=1)
    assert result.killed
    wait_for(lambda: not alive(int((tmp_path / "pid").read_text())))


def test_events_tell_start_and_end(targets: str) -> None:
    events: list[TaskEvent] = []
    tasks = [Task("a", f"{targets}:exit_code", (1,)), Task("b", f"{targets}:exit_code", (0,), after=("a",))]
    results = run_tasks(tasks, workers=1, on_event=events.append)
    assert [(e.key, e.kind, e.total) for e in events] == [("a", "started", 2), ("a", "failed", 2), ("b", "skipped", 2)]
    assert events[0].pid
    assert [e.result for e in events[1:]] == results


def test_an_exception_of_the_caller_ends_the_tasks_in_order(targets: str, tmp_path: Path) -> None:
    mark = tmp_path / "pid"

    def stop(event: TaskEvent) -> None:
        wait_for(mark.exists)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tasks([Task("t", f"{targets}:polite", (str(mark),))], workers=1, on_event=stop)
    assert Path(f"{mark}.left").exists()  # it had SIGTERM and time to leave
    assert not alive(int(mark.read_text()))


def test_a_task_that_ignores_sigterm_is_killed_after_the_grace_period(targets: str, tmp_path: Path) -> None:
    mark = tmp_path / "pid"

    def stop(event: TaskEvent) -> None:
        wait_for(mark.exists)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tasks([Task("t", f"{targets}:sleep_for_ever", (str(mark), True))], workers=1, on_event=stop, grace_s=0.1)
    assert not alive(int(mark.read_text()))


def test_a_server_that_does_not_end_is_killed_with_its_tasks(
    targets: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plm_scaling.execution.server_process._PATIENCE_S", 0.1)
    mark = tmp_path / "pid"

    def stop(event: TaskEvent) -> None:
        wait_for(mark.exists)
        psutil.Process(int(mark.read_text())).parent().suspend()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tasks([Task("t", f"{targets}:sleep_for_ever", (str(mark), True))], workers=1, on_event=stop, grace_s=0.1)
    wait_for(lambda: not alive(int(mark.read_text())))


CALLER = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what is started in the background
sys.path.append({folder!r})
from plm_scaling.execution.local import Task, run_tasks
run_tasks([Task("t", "{targets}:polite", ({mark!r},))], workers=1)  # no main guard: a script as users write them
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_tasks_end_with_their_caller_however_it_ends(targets: str, tmp_path: Path, number: signal.Signals) -> None:
    mark = tmp_path / "pid"
    folder = next(p for p in sys.path if Path(p, f"{targets}.py").exists())
    script = tmp_path / "caller.py"
    script.write_text(textwrap.dedent(CALLER.format(folder=folder, targets=targets, mark=str(mark))))
    caller = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
    wait_for(mark.exists)
    task = psutil.Process(int(mark.read_text()))
    server = task.ppid()
    caller.send_signal(number)
    assert caller.wait(30) != 0
    wait_for(lambda: not alive(task.pid) and not alive(server))
    assert Path(f"{mark}.left").exists()


def test_the_rest_runs_when_the_server_itself_is_killed(targets: str) -> None:
    tasks = [Task("a", f"{targets}:kill_server"), Task("b", f"{targets}:exit_code", (0,))]
    results = run_tasks(tasks, workers=1)
    assert [r.status for r in results] == ["failed", "done"]
    assert results[0].exit_code is None
    assert "SIGKILL" in results[0].reason


def test_a_server_that_cannot_start_is_an_error(targets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RunError, match="ended before it ran anything"):
        run_tasks([Task("a", f"{targets}:exit_code", (0,)), Task("b", f"{targets}:exit_code", (0,))], workers=1)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([Task("a", "m:f"), Task("a", "m:f")], "same key"),
        ([Task("a", "m:f", after=("z",))], "z, which is not among the tasks"),
        ([Task("a", "m:f", after=("b",)), Task("b", "m:f", after=("a",))], "wait for each other: a, b"),
    ],
)
def test_a_graph_that_cannot_be_carried_out_is_refused(tasks: list[Task], message: str) -> None:
    with pytest.raises(RunError, match=message):
        run_tasks(tasks, workers=1)


def test_no_workers_is_an_error() -> None:
    with pytest.raises(ConfigError, match="0 workers"):
        run_tasks([], workers=0)


def test_default_workers_fill_the_processors() -> None:
    assert default_workers() == len(os.sched_getaffinity(0))
    assert default_workers(threads=10_000) == 1


def test_result_ok_and_killed() -> None:
    assert TaskResult("k", "done", 0).ok
    assert not TaskResult("k", "failed", 1).killed
    assert TaskResult("k", "failed", -9).killed
    assert TaskResult("k", "failed", None).killed  # its server went away
    assert not TaskResult("k", "skipped").killed
