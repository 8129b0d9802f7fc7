"""Slurm's commands: sbatch through submitit, one squeue for all jobs, scancel, and sacct where it answers."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from plm_scaling.core.errors import ConfigError, RunError
from plm_scaling.execution.slurm_options import SlurmOptions

__all__ = ["ENDED", "Element", "JobState", "Scheduler", "SlurmCommands", "log_path", "submission_script"]

Element = tuple[str, int]
"""Name of a submission, and which of its jobs."""
ENDED: Final = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "LAUNCH_FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    }
)
"""States that a job does not leave."""
_FROM_OUTSIDE: Final = frozenset({signal.SIGKILL, signal.SIGTERM})
"""Signals that no program ends itself by."""
_EXIT_CODE: Final = re.compile(r"(?:ExitCode=|^)(\d+):(\d+)", re.MULTILINE)
_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True)
class JobState:
    """Where a job stands, in Slurm's words."""

    job_id: str
    """As users see it: "17", or "17_3" in an array."""
    state: str
    reason: str = ""

    @property
    def ended(self) -> bool:
        """Whether it can no longer run."""
        return self.state in ENDED


class Scheduler(Protocol):
    """What the executor asks of a cluster."""

    def submit(
        self, name: str, call: Callable[..., Any], calls: Sequence[tuple[Any, ...]], limit: int, minutes: int
    ) -> str:
        """Submit one job per entry of `calls`, at most `limit` running at a time, `minutes` each; the id of all."""
        ...

    def states(self, names: Sequence[str]) -> dict[Element, JobState] | None:
        """The jobs of the named submissions that the scheduler still knows; None if it does not answer."""
        ...

    def history(self, job_ids: Sequence[str]) -> dict[str, str]:
        """How jobs ended, as far as accounting can say: job id -> state."""
        ...

    def was_killed(self, job_id: str) -> bool:
        """Whether a job that has failed was ended by a signal from outside, as far as anyone can say."""
        ...

    def cancel(self, names: Sequence[str] = (), job_ids: Sequence[str] = ()) -> None:
        """Cancel whole submissions by name, jobs by id; what has ended is left alone."""
        ...


def log_path(folder: Path, job_id: str) -> Path:
    """Where a job's output and errors go."""
    return folder / f"{job_id}_0_log.out"


@dataclass(frozen=True)
class SlurmCommands:
    """The cluster this machine submits to.

    Raises
    ------
    ConfigError : submitit or Slurm's commands are not there.
    """

    folder: Path
    """For scripts, pickles and logs."""
    options: SlurmOptions

    def __post_init__(self) -> None:
        missing = [name for name in ("sbatch", "squeue", "scancel", "srun") if shutil.which(name) is None]
        if missing:
            raise ConfigError(
                f"cannot submit to Slurm: {missing[0]} is not on PATH",
                hint="run this where jobs are submitted (a login node, perhaps after `module load slurm`), or locally",
            )
        _submitit()

    def submit(
        self, name: str, call: Callable[..., Any], calls: Sequence[tuple[Any, ...]], limit: int, minutes: int
    ) -> str:
        """Submit one job per entry of `calls`, at most `limit` running at a time, `minutes` each; the id of all.

        Raises
        ------
        RunError : sbatch refused them.
        """
        submitit = _submitit()
        executor = submitit.SlurmExecutor(self.folder, python=self.options.launcher)
        executor.update_parameters(**self.options.sbatch(name, limit, minutes))
        try:
            # submitit prints what sbatch says; it belongs into the error.
            with contextlib.redirect_stderr(io.StringIO()):
                jobs = executor.submit_array([_Call(call, args) for args in calls])
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            raise RunError(
                "sbatch refused the jobs", why=_last_line(str(error)), hint="check partition, account, time and memory"
            ) from None
        return str(jobs[0].job_id).partition("_")[0]

    def states(self, names: Sequence[str]) -> dict[Element, JobState] | None:
        """The jobs of the named submissions that the scheduler still knows; None if it does not answer."""
        output = _output(
            "squeue",
            "--noheader",
            "--array",
            "--states=all",
            f"--user={os.getuid()}",
            f"--name={','.join(names)}",
            "--format=%F|%K|%T|%j|%r",
        )
        if output is None:
            return None
        found: dict[Element, JobState] = {}
        for line in output.splitlines():
            job, index, state, name, reason = line.split("|", 4)
            job_id = f"{job}_{index}" if index.isdigit() else job
            found[name, int(index) if index.isdigit() else 0] = JobState(job_id, state, reason)
        return found

    def history(self, job_ids: Sequence[str]) -> dict[str, str]:
        """How jobs ended, as far as accounting can say: job id -> state. Clusters without accounting say nothing."""
        if not job_ids or shutil.which("sacct") is None:
            return {}
        output = _output(
            "sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State", f"--jobs={','.join(job_ids)}"
        )
        pairs = (line.split("|") for line in (output or "").splitlines())
        return {pair[0]: pair[1].split()[0] for pair in pairs if len(pair) == 2 and pair[1]}

    def was_killed(self, job_id: str) -> bool:
        """Whether a job that has failed was ended by a signal from outside, as far as anyone can say."""
        shown = _output("scontrol", "--oneliner", "show", "job", job_id)
        shown = shown or _output(
            "sacct", "--noheader", "--parsable2", "--allocations", "--format=ExitCode", f"--jobs={job_id}"
        )
        found = _EXIT_CODE.search(shown or "")
        if found is None:
            return False
        code, number = map(int, found.groups())
        return (number or code - 128) in _FROM_OUTSIDE  # 128 and more: what a shell says of its command

    def cancel(self, names: Sequence[str] = (), job_ids: Sequence[str] = ()) -> None:
        """Cancel whole submissions by name, jobs by id; what has ended is left alone."""
        for name in names:
            _output("scancel", "--quiet", f"--user={os.getuid()}", f"--name={name}")
        if job_ids:
            _output("scancel", "--quiet", *job_ids)


@dataclass(frozen=True)
class _Call:
    """A call that submitit can pickle by name."""

    function: Callable[..., Any]
    args: tuple[Any, ...]

    def __call__(self) -> Any:
        return self.function(*self.args)


def submission_script(folder: Path, options: SlurmOptions, name: str, n_jobs: int, limit: int, minutes: int) -> str:
    """The batch script that would be submitted; needs no Slurm."""
    submitit = _submitit()

    class Writer(submitit.SlurmExecutor):  # type: ignore[misc, name-defined]
        """Writes scripts where there is no Slurm."""

        @classmethod
        def affinity(cls) -> int:
            return 1

    writer = Writer(folder, python=options.launcher)
    writer.update_parameters(**options.sbatch(name, limit, minutes))
    if n_jobs > 1:
        writer.parameters["map_count"] = n_jobs
    return str(writer._make_submission_file_text(writer._submitit_command_str, name))


def _submitit() -> Any:
    try:
        import submitit.core.utils
        import submitit.slurm.slurm
    except ImportError:
        raise ConfigError("cannot submit to Slurm: submitit is not installed", hint="pip install submitit") from None
    return submitit


def _output(*command: str) -> str | None:
    """What a command printed; None if it failed, for whatever reason: the scheduler may be restarting."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("sbatch: error: ") if lines else ""
