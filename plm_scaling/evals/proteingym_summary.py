"""Means over assays as ProteinGym's leaderboard takes them, and what its standard error is of.

A: assays, M: models, G: groups of assays, B: draws.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import RefusedError
from plm_scaling.core.records import Record
from plm_scaling.evals.assays import AssayScores, group_weights

__all__ = ["AssaySummary", "summarise_assays"]

FloatArray = npt.NDArray[np.float64]


class AssaySummary(Record):
    """One model's line of the leaderboard; a mean over no assay is not in its group."""

    model: str
    average: float
    """Assays to proteins to functions to their mean."""
    se_of_difference: float
    """Of the difference to `against`, not of the average: it is 0 for that model itself."""
    against: str
    functions: dict[str, float]
    depths: dict[str, float]
    """By depth of the protein's alignment."""
    taxa: dict[str, float]
    assays: int
    """How many have a score."""
    flags: tuple[Literal["missing_assays"], ...] = ()


def summarise_assays(
    table: AssayScores,
    *,
    against: str | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[AssaySummary, ...]:
    """The leaderboard, best first. Assays without a score of a model are left out of its means, and flagged.

    Parameters
    ----------
    against : the model that standard errors are of the difference to; the best by default.

    Raises
    ------
    RefusedError : no model has any score.
    ConfigError : `against` is not in the table.

    **Source:** Notin et al. 2023 and its script: bootstrap of (protein, function) means within every function.
    """
    averages = {
        model: _mean(table, table.scores_MA[m], np.ones(len(table.assays), dtype=bool), by_function=True)
        for m, model in enumerate(table.models)
    }
    ranked = sorted((m for m in averages if not math.isnan(averages[m])), key=lambda m: -averages[m])
    if not ranked:
        raise RefusedError("no mean over assays", why="no model has a score on any assay")
    top = against or ranked[0]
    table.of([top])
    errors = dict(zip(table.models, _se_of_difference(table, top, draws, seed).tolist(), strict=True))
    return tuple(_summary(table, model, averages[model], errors[model], top) for model in ranked)


def _summary(
    table: AssayScores,
    model: str,
    average: float,
    error: float,
    top: str,
) -> AssaySummary:
    values = table.of([model])[0]

    def means(kinds: tuple[str, ...]) -> dict[str, float]:
        found = {
            kind: _mean(table, values, np.array([one == kind for one in kinds]), by_function=False)
            for kind in sorted(set(kinds) - {""})
        }
        return {kind: mean for kind, mean in found.items() if not math.isnan(mean)}

    missing = int((~np.isfinite(values)).sum())
    return AssaySummary(
        model=model,
        average=average,
        se_of_difference=error,
        against=top,
        functions=means(table.functions),
        depths=means(table.depths),
        taxa=means(table.taxa),
        assays=len(values) - missing,
        flags=("missing_assays",) if missing else (),
    )


def _mean(table: AssayScores, values: FloatArray, chosen: npt.NDArray[np.bool_], *, by_function: bool) -> float:
    """Mean over the chosen assays that have a value; nan where there are none."""
    there = chosen & np.isfinite(values)
    if not there.any():
        return math.nan
    return float(np.where(there, values, 0.0) @ group_weights(table, there, by_function=by_function))


def _group_means(table: AssayScores, values_MA: FloatArray) -> tuple[FloatArray, tuple[str, ...]]:
    """Means of assays with a value by protein and function, float64[M, G], and each group's function."""
    names = sorted(set(zip(table.proteins, table.functions, strict=True)))
    place = {name: g for g, name in enumerate(names)}
    of_assay = np.array([place[pair] for pair in zip(table.proteins, table.functions, strict=True)])
    inside_AG = (of_assay[:, None] == np.arange(len(names))).astype(np.float64)
    there = np.isfinite(values_MA)
    count = there @ inside_AG
    total = np.where(there, values_MA, 0.0) @ inside_AG
    means = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0.0)
    return means, tuple(function for _, function in names)


def _se_of_difference(table: AssayScores, top: str, draws: int, seed: int) -> FloatArray:
    """Standard deviation over draws of every model's average less that of `top`, float64[M]."""
    means_MG, functions = _group_means(table, table.scores_MA)
    difference_MG = means_MG - means_MG[table.models.index(top)]
    rng = np.random.default_rng(seed)
    total = np.zeros((draws, len(table.models)))
    kinds = sorted(set(functions))
    for kind in kinds:
        inside = np.array([function == kind for function in functions])
        part = difference_MG[:, inside]
        counts = rng.multinomial(part.shape[1], np.full(part.shape[1], 1.0 / part.shape[1]), size=draws)
        there = counts @ np.isfinite(part).T.astype(np.float64)
        summed = counts @ np.nan_to_num(part).T
        # A draw without any of a model's assays of this function says nothing about it.
        total += np.divide(summed, there, out=np.full(summed.shape, np.nan), where=there > 0.0)
    scored = np.isfinite(total).any(axis=0)
    spread = np.full(len(table.models), np.nan)
    spread[scored] = np.nanstd(total[:, scored] / len(kinds), axis=0, ddof=1)
    return spread
