"""The part that runs on a node: a job makes its attempts in turn, each in a process of its own, and leaves results."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from plm_scaling.execution.local import run_tasks
from plm_scaling.execution.slurm_endings import STARTED, WARNED
from plm_scaling.execution.slurm_folder import Attempt, WorkFolder
from plm_scaling.execution.spread import run_spread
from plm_scaling.execution.task_server import invoke
from plm_scaling.execution.tasks import STOPPED, Task, TaskEvent

__all__ = ["run_job", "run_logged"]

_GRACE_S: Final = 20.0
"""For tasks to save their work; Slurm gives 30 s (`KillWait`) unless configured otherwise."""
_MARGIN_S: Final = 10
"""Between the end of the tasks' time and the limit."""
_MOST_REQUEUES: Final = 100
"""A job that comes to its limit more often than this is none that goes on by itself."""


class _Stopped(BaseException):
    """Slurm asked the job to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run_job(work: str, name: str, index: int, settings: dict[str, Any]) -> None:
    """Run the tasks of job `index` of submission `name`; what has a result already is not run again.

    SIGTERM (time limit, preemption, scancel) ends the running tasks, and no result is written: whether they are
    started again is not for the job to say. SIGUSR1, ahead of the time limit, does the same; if tasks saved their
    work, the job then has itself started again, which needs nobody who watches it.

    Parameters
    ----------
    work : the work folder.
    settings : `workers`, `threads`, `preload`, `warning_s`, `requeue` and the submitting process's `sys.path`.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _stop)
    folder = WorkFolder(Path(work))
    folder.set_alive((name, index))
    sys.path += [entry for entry in settings["sys_path"] if entry not in sys.path]
    attempts = {attempt.key: attempt for attempt in folder.read(name).jobs[index] if _is_open(folder, attempt)}
    facts = _job_facts()
    print(f"{STARTED} on {facts['node']}: {', '.join(attempts)}", flush=True)

    def on_event(event: TaskEvent) -> None:
        attempt = attempts[event.key]
        if event.kind == "started":
            folder.set_started(attempt, facts | {"pid": event.pid, "time": time.time()})
        elif event.result is not None:
            folder.set_result(attempt, event.result)

    shape: dict[str, int] = settings.get("shape") or {"nodes": 1}
    tasks = [_task(folder, attempt, shape) for attempt in attempts.values()]
    try:
        results = run_tasks(
            tasks,
            workers=settings["workers"],
            on_event=on_event,
            threads=settings["threads"],
            preload=settings["preload"] if shape["nodes"] == 1 else (),
            grace_s=max(_GRACE_S, settings.get("warning_s", 0) - _MARGIN_S),
        )
    except _Stopped as stopped:
        if stopped.number == signal.SIGUSR1:
            print(WARNED, flush=True)
            if settings.get("requeue") and any(folder.has_stopped(attempt) for attempt in attempts.values()):
                _start_again(facts)
        sys.exit(128 + stopped.number)
    sys.exit(0 if all(result.ok for result in results) else 1)


def _task(folder: WorkFolder, attempt: Attempt, shape: dict[str, int]) -> Task:
    """An attempt as a task of this job; one on several nodes goes by way of `run_spread`."""
    log, target, args = folder.log(attempt), attempt.target, attempt.args
    if shape["nodes"] > 1:
        target, args = f"{run_spread.__module__}:run_spread", (target, args, str(log.parent), shape)
    return Task(attempt.key, f"{__name__}:run_logged", (str(log), target, args))


def _stop(number: int, frame: object) -> None:
    for each in (signal.SIGTERM, signal.SIGUSR1):  # once is enough; more would disturb the tasks' orderly end
        signal.signal(each, signal.SIG_IGN)
    raise _Stopped(number)


def _start_again(facts: dict[str, Any]) -> None:
    """Have Slurm start this job again. Where it may not, the submitting process learns why the job ended, and does."""
    if facts["restart"] < _MOST_REQUEUES:
        with contextlib.suppress(OSError):  # no scontrol, as in a container
            subprocess.run(["scontrol", "requeue", facts["job"]], check=False)


def _is_open(folder: WorkFolder, attempt: Attempt) -> bool:
    """Whether an attempt is still to be made: a job that Slurm started again finds some of them done."""
    result = folder.result(attempt)
    if result is not None and not result.killed and result.cause != "stopped":
        return False
    folder.forget(attempt)
    return True


def _job_facts() -> dict[str, Any]:
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return {
        "job": f"{array}_{index}" if array else os.environ.get("SLURM_JOB_ID", ""),
        "node": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
        "restart": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
    }


def run_logged(log: str, target: str, args: list[Any]) -> int:
    """Call `target` with standard output and error appended to the file `log`; its exit code."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with Path(log).open("ab") as handle:
        for descriptor in (1, 2):
            os.dup2(handle.fileno(), descriptor)
    code = invoke(target, args)
    if code == STOPPED:
        Path(log).with_name("stopped").touch()
    return code
