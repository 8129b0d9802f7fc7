"""Final losses without the noise that all runs share because they were scored on the same validation batches.

Runs of one group see the same batches at the same evaluation, so a hard batch lifts them all together. What a run's
neighbours show at an evaluation, net of their own trend, is that lift; subtracting it leaves a quarter of the noise
or less. A final loss is then the level at which the subtracted curve ends.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from plm_scaling.core.records import Record
from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.common_mode import CommonMode, on_fixed_set, remove_common_mode
from plm_scaling.laws.curves import Curve, Curves
from plm_scaling.laws.tails import end_level, end_weights, mean_of_last, tail_sd

__all__ = ["Denoised", "FinalLoss", "NoiseGroup", "NoiseReport", "Skipped", "denoise"]

Float = npt.NDArray[np.float64]

FinalLoss = Literal["last", "last5", "denoised"]

GroupKey = tuple[str, float | None, str, int]
"""Objective, batch in tokens, validation sets, and a number that keeps sets of equal names apart."""


class Skipped(Record):
    """A run whose shared noise could not be removed, and why."""

    run_id: str
    why: str


class NoiseGroup(Record):
    """Runs scored on the same validation batches, and what removing their shared noise did."""

    objective: str
    batch_tokens: float | None
    validation_id: str
    """Comma-separated where runs of several sets saw the same batches."""
    n_runs: int
    """Runs of the group, skipped ones included."""
    n_denoised: int
    sd_before: float | None
    """Scatter of a run's last fifth about its own trend, nats; median over the runs denoised."""
    sd_after: float | None
    ratio: float | None
    """Median over the runs of before / after."""
    correlation: float | None
    """Of the residuals of two runs, median over all pairs."""
    loss_se: float | None
    """Standard error of a final loss, nats; median."""
    skipped: tuple[Skipped, ...] = ()


class NoiseReport(Record):
    """How noisy the curves were and are, group by group."""

    final: FinalLoss
    groups: tuple[NoiseGroup, ...]

    def of(self, objective: str, batch_tokens: float | None = None) -> tuple[NoiseGroup, ...]:
        """The groups of one objective, or of one objective and batch."""
        return tuple(g for g in self.groups if g.objective == objective and batch_tokens in (None, g.batch_tokens))


@dataclass(frozen=True)
class Denoised:
    """The table with new final losses and their errors, the curves behind them, and the report."""

    table: RunTable
    curves: Curves
    report: NoiseReport


def denoise(table: RunTable, curves: Curves, *, final: FinalLoss = "denoised") -> Denoised:
    """Final losses read off the curves, with the noise shared by all runs of a group removed.

    Rows without a curve, or with evaluations on one fixed set, keep their loss. Where the noise cannot be removed, the
    report says why, and the loss is the mean of the last five or, with many evaluations, the end of a parabola
    through the noise as it is.

    Parameters
    ----------
    final : `last`, the last evaluation; `last5`, the mean of the last five; `denoised`, where a parabola through the
        last quarter of the curve, after subtraction, ends. The report says what subtraction did in every case.

    **Source:** common-mode rejection by back-fitting (Breiman and Friedman 1985) over evaluations and runs.
    """
    by_id = {curve.run_id: curve for curve in curves}
    groups: defaultdict[GroupKey, list[Curve]] = defaultdict(list)
    for row, key in _keys(table, by_id):
        groups[key].append(by_id[row.run_id])
    losses: dict[str, _Final] = {}
    cleaned: dict[str, Curve] = {}
    reports = []
    for key, members in groups.items():
        clean = remove_common_mode(members)
        cleaned |= clean.curves
        varying = [curve for curve in members if not on_fixed_set(curve)]
        losses |= {curve.run_id: _final(curve, clean, final) for curve in varying}
        errors = [se for curve in varying if (se := losses[curve.run_id].loss_se) is not None]
        reports.append(_group_report(key, members, clean, errors))
    rows = tuple(_with_loss(row, losses.get(row.run_id)) for row in table)
    order = [cleaned.get(curve.run_id, curve) for curve in by_id.values()]
    return Denoised(RunTable(rows), Curves.joined(order), NoiseReport(final=final, groups=tuple(reports)))


def _keys(table: RunTable, curves: Mapping[str, Curve]) -> list[tuple[RunRow, GroupKey]]:
    """Rows with a curve and their groups: one objective and batch, and one set of validation batches.

    Runs that name a validation batch in common share the set, whatever they call it (mask ratios do); where batches
    have no names, equal `validation_id` is one set.
    """
    rows = [row for row in table if row.run_id in curves]
    owner: dict[tuple[str, float | None, str], int] = {}
    leader = list(range(len(rows)))

    def root(i: int) -> int:
        while leader[i] != i:
            i = leader[i]
        return i

    for i, row in enumerate(rows):
        ids = curves[row.run_id].validation_batch_id.tolist()
        for name in set(ids) if all(ids) else {f"\n{row.validation_id}"}:
            first = owner.setdefault((row.objective, row.batch_tokens, name), i)
            leader[root(i)] = root(first)
    sets: defaultdict[int, set[str]] = defaultdict(set)
    for i, row in enumerate(rows):
        sets[root(i)].add(row.validation_id or "")
    return [
        (row, (row.objective, row.batch_tokens, ",".join(sorted(sets[root(i)])), root(i))) for i, row in enumerate(rows)
    ]


def _with_loss(row: RunRow, final: _Final | None) -> RunRow:
    return row if final is None else row.model_copy(update=vars(final))


@dataclass(frozen=True)
class _Final:
    loss: float
    loss_se: float | None
    final_loss: str


def _final(raw: Curve, clean: CommonMode, wanted: FinalLoss) -> _Final:
    if wanted == "last":
        return _Final(float(raw.loss[-1]), tail_sd(raw.loss), "last")
    mean = _Final(*mean_of_last(raw.loss), "last5")
    if wanted == "last5":
        return mean
    if raw.run_id in clean.curves:
        level = end_weights(raw.step) @ clean.curves[raw.run_id].loss
        return _Final(float(level), clean.end_se[raw.run_id], "denoised")
    # A parabola needs many points to be surer than five; then it is also free of the mean's lag.
    end = _Final(*end_level(raw.step, raw.loss), "end")
    return end if end.loss_se is not None and mean.loss_se is not None and end.loss_se < mean.loss_se else mean


def _group_report(key: GroupKey, members: Sequence[Curve], clean: CommonMode, errors: Sequence[float]) -> NoiseGroup:
    pairs = [
        (before, after)
        for curve in members
        if curve.run_id in clean.curves
        and (before := tail_sd(curve.loss)) is not None
        and (after := tail_sd(clean.curves[curve.run_id].loss)) is not None
    ]
    tails = np.array(pairs).reshape(-1, 2)
    return NoiseGroup(
        objective=key[0],
        batch_tokens=key[1],
        validation_id=key[2],
        n_runs=len(members),
        n_denoised=len(clean.curves),
        sd_before=_median(tails[:, 0]),
        sd_after=_median(tails[:, 1]),
        ratio=_median(tails[:, 0] / np.maximum(tails[:, 1], 1e-12)),
        correlation=clean.correlation,
        loss_se=_median(np.array(errors)),
        skipped=tuple(Skipped(run_id=name, why=why) for name, why in clean.skipped.items()),
    )


def _median(values: Float) -> float | None:
    return float(np.median(values)) if len(values) else None
