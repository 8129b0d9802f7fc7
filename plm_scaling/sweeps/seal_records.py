"""Sealed predictions (`NAME.sealed.json` beside `NAME.json`): what a law said of runs before they were made.

A seal is hashed over everything in it, the hash of the seal before it included: what is changed, taken out or put in
between later does not give the hashes any more. Whoever can write the file can also make all hashes anew: a seal proves
a date to others only as far as its hash was given to them, or committed, at that date.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from plm_scaling.core.errors import RecordError
from plm_scaling.core.objective import Objective
from plm_scaling.core.records import Record
from plm_scaling.sweeps.left_out import LeftOut

__all__ = ["LEVELS", "RunThen", "Seal", "SealedRun", "Seals", "read_seals", "seals_path"]

LEVELS = (0.5, 0.9, 0.95)
"""Of the intervals that are sealed."""


class SealedRun(Record):
    """What was predicted of one run: its final loss in nats per token, with the intervals of a single new run."""

    run_id: str
    N: int
    D: int
    batch_tokens: int
    loss: float
    interval_50: tuple[float, float]
    interval_90: tuple[float, float]
    interval_95: tuple[float, float]
    decades_beyond: float
    """log10 of 6 N D over the largest compute fitted; 0 inside."""

    def interval(self, level: float) -> tuple[float, float]:
        """The interval of one of `LEVELS`."""
        return dict(zip(LEVELS, (self.interval_50, self.interval_90, self.interval_95), strict=True))[level]


class RunThen(Record):
    """Where a run stood when the seal was made: the evidence that it had not been trained."""

    run_id: str
    status: str
    attempts: int = 0


class Seal(Record):
    """Predictions of one law for the runs of a plan that had not begun."""

    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset({"sha256"})

    made: str
    """UTC, ISO 8601."""
    objective: Objective
    validation_id: str | None = None
    """Of the losses the law was fitted to: only losses on the same sequences are held against the predictions."""
    fit_name: str
    fit_sha256: str
    """Of the fit's file, whose draws the predictions rest on."""
    data_hash: str
    """Of the runs it was fitted to."""
    n_fitted: int
    forms: dict[str, float]
    """Weight of every form behind the predictions."""
    parameters: dict[str, float]
    """Of the chosen form, in its own units, with N0 and D0 it is centred on."""
    plan_sha256: str
    """Content hash of the plan."""
    version: str
    runs: tuple[SealedRun, ...]
    draws: tuple[tuple[float, ...], ...]
    """Samples of ln L, a row per sample, in the order of `runs`: the runs of a row share form and parameters."""
    states: tuple[RunThen, ...]
    """All runs of the plan and of the runs folder at that time."""
    left_out: tuple[LeftOut, ...] = ()
    flags: tuple[str, ...] = ()
    """CORPUS_UNKNOWN, RECIPE_UNKNOWN, VALIDATION_UNKNOWN: what the fit does not say of the runs behind it."""
    notes: tuple[str, ...] = ()
    """A plain sentence for every flag."""
    previous: str = ""
    """Hash of the seal before; empty for the first."""
    sha256: str = ""
    """Content hash of all the rest."""

    def closed(self) -> Seal:
        """The seal with its hash."""
        return self.model_copy(update={"sha256": self.content_hash()})


class Seals(Record):
    """The seals of a plan, oldest first; seals are added and never replaced."""

    SCHEMA_VERSION: ClassVar[int] = 1

    seals: tuple[Seal, ...] = ()

    @property
    def last_hash(self) -> str:
        """Hash of the latest seal, which covers all of them."""
        return self.seals[-1].sha256 if self.seals else ""


def seals_path(plan: Path) -> Path:
    """`NAME.sealed.json` beside the plan `NAME.json`: another file, so that the plan stays what it was."""
    return plan.with_name(f"{plan.stem}.sealed.json")


def read_seals(path: Path) -> Seals:
    """The seals of a file, each checked against its hash and the one before; none where there is no file.

    Raises
    ------
    RecordError : a file that cannot be read, or a broken seal, saying which and how.
    """
    if not path.is_file():
        return Seals()
    found = Seals.read(path)
    before = ""
    for number, seal in enumerate(found.seals, start=1):
        hint = "take the file back from where it was committed or shared; nothing of it can be scored"
        where = f"{path}: seal {number} of {len(found.seals)}, made {seal.made}"
        if seal.content_hash() != seal.sha256:
            why = f"it says {_short(seal.sha256)}, and what it holds gives {_short(seal.content_hash())}"
            raise RecordError("seal broken: it was changed after it was made", where=where, why=why, hint=hint)
        if seal.previous != before:
            why = f"it follows {_short(seal.previous)}, and the one before it here is {_short(before)}"
            raise RecordError("seal broken: a seal was taken out, put in or moved", where=where, why=why, hint=hint)
        before = seal.sha256
    return found


def _short(digest: str) -> str:
    return digest[:16] or "no seal"
