"""What runs (`Task`), how it ended (`TaskResult`), and who runs it (`Executor`): here, in a pool, or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, runtime_checkable

from plm_scaling.core.errors import PlmScalingError, RunError

__all__ = [
    "STOPPED",
    "Cause",
    "EventHandler",
    "Executor",
    "Keeper",
    "Task",
    "TaskEvent",
    "TaskResult",
    "TaskStatus",
    "error_fields",
    "rebuilt_error",
]

TaskStatus = Literal["done", "failed", "skipped"]
Cause = Literal[
    "",
    "error",
    "stopped",
    "killed",
    "out of memory",
    "time limit",
    "preempted",
    "cancelled",
    "node failure",
    "refused",
    "vanished",
]
"""Why a task failed. "error": by itself (an exception, an exit code); "stopped": it was asked to, saved its work and
goes on when it is started again (exit code `STOPPED`); "refused": the scheduler will never start it;
"vanished": it left no result and nobody knows why; the rest: ended from outside."""

STOPPED: Final = 3
"""Exit code of a task that was asked to stop and will go on from where it was: every command's code for work left."""
_FIELD_LIMIT: Final = 700
"""Characters of an error's field that cross a process border; four of them, escaped, fit a pipe beside a traceback."""


@dataclass(frozen=True)
class Task:
    """A call of `target` ("module:function") with JSON-able `args`, after the tasks named in `after` succeeded.

    The function returns None or 0 for success; another integer is its exit code. A task may be started more than once
    (`max_starts`), so it must cope with what an earlier, killed start left behind.
    """

    key: str
    target: str
    args: tuple[Any, ...] = ()
    after: tuple[str, ...] = ()
    seconds: float | None = None
    """How long it is expected to run; None: nobody knows."""


@dataclass(frozen=True)
class TaskResult:
    """How a task ended."""

    key: str
    status: TaskStatus
    exit_code: int | None = None
    """Negative: the number of the signal that killed it. None: never started, or its fate is unknown."""
    reason: str = ""
    """Why it failed or was skipped, in a line."""
    detail: str = ""
    """Traceback, if it raised; the end of its log, if it vanished."""
    seconds: float = 0.0
    cause: Cause = ""
    raised: BaseException | None = field(default=None, repr=False, compare=False)
    """What it raised: one of this package's errors, rebuilt; in `InlineExecutor` whatever it was, as it was."""

    @property
    def ok(self) -> bool:
        """Whether the task succeeded."""
        return self.status == "done"

    @property
    def killed(self) -> bool:
        """Whether the task was ended from outside: by a signal, with its server, or by the scheduler."""
        return self.status == "failed" and (self.exit_code is None or self.exit_code < 0)

    def to_error(self) -> PlmScalingError:
        """The task's own error if it is one of this package's, else a `RunError` that says what became of it."""
        if isinstance(self.raised, PlmScalingError):
            return self.raised
        error = RunError(f"task {self.key} {'was skipped' if self.status == 'skipped' else 'failed'}", why=self.reason)
        error.__cause__ = self.raised
        return error


@dataclass(frozen=True)
class TaskEvent:
    """A task started (with its process id), or has its result."""

    key: str
    kind: Literal["started", "done", "failed", "skipped"]
    total: int
    """Tasks of this call."""
    pid: int | None = None
    result: TaskResult | None = None
    place: str = ""
    """Where it started, if not on this machine: job and node."""


EventHandler = Callable[[TaskEvent], None]


class Executor(Protocol):
    """Runs tasks, each after those it needs."""

    def run(self, tasks: Sequence[Task], on_event: EventHandler | None = None) -> list[TaskResult]:
        """Run tasks; one result per task, in the order given.

        Parameters
        ----------
        tasks : what to run; `after` may name any other task of the list.
        on_event : called in this process whenever a task starts and when it has a result.

        Raises
        ------
        RunError : the tasks are no graph that can be carried out, or nothing can be started at all.
        """
        ...


@runtime_checkable
class Keeper(Executor, Protocol):
    """An executor whose tasks go on when the process that asked for them is gone, and are found again."""

    def held(self) -> frozenset[str]:
        """Keys of the tasks that an earlier call left waiting or running, which the next `run` takes over."""
        ...

    def scripts(self, tasks: Sequence[Task]) -> list[str]:
        """What `run` would submit for those of `tasks` that wait for no other."""
        ...


def error_fields(error: BaseException) -> dict[str, str]:
    """One of this package's errors as plain text, to be rebuilt elsewhere; empty for any other."""
    if not isinstance(error, PlmScalingError):
        return {}
    fields = {"what": error.what, "where": error.where, "why": error.why, "hint": error.hint}
    kinds = [kind.__name__ for kind in type(error).__mro__ if issubclass(kind, PlmScalingError)]
    return {"type": " ".join(kinds), **{name: str(text)[:_FIELD_LIMIT] for name, text in fields.items()}}


def rebuilt_error(fields: Mapping[str, str]) -> PlmScalingError | None:
    """The error that `error_fields` took apart; None for the fields of any other.

    A class that this process has not imported becomes the nearest of its bases that is known here.
    """
    if not fields:
        return None
    kinds: list[type[PlmScalingError]] = [PlmScalingError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    known = {kind.__name__: kind for kind in kinds}
    found = next((known[name] for name in fields["type"].split() if name in known), PlmScalingError)
    error = found.__new__(found)  # a subclass may take other arguments; the fields are those of the base
    PlmScalingError.__init__(error, fields["what"], where=fields["where"], why=fields["why"], hint=fields["hint"])
    return error
