"""The loss surface L(N, D): starts by variable projection, damped Newton, bootstrap over runs, named doubts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import FitError
from plm_scaling.laws.forms import PARAMETER_NAMES, FloatArray, log_loss_terms
from plm_scaling.laws.law_fit import Interval, SurfaceFit
from plm_scaling.laws.newton import HuberProblem, minimise

__all__ = ["MIN_RUNS", "fit_surface", "percentile_interval"]

MIN_RUNS: Final = 7
"""Five parameters and two runs to spare: below this no surface is fitted."""
_GRID: Final = np.geomspace(0.02, 2.0, 24)
_STARTS: Final = 8
_EXPONENT_BOUNDS: Final = (1e-3, 4.0)
_VANISHED: Final = -9.0
"""A term below e^-9 of the smallest loss is indistinguishable from zero."""


def percentile_interval(value: float, draws: FloatArray, level: float = 0.95) -> Interval:
    """The percentile interval of bootstrap draws around an estimate. **Source:** Efron 1979."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value), level=level)


def fit_surface(
    N: npt.ArrayLike,
    D: npt.ArrayLike,
    loss: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    huber_delta: float = 1e-3,
    draws: int = 1000,
    seed: int = 0,
) -> SurfaceFit:
    """Fit E + A N^-alpha + B D^-beta to runs trained on unrepeated data.

    Parameters
    ----------
    N : parameters, [n]. D : tokens, [n]. loss : nats per token, [n].
    weights : weight of each run, [n]; None for equal weights.
    huber_delta : border of the quadratic zone, in units of ln L.
    draws : bootstrap resamples of runs behind the intervals (multinomial weights).

    Raises
    ------
    FitError : fewer than `MIN_RUNS` runs, or values that are not positive and finite.

    **Source:** Hoffmann et al. 2022, eq. 10; Besiroglu et al. 2024 (sum of Huber losses, bootstrap over runs).
    """
    n, d, observed, w = _checked(N, D, loss, weights)
    N0, D0 = math.exp(float(np.log(n).mean())), math.exp(float(np.log(d).mean()))
    problem = _problem(np.log(n / N0), np.log(d / D0), np.log(observed), huber_delta)
    ends, values = minimise(problem, _starts(problem, w), np.repeat(w[None], _STARTS, axis=0))
    theta = ends[int(np.argmin(values))]
    rng = np.random.default_rng(seed)
    resampled = rng.multinomial(len(n), np.full(len(n), 1.0 / len(n)), size=max(draws, 1)) * w
    drawn, _ = minimise(problem, np.repeat(theta[None], len(resampled), axis=0), resampled)
    best = float(values.min())
    residual = np.expm1(log_loss_terms(theta[None], problem.x, problem.y)[0][0] - problem.target)
    exponents = drawn[:, 4] / (drawn[:, 3] + drawn[:, 4])
    a_N = percentile_interval(float(theta[4] / (theta[3] + theta[4])), exponents)
    natural, drawn_natural = _natural(theta[None])[0], _natural(drawn)
    reached = _Optimum(theta, best, ends, values, drawn, float(exponents.std()))
    return SurfaceFit(
        N0=N0,
        D0=D0,
        parameters={
            name: percentile_interval(float(natural[i]), drawn_natural[:, i]) for i, name in enumerate(PARAMETER_NAMES)
        },
        draws=tuple(tuple(row) for row in drawn_natural.tolist()) if draws else (),
        covariance=tuple(tuple(row) for row in np.atleast_2d(np.cov(drawn.T, ddof=0)).tolist()),
        huber_delta=huber_delta,
        objective_value=best,
        starts=_STARTS,
        starts_agreeing=float((values <= best * (1 + 1e-3)).mean()),
        rms_relative_error=float(np.sqrt(np.average(residual**2, weights=w))),
        a_N=a_N,
        range_N=(float(n.min()), float(n.max())),
        range_D=(float(d.min()), float(d.max())),
        flags=_flags(problem, w, reached, (n, d)),
    )


@dataclass(frozen=True)
class _Optimum:
    """Where the starts ended, and what the bootstrap made of the best end."""

    theta: FloatArray
    value: float
    ends: FloatArray
    values: FloatArray
    drawn: FloatArray
    exponent_sd: float


def _checked(
    N: npt.ArrayLike, D: npt.ArrayLike, loss: npt.ArrayLike, weights: npt.ArrayLike | None
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    n, d, observed = (np.asarray(v, dtype=np.float64).ravel() for v in (N, D, loss))
    w = np.ones_like(n) if weights is None else np.asarray(weights, dtype=np.float64).ravel()
    if not len(n) == len(d) == len(observed) == len(w):
        raise FitError(f"N, D, loss and weights have {len(n)}, {len(d)}, {len(observed)} and {len(w)} entries")
    for name, column in (("N", n), ("D", d), ("loss", observed)):
        bad = ~(np.isfinite(column) & (column > 0))
        if bad.any():
            raise FitError(f"{name} of row {int(np.argmax(bad))} is not a positive number: {column[bad][0]}")
    if not np.isfinite(w).all() or (w < 0).any() or not (w > 0).any():
        raise FitError("weights must be finite, not negative, and not all zero")
    if len(n) < MIN_RUNS:
        raise FitError(
            f"a surface with five parameters cannot be fitted to {len(n)} runs",
            why=f"at least {MIN_RUNS} runs are needed",
            hint="add sizes or budgets, or use the isoFLOP minima alone",
        )
    return n, d, observed, w


def _problem(x: FloatArray, y: FloatArray, target: FloatArray, delta: float) -> HuberProblem:
    floor = float(target.min()) + _VANISHED
    top = float(target.max()) + 3.0
    low = np.array([floor, floor, floor, _EXPONENT_BOUNDS[0], _EXPONENT_BOUNDS[0]])
    high = np.array([float(target.max()), top, top, _EXPONENT_BOUNDS[1], _EXPONENT_BOUNDS[1]])
    return HuberProblem(x, y, target, delta, low, high)


def _natural(theta: FloatArray) -> FloatArray:
    """(E, A0, B0, alpha, beta) of theta, float64[B, 5]."""
    return np.concatenate([np.exp(theta[:, :3]), theta[:, 3:]], axis=1)


def _starts(problem: HuberProblem, w: FloatArray) -> FloatArray:
    """The best ends of a grid over (alpha, beta), half of them at distinct local minima, float64[8, 5].

    **Source:** Golub & Pereyra 1973 (variable projection): given the exponents, E, A and B are a linear problem.
    """
    alpha, beta = (grid.ravel() for grid in np.meshgrid(_GRID, _GRID, indexing="ij"))
    scale = w / np.exp(2 * problem.target)
    columns = np.stack(
        [
            np.ones((len(alpha), len(problem.x))),
            np.exp(-alpha[:, None] * problem.x),
            np.exp(-beta[:, None] * problem.y),
        ],
        axis=2,
    )
    coefficients = _non_negative(columns, np.exp(problem.target), scale)
    floor = np.exp(problem.low[0]) * 100.0
    theta = np.concatenate([np.log(np.maximum(coefficients, floor)), alpha[:, None], beta[:, None]], axis=1)
    values = problem.value(theta, np.repeat(w[None], len(theta), axis=0))
    order = np.argsort(values, kind="stable")
    table = np.pad(values.reshape(len(_GRID), len(_GRID)), 1, constant_values=np.inf)
    neighbours = [
        table[1 + i : 1 + i + len(_GRID), 1 + j : 1 + j + len(_GRID)] for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j
    ]
    is_valley = (table[1:-1, 1:-1] <= np.min(neighbours, axis=0)).ravel()
    chosen = [*order[: _STARTS // 2], *[k for k in order[_STARTS // 2 :] if is_valley[k]]][:_STARTS]
    chosen += [k for k in order if k not in chosen][: _STARTS - len(chosen)]
    return np.asarray(theta[np.array(chosen)])


def _non_negative(columns: FloatArray, target: FloatArray, weights: FloatArray) -> FloatArray:
    """Weighted least squares with coefficients >= 0, by trying every subset of the three, float64[G, 3]."""
    transposed = columns.transpose(0, 2, 1)
    gram = (transposed * weights) @ columns
    right = transposed @ (weights * target)
    best = np.zeros((len(columns), 3))
    lowest = np.full(len(columns), np.inf)
    for size in (1, 2, 3):
        for subset in combinations(range(3), size):
            index = np.array(subset)
            part = gram[:, index[:, None], index] + 1e-13 * np.trace(gram, axis1=1, axis2=2)[:, None, None] * np.eye(
                size
            )
            solution = np.linalg.solve(part, right[:, index, None])[:, :, 0]
            value = -np.einsum("gk,gk->g", solution, right[:, index])
            use = (solution >= 0).all(axis=1) & (value < lowest)
            lowest = np.where(use, value, lowest)
            full = np.zeros_like(best)
            full[:, index] = solution
            best = np.where(use[:, None], full, best)
    return best


def _flags(
    problem: HuberProblem, w: FloatArray, reached: _Optimum, sizes: tuple[FloatArray, FloatArray]
) -> tuple[str, ...]:
    """Every doubt about a surface, by name (`plm_scaling.laws.doubts` has the sentences)."""
    theta, n = reached.theta, len(w)
    flags = []
    if theta[0] <= problem.low[0] + 2.0 or np.quantile(reached.drawn[:, 0], 0.025) <= problem.low[0] + 2.0:
        flags.append("E_UNIDENTIFIED")
    at_bound = (theta[3:] <= _EXPONENT_BOUNDS[0] * 1.01) | (theta[3:] >= _EXPONENT_BOUNDS[1] * 0.99)
    if at_bound.any() or (theta[1:3] <= problem.low[1:3] + 0.1).any():
        flags.append("EXPONENT_AT_BOUND")
    levels = [len(np.unique(np.round(np.log(column) / 0.02))) for column in sizes]
    if min(levels) < 3:
        flags.append("TOO_FEW_LEVELS")
    if min(levels) < 2 or abs(float(np.corrcoef(problem.x, problem.y)[0, 1])) > 0.97:
        flags.append("COLLINEAR_DESIGN")
    near = reached.ends[reached.values <= reached.value * 1.005]
    exponents = near[:, 4] / (near[:, 3] + near[:, 4])
    if np.ptp(exponents) > 0.02 or np.mean(reached.values <= reached.value * 1.005) < 0.5:
        flags.append("MULTIMODAL")
    without = np.repeat(w[None], n, axis=0) * (1.0 - np.eye(n))
    left_out, _ = minimise(problem, np.repeat(theta[None], n, axis=0), without)
    moved = left_out[:, 4] / (left_out[:, 3] + left_out[:, 4]) - theta[4] / (theta[3] + theta[4])
    if np.abs(moved).max() > reached.exponent_sd:
        flags.append("INFLUENTIAL_ROWS")
    if _outside(theta, problem):
        flags.append("OUT_OF_HULL")
    return tuple(flags)


def _outside(theta: FloatArray, problem: HuberProblem) -> bool:
    """Whether the optimum at the upper quartile of compute lies outside the sizes or tokens seen (centred logs)."""
    log_ND = float(np.quantile(problem.x + problem.y, 0.75))
    total = theta[3] + theta[4]
    x = (theta[1] + math.log(theta[3]) - theta[2] - math.log(theta[4])) / total + log_ND * theta[4] / total
    y = log_ND - x
    return bool(
        not problem.x.min() - 1e-9 <= x <= problem.x.max() + 1e-9
        or not problem.y.min() - 1e-9 <= y <= problem.y.max() + 1e-9
    )
