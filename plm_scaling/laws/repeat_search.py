"""The optimum of a law of repeats, every other one found on the way, and the optima of resampled runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from plm_scaling.laws.jets import FloatArray
from plm_scaling.laws.newton import Problem, minimise
from plm_scaling.laws.problem import Reached, solve
from plm_scaling.laws.repeat_base import BaseLaw
from plm_scaling.laws.repeat_problem import RepeatProblem, RepeatRuns, make_repeat_problem
from plm_scaling.laws.repeat_starts import choose_starts, grid_points, huber_rows

__all__ = ["Asked", "Found", "find_optimum", "resample_repeats", "second_optimum"]

_STARTS: Final = 12
_TOLERANCE: Final = 1e-9
_BLOCKS: Final = 16
"""Draws of a known base law that the resamples are spread over, at most."""
_PER_BLOCK: Final = 20
_NEAR: Final = {"R_D": 0.8, "R_N": 0.8, "P0": 1.4, "delta": 0.3, "kappa": 0.3}
"""Starts nearer than this in every parameter are one start."""


@dataclass(frozen=True)
class Asked:
    """What to fit: a form on a base law, parameters that are given, an offset, the Huber border."""

    kind: str
    base: BaseLaw
    held: Mapping[str, float]
    offset: bool
    delta: float

    def setup(self, runs: RepeatRuns, base_theta: Mapping[str, float] | None = None) -> RepeatProblem:
        """The fitting problem on some runs."""
        return make_repeat_problem(
            runs,
            self.kind,
            self.base,
            held=self.held,
            offset=self.offset,
            delta=self.delta,
            base_theta=base_theta,
        )


@dataclass(frozen=True)
class Found:
    """The optimum and those of the resamples."""

    setup: RepeatProblem
    reached: Reached
    draws: FloatArray
    """Theta of all parameters float64[B, all]."""
    scales: FloatArray
    """Weighted mean of |residual| of every resample at its own optimum, float64[B]."""

    @property
    def theta(self) -> FloatArray:
        """Theta of all parameters at the optimum, float64[all]."""
        return np.asarray(self.setup.full(self.reached.theta[None])[0])


def resample_repeats(runs: RepeatRuns, draws: int, seed: int) -> FloatArray:
    """Multinomial weights float64[draws, n], repeated and other runs resampled apart.

    So every draw has as many repeated runs as the table. **Source:** Davison & Hinkley 1997, section 3.2 (strata).
    """
    rng = np.random.default_rng(seed)
    weights = np.zeros((max(draws, 1), len(runs)))
    for part in (runs.repeated, ~runs.repeated):
        if k := int(part.sum()):
            weights[:, part] = rng.multinomial(k, np.full(k, 1.0 / k), size=len(weights))
    return np.asarray(weights * runs.sample.weights)


def find_optimum(asked: Asked, runs: RepeatRuns, weights: FloatArray) -> Found:
    """The best of many starts on the runs, and on every row of `weights` float64[B, n] the best near any of them.

    A base law known with draws of its own is drawn too: resamples share up to 16 of its draws.
    """
    setup = asked.setup(runs)
    points = grid_points(setup, runs)
    reached = _descend(setup, runs, points)
    blocks = [setup]
    if asked.base.draws:
        count = min(_BLOCKS, len(asked.base.draws), 1 + len(weights) // _PER_BLOCK)
        pick = np.linspace(0, len(asked.base.draws) - 1, count).astype(int)
        blocks = [asked.setup(runs, asked.base.draws[k]) for k in pick]
    drawn, scales = [], []
    for block, part in zip(blocks, np.array_split(weights, len(blocks)), strict=True):
        if not len(part):
            continue
        theta = _drawn(block, reached, points, part)
        drawn.append(block.full(theta))
        size = np.abs(block.problem.residual(theta))
        scales.append((part * size).sum(axis=1) / part.sum(axis=1))
    return Found(setup, reached, np.concatenate(drawn), np.concatenate(scales))


def _borders(problem: Problem) -> list[Problem]:
    """The problem, by way of wider borders where its own leaves Newton's steps no curvature to see."""
    deltas = [delta for delta in (1e-3, 1e-4, 1e-5, 1e-6) if delta > problem.delta] if problem.delta < 1e-4 else []
    return [replace(problem, delta=delta) for delta in (*deltas, problem.delta)]


def _descend(setup: RepeatProblem, runs: RepeatRuns, points: FloatArray) -> Reached:
    problem, weights = setup.problem, runs.sample.weights
    values = huber_rows(problem, points) @ weights
    if not problem.form.names:
        return Reached(points[0], float(values[0]), points[:1], values[:1], 0.0)
    span = np.array([_NEAR.get(name, np.inf) for name in problem.form.names])
    ends = choose_starts(points, values, _STARTS, span)
    reached = None
    for border in _borders(problem):
        reached = solve(border, weights, ends)
        ends = reached.ends
    assert reached is not None
    return reached


def _drawn(setup: RepeatProblem, reached: Reached, points: FloatArray, weights: FloatArray) -> FloatArray:
    """The optimum of every resample float64[B, p]: from the grid's best, the runs' own optimum, and their second."""
    problem = setup.problem
    if not problem.form.names:
        return np.zeros((len(weights), 0))
    known = np.concatenate([reached.theta[None], points, reached.ends])
    best = np.argmin(weights @ huber_rows(problem, known).T, axis=1)
    # Every resample starts at the runs' own optimum, and where another point is better there too.
    again = np.flatnonzero(best)
    owner = np.concatenate([np.arange(len(weights)), again])
    theta = np.concatenate([np.repeat(reached.theta[None], len(weights), axis=0), known[best[again]]])
    values = np.zeros(len(theta))
    for border in _borders(problem):
        theta, values = minimise(border, theta, weights[owner], tolerance=_TOLERANCE)
    lowest = theta[: len(weights)].copy()
    better = values[len(weights) :] < values[again]
    lowest[again[better]] = theta[len(weights) :][better]
    return lowest


def second_optimum(found: Found, within: float = 0.005) -> tuple[float, dict[str, float]] | None:
    """The best end whose repeats' parameters are others, if it is within a share of the best objective.

    Others: apart by more than a factor 1.5, or 0.2 for exponents; directions in which the objective is flat do not
    count, since all starts end at the same point there.
    """
    setup, reached = found.setup, found.reached
    names = setup.problem.form.names
    own = [name for name in setup.own if name != "offset"]
    if not own:
        return None
    columns = [names.index(name) for name in own]
    apart = np.abs(reached.ends[:, columns] - reached.theta[columns])
    limit = np.array([0.2 if name in ("delta", "kappa") else np.log(1.5) for name in own])
    other = (apart > limit).any(axis=1) & (reached.values <= reached.value * (1.0 + within))
    if not other.any():
        return None
    k = int(np.argmin(np.where(other, reached.values, np.inf)))
    natural = setup.problem.form.natural(reached.ends[k])
    return float(reached.values[k]), {name: float(natural[column]) for name, column in zip(own, columns, strict=True)}
