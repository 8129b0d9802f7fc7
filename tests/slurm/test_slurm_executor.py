"""Tasks as jobs of a real Slurm. Every test asserts that its fault happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from plm_scaling.core.errors import CorpusError, RunError
from plm_scaling.execution.slurm import SlurmExecutor
from plm_scaling.execution.slurm_options import SlurmOptions
from plm_scaling.execution.tasks import Task, TaskEvent

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm"), pytest.mark.usefixtures("slurm_cluster")]

TARGETS = '''
import json, os, signal, time
from pathlib import Path
from plm_scaling.core.errors import CorpusError

def append(path, text):
    with open(path, "a") as handle:
        handle.write(text + "\\n")

def facts(path):
    print("a line of output")
    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "SLURMD_NODENAME")
    Path(path).write_text(json.dumps({name: os.environ.get(name) for name in names}))

def complain():
    raise CorpusError("no sequences", where="a.fasta:3", why="it is empty", hint="bring some")

def overlap(path):
    append(path, "+")
    time.sleep(1.0)
    append(path, "-")

def die(path, times):
    """Killed with SIGKILL the first `times` times."""
    append(path, "start")
    if Path(path).read_text().count("start") <= times:
        os.kill(os.getpid(), signal.SIGKILL)

def kill_job(path):
    """The first time, kills the job's own process."""
    append(path, "start")
    if Path(path).read_text().count("start") == 1:
        server = os.getppid()
        runner = int(Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(runner, signal.SIGKILL)
        time.sleep(60)

def sleep_once(path):
    """The first time, sleeps until it is ended."""
    append(path, "start")
    if Path(path).read_text().count("start") == 1:
        time.sleep(600)

def wait_for(path, go):
    append(path, "start")
    while not Path(go).exists():
        time.sleep(0.05)

def eat(megabytes):
    memory = bytearray(megabytes << 20)
    memory[::4096] = b"x" * len(memory[::4096])
    time.sleep(60)
'''
T = "cluster_targets"


@pytest.fixture(scope="module", autouse=True)
def targets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster_targets")
    (folder / f"{T}.py").write_text(TARGETS)
    sys.path.append(str(folder))
    return folder


def executor(work: Path, max_starts: int = 3, **options: Any) -> SlurmExecutor:
    return SlurmExecutor(work, SlurmOptions(**options), max_starts=max_starts, poll_s=0.1, lag_s=1.0)


def command(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited 60 s in vain"
        time.sleep(0.05)


def n_starts(path: Path) -> int:
    return path.read_text().count("start") if path.exists() else 0


def attempts(work: Path, key: str) -> int:
    return len(list((work / "tasks" / key / "attempts").iterdir()))


def queued(label: str = "plm") -> list[str]:
    return [name for name in command("squeue", "-h", "-r", "-o", "%j").split() if name.startswith(label)]


def test_tasks_run_as_jobs_one_wave_an_array(tmp_path: Path) -> None:
    work = tmp_path / "work"
    tasks = [
        Task("last", f"{T}:append", (str(tmp_path / "log"), "last"), after=("a", "b")),
        Task("a", f"{T}:facts", (str(tmp_path / "a"),)),
        Task("b", f"{T}:facts", (str(tmp_path / "b"),)),
        Task("bad", f"{T}:complain"),
        Task("lost", f"{T}:append", (str(tmp_path / "log"), "lost"), after=("bad",)),
    ]
    events: list[TaskEvent] = []
    results = executor(work, cpus=2, gpus=1).run(tasks, events.append)
    assert [r.status for r in results] == ["done", "done", "done", "failed", "skipped"]
    assert (tmp_path / "log").read_text() == "last\n"
    seen = [json.loads((tmp_path / name).read_text()) for name in "ab"]
    for facts in seen:
        assert facts["OMP_NUM_THREADS"] == "2"
        assert facts["CUDA_VISIBLE_DEVICES"] in ("0", "1")
        assert facts["SLURMD_NODENAME"] in ("n1", "n2")
    assert seen[0]["SLURM_JOB_ID"] != seen[1]["SLURM_JOB_ID"]
    places = {event.key: event.place for event in events if event.kind == "started"}
    assert set(places) == {"last", "a", "b", "bad"}
    assert places["a"].split("_")[0] == places["b"].split("_")[0]  # one array
    assert places["a"].startswith("job ")
    error = results[3].raised
    assert isinstance(error, CorpusError)
    assert (error.what, error.where, error.why, error.hint) == (
        "no sequences",
        "a.fasta:3",
        "it is empty",
        "bring some",
    )
    assert (work / "tasks/a/attempts/1/log").read_text() == "a line of output\n"
    wait_until(lambda: not queued())


def test_the_limit_of_jobs_at_a_time_holds(tmp_path: Path) -> None:
    log = tmp_path / "log"
    tasks = [Task(f"t{i}", f"{T}:overlap", (str(log),)) for i in range(4)]
    assert all(r.ok for r in executor(tmp_path / "work", array_limit=2).run(tasks))
    level, most = 0, 0
    for line in log.read_text().split():
        level += 1 if line == "+" else -1
        most = max(most, level)
    assert most == 2


def test_one_job_runs_many_tasks_in_turn(tmp_path: Path) -> None:
    tasks = [Task(f"t{i}", f"{T}:facts", (str(tmp_path / f"{i}"),)) for i in range(5)]
    assert all(r.ok for r in executor(tmp_path / "work", tasks_per_job=3).run(tasks))
    jobs = [json.loads((tmp_path / f"{i}").read_text())["SLURM_JOB_ID"] for i in range(5)]
    assert jobs[0] == jobs[1] == jobs[2] != jobs[3] == jobs[4]


def test_what_is_killed_is_started_again_a_bounded_number_of_times(tmp_path: Path) -> None:
    work = tmp_path / "work"
    tasks = [
        Task("once", f"{T}:die", (str(tmp_path / "once"), 1)),
        Task("always", f"{T}:die", (str(tmp_path / "always"), 99)),
        Task("job", f"{T}:kill_job", (str(tmp_path / "job"),)),
    ]
    once, always, job = executor(work, max_starts=2).run(tasks)
    assert (once.status, n_starts(tmp_path / "once")) == ("done", 2)
    assert (always.status, always.exit_code, n_starts(tmp_path / "always")) == ("failed", -signal.SIGKILL, 2)
    assert "SIGKILL" in always.reason
    assert (job.status, n_starts(tmp_path / "job")) == ("done", 2)
    assert [attempts(work, key) for key in ("once", "always", "job")] == [2, 2, 2]


def test_a_job_that_is_killed_before_its_first_task_is_submitted_again(tmp_path: Path) -> None:
    """Its script kills itself the first time, where Python would have started: no word of it is in any file."""
    work, killed = tmp_path / "work", tmp_path / "killed"
    options = {"setup": (f"mkdir {killed} && kill -KILL $$",)}
    tasks = [Task("t", f"{T}:append", (str(tmp_path / "n"), "start"))]
    [result] = executor(work, max_starts=1, **options).run(tasks)
    assert killed.is_dir()
    assert result.ok, result
    assert (n_starts(tmp_path / "n"), attempts(work, "t")) == (1, 2)
    assert not (work / "tasks/t/attempts/1/started.json").exists()


def test_too_much_memory_is_called_so_and_not_tried_again(tmp_path: Path) -> None:
    [result] = executor(tmp_path / "work", memory="300M").run([Task("eater", f"{T}:eat", (600,))])
    assert result.cause == "out of memory"
    assert "more memory than the job was given" in result.reason
    assert attempts(tmp_path / "work", "eater") == 1


def test_a_cancelled_job_is_not_started_again(tmp_path: Path) -> None:
    cancelled: list[str] = []

    log = tmp_path / "n"

    def cancel(event: TaskEvent) -> None:
        if event.kind == "started":
            wait_until(lambda: n_starts(log) == 1)
            cancelled.append(event.place.split()[1])
            command("scancel", cancelled[0])

    [result] = executor(tmp_path / "work").run([Task("t", f"{T}:sleep_once", (str(log),))], cancel)
    assert len(cancelled) == 1
    assert result.status == "failed"
    assert result.cause == "cancelled"
    assert f"job {cancelled[0]}" in result.reason
    assert n_starts(log) == 1


@pytest.mark.parametrize("fault", ["requeued", "dropped", "node"])
def test_preempted_and_lost_jobs_are_started_again(tmp_path: Path, fault: str) -> None:
    node = "n2" if fault == "node" else "n1"
    options: dict[str, Any] = {"cpus": 4, "extra": {"nodelist": node}, "requeue": fault == "requeued"}
    options["partition"] = {"requeued": "low", "dropped": "drop", "node": "main"}[fault]
    faults: list[str] = []
    log = tmp_path / "n"

    def strike(event: TaskEvent) -> None:
        if event.kind != "started" or faults:
            return
        wait_until(lambda: n_starts(log) == 1)
        if fault == "node":
            command("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
            # Refused if the node has registered again in between, which makes it usable as well.
            subprocess.run(["scontrol", "update", f"NodeName={node}", "State=RESUME"], capture_output=True, check=False)
        else:
            command("sbatch", "-w", node, "-c", "4", "-t", "1", "-o", "/dev/null", "--wrap", "true")
        faults.append(event.place)

    work = tmp_path / "work"
    [result] = executor(work, max_starts=2, **options).run([Task("t", f"{T}:sleep_once", (str(log),))], strike)
    assert len(faults) == 1
    assert result.ok, result
    assert n_starts(log) == 2
    started = json.loads(max((work / "tasks/t/attempts").iterdir()).joinpath("started.json").read_text())
    # Either Slurm started the same job again, or we submitted another.
    assert (attempts(work, "t"), started["restart"]) == ((1, 1) if fault == "requeued" else (2, 0))


CONTROLLER = """
import sys
sys.path.append({targets!r})
from pathlib import Path
from plm_scaling.execution.slurm import SlurmExecutor
from plm_scaling.execution.tasks import Task
tasks = [Task(*fields) for fields in {tasks!r}]
SlurmExecutor(Path({work!r}), poll_s=0.1, lag_s=1.0).run(tasks)
"""


def test_jobs_of_a_controller_that_was_killed_are_found_again(tmp_path: Path, targets: Path) -> None:
    work, go = tmp_path / "work", tmp_path / "go"
    fields: list[tuple[Any, ...]] = [
        ("quick", f"{T}:append", (str(tmp_path / "quick"), "start")),
        ("long", f"{T}:wait_for", (str(tmp_path / "long"), str(go))),
        ("later", f"{T}:append", (str(tmp_path / "later"), "start"), ("quick", "long")),
    ]
    text = CONTROLLER.format(targets=str(targets), tasks=fields, work=str(work))
    controller = subprocess.Popen([sys.executable, "-c", text])
    wait_until((work / "tasks/quick/attempts/1/result.json").exists)
    wait_until(lambda: n_starts(tmp_path / "long") == 1)
    controller.send_signal(signal.SIGKILL)
    assert controller.wait() == -signal.SIGKILL
    wait_until(lambda: len(queued()) == 1)
    events: list[TaskEvent] = []

    def free(event: TaskEvent) -> None:
        events.append(event)
        go.touch()

    results = executor(work).run([Task(*f) for f in fields], free)
    assert [r.status for r in results] == ["done", "done", "done"]
    assert (events[0].key, events[0].kind) == ("quick", "done")
    assert [n_starts(tmp_path / key) for key in ("quick", "long", "later")] == [1, 1, 1]
    # All results were handed out: the same call again means that the work is to be done again.
    assert executor(work).run([Task(*fields[0])])[0].ok
    assert n_starts(tmp_path / "quick") == 2


def test_ctrl_c_cancels_the_jobs(tmp_path: Path) -> None:
    log = tmp_path / "n"
    wait_until(lambda: not queued())
    pids: list[int] = []

    def stop(event: TaskEvent) -> None:
        assert event.pid
        pids.append(event.pid)
        wait_until(lambda: n_starts(log) == 1)
        raise KeyboardInterrupt

    tasks = [Task("t", f"{T}:sleep_once", (str(log),)), Task("u", f"{T}:append", (str(log), "u"), ("t",))]
    with pytest.raises(KeyboardInterrupt):
        executor(tmp_path / "work").run(tasks, stop)
    assert not queued()
    assert not psutil.pid_exists(pids[0])
    assert all(r.ok for r in executor(tmp_path / "work").run(tasks))
    assert n_starts(log) == 2


def test_what_sbatch_refuses_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunError) as caught:
        executor(tmp_path / "work", partition="nowhere").run([Task("t", f"{T}:complain")])
    assert caught.value.why == "Batch job submission failed: Invalid partition name specified"
    assert capfd.readouterr().err == ""


def test_a_job_that_never_comes_to_its_tasks_says_why(tmp_path: Path) -> None:
    options = {"setup": ("echo no such module: mmseqs2", "exit 7")}
    [result] = executor(tmp_path / "work", **options).run([Task("t", f"{T}:complain")])
    assert (result.status, result.cause, result.exit_code) == ("failed", "error", 1)
    assert "no such module: mmseqs2" in result.reason
    assert attempts(tmp_path / "work", "t") == 1


def test_the_cluster_is_ours(slurm_cluster: Path) -> None:
    assert os.environ["SLURM_CONF"] == str(slurm_cluster / "slurm.conf")
    assert command("sinfo", "-h", "-p", "main", "-N", "-o", "%N").split() == ["n1", "n2"]
