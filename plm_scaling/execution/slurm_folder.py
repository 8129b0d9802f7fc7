"""The files through which the submitting process and its jobs agree; they, not the scheduler, say what was done.

WORK/lock                                held by the process that submits
     submissions/NAME.json               which job runs which tasks, written before sbatch; NAME is the jobs' name
     submissions/NAME.{job,closed}       the id that sbatch gave; that nobody waits for these jobs any more
     submissions/NAME.N.alive            job N came as far as Python
     tasks/KEY/attempts/K/{started.json, result.json, stopped, log}
     jobs/                               scripts and logs of the jobs themselves
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from plm_scaling.core.errors import RecordError, RunError
from plm_scaling.core.files import sha256_text, write_atomic
from plm_scaling.execution.slurm_commands import Element
from plm_scaling.execution.tasks import Task, TaskResult, error_fields, rebuilt_error

__all__ = ["Attempt", "Submission", "WorkFolder"]

_PLAIN: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}")
_LOG_TAIL: Final = 4000


@dataclass(frozen=True)
class Attempt:
    """One start of a task: its folder is written by the job that runs it, and by no other."""

    key: str
    target: str
    args: tuple[Any, ...]
    folder: str
    """Relative to the work folder."""

    def is_of(self, task: Task) -> bool:
        """Whether this is a start of the same call."""
        same_args = json.dumps(list(self.args)) == json.dumps(list(task.args))
        return (self.key, self.target) == (task.key, task.target) and same_args


@dataclass(frozen=True)
class Submission:
    """One array of jobs and the attempts that each job makes in turn."""

    name: str
    jobs: tuple[tuple[Attempt, ...], ...]

    @property
    def elements(self) -> list[Element]:
        """Its jobs."""
        return [(self.name, index) for index in range(len(self.jobs))]


class WorkFolder:
    """Reads and writes the files; see the top of this module."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()

    @property
    def jobs_dir(self) -> Path:
        """Scripts and logs of the jobs."""
        return self.path / "jobs"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process that submits from this folder.

        Raises
        ------
        RunError : another one does.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(
                    "another process submits tasks from this folder",
                    where=str(self.path),
                    hint="wait for it; if it hangs, stop it: its jobs go on and are found again",
                ) from None
            yield

    # -- submissions

    def create(self, label: str, jobs: Sequence[Sequence[Task]]) -> Submission:
        """Write down what is about to be submitted, with a new attempt for every task."""
        name = f"{re.sub(r'[^A-Za-z0-9._-]', '-', label)}-{secrets.token_hex(6)}"
        submission = Submission(name, tuple(tuple(self._new_attempt(task) for task in tasks) for tasks in jobs))
        write_atomic(self._submission(name, "json"), json.dumps(asdict(submission)))
        return submission

    def _new_attempt(self, task: Task) -> Attempt:
        parent = self.path / "tasks" / _folder_name(task.key) / "attempts"
        parent.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(path.name) for path in parent.iterdir() if path.name.isdigit()), default=0)
        (parent / str(number)).mkdir()
        return Attempt(task.key, task.target, task.args, str((parent / str(number)).relative_to(self.path)))

    def read(self, name: str) -> Submission:
        """A submission by its name.

        Raises
        ------
        RecordError : missing or damaged.
        """
        path = self._submission(name, "json")
        try:
            data = json.loads(path.read_text())
            jobs = tuple(
                tuple(Attempt(a["key"], a["target"], tuple(a["args"]), a["folder"]) for a in job)
                for job in data["jobs"]
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RecordError(f"not a readable list of submitted tasks: {error}", where=str(path)) from None
        return Submission(name, jobs)

    def open_submissions(self) -> list[Submission]:
        """Submissions that somebody waited for when he was stopped, the newest first."""
        folder = self.path / "submissions"
        paths = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        return [self.read(path.stem) for path in paths if not self._submission(path.stem, "closed").exists()]

    def close(self, name: str) -> None:
        """Nobody waits for these jobs any more."""
        self._submission(name, "closed").touch()

    def set_job_id(self, name: str, job_id: str) -> None:
        """Keep the id that the scheduler gave."""
        write_atomic(self._submission(name, "job"), job_id)

    def job_id(self, element: Element, n_jobs: int) -> str:
        """A job's id as users see it; empty if it was not written down."""
        try:
            job_id = self._submission(element[0], "job").read_text()
        except OSError:
            return ""
        return f"{job_id}_{element[1]}" if n_jobs > 1 else job_id

    def set_alive(self, element: Element) -> None:
        """A job came as far as Python."""
        self._submission(*element, "alive").touch()

    def was_alive(self, element: Element) -> bool:
        """Whether a job came as far as Python; if not, its script is at fault."""
        return self._submission(*element, "alive").exists()

    def _submission(self, name: str, *suffix: str | int) -> Path:
        return self.path / "submissions" / ".".join([name, *map(str, suffix)])

    # -- attempts

    def set_started(self, attempt: Attempt, facts: dict[str, Any]) -> None:
        """An attempt has its process."""
        write_atomic(self.path / attempt.folder / "started.json", json.dumps(facts))

    def started(self, attempt: Attempt) -> dict[str, Any] | None:
        """What is known of an attempt that has started; None if it has not."""
        return _read(self.path / attempt.folder / "started.json")

    def set_result(self, attempt: Attempt, result: TaskResult) -> None:
        """An attempt has ended."""
        raised = error_fields(result.raised) if result.raised else {}
        facts = {
            name: getattr(result, name) for name in ("status", "exit_code", "reason", "detail", "seconds", "cause")
        }
        write_atomic(self.path / attempt.folder / "result.json", json.dumps(facts | {"raised": raised}))

    def result(self, attempt: Attempt) -> TaskResult | None:
        """How an attempt ended; None if it left no result."""
        facts = _read(self.path / attempt.folder / "result.json")
        if facts is None:
            return None
        return TaskResult(attempt.key, **{**facts, "raised": rebuilt_error(facts["raised"])})

    def forget(self, attempt: Attempt) -> None:
        """Make room for a start of the same attempt by a job that the scheduler started again."""
        for name in ("result.json", "started.json", "stopped"):
            (self.path / attempt.folder / name).unlink(missing_ok=True)

    def has_stopped(self, attempt: Attempt) -> bool:
        """Whether its process was asked to stop and saved its work."""
        return (self.path / attempt.folder / "stopped").exists()

    def log(self, attempt: Attempt) -> Path:
        """What a task writes to its standard output and error."""
        return self.path / attempt.folder / "log"

    def log_tail(self, path: Path) -> str:
        """The end of a log; empty if there is none."""
        try:
            with path.open("rb") as handle:
                handle.seek(max(0, os.fstat(handle.fileno()).st_size - _LOG_TAIL))
                return handle.read().decode(errors="replace")
        except OSError:
            return ""


def _folder_name(key: str) -> str:
    """A key as a folder's name: itself if it can be one, else its plain part and a hash."""
    if _PLAIN.fullmatch(key):
        return key
    return f"{re.sub(r'[^A-Za-z0-9_-]', '-', key)[:60]}-{sha256_text(key)[:12]}"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        facts: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return facts
