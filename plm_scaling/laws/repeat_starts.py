"""Where to begin with a law of repeats: a grid over its own parameters, on several guesses of the base law.

The grid serves the bootstrap too: its Huber losses by row, times the weights of a resample, say in one matrix product
in which valley every resample has its minimum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Final

import numpy as np

from plm_scaling.laws.forms import Rows
from plm_scaling.laws.jets import FloatArray
from plm_scaling.laws.newton import Problem
from plm_scaling.laws.problem import make_problem
from plm_scaling.laws.repeat_problem import RepeatProblem, RepeatRuns
from plm_scaling.laws.starts import guess_starts

__all__ = ["choose_starts", "grid_points", "huber_rows"]

_DECAYS: Final = np.log(np.geomspace(0.05, 2e4, 24))
_DELTAS: Final = (0.3, 0.6, 1.0, 1.5, 2.2, 3.2)
_KAPPAS: Final = (0.0, 0.4, 0.8, 1.3, 2.0)
_PENALTIES: Final = np.log(np.geomspace(1e-4, 2.0, 14))
_ASSUMED: Final = (1.0, 6.0, 40.0, math.inf)
"""Guesses of R_D under which a free base law is begun."""


def grid_points(setup: RepeatProblem, runs: RepeatRuns) -> FloatArray:
    """Points over the whole range of the free parameters, float64[G, p]."""
    problem = setup.problem
    axes: dict[str, Sequence[float] | FloatArray] = {
        "R_D": _DECAYS,
        "R_N": _DECAYS,
        "P0": _PENALTIES,
        "delta": _DELTAS,
        "kappa": _KAPPAS,
    }
    own = [name for name in setup.own if name != "offset"]
    step = 1 if setup.base.theta else 2
    every = list(product(*(axes[name][::step] for name in own)))
    grid = np.array(every, dtype=np.float64).reshape(len(every), len(own))
    starts = _base_starts(setup, runs)
    theta = np.zeros((len(starts) * len(grid), len(problem.form.names)))
    theta[:, : starts.shape[1]] = np.repeat(starts, len(grid), axis=0)
    for column, name in enumerate(own):
        theta[:, problem.form.index(name)] = np.tile(grid[:, column], len(starts))
    if "offset" in setup.own and runs.shifted.any():
        missing = problem.residual(theta)[:, runs.shifted]
        theta[:, problem.form.index("offset")] = -np.median(missing, axis=1)
    return np.clip(theta, problem.low, problem.high)


def _base_starts(setup: RepeatProblem, runs: RepeatRuns) -> FloatArray:
    """Guesses of a base law fitted with the repeats, float64[S, p of the base]; one empty guess where it is known."""
    if setup.base.theta is not None:
        return np.zeros((1, 0))
    form, rows, sample = setup.base.form, setup.rows, runs.sample
    alone = make_problem(form, sample, setup.problem.delta)
    width = len(form.names)
    found = []
    for limit in _ASSUMED:
        worth = np.log1p(rows.R if math.isinf(limit) else -limit * np.expm1(-rows.R / limit))
        plain = Rows(rows.x, rows.u + worth, rows.z, log_N0=rows.log_N0, log_D0=rows.log_D0)
        found.append(guess_starts(replace(alone, rows=plain), sample.weights, 2))
    fresh = sample.weights * ~runs.repeated
    if (fresh > 0).sum() >= width + 2:
        found.append(guess_starts(replace(alone, rows=Rows(rows.x, rows.y, rows.z)), fresh, 3))
    return np.clip(np.concatenate(found), setup.problem.low[:width], setup.problem.high[:width])


def huber_rows(problem: Problem, theta: FloatArray) -> FloatArray:
    """Huber loss of every row at points float64[G, p], float64[G, n]; a point without a value is infinitely bad."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        size = np.abs(problem.residual(theta))
        capped = np.minimum(size, problem.delta)
        return np.nan_to_num(capped * (size - 0.5 * capped), nan=1e6, posinf=1e6)


def choose_starts(points: FloatArray, values: FloatArray, count: int, span: FloatArray) -> FloatArray:
    """The best points that are no neighbours of a better one, float64[count or fewer, p]; `span` scales columns."""
    left = np.argsort(values, kind="stable")
    chosen: list[int] = []
    while left.size and len(chosen) < count:
        chosen.append(int(left[0]))
        apart = np.abs(points[left] - points[left[0]]) > span
        left = left[apart.any(axis=1)]
    return points[chosen]
