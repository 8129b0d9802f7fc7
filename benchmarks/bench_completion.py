"""Ends of the released protein runs predicted from their first parts; N_opt of a sweep whose large runs were cut.

Run: python benchmarks/bench_completion.py DATA   (DATA/cheng2024_logs holds the released logs; 4 minutes of CPU)

A run that is predicted is cut before the noise that runs share is removed, so that nothing of its later part is known.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.combine import fit_laws
from plm_scaling.laws.completed_table import complete_table, courses_of
from plm_scaling.laws.completion import Course, complete, completion_check
from plm_scaling.laws.curves import Curve, Curves
from plm_scaling.laws.denoise import denoise
from plm_scaling.laws.imported import Imported
from plm_scaling.laws.noise import law_runs
from plm_scaling.laws.published import import_table

FOLDS = 5
SHARES = (0.3, 0.5, 0.7)


def main() -> None:
    imported = import_table("cheng2024", Path(sys.argv[1]) / "cheng2024_logs", columns=None, objective=None)
    whole = denoise(imported.table, imported.curves)
    print("| objective | share | runs | mean error | rms | worst | 95 % intervals hold | straight line | in place |")
    print("|---|---|---|---|---|---|---|---|---|")
    for objective in ("clm", "mlm"):
        ends = {row.run_id: row.loss for row in law_runs(whole.table, objective) if row.final_loss == "denoised"}
        for share in SHARES:
            print(ends_of(imported, ends, objective, share))
    print()
    print(
        "| objective | cut at half | predicted | left out | N_opt at 3e20, complete | predicted | without those cut |"
    )
    print("|---|---|---|---|---|---|---|")
    for objective in ("clm", "mlm"):
        for least in (2.5e20, 9e19):
            print(optimum_of(imported, whole.table, objective, least))


def ends_of(imported: Imported, ends: dict[str, float], objective: str, share: float) -> str:
    """Errors of the ends of all runs, a fifth of them cut at a time."""
    names = np.array(sorted(ends))
    fold = np.random.default_rng(0).permutation(len(names)) % FOLDS
    errors, inside, lines = [], [], []
    for k in range(FOLDS):
        cut = set(names[fold == k].tolist())
        table, curves = cut_runs(imported, cut, share)
        by_id = {curve.run_id: curve for curve in curves}
        rows = [row for row in law_runs(table, objective) if row.run_id in ends and row.run_id not in cut]
        known = [replace(course, end=ends[course.run_id]) for course in courses_of(rows, by_id)]
        young = [row for row in table if row.run_id in cut and not row.schedule_complete]
        courses = courses_of(young, by_id)
        lines += straight_line(known, courses, ends, share)
        for made, _ in complete(known, courses):
            truth = ends[made.run_id]
            errors.append((made.loss - truth) / truth)
            inside.append(made.low <= truth <= made.high)
    e = np.abs(errors)
    rows = [row for row in law_runs(imported.table, objective) if row.run_id in ends]
    whole = denoise(imported.table, imported.curves)
    curves_by_id = {curve.run_id: curve for curve in whole.curves}
    check = completion_check(
        [replace(c, end=ends[c.run_id]) for c in courses_of(rows, curves_by_id)], share
    ).mean_relative_error
    return (
        f"| {objective} | {share:.0%} | {len(e)} | {e.mean():.3%} | {np.sqrt((e**2).mean()):.3%} | {e.max():.2%} "
        f"| {np.mean(inside):.0%} | {np.mean(np.abs(lines)):.3%} | {check:.3%} |"
    )


def straight_line(known: list[Course], young: list[Course], ends: dict[str, float], share: float) -> list[float]:
    """Relative errors of least squares on ln N, ln D, level and slope of the last part: the plain peer."""

    def row(course: Course) -> list[float] | None:
        late = (course.share >= 0.6 * share) & (course.share <= share + 1e-9)
        if late.sum() < 3:
            return None
        slope, level = np.polyfit(np.log(course.share[late] / share), course.loss[late], 1)
        return [1.0, np.log(course.N), np.log(course.D), level, slope]

    learned = [(x, ends[c.run_id]) for c in known if (x := row(c)) is not None]
    x, y = np.array([x for x, _ in learned]), np.array([end for _, end in learned])
    weights = np.linalg.lstsq(x, y - x[:, 3], rcond=None)[0]
    asked = [(x, ends[c.run_id]) for c in young if (x := row(c)) is not None]
    return [float((np.array(x) @ weights + x[3]) / end - 1.0) for x, end in asked]


def optimum_of(imported: Imported, whole: RunTable, objective: str, least: float) -> str:
    """N_opt at the largest budget: of complete runs, of runs cut at half, and without these."""
    cut = {r.run_id for r in law_runs(whole, objective) if (r.C_6nd or 0.0) >= least}
    table, curves = cut_runs(imported, cut, 0.5)
    completed = complete_table(table, curves, objective)
    fits = [
        fit_laws(whole, objective, draws=1000),
        fit_laws(completed.table, objective, draws=1000, clusters=completed.losses(None)),
        fit_laws(table, objective, draws=1000),
    ]
    found = []
    for fit in fits:
        rows = [row for row in fit.isoflop.rows if abs(row.C / 3e20 - 1.0) < 0.1] if fit.isoflop else []
        best = rows[0].N_opt if rows else None
        found.append(f"{best.value / 1e6:.0f}M [{best.low / 1e6:.0f}M, {best.high / 1e6:.0f}M]" if best else "-")
    out = sum(1 for name in completed.passed_over if name in cut)
    return (
        f"| {objective} | {len(cut)} of C >= {least:g} | {len(completed.completions)} | {out} | {' | '.join(found)} |"
    )


def cut_runs(imported: Imported, cut: set[str], share: float) -> tuple[RunTable, Curves]:
    """The table with some runs stopped at a share of their schedules, shared noise removed afterwards."""
    D = {row.run_id: row.D for row in imported.table}
    curves: list[Curve] = []
    for curve in imported.curves:
        end = share * (1 + 1e-9) * D[curve.run_id] if curve.run_id in cut else np.inf
        seen = end >= curve.D
        parts = (curve.step[seen], curve.D[seen], curve.loss[seen], curve.validation_batch_id[seen])
        if seen.any():
            curves.append(Curve(curve.run_id, *parts))
    clean = denoise(imported.table, Curves.joined(curves))
    last = {curve.run_id: float(curve.D[-1]) for curve in clean.curves}
    return RunTable(tuple(_stopped(row, last) if row.run_id in cut else row for row in clean.table)), clean.curves


def _stopped(row: RunRow, last: dict[str, float]) -> RunRow:
    if row.run_id not in last:
        return row.model_copy(update={"schedule_complete": False})
    done = last[row.run_id] / row.D
    spent = {name: value * done for name in ("C_6nd", "C_exact") if (value := getattr(row, name)) is not None}
    return row.model_copy(update={"D": last[row.run_id], "D_planned": row.D, "schedule_complete": False, **spent})


if __name__ == "__main__":
    main()
