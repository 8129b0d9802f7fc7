from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.laws.forms import find_form
from plm_scaling.laws.newton import Problem, Pull, expand, minimise
from plm_scaling.laws.problem import make_problem

MakeWorld = Callable[..., Any]


def problem_of(world: Any, name: str, delta: float = 1e-3, plateau: float | None = None) -> Problem:
    return make_problem(find_form(name, plateau), world.sample(), delta)


def near_truth(problem: Problem, world: Any, parameters: dict[str, float]) -> np.ndarray:
    """The parameters of a world as theta, moved from its centre to the problem's."""
    rows, form = problem.rows, problem.form
    shift = {"A0": ("alpha", rows.log_N0 - np.log(3e8)), "B0": ("beta", rows.log_D0 - np.log(7e9))}
    natural = dict(parameters)
    for amplitude, (exponent, by) in shift.items():
        natural[amplitude] *= float(np.exp(-natural[exponent] * by))
    return form.theta(np.array([[natural[name] for name in form.names]]))


@pytest.fixture(scope="module")
def noisy(world: MakeWorld) -> Any:
    return world("chinchilla", sd=0.004, seed=2)


@settings(deadline=None, max_examples=10)
@given(delta=st.sampled_from([1e-7, 1e-3, 5e-3, np.inf]), seed=st.integers(0, 1000))
def test_the_objective_is_hubers_and_its_derivatives_are_exact(noisy: Any, delta: float, seed: int) -> None:
    problem = problem_of(noisy, "chinchilla", delta)
    rng = np.random.default_rng(seed)
    theta = rng.normal([0.5, -1, -1, 0.3, 0.4], 0.05, (2, 5))
    weights = rng.uniform(0.0, 3.0, (2, len(problem.target)))
    value, gradient, exact, irls = expand(problem, theta, weights)
    r = np.abs(problem.residual(theta))
    by_hand = np.where(r <= delta, 0.5 * r * r, min(delta, 1e9) * (r - 0.5 * min(delta, 1e9)))
    np.testing.assert_allclose(value, (weights * by_hand).sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(problem.value(theta, weights), value, rtol=1e-12)
    h = 1e-6
    # Squares alone are smooth everywhere; a Huber loss has jumps of its curvature at the border.
    if np.isinf(delta):
        for i in range(5):
            step = h * np.eye(5)[i]
            up, down = expand(problem, theta + step, weights), expand(problem, theta - step, weights)
            np.testing.assert_allclose(gradient[:, i], (up[0] - down[0]) / (2 * h), rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(exact[:, i], (up[1] - down[1]) / (2 * h), rtol=1e-5, atol=1e-6)
    else:
        for i in range(5):
            step = h * np.eye(5)[i]
            slope = (problem.value(theta + step, weights) - problem.value(theta - step, weights)) / (2 * h)
            np.testing.assert_allclose(gradient[:, i], slope, rtol=1e-3, atol=1e-4 * min(delta, 1))
    np.testing.assert_allclose(exact, exact.transpose(0, 2, 1), rtol=1e-9, atol=1e-12)
    assert (np.linalg.eigvalsh(irls) > -1e-9 * np.abs(irls).max()).all()


@pytest.mark.parametrize("name", ["chinchilla", "bounded", "gamma"])
def test_from_nearby_a_minimum_without_noise_is_the_truth(name: str, world: MakeWorld, parameters: Any) -> None:
    made = world(name)
    problem = problem_of(made, name, np.inf)
    truth = near_truth(problem, made, parameters(name))
    start = truth + 0.05 * np.random.default_rng(0).standard_normal((4, truth.shape[1]))
    theta, value = minimise(problem, start, np.ones(len(made.N)))
    assert (value < 1e-20).all()
    np.testing.assert_allclose(theta, np.repeat(truth, 4, axis=0), rtol=2e-5, atol=2e-5)


def test_every_problem_may_have_losses_of_its_own(world: MakeWorld, parameters: Any) -> None:
    made = world("chinchilla", sd=0.004)
    problem = problem_of(made, "chinchilla")
    start = near_truth(problem, made, parameters("chinchilla"))
    rng = np.random.default_rng(1)
    targets = problem.target + 0.01 * rng.standard_normal((3, len(made.N)))
    weights = rng.integers(0, 3, (3, len(made.N))).astype(float)
    theta, value = minimise(problem, np.repeat(start, 3, axis=0), weights, targets=targets)
    for k in range(3):
        alone, lowest = minimise(replace(problem, target=targets[k]), start, weights[k])
        np.testing.assert_allclose(theta[k], alone[0], rtol=1e-6)
        assert value[k] == pytest.approx(lowest[0], rel=1e-12)


def test_many_problems_at_once_are_each_its_own(noisy: Any, parameters: Any) -> None:
    """More problems than one batch holds, some of them far off, some hardly weighted."""
    problem = problem_of(noisy, "chinchilla")
    start = near_truth(problem, noisy, parameters("chinchilla"))
    weights = np.random.default_rng(4).multinomial(42, np.full(42, 1 / 42), size=1500).astype(float)
    theta, value = minimise(problem, np.repeat(start, 1500, axis=0), weights)
    for k in (0, 761, 762, 1499):
        alone, lowest = minimise(problem, start, weights[k])
        assert value[k] == pytest.approx(lowest[0], rel=1e-9)
        np.testing.assert_allclose(theta[k], alone[0], rtol=1e-5, atol=1e-6)


def test_a_minimum_is_stationary_and_no_neighbour_is_lower(noisy: Any, parameters: Any) -> None:
    problem = problem_of(noisy, "chinchilla")
    weights = np.ones((1, 42))
    theta, value = minimise(problem, near_truth(problem, noisy, parameters("chinchilla")), weights)
    _, gradient, _, _ = expand(problem, theta, weights)
    assert np.abs(gradient).max() < 1e-7
    around = theta + 1e-3 * np.random.default_rng(0).standard_normal((200, 5))
    assert (problem.value(around, np.ones((200, 42))) >= value[0]).all()


class TestBounds:
    def test_a_parameter_between_equal_bounds_stays(self, noisy: Any, parameters: Any) -> None:
        problem = problem_of(noisy, "chinchilla")
        low, high = problem.low.copy(), problem.high.copy()
        low[3] = high[3] = 0.3
        held, value = minimise(replace(problem, low=low, high=high), np.zeros((1, 5)), np.ones(42))
        assert held[0, 3] == 0.3
        # The others are at their best given that one.
        _, gradient, _, _ = expand(problem, held, np.ones((1, 42)))
        assert np.abs(np.delete(gradient[0], 3)).max() < 1e-6
        free = minimise(problem, near_truth(problem, noisy, parameters("chinchilla")), np.ones(42))[1]
        assert value[0] > free[0]

    def test_a_bound_that_the_minimum_lies_beyond_is_where_it_ends(self, noisy: Any, parameters: Any) -> None:
        problem = problem_of(noisy, "chinchilla")
        high = problem.high.copy()
        high[4] = 0.25
        theta, _ = minimise(
            replace(problem, high=high), near_truth(problem, noisy, parameters("chinchilla")), np.ones(42)
        )
        assert theta[0, 4] == 0.25
        _, gradient, _, _ = expand(problem, theta, np.ones((1, 42)))
        assert gradient[0, 4] < 0

    @settings(deadline=None, max_examples=15)
    @given(start=st.lists(st.floats(-50.0, 50.0), min_size=5, max_size=5))
    def test_no_start_leaves_the_box(self, noisy: Any, start: list[float]) -> None:
        problem = problem_of(noisy, "chinchilla")
        theta, value = minimise(problem, np.array([start]), np.ones(42))
        assert (theta >= problem.low).all()
        assert (theta <= problem.high).all()
        assert np.isfinite(value).all()
        assert value[0] <= problem.value(np.clip([start], problem.low, problem.high), np.ones((1, 42)))[0]


class TestPull:
    def test_pulls_trace_the_profile(self, noisy: Any, parameters: Any) -> None:
        """Where a pull ends is the best fit with that value of the quantity: fixing the value finds no better."""
        problem = problem_of(noisy, "chinchilla")
        best, _ = minimise(problem, near_truth(problem, noisy, parameters("chinchilla")), np.ones(42))
        targets = best[0, 3] + np.array([-0.05, -0.02, 0.02, 0.05])
        pull = Pull(lambda t: t[:, 3], targets, 1e-3)
        ends, total = minimise(problem, np.repeat(best, 4, axis=0), np.ones(42), pull=pull)
        assert (np.diff(ends[:, 3]) > 0).all()
        plain = problem.value(ends, np.ones((4, 42)))
        np.testing.assert_allclose(total, plain + 0.5e-3 * (ends[:, 3] - targets) ** 2, rtol=1e-12)
        for k in range(4):
            low, high = problem.low.copy(), problem.high.copy()
            low[3] = high[3] = ends[k, 3]
            _, fixed = minimise(replace(problem, low=low, high=high), ends[k : k + 1], np.ones(42))
            assert plain[k] == pytest.approx(fixed[0], rel=1e-6)

    def test_slopes_of_a_quantity(self) -> None:
        pull = Pull(lambda t: t[:, 0] * t[:, 1] + np.exp(t[:, 2]), np.zeros(2), 1.0)
        theta = np.array([[1.0, 2.0, 0.0], [-1.0, 0.5, 1.0]])
        expected = np.column_stack([theta[:, 1], theta[:, 0], np.exp(theta[:, 2])])
        np.testing.assert_allclose(pull.slopes(theta), expected, rtol=1e-8)

    def test_without_strength_it_pulls_nowhere(self, noisy: Any, parameters: Any) -> None:
        problem = problem_of(noisy, "chinchilla")
        start = near_truth(problem, noisy, parameters("chinchilla"))
        free = minimise(problem, start, np.ones(42))
        pulled = minimise(problem, start, np.ones(42), pull=Pull(lambda t: t[:, 0], np.array([9.0]), 0.0))
        assert pulled[1] == pytest.approx(free[1], rel=1e-12)


def test_a_loose_tolerance_costs_little(noisy: Any, parameters: Any) -> None:
    problem = problem_of(noisy, "chinchilla")
    start = np.repeat(near_truth(problem, noisy, parameters("chinchilla")), 50, axis=0)
    weights = np.random.default_rng(1).multinomial(42, np.full(42, 1 / 42), size=50).astype(float)
    exact, loose = (minimise(problem, start, weights, tolerance=t)[1] for t in (1e-15, 1e-6))
    assert (loose >= exact * (1 - 1e-12)).all()
    assert np.median(loose / exact) - 1 < 1e-5
    assert (loose / exact).max() - 1 < 1e-2
