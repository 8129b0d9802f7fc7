"""Why a job ended without leaving its tasks' results: the scheduler's word, the job's log, and what follows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from plm_scaling.execution.tasks import Cause

__all__ = ["STARTED", "WARNED", "Ending", "ending_of"]

STARTED: Final = "plm-scaling: job started"
"""What a job writes into its log when it starts."""
WARNED: Final = "plm-scaling: stopped ahead of the time limit"
"""What it writes when its tasks had to stop for that reason."""

_BY_STATE: Final[dict[str, Cause]] = {
    "OUT_OF_MEMORY": "out of memory",
    "TIMEOUT": "time limit",
    "DEADLINE": "time limit",
    "PREEMPTED": "preempted",
    "NODE_FAIL": "node failure",
    "BOOT_FAIL": "node failure",
    "LAUNCH_FAILED": "node failure",
    "CANCELLED": "cancelled",
}
# Some clusters report a job that was killed for its memory as FAILED, and forget jobs within minutes; slurmstepd's
# last words in the job's log remain. Source: messages of slurmstepd and of the jobacct_gather plugins (Slurm 22.05).
_BY_LOG: Final[tuple[tuple[str, Cause], ...]] = (
    (r"slurmstepd\S*: error: .*(oom[-_ ]?kill|exceeded .*memory limit|memory limit .*exceeded)", "out of memory"),
    (r"slurmstepd\S*: error: .*DUE TO TIME LIMIT", "time limit"),
    (WARNED, "time limit"),
    (r"slurmstepd\S*: error: .*DUE TO PREEMPTION", "preempted"),
    (r"slurmstepd\S*: error: .*DUE TO NODE FAILURE", "node failure"),
    (r"slurmstepd\S*: error: .*CANCELLED AT", "cancelled"),
)
_WORDS: Final[dict[Cause, str]] = {
    "out of memory": "killed for using more memory than the job was given",
    "time limit": "ended by the job's time limit",
    "preempted": "preempted by a job of higher priority",
    "node failure": "lost with its node",
    "cancelled": "cancelled (scancel)",
    "killed": "its job was killed, or failed, while it ran",
    "vanished": "its job left the queue without a result",
}


@dataclass(frozen=True)
class Ending:
    """How a job ended, for the tasks it left without a result."""

    cause: Cause
    reason: str
    """In a line."""


def ending_of(job_id: str, state: str, log: str, *, was_alive: bool, was_killed: bool = False) -> Ending:
    """How a job ended that left a task without a result.

    Parameters
    ----------
    job_id : as users see it; may be empty.
    state : in the scheduler's words; empty if it no longer knows the job.
    log : the end of the job's log.
    was_alive : whether the job came as far as running tasks.
    was_killed : whether a signal from outside is known to have ended it; one that did not come that far is otherwise
        taken to have failed by itself, as its script would again.
    """
    log = log.rpartition(STARTED)[2]  # an earlier start of the same job has left its last words too
    logged: Cause = next((cause for text, cause in _BY_LOG if re.search(text, log)), "")
    cause: Cause = _BY_STATE.get(state, "")
    if logged == "out of memory" or not cause or (cause == "cancelled" and logged):
        cause = logged or cause
    if not cause and not was_alive and not was_killed and state == "FAILED":
        lines = [line.strip() for line in log.splitlines() if line.strip()]
        last = lines[-1] if lines else "nothing in its log"
        return Ending("error", f"its job failed before any task began: {last}{_job(job_id, state)}")
    cause = cause or ("killed" if state == "FAILED" else "vanished")
    return Ending(cause, f"{_WORDS[cause]}{_job(job_id, state)}")


def _job(job_id: str, state: str) -> str:
    words = " ".join(word for word in (f"job {job_id}" if job_id else "", state) if word)
    return f" ({words})" if words else ""
