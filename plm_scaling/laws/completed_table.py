"""Unfinished runs of a table as rows a law may be fitted to: their final losses predicted, and marked so."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from plm_scaling.core.errors import FitError
from plm_scaling.core.run_row import IMPUTED
from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.clusters import ResampledLosses
from plm_scaling.laws.completion import LEAST_SHARE, Completion, CompletionCheck, Course, complete, completion_check
from plm_scaling.laws.curves import Curve, Curves
from plm_scaling.laws.jets import FloatArray
from plm_scaling.laws.noise import PREDICTED, law_runs
from plm_scaling.laws.student_process import StudentMixture

__all__ = ["MOST_UNCERTAIN", "CompletedTable", "Imputed", "complete_table", "courses_of"]

MOST_UNCERTAIN: Final = 0.01
"""Standard error of a predicted end over the end itself, above which a run stays out: it would tell a law nothing."""
_ROUNDED: Final = 0.01
"""Share by which distinct tokens and D may differ in a first pass over the data: whole steps and windows."""
_LONGER: Final = 1.05
"""D over the D of another run that saw as many distinct tokens, from which on there are no more of them."""


@dataclass(frozen=True, eq=False)
class Imputed:
    """Resampled losses where some are predictions: these are drawn anew in every resample.

    Attributes
    ----------
    ends : distribution of the final loss of every imputed run.
    measured : resampled losses of the others; None to take them as they are.
    """

    ends: Mapping[str, StudentMixture]
    measured: ResampledLosses | None = None

    def resampled(self, run_ids: Sequence[str], losses: FloatArray, draws: int, seed: int) -> FloatArray | None:
        """Ln L float64[draws, n]: multiple imputation (Rubin 1987), one draw of every imputed end a resample."""
        known = [i for i, run_id in enumerate(run_ids) if run_id not in self.ends]
        out = np.tile(np.log(losses), (max(draws, 1), 1))
        if self.measured is not None:
            moved = self.measured.resampled([run_ids[i] for i in known], losses[known], draws, seed)
            if moved is None:
                return None
            out[:, known] = moved
        rng = np.random.default_rng([seed, 2])
        for i, run_id in enumerate(run_ids):
            if run_id in self.ends:
                drawn = self.ends[run_id].draw(len(out), rng)
                out[:, i] = np.log(np.maximum(drawn, 0.1 * losses[i]))
        return out


@dataclass(frozen=True, eq=False)
class CompletedTable:
    """A table whose unfinished runs carry predicted losses.

    Attributes
    ----------
    table : rows of `IMPUTED` hold the planned D, the predicted loss and its standard error.
    completions, checks : the predictions, and how well complete runs are predicted from as much of them.
    passed_over : run id -> why it stays unfinished.
    """

    table: RunTable
    completions: tuple[Completion, ...]
    checks: tuple[CompletionCheck, ...]
    passed_over: dict[str, str]
    ends: dict[str, StudentMixture]

    def losses(self, measured: ResampledLosses | None) -> ResampledLosses | None:
        """The source of resampled losses for a fit: predictions drawn anew each time."""
        return Imputed(self.ends, measured) if self.ends else measured


def complete_table(
    table: RunTable,
    curves: Curves,
    objective: str,
    *,
    most_uncertain: float = MOST_UNCERTAIN,
    however_uncertain: Collection[str] = (),
) -> CompletedTable:
    """Predict the final losses of the unfinished runs of one objective.

    Learned from complete runs of the same recipe, validation set and corpus, those a law may be fitted to.
    Unfinished rows need `D_planned`, what their schedule was made for.

    Parameters
    ----------
    curves : evaluations of complete and unfinished runs alike; of one kind, and noise removed alike.
    most_uncertain : standard error of a predicted end over the end, above which the run stays unfinished.
    however_uncertain : ids of runs taken in whatever the standard errors of their ends: somebody has relied on these.
    """
    by_id = {curve.run_id: curve for curve in curves}
    rows = [row for row in table.of(objective) if not row.schedule_complete]
    usable = law_runs(table, objective)
    pools = _pools(usable)
    whole = {row.run_id: _to_its_end(row, pools) for row in rows}
    passed = {row.run_id: why for row in rows if (why := _unusable(row, whole[row.run_id], by_id.get(row.run_id)))}
    groups: defaultdict[Hashable, list[RunRow]] = defaultdict(list)
    for row in rows:
        if row.run_id not in passed:
            groups[_alike(row)].append(row)
    known: defaultdict[Hashable, list[Course]] = defaultdict(list)
    for row in usable:
        known[_alike(row)] += courses_of([row], by_id)
    found: dict[str, Completion] = {}
    ends: dict[str, StudentMixture] = {}
    checks: list[CompletionCheck] = []
    for key, members in groups.items():
        made, tried, failed = _ends_of(known[key], courses_of(members, by_id))
        checks += tried
        passed |= failed
        for completion, end in made:
            error = completion.loss_se / completion.loss
            if error > most_uncertain and completion.run_id not in however_uncertain:
                passed[completion.run_id] = f"its end is known to {error:.1%} only"
            else:
                found[completion.run_id], ends[completion.run_id] = completion, end
        young = {row.run_id for row in members} - set(found) - set(passed)
        passed |= dict.fromkeys(young, "too few evaluations in its first part")
    completed = [_imputed(whole[row.run_id], found[row.run_id]) if row.run_id in found else row for row in table]
    return CompletedTable(RunTable(tuple(completed)), tuple(found.values()), tuple(checks), passed, ends)


def _ends_of(
    known: Sequence[Course], unfinished: Sequence[Course]
) -> tuple[list[tuple[Completion, StudentMixture]], list[CompletionCheck], dict[str, str]]:
    """Predicted ends, how good such predictions are, and run id -> why there is none.

    Share by share: complete runs that were logged too seldom to be learned from at one may do at another.
    """
    made: list[tuple[Completion, StudentMixture]] = []
    failed: dict[str, str] = {}
    seen: dict[float, float] = {}
    for share in sorted({course.seen for course in unfinished}):
        alike = [course for course in unfinished if course.seen == share]
        try:
            found = complete(known, alike)
        except FitError as error:
            failed |= dict.fromkeys((course.run_id for course in alike), f"{error.what}: {error.why}")
            continue
        made += found
        if found:
            seen.setdefault(round(share, 2), share)
    # At a share that was learned at: a rounded one may hold fewer evaluations.
    return made, [completion_check(known, share) for share in seen.values()], failed


def courses_of(rows: Sequence[RunRow], curves: Mapping[str, Curve]) -> list[Course]:
    """The rows that have curves, along the schedules of their planned tokens; complete ones with their ends."""
    made = []
    for row in rows:
        curve = curves.get(row.run_id)
        if curve is None:
            continue
        D = row.D if row.schedule_complete else row.D_planned or math.nan
        usable = (curve.D > 0) & np.isfinite(curve.loss)
        course = Course(row.run_id, row.N, D, curve.D[usable] / D, curve.loss[usable])
        made.append(replace(course, end=row.loss) if row.schedule_complete else course)
    return made


def _alike(row: RunRow) -> Hashable:
    """What runs must have in common for one's course to foretell another's."""
    return row.recipe_key, row.validation_id, row.corpus_id


def _unusable(row: RunRow, whole: RunRow, curve: Curve | None) -> str:
    """Why no end of the row may be predicted; empty if one may. `whole` is the row as `_to_its_end` has it."""
    if curve is None or not len(curve):
        return "no losses on its way are known"
    if row.D_planned is None:
        return "nothing says what its schedule was made for (column D_planned)"
    if not len(law_runs(RunTable((whole,)), row.objective)):
        return "no run of a law: another start, cut data, many epochs, or a flag that keeps it out"
    share = float(curve.D[-1]) / row.D_planned
    if share < LEAST_SHARE:
        return f"only {share:.0%} of its schedule was seen, and {LEAST_SHARE:.0%} is needed"
    return ""


def _to_its_end(row: RunRow, pools: Mapping[Hashable, float]) -> RunRow:
    """The row as if its schedule had been trained, its loss still that of the part: tokens, compute, passes over data.

    Distinct tokens grow with D until there are no more. How many there are longer runs on the data may say, or the row
    itself, once it repeats them or where it states parts of an epoch; else all further tokens are taken for new.
    """
    D = row.D_planned or row.D
    values: dict[str, object] = {"D": D, "schedule_complete": True}
    for name in ("C_6nd", "C_exact", "C_teacher", "device_s"):
        part = getattr(row, name)
        values[name] = None if part is None else part * D / row.D
    shared = pools.get(_data(row), 0.0)
    is_known = shared > 0 and shared >= (1.0 - _ROUNDED) * min(row.D_unique or 0.0, row.D)
    pool = shared if is_known else _pool(row)
    unique = min(D, pool)
    if row.D_unique is not None or is_known:
        values["D_unique"] = unique
    if row.epochs is not None or is_known:
        in_parts = row.epochs is not None and row.epochs < 1.0 - _ROUNDED
        values["epochs"] = D / (pool if in_parts else unique)
    return row.model_copy(update=values)


def _pool(row: RunRow) -> float:
    """Distinct tokens there are, as the row's own columns have it; inf in a first pass over nobody knows how many."""
    stated = (row.D_unique, row.D / row.epochs if row.epochs else None)
    return next((tokens for tokens in stated if tokens and abs(tokens / row.D - 1.0) > _ROUNDED), math.inf)


def _pools(runs: RunTable) -> dict[Hashable, float]:
    """Distinct tokens of data that complete runs have used up: the longest saw no more of them than a shorter one."""
    alike: defaultdict[Hashable, list[tuple[float, float]]] = defaultdict(list)
    for row in runs:
        if row.corpus_id is not None and row.D_unique is not None:
            alike[_data(row)].append((row.D, row.D_unique))
    found = {}
    for data, seen in alike.items():
        longest, most = max(seen)
        shorter = [unique for D, unique in seen if longest > _LONGER * D]
        if shorter and abs(max(shorter) / most - 1.0) <= _ROUNDED:
            found[data] = most
    return found


def _data(row: RunRow) -> Hashable:
    """What the row's tokens were drawn from."""
    return row.corpus_id, row.streams


def _imputed(whole: RunRow, completion: Completion) -> RunRow:
    """A row at the end of its schedule, with the loss it is predicted to have there."""
    return whole.model_copy(
        update={
            "loss": completion.loss,
            "loss_se": completion.loss_se,
            "final_loss": PREDICTED,
            "flags": ",".join(filter(None, (whole.flags, IMPUTED))),
        }
    )
