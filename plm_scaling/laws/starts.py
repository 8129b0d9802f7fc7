"""Where to begin: given the exponents and the shape of a form, its amplitudes are a linear problem. numpy only.

A grid over (alpha, beta) is solved at once for every guess of the shape (floor, plateau, outer exponent, batch), and
the best ends are kept, those at distinct valleys of the grid among them.

**Source:** Golub & Pereyra 1973 (variable projection).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product
from typing import Final

import numpy as np

from plm_scaling.laws.jets import FloatArray
from plm_scaling.laws.newton import Problem

__all__ = ["guess_starts"]

_GRID: Final = np.geomspace(0.02, 2.0, 24)
_FLOORS: Final = (0.0, 0.6, 0.85)
"""Guesses of E as a share of the lowest loss."""
_KEPT: Final = 48
"""Grid points per shape that are scored by the form itself."""


@dataclass(frozen=True)
class _Shape:
    """One guess of everything but amplitudes and exponents: R = A N^-alpha + B D_eff^-beta is then known per row."""

    fixed: dict[str, float]
    R: FloatArray
    slope: FloatArray
    """d ln L / d R: turns an error of R into one of ln L."""
    constant: bool = False
    """Whether a constant joins the linear problem (the additive form's floor)."""


def guess_starts(problem: Problem, weights: FloatArray, count: int) -> FloatArray:
    """Good starting points of a form, best first, float64[count or fewer, p]; `weights` float64[n]."""
    if problem.form.atoms[0].name == "level":
        return _linear_start(problem, weights)
    found = [_grid(problem, weights, shape) for shape in _shapes(problem)]
    theta = np.concatenate([theta for theta, _ in found])
    valley = np.concatenate([is_valley for _, is_valley in found])
    theta = np.clip(theta, problem.low, problem.high)
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.nan_to_num(problem.value(theta, np.broadcast_to(weights, (len(theta), len(weights)))), nan=np.inf)
    order = np.argsort(values, kind="stable")
    half = count // 2
    chosen = [*order[:half], *[k for k in order[half:] if valley[k]]][:count]
    chosen += [k for k in order if k not in set(chosen)][: count - len(chosen)]
    return np.asarray(theta[np.array(chosen)])


def _linear_start(problem: Problem, weights: FloatArray) -> FloatArray:
    """A form whose ln L is linear in theta: least squares (with the batch term absent: a large B_c)."""
    features = problem.rows.features()
    terms = problem.form.atoms[0].terms
    design = np.stack([features[feature] for _, feature in terms], axis=1)
    root = np.sqrt(weights)
    solution = np.linalg.lstsq(design * root[:, None], problem.target * root, rcond=None)[0]
    theta = np.clip(np.zeros(len(problem.form.names)), problem.low, problem.high)
    for (name, _), value in zip(terms, solution, strict=True):
        theta[problem.form.index(name)] = value
    starts = []
    for batch in _batches(problem):
        starts.append(theta.copy())
        for name, value in batch.items():
            starts[-1][problem.form.index(name)] = value
    return np.clip(np.stack(starts), problem.low, problem.high)


def _batches(problem: Problem) -> list[dict[str, float]]:
    if not problem.form.has_batch:
        return [{}]
    middle = float(np.median(problem.rows.z))
    return [{"B_c": middle + shift} for shift in (-2.0, 1.5)]


def _shapes(problem: Problem) -> Iterator[_Shape]:
    """Every guess of a form's shape."""
    L = np.exp(problem.target)
    lowest = float(L.min())
    for batch in _batches(problem):
        match problem.form.name.partition("+")[0]:
            case "chinchilla" | "tied" | "overtraining":
                yield _Shape(batch, L, 1.0 / L, constant=True)
            case "no_floor":
                yield _Shape(batch, L, 1.0 / L)
            case "kaplan":
                for a_D in (0.03, 0.1, 0.3):
                    R = L ** (1.0 / a_D) / lowest ** (1.0 / a_D)
                    yield _Shape({**batch, "a_D": math.log(a_D)}, R * lowest ** (1.0 / a_D), a_D / R)
            case "gamma":
                for share, g in product(_FLOORS, (0.4, 1.0)):
                    R = (L - share * lowest) ** (1.0 / g)
                    floor = math.log(max(share * lowest, 1e-6))
                    yield _Shape({**batch, "E": floor, "g": math.log(g)}, R, g * R ** (g - 1.0) / L)
            case _:
                yield from _bounded_shapes(problem, L, batch)


def _bounded_shapes(problem: Problem, L: FloatArray, batch: dict[str, float]) -> Iterator[_Shape]:
    lowest, highest = float(L.min()), float(L.max())
    if problem.form.plateau is not None:
        plateaus = [problem.form.plateau]
    else:
        low = math.exp(problem.low[problem.form.index("L0")])
        plateaus = [max(low, highest + gap * (highest - lowest)) for gap in (0.15, 1.0)]
    for share, plateau in product(_FLOORS, plateaus):
        E = share * lowest
        h = plateau - E
        reducible = np.clip(L - E, 1e-6 * h, 0.995 * h)
        R = 1.0 / (1.0 / reducible - 1.0 / h)
        fixed = {**batch, "E": math.log(max(E, 1e-6))}
        if problem.form.plateau is None:
            fixed["L0"] = math.log(plateau)
        if "k" in problem.form.names:
            fixed["k"] = 0.0
        yield _Shape(fixed, R, h * h / (h + R) ** 2 / L)


def _grid(problem: Problem, weights: FloatArray, shape: _Shape) -> tuple[FloatArray, FloatArray]:
    """Amplitudes at every (alpha, beta) of the grid; the best points and which of them are valleys of the grid."""
    form, rows = problem.form, problem.rows
    assert form.inner is not None
    y = rows.y
    if form.has_batch:
        y = y - np.logaddexp(0.0, rows.z - shape.fixed["B_c"])
    betas = np.ones(1) if form.inner[3] == "1" else _GRID
    by_N, by_D = np.exp(-_GRID[:, None] * rows.x), np.exp(-betas[:, None] * y)
    coefficients, score = _non_negative(by_N, by_D, shape, weights * shape.slope**2)
    tied = form.inner[2] == form.inner[3]
    if tied:
        score = np.where(np.eye(len(_GRID), dtype=bool), score, np.inf)
    keep = np.argsort(score, axis=None, kind="stable")[: len(_GRID) if tied else _KEPT]
    theta = np.clip(np.zeros((len(keep), len(form.names))), problem.low, problem.high)
    for name, value in shape.fixed.items():
        theta[:, form.index(name)] = value
    i, j = np.unravel_index(keep, score.shape)
    values = {form.inner[0]: _log(coefficients[i, j, 0]), form.inner[1]: _log(coefficients[i, j, 1])}
    exponents = {form.inner[2]: _GRID[i]} if tied else {form.inner[2]: _GRID[i], form.inner[3]: betas[j]}
    for name, column in (values | {k.removeprefix("2*"): v for k, v in exponents.items() if k != "1"}).items():
        theta[:, form.index(name)] = column / (2.0 if name == "eta" else 1.0)
    if shape.constant:
        theta[:, form.index("E")] = _log(coefficients[i, j, 2])
    return theta, _valleys(score)[i, j]


def _log(values: FloatArray) -> FloatArray:
    return np.log(np.maximum(values, 1e-12))


def _valleys(score: FloatArray) -> FloatArray:
    """Whether a grid point is no higher than its neighbours, bool[a, b]."""
    table = np.pad(score, 1, constant_values=np.inf)
    a, b = score.shape
    around = [table[1 + i : 1 + i + a, 1 + j : 1 + j + b] for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
    return np.asarray(score <= np.min(around, axis=0))


def _non_negative(by_N: FloatArray, by_D: FloatArray, shape: _Shape, w: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Weighted least squares of R on the terms with coefficients >= 0, by trying every subset of them.

    Returns float64[a, b, 3] coefficients of (N, D, constant) and the squares left over float64[a, b]. All sums over
    rows are products of the two exponents' tables, so that the whole grid costs a few matrix products.
    """
    a, b = len(by_N), len(by_D)
    gram = np.empty((a, b, 3, 3))
    gram[:, :, 0, 0] = ((by_N * by_N) @ w)[:, None]
    gram[:, :, 1, 1] = ((by_D * by_D) @ w)[None]
    gram[:, :, 2, 2] = w.sum()
    gram[:, :, 0, 1] = gram[:, :, 1, 0] = (by_N * w) @ by_D.T
    gram[:, :, 0, 2] = gram[:, :, 2, 0] = (by_N @ w)[:, None]
    gram[:, :, 1, 2] = gram[:, :, 2, 1] = (by_D @ w)[None]
    right = np.empty((a, b, 3))
    right[:, :, 0], right[:, :, 1] = (by_N @ (w * shape.R))[:, None], (by_D @ (w * shape.R))[None]
    right[:, :, 2] = (w * shape.R).sum()
    ridge = 1e-13 * np.trace(gram, axis1=2, axis2=3)[:, :, None, None]
    best = np.zeros((a, b, 3))
    lowest = np.full((a, b), np.inf)
    members = range(3) if shape.constant else range(2)
    for size in range(1, len(members) + 1):
        for subset in combinations(members, size):
            index = np.array(subset)
            part = gram[:, :, index[:, None], index] + ridge * np.eye(size)
            solution = np.linalg.solve(part, right[:, :, index, None])[..., 0]
            value = -(solution * right[:, :, index]).sum(axis=2)
            use = (solution >= 0).all(axis=2) & (value < lowest)
            lowest = np.where(use, value, lowest)
            full = np.zeros_like(best)
            full[:, :, index] = solution
            best = np.where(use[..., None], full, best)
    return best, lowest + float((w * shape.R**2).sum())
