"""Sealed predictions held against what was measured: errors, coverage, and the runs that still wait or do not count."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np

from plm_scaling.core.errors import RecordError
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.corpus.format import VAL_IID
from plm_scaling.laws.interval import binomial_interval
from plm_scaling.sweeps.seal_records import Seal, SealedRun, Seals

__all__ = ["Coverage", "ScoredRun", "SealScore", "Unscored", "score_seals"]

_CLOCKS_S: Final = 5.0
"""Clocks of one site may differ by so much."""


@dataclass(frozen=True)
class ScoredRun:
    """A sealed run and the loss it ended with, nats per token."""

    sealed: SealedRun
    measured: float

    @property
    def error(self) -> float:
        """Predicted over measured loss, less 1: negative where the loss was predicted too low."""
        return self.sealed.loss / self.measured - 1.0

    def is_inside(self, level: float) -> bool:
        """Whether the loss lies in the sealed interval of this level."""
        low, high = self.sealed.interval(level)
        return low <= self.measured <= high


@dataclass(frozen=True)
class Unscored:
    """A sealed run without a score, and why."""

    run_id: str
    reason: str


@dataclass(frozen=True)
class Coverage:
    """How many of the scored runs lie inside their intervals of one level."""

    level: float
    inside: int
    of: int

    @property
    def share(self) -> float:
        """Of the scored runs; NaN without any."""
        return self.inside / self.of if self.of else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % binomial interval of the share. Runs of one law err together, so it is rather too narrow."""
        return binomial_interval(self.inside, self.of)


@dataclass(frozen=True)
class SealScore:
    """One seal and what became of its runs."""

    seal: Seal
    scored: tuple[ScoredRun, ...]
    waiting: tuple[Unscored, ...]
    """Runs that have no final loss yet, or never will."""
    not_counted: tuple[Unscored, ...]
    """Runs that have one which proves nothing: begun before the seal, or measured on other sequences."""

    @property
    def mean_absolute_error(self) -> float:
        """Mean of |predicted / measured - 1|; NaN without scored runs."""
        return float(np.mean([abs(run.error) for run in self.scored])) if self.scored else math.nan

    @property
    def mean_error(self) -> float:
        """Mean of predicted / measured - 1; NaN without scored runs."""
        return float(np.mean([run.error for run in self.scored])) if self.scored else math.nan

    @property
    def mean_error_expected(self) -> tuple[float, float]:
        """Where the mean error should lie nine times in ten, by the seal's own samples of these runs together."""
        if not self.scored:
            return math.nan, math.nan
        at = [self.seal.runs.index(run.sealed) for run in self.scored]
        predicted = np.array([run.sealed.loss for run in self.scored])
        errors = (predicted / np.exp(np.array(self.seal.draws)[:, at]) - 1.0).mean(axis=1)
        low, high = np.quantile(errors, [0.05, 0.95])
        return float(low), float(high)

    def coverage(self, level: float) -> Coverage:
        """Of the sealed intervals of one of `LEVELS`."""
        return Coverage(level, sum(run.is_inside(level) for run in self.scored), len(self.scored))


def score_seals(seals: Seals, runs_dir: Path) -> tuple[SealScore, ...]:
    """Every seal with the losses its runs have ended with by now.

    A run counts where its first attempt began after the seal was made, and where it was scored on the sequences the
    law was fitted to (on `val_iid`, where the law does not say).

    Raises
    ------
    RecordError : a damaged record.
    """
    return tuple(_score(seal, runs_dir) for seal in seals.seals)


def _score(seal: Seal, runs_dir: Path) -> SealScore:
    found = [(run, _outcome(seal, run, RunFolder(runs_dir / run.run_id))) for run in seal.runs]
    return SealScore(
        seal,
        scored=tuple(ScoredRun(run, measured) for run, (measured, _, _) in found if measured is not None),
        waiting=_unscored((run, why) for run, (measured, why, ended) in found if measured is None and not ended),
        not_counted=_unscored((run, why) for run, (measured, why, ended) in found if measured is None and ended),
    )


def _unscored(runs: Iterable[tuple[SealedRun, str]]) -> tuple[Unscored, ...]:
    return tuple(Unscored(run.run_id, reason) for run, reason in runs)


def _outcome(seal: Seal, run: SealedRun, folder: RunFolder) -> tuple[float | None, str, bool]:
    """The loss that counts, or why there is none, and whether the run has ended all the same."""
    record = folder.record()
    if record is None:
        status = folder.status()
        return None, status.status + (f": {status.reason}" if status.reason else ""), False
    begun = _begun(folder)
    made = datetime.fromisoformat(seal.made)
    if begun is None:
        return None, "no attempt says when it was begun", True
    if begun.timestamp() < made.timestamp() - _CLOCKS_S:
        return None, f"begun at {begun:%Y-%m-%d %H:%M} UTC, before the seal", True
    if record.config.run_id != run.run_id or record.status != "complete":
        return None, f"its record is of run {record.config.run_id}, {record.status}", True
    losses = {loss.validation_id: loss for loss in record.validation}
    by_name = {loss.set_name: loss for loss in record.validation}
    loss = losses.get(seal.validation_id) if seal.validation_id else by_name.get(VAL_IID)
    if loss is None:
        return None, "it was not scored on the sequences that the law was fitted to", True
    return loss.per_token, "", True


def _begun(folder: RunFolder) -> datetime | None:
    """When the first attempt began, by the clock of the machine that trained it."""
    attempts = folder.attempts()
    try:
        report = attempts[0].status() if attempts else None
    except (OSError, RecordError):
        report = None
    if report is None or not report.time:
        return None
    return datetime.fromtimestamp(report.time - report.seconds, tz=UTC)
