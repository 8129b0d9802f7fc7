from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from plm_scaling.laws.forms import find_form
from plm_scaling.laws.newton import Problem, minimise
from plm_scaling.laws.problem import make_problem, solve
from plm_scaling.laws.profile import profile_curve, profile_intervals, profile_threshold
from plm_scaling.laws.surface import optimal_exponent

MakeWorld = Callable[..., Any]
Z = 1.959963984540054


def solved(made: Any, name: str, delta: float = 1e-3) -> tuple[Problem, np.ndarray, np.ndarray]:
    sample = made.sample()
    problem = make_problem(find_form(name), sample, delta)
    return problem, solve(problem, sample.weights, 8).theta, sample.weights


def fixed_rise(problem: Problem, theta: np.ndarray, weights: np.ndarray, i: int, value: float) -> float:
    """How far the objective rises when parameter i is held at a value and all others are free."""
    low, high = problem.low.copy(), problem.high.copy()
    low[i] = high[i] = value
    starts = theta + 0.02 * np.random.default_rng(0).standard_normal((6, len(theta)))
    _, held = minimise(replace(problem, low=low, high=high), np.vstack([starts, theta]), weights)
    return float(held.min() - problem.value(theta[None], weights[None])[0])


def test_least_squares_of_a_linear_form_have_the_textbook_interval(world: MakeWorld) -> None:
    problem, theta, weights = solved(world("chinchilla", sd=0.01), "log_quadratic", math.inf)
    x, y = problem.rows.x, problem.rows.y
    design = np.column_stack([np.ones_like(x), x, y, x * x, x * y, y * y])
    residual = problem.residual(theta[None])[0]
    covariance = (residual @ residual) / (len(x) - 6) * np.linalg.inv(design.T @ design)
    found = profile_intervals(problem, theta, weights, {str(i): lambda t, i=i: t[:, i] for i in range(6)})
    for i in range(6):
        half = Z * math.sqrt(covariance[i, i])
        assert found[str(i)].value == theta[i]
        assert found[str(i)].low == pytest.approx(theta[i] - half, abs=2e-3 * half)
        assert found[str(i)].high == pytest.approx(theta[i] + half, abs=2e-3 * half)


def test_a_wider_level_is_wider(world: MakeWorld) -> None:
    problem, theta, weights = solved(world("chinchilla", sd=0.003), "chinchilla")
    narrow, wide = (
        profile_intervals(problem, theta, weights, {"a": lambda t: t[:, 3]}, level)["a"] for level in (0.5, 0.95)
    )
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high
    assert (wide.level, narrow.level) == (0.95, 0.5)


def test_at_its_ends_the_objective_has_risen_by_the_threshold(world: MakeWorld) -> None:
    """Checked by holding the parameter there and fitting all others."""
    problem, theta, weights = solved(world("chinchilla", sd=0.004, seed=5), "chinchilla")
    threshold = profile_threshold(problem, theta, weights)
    for i in (0, 3, 4):
        found = profile_intervals(problem, theta, weights, {"q": lambda t, i=i: t[:, i]})["q"]
        for end in (found.low, found.high):
            assert math.isfinite(end)
            assert fixed_rise(problem, theta, weights, i, end) == pytest.approx(threshold, rel=0.03)


def test_a_floor_may_fall_further_than_it_may_rise(world: MakeWorld) -> None:
    problem, theta, weights = solved(world("chinchilla", sd=0.02, seed=3), "chinchilla")
    found = profile_intervals(problem, theta, weights, {"E": lambda t: t[:, 0]})["E"]
    assert found.value - found.low > 1.5 * (found.high - found.value)


def test_what_runs_do_not_bound_has_an_open_end(world: MakeWorld) -> None:
    # No floor in the world: any smaller one fits as well.
    problem, theta, weights = solved(world("no_floor", sd=0.003, seed=2), "chinchilla")
    floor = profile_intervals(problem, theta, weights, {"E": lambda t: t[:, 0]})["E"]
    assert floor.low == -math.inf
    assert math.isfinite(floor.high)
    assert fixed_rise(problem, theta, weights, 0, problem.low[0]) < profile_threshold(problem, theta, weights)
    # No plateau in the world: any higher one fits as well.
    problem, theta, weights = solved(world("chinchilla", sd=0.003, seed=2), "bounded")
    plateau = profile_intervals(problem, theta, weights, {"L0": lambda t: t[:, 5]})["L0"]
    assert plateau.high == math.inf
    # It ended at its bound, from where nothing can be said of the other side either.
    assert (theta[5], plateau.low) == (problem.high[5], -math.inf)


@pytest.mark.parametrize(("made_by", "name"), [("no_floor", "chinchilla"), ("bounded", "bounded")])
def test_the_curve_is_the_best_of_all_fits_with_that_value(made_by: str, name: str, world: MakeWorld) -> None:
    """Along a flat valley too: a point that stopped early would lie above the fit with its parameter held there."""
    problem, theta, weights = solved(world(made_by, sd=0.003, seed=2), name)
    threshold = profile_threshold(problem, theta, weights)
    values, rise = profile_curve(problem, theta, weights, lambda t: t[:, 0])
    inside = np.flatnonzero((rise < 4 * threshold) & (values > problem.low[0]))[::3]
    assert len(inside) >= 3
    for k in inside:
        assert rise[k] <= fixed_rise(problem, theta, weights, 0, values[k]) + 0.02 * threshold


def test_the_curve_rises_on_both_sides_of_the_estimate(world: MakeWorld) -> None:
    problem, theta, weights = solved(world("bounded", sd=0.003), "bounded")
    values, rise = profile_curve(problem, theta, weights, lambda t: optimal_exponent(problem.form, t, problem.rows))
    assert (np.diff(values) >= 0).all()
    lowest = int(np.argmin(rise))
    assert rise[lowest] == 0
    assert (np.diff(rise[: lowest + 1]) <= 1e-9).all()
    assert (np.diff(rise[lowest:]) >= -1e-9).all()


def test_a_quantity_that_nothing_moves_is_a_single_point(world: MakeWorld) -> None:
    problem, theta, weights = solved(world("chinchilla", sd=0.003), "chinchilla")
    values, rise = profile_curve(problem, theta, weights, lambda t: np.full(len(t), 0.5))
    assert (values.tolist(), rise.tolist()) == ([0.5], [0.0])
    assert profile_intervals(problem, theta, weights, {"q": lambda t: np.full(len(t), math.nan)}) == {}


def test_the_threshold_grows_with_the_level_and_with_weights(world: MakeWorld) -> None:
    problem, theta, weights = solved(world("chinchilla", sd=0.003), "chinchilla")
    half, most = (profile_threshold(problem, theta, weights, level) for level in (0.5, 0.99))
    assert 0 < half < most
    assert profile_threshold(problem, theta, 3 * weights, 0.5) == pytest.approx(3 * half)
