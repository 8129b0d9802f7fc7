"""Arms of an experiment inside a run table, their differences with errors, and the repeats at equal N and D."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from plm_scaling.core.run import Objective, Stream
from plm_scaling.core.run_table import RunRow
from plm_scaling.laws.noise import unlimited_streams
from plm_scaling.reporting.study import OBJECTIVES, Study

__all__ = [
    "Arm",
    "Estimate",
    "RepeatSeries",
    "difference",
    "make_arm",
    "mean_loss",
    "repeat_series",
    "rows_alike",
    "split_rows",
    "streams_of",
]

_SAME_D = 0.03
"""Runs whose D differ by less (relative) count as equal in D: budgets are rounded to whole batches."""


@dataclass(frozen=True)
class Estimate:
    """A value and its standard error, if one is known."""

    value: float
    se: float | None

    @property
    def clear(self) -> bool | None:
        """Whether the value is more than two standard errors from zero; None without an error."""
        return None if self.se is None else abs(self.value) > 2 * self.se


@dataclass(frozen=True)
class Arm:
    """Runs of equal setting (all its seeds), and how they compare with the reference of their group."""

    label: str
    rows: tuple[RunRow, ...]
    epochs: float
    change: Estimate | None = None
    """Loss minus the loss of the reference, nats."""
    fixed_masks: bool = False
    """MLM whose masks stay the same in every epoch."""

    @property
    def loss(self) -> float:
        """Mean over seeds, nats."""
        return mean_loss(self.rows)


@dataclass(frozen=True)
class RepeatSeries:
    """One objective, N and D; the arms differ in unique tokens. The reference draws on unlimited data."""

    objective: Objective
    N: float
    D: float
    reference: Arm | None
    arms: tuple[Arm, ...]
    """By growing number of epochs."""


def mean_loss(rows: Sequence[RunRow]) -> float:
    """Mean loss, nats."""
    return sum(row.loss for row in rows) / len(rows)


def streams_of(study: Study, row: RunRow) -> tuple[Stream, ...]:
    """The data pools of a run; empty where neither a record nor the table tells."""
    if row.run_id in study.records:
        return study.records[row.run_id].config.streams
    if row.streams:
        return tuple(Stream.model_validate(stream) for stream in json.loads(row.streams))
    return ()


def difference(study: Study, rows: Sequence[RunRow], reference: Sequence[RunRow]) -> Estimate:
    """Mean loss of `rows` minus that of `reference`, with validation and seed variance in the error.

    The paired error over validation sequences (largest of the pairs) and the seed noise of both means are added in
    quadrature. Without a seed noise the error is unknown unless pairs give at least the validation part.
    """
    value = mean_loss(rows) - mean_loss(reference)
    keys = [(study.validation, a.run_id, b.run_id) for a in rows for b in reference]
    paired = [study.gaps[key][1] for key in keys if key in study.gaps]
    noise = study.noise_sd(rows[0].objective)
    variance = max(paired, default=0.0) ** 2
    if noise is not None:
        variance += noise**2 * (1 / len(rows) + 1 / len(reference))
    return Estimate(value, math.sqrt(variance) if variance > 0 else None)


def repeat_series(study: Study) -> tuple[RepeatSeries, ...]:
    """The repeats arms, each with the unlimited runs of equal objective, N and D as reference."""
    rows = [row for row in study.table if row.has_role("repeats")]
    found = []
    for group in rows_alike(rows):
        first = group[0]
        limited = [row for row in group if not _unlimited(row)]
        pool = [row for row in study.table if _comparable(row, first) and row.source_run_id is None]
        pool = [row for row in pool if _sources(study, row) == _sources(study, first)]
        unlimited = _same_batch(first, [row for row in pool if _unlimited(row)])
        if not limited:
            continue
        reference = Arm("unlimited", tuple(unlimited), 1.0) if unlimited else None
        arms = [
            make_arm(study, members, _repeat_label(study, members), reference)
            for members in split_rows(
                limited, lambda row: (round(math.log(_epochs(study, row)), 1), _static(study, row))
            )
        ]
        ordered = tuple(sorted(arms, key=lambda arm: (arm.fixed_masks, arm.epochs)))
        found.append(RepeatSeries(first.objective, first.N, first.D, reference, ordered))
    return tuple(found)


def make_arm(study: Study, rows: Sequence[RunRow], label: str, reference: Arm | None) -> Arm:
    """Runs of equal setting as an arm, with their difference from `reference` if there is one."""
    change = difference(study, rows, reference.rows) if reference else None
    return Arm(label, tuple(rows), _epochs(study, rows[0]), change, _static(study, rows[0]))


def rows_alike(rows: Sequence[RunRow]) -> list[list[RunRow]]:
    """Rows of equal objective, N and (nearly) D; CLM first."""
    groups: list[list[RunRow]] = []
    for row in sorted(rows, key=lambda r: (OBJECTIVES.index(r.objective), r.N, r.D)):
        if groups and _comparable(row, groups[-1][0]):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _comparable(row: RunRow, other: RunRow) -> bool:
    equal = row.objective == other.objective and row.N == other.N and row.validation_id == other.validation_id
    return equal and abs(row.D / other.D - 1) < _SAME_D


def _same_batch(row: RunRow, others: list[RunRow]) -> list[RunRow]:
    """Those of equal batch size, if there are any: batch size alone moves the loss."""
    return [other for other in others if other.batch_tokens == row.batch_tokens] or others


def split_rows(rows: Iterable[RunRow], key: Callable[[RunRow], Hashable]) -> list[list[RunRow]]:
    """Rows of equal key together, in the order in which the keys appear."""
    parts: dict[Hashable, list[RunRow]] = {}
    for row in rows:
        parts.setdefault(key(row), []).append(row)
    return list(parts.values())


def _unlimited(row: RunRow) -> bool:
    """All data there are; a table without streams tells by its epochs."""
    return unlimited_streams(row) and (bool(row.streams) or (row.epochs or 0.0) <= 1.0)


def _sources(study: Study, row: RunRow) -> tuple[tuple[str, ...], ...]:
    return tuple(stream.sources for stream in streams_of(study, row))


def _epochs(study: Study, row: RunRow) -> float:
    """Passes over the unique tokens of a run's only stream, else what the table says."""
    streams = streams_of(study, row)
    if len(streams) == 1 and streams[0].unique_tokens:
        return max(1.0, row.D / streams[0].unique_tokens)
    if row.epochs:
        return row.epochs
    return row.D / row.D_unique if row.D_unique else 1.0


def _static(study: Study, row: RunRow) -> bool:
    record = study.records.get(row.run_id)
    return record is not None and not record.config.mask_refresh


def _repeat_label(study: Study, rows: Sequence[RunRow]) -> str:
    epochs = _epochs(study, rows[0])
    whole = epochs >= 9.5 or abs(epochs - round(epochs)) < 0.05
    text = f"{epochs:.0f} epochs" if whole else f"{epochs:.1f} epochs"
    return f"{text}, fixed masks" if _static(study, rows[0]) else text
