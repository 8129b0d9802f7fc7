"""The law of repeats of a run table: which runs enter, and which of them come from another corpus."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Final

import numpy as np

from plm_scaling.core.errors import ConfigError, FitError
from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.fit import LAD_DELTA
from plm_scaling.laws.jets import FloatArray
from plm_scaling.laws.law_fit import SurfaceFit
from plm_scaling.laws.noise import law_runs
from plm_scaling.laws.repeat_base import make_base
from plm_scaling.laws.repeat_doubts import explain_repeats
from plm_scaling.laws.repeat_fit import RepeatFit
from plm_scaling.laws.repeat_forms import REPEAT_FORMS, base_form
from plm_scaling.laws.repeat_problem import REPEATED, RepeatRuns, make_runs
from plm_scaling.laws.repeat_search import Asked
from plm_scaling.laws.repeats import compare_on
from plm_scaling.laws.surface import surface_loss

__all__ = ["repeat_runs", "repeats_of_table", "unique_tokens_of"]

_JOINT_FORMS: Final = ("none", "data_decay", "penalty")
_JOINT_DRAWS: Final = 300
"""A base law fitted with the repeats costs more time, and leaves the worth of excess parameters undetermined."""
_MANY: Final = 1.0
"""A surface fitted to runs with more repeats than this is no law of unrepeated data."""
_SAME_N: Final = 0.02
_SAME_D: Final = 0.1
_DOUBTFUL: Final = frozenset({"MULTIMODAL", "COLLINEAR_DESIGN", "EXPONENT_AT_BOUND", "TOO_FEW_LEVELS"})
"""Flags of a base surface that leave nothing to hold repeated runs against."""


def unique_tokens_of(row: RunRow) -> float:
    """U of a run: its column `D_unique`, or D over its epochs; D where the table states neither."""
    if row.D_unique is not None:
        return min(row.D_unique, row.D)
    return row.D / max(row.epochs, 1.0) if row.epochs is not None else row.D


def repeat_runs(table: RunTable, objective: str) -> RunTable:
    """Runs a law of repeats is about: the laws' own, and complete runs from scratch of the role `repeats`, or of none.

    Runs on static MLM masks are an experiment of their own and stay out where others have fresh ones. Of several
    recipes (`RunRow.recipe_key`) the one of most of the laws' runs stays.
    """
    usual = law_runs(table, objective)
    ids = {row.run_id for row in usual}

    def belongs(row: RunRow) -> bool:
        repeats = (row.has_role("repeats") or not row.role) and row.schedule_complete and not row.excluded
        scratch = row.source_run_id is None and row.source_objective is None
        return row.run_id in ids or (repeats and scratch and math.isfinite(row.loss) and row.loss > 0)

    runs = table.of(objective).where(belongs)
    keys = Counter(row.recipe_key for row in (usual if len(usual) else runs))
    runs = runs.where(lambda row: row.recipe_key == keys.most_common(1)[0][0])
    return runs.where(lambda row: row.mask_refresh) if any(row.mask_refresh for row in runs) else runs


def repeats_of_table(
    table: RunTable,
    objective: str,
    surface: SurfaceFit | None,
    *,
    huber_delta: float = 1e-3,
    draws: int = 1000,
    seed: int = 0,
) -> RepeatFit | None:
    """The law of repeats of one objective: all forms compared, the best one with the others as `rivals`.

    Repeated runs are held against the surface; where an unrepeated run of equal N and D exists, against that run, by
    moving both to the surface. Runs on another corpus or validation set than most of the law's runs get a common
    offset. Without a usable surface the base law (bounded where there is one of another shape, else additive) is
    fitted with the repeats.

    Parameters
    ----------
    surface : the law of the unrepeated runs of this table and objective; None where it is refused.
    huber_delta : border of the quadratic zone, in units of ln L.
    draws : bootstrap resamples of runs.

    Returns
    -------
    None where no run passes over its data more than 1.1 times, or too few runs remain to hold them against.

    **Source:** Muennighoff et al. 2023; Lovelace et al. 2026.
    """
    rows = repeat_runs(table, objective)
    if not len(rows) or not any(row.D / unique_tokens_of(row) - 1.0 > REPEATED for row in rows):
        return None
    shifted, others = _other_corpora(rows)
    U = np.array([unique_tokens_of(row) for row in rows])
    runs = make_runs(rows.column("N"), rows.column("D"), U, rows.column("loss"), rows.column("batch_tokens"), shifted)
    flags = ["MIXED_CORPORA"] if others > 1 else []
    forms = tuple(REPEAT_FORMS)
    if surface is not None and _is_base(surface) and not _law_repeats(rows):
        base = make_base(surface)
        runs, anchored = _anchored(runs, surface)
        flags += ["ANCHORED"] if anchored else []
        flags += ["BASE_UNIDENTIFIED"] if not _DOUBTFUL.isdisjoint(surface.flags) else []
    else:
        base = make_base("chinchilla" if surface is None else "bounded")
        forms, draws = _JOINT_FORMS, min(draws, _JOINT_DRAWS)
    # A form is tried where there are more repeated runs than it has parameters.
    forms = tuple(form for form in forms if len(REPEAT_FORMS[form][0]) < max(int(runs.repeated.sum()), 2))
    asked = [Asked(form, base, {}, bool(shifted.any()), max(huber_delta, LAD_DELTA)) for form in forms]
    try:
        best = compare_on(asked, runs, draws=draws, seed=seed)[0]
    except FitError:
        return None
    every = tuple(dict.fromkeys((*best.flags, *flags)))
    return best.model_copy(update={"flags": every, "notes": explain_repeats(every)})


def _law_repeats(rows: RunTable) -> bool:
    """Whether runs that the surface was fitted to repeat their data."""
    return any(row.D / unique_tokens_of(row) - 1.0 > _MANY for row in rows if not row.has_role("repeats"))


def _is_base(surface: SurfaceFit) -> bool:
    try:
        base_form(surface.form, surface.plateau)
    except ConfigError:
        return False
    return True


def _other_corpora(rows: RunTable) -> tuple[np.ndarray, int]:
    """Runs on other data than most unrepeated runs bool[n], and how many other data there are."""
    data = [(row.corpus_id, row.validation_id) for row in rows]
    usual = [key for key, row in zip(data, rows, strict=True) if not row.has_role("repeats")] or data
    home = Counter(usual).most_common(1)[0][0]
    return np.array([key != home for key in data], dtype=bool), len(set(data) - {home})


def _anchored(runs: RepeatRuns, surface: SurfaceFit) -> tuple[RepeatRuns, bool]:
    """Runs with the surface's own error at unrepeated runs of equal N and D taken off, and whether there were any."""
    sample, fresh = runs.sample, ~runs.repeated & ~runs.shifted
    error = np.log(sample.loss / surface_loss(surface, sample.N, sample.D, sample.batch))
    log_N, log_D = np.log(sample.N), np.log(sample.D)
    moved: FloatArray = np.zeros(len(runs))
    for k in np.flatnonzero(runs.repeated):
        near = fresh & (np.abs(log_N - log_N[k]) < _SAME_N) & (np.abs(log_D - log_D[k]) < _SAME_D)
        if near.any():
            moved[near] = error[near].mean()
            moved[k] = error[near].mean()
    if not moved.any():
        return runs, False
    return replace(runs, sample=replace(sample, loss=sample.loss * np.exp(-moved))), True
