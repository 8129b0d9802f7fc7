from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from plm_scaling.laws.forms import FORM_NAMES, find_form
from plm_scaling.laws.problem import make_problem, make_sample, solve
from plm_scaling.laws.starts import guess_starts

MakeWorld = Callable[..., Any]
BATCHED = tuple(f"{name}+batch" for name in FORM_NAMES if name not in ("log_quadratic", "overtraining"))


@pytest.mark.parametrize("name", [*FORM_NAMES, *BATCHED])
def test_starts_lie_in_the_box_best_first(name: str, world: MakeWorld) -> None:
    made = world("chinchilla", sd=0.003, batches=True)
    sample = made.sample()
    problem = make_problem(find_form(name), sample, 1e-3)
    starts = guess_starts(problem, sample.weights, 8)
    assert 1 <= len(starts) <= 8
    assert len(np.unique(starts, axis=0)) == len(starts)
    assert (starts >= problem.low).all()
    assert (starts <= problem.high).all()
    values = problem.value(starts, np.broadcast_to(sample.weights, (len(starts), len(sample))))
    assert np.isfinite(values).all()
    if not name.startswith(("multiplicative", "log_quadratic")):
        assert (np.diff(values[: len(starts) // 2]) >= 0).all()


@pytest.mark.parametrize("name", ["chinchilla", "no_floor", "tied", "gamma", "bounded", "kaplan"])
def test_the_first_start_is_already_near(name: str, world: MakeWorld) -> None:
    """The amplitudes are solved for, so that the best start misses by the grid's spacing alone: losses within 1 %."""
    made = world(name)
    sample = made.sample()
    problem = make_problem(find_form(name), sample, np.inf)
    best = guess_starts(problem, sample.weights, 8)[:1]
    assert np.abs(problem.residual(best)).mean() < 0.01


@pytest.mark.parametrize("name", [*FORM_NAMES, *BATCHED])
def test_from_the_starts_every_form_finds_its_own_world(name: str, world: MakeWorld) -> None:
    made = world(name, batches=name.endswith("+batch"))
    sample = made.sample()
    problem = make_problem(find_form(name), sample, np.inf)
    reached = solve(problem, sample.weights, 8)
    assert np.abs(problem.residual(reached.theta[None])).max() < 1e-5


def test_a_form_linear_in_its_parameters_starts_at_least_squares(world: MakeWorld) -> None:
    made = world("chinchilla", sd=0.01)
    sample = made.sample()
    problem = make_problem(find_form("log_quadratic"), sample, np.inf)
    (start,) = guess_starts(problem, sample.weights, 8)
    x, y = problem.rows.x, problem.rows.y
    design = np.column_stack([np.ones_like(x), x, y, x * x, x * y, y * y])
    np.testing.assert_allclose(start, np.linalg.lstsq(design, problem.target, rcond=None)[0], rtol=1e-8, atol=1e-10)


def test_runs_without_weight_do_not_matter(world: MakeWorld) -> None:
    made = world("chinchilla", sd=0.003)
    sample = made.sample()
    weights = np.where(np.arange(len(sample)) % 3 == 0, 0.0, 1.0)
    problem = make_problem(find_form("chinchilla"), sample, 1e-3)
    wrong = problem.target + 0.2 * (weights == 0)
    moved = make_problem(find_form("chinchilla"), make_sample(sample.N, sample.D, np.exp(wrong), sample.batch), 1e-3)
    a, b = guess_starts(problem, weights, 4), guess_starts(moved, weights, 4)
    np.testing.assert_allclose(a, b, rtol=1e-6)
