"""Unfinished runs of a table as rows a law may be fitted to: their final losses predicted, and marked so."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
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
from plm_scaling.laws.noise import law_runs
from plm_scaling.laws.student_process import StudentMixture

__all__ = ["MOST_UNCERTAIN", "CompletedTable", "Imputed", "complete_table", "courses_of"]

MOST_UNCERTAIN: Final = 0.01
"""Standard error of a predicted end over the end itself, above which a run stays out: it would tell a law nothing."""


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
    table: RunTable, curves: Curves, objective: str, *, most_uncertain: float = MOST_UNCERTAIN
) -> CompletedTable:
    """Predict the final losses of the unfinished runs of one objective.

    Learned from complete runs of the same recipe, validation set and corpus, those a law may be fitted to.
    Unfinished rows need `D_planned`, what their schedule was made for.

    Parameters
    ----------
    curves : evaluations of complete and unfinished runs alike; of one kind, and noise removed alike.
    most_uncertain : standard error of a predicted end over the end, above which the run stays unfinished.
    """
    by_id = {curve.run_id: curve for curve in curves}
    rows = [row for row in table.of(objective) if not row.schedule_complete]
    passed = {row.run_id: why for row in rows if (why := _unusable(row, by_id.get(row.run_id)))}
    groups: defaultdict[Hashable, list[RunRow]] = defaultdict(list)
    for row in rows:
        if row.run_id not in passed:
            groups[_alike(row)].append(row)
    known: defaultdict[Hashable, list[Course]] = defaultdict(list)
    for row in law_runs(table, objective):
        known[_alike(row)] += courses_of([row], by_id)
    found: dict[str, Completion] = {}
    ends: dict[str, StudentMixture] = {}
    checks: list[CompletionCheck] = []
    for key, members in groups.items():
        try:
            made = complete(known[key], courses_of(members, by_id))
            checks += [completion_check(known[key], share) for share in sorted({round(c.share, 2) for c, _ in made})]
        except FitError as error:
            passed |= {row.run_id: f"{error.what}" for row in members}
            continue
        for completion, end in made:
            if completion.loss_se > most_uncertain * completion.loss:
                passed[completion.run_id] = f"its end is known to {completion.loss_se / completion.loss:.1%} only"
            else:
                found[completion.run_id], ends[completion.run_id] = completion, end
        young = {row.run_id for row in members} - set(found) - set(passed)
        passed |= dict.fromkeys(young, "too few evaluations in its first part")
    completed = [_imputed(row, found[row.run_id]) if row.run_id in found else row for row in table]
    return CompletedTable(RunTable(tuple(completed)), tuple(found.values()), tuple(checks), passed, ends)


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


def _unusable(row: RunRow, curve: Curve | None) -> str:
    if curve is None or not len(curve):
        return "no losses on its way are known"
    if row.D_planned is None:
        return "nothing says what its schedule was made for (column D_planned)"
    if not len(law_runs(RunTable((row.model_copy(update={"schedule_complete": True}),)), row.objective)):
        return "no run of a law: another start, cut data, or a flag that keeps it out"
    share = float(curve.D[-1]) / row.D_planned
    if share < LEAST_SHARE:
        return f"only {share:.0%} of its schedule was seen, and {LEAST_SHARE:.0%} is needed"
    return ""


def _imputed(row: RunRow, completion: Completion) -> RunRow:
    """The row as if it had ended where it is predicted to; its compute is the whole run's."""
    D = row.D_planned or row.D
    scale = D / row.D
    return row.model_copy(
        update={
            "D": D,
            "loss": completion.loss,
            "loss_se": completion.loss_se,
            "final_loss": "predicted",
            "schedule_complete": True,
            "C_6nd": None if row.C_6nd is None else row.C_6nd * scale,
            "C_exact": None if row.C_exact is None else row.C_exact * scale,
            "device_s": None if row.device_s is None else row.device_s * scale,
            "flags": ",".join(filter(None, (row.flags, IMPUTED))),
        }
    )
