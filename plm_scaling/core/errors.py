"""Errors a user can act on: what is wrong, where, why, and what to try.

PlmScalingError            exit code 1
|-- ConfigError            2   a config, spec or command line that cannot be used as written
|   `-- QuantityError      2   a number with a unit that cannot be read ("12 bananas")
|-- CorpusError            1   sequences or a prepared corpus that cannot be used
|   `-- UnfinishedError    3   a preparation that was broken off; the same call goes on from there
|-- PlanError              2   a sweep that cannot be carried out as asked
|-- RunError               1   a training run that cannot start or continue
|   |-- Diverged           1   the loss or the gradient stopped being a finite number
|   |-- CheckpointError    1   a checkpoint that is damaged or belongs to another run
|   `-- TakenOver          5   another process trains this run; this one has left it alone
|-- RecordError            1   a file of ours that cannot be read (damaged, or written by another version)
|-- FitError               1   a law that cannot be fitted to this table
`-- RefusedError           4   the quantity asked for is not identified by the data at hand
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "ConfigError",
    "CorpusError",
    "Diverged",
    "FitError",
    "PlanError",
    "PlmScalingError",
    "QuantityError",
    "RecordError",
    "RefusedError",
    "RunError",
    "TakenOver",
    "UnfinishedError",
    "did_you_mean",
]


class PlmScalingError(Exception):
    """Base of every error this package raises on purpose.

    Parameters
    ----------
    what : the fault in one sentence.
    where : file, file:line or key the fault was found at.
    why : the reason, if `what` does not already say it.
    hint : what the user can try next.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", why: str = "", hint: str = "") -> None:
        self.what, self.where, self.why, self.hint = what, where, why, hint
        super().__init__(what)

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.hint:
            lines.append(f"  try: {self.hint}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process borders; keyword-only fields need help to be rebuilt.
        return (_rebuild, (type(self), self.what, self.where, self.why, self.hint))


def _rebuild(cls: type[PlmScalingError], what: str, where: str, why: str, hint: str) -> PlmScalingError:
    return cls(what, where=where, why=why, hint=hint)


class ConfigError(PlmScalingError):
    """A config, spec or command line that cannot be used as written."""

    exit_code = 2


class QuantityError(ConfigError):
    """A quantity that cannot be read."""


class CorpusError(PlmScalingError):
    """Sequences or a prepared corpus that cannot be used."""


class UnfinishedError(CorpusError):
    """A preparation that was broken off. What is done is kept, and the same call goes on from there."""

    exit_code = 3


class PlanError(PlmScalingError):
    """A sweep that cannot be carried out as asked."""

    exit_code = 2


class RunError(PlmScalingError):
    """A training run that cannot start or continue."""


class Diverged(RunError):
    """The loss or the gradient norm is no longer a finite number."""


class CheckpointError(RunError):
    """A checkpoint that is damaged or belongs to another run."""


class TakenOver(RunError):
    """Another process trains this run. Starting again is no answer: it would take the run from the other in turn."""

    exit_code = 5


class RecordError(PlmScalingError):
    """A file of ours that cannot be read."""


class FitError(PlmScalingError):
    """A law that cannot be fitted to this table."""


class RefusedError(PlmScalingError):
    """The quantity asked for is not identified by the data at hand."""

    exit_code = 4


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint naming the closest known word, or listing what is allowed."""
    import difflib  # errors are imported by every command, suggestions are rare

    allowed = sorted(known)
    close = difflib.get_close_matches(word, allowed, n=1)
    return f"did you mean {close[0]}?" if close else f"allowed: {', '.join(allowed)}"
