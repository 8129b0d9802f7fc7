from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from plm_scaling.core.errors import FitError
from plm_scaling.laws.forms import FORM_NAMES, find_form
from plm_scaling.laws.problem import make_problem, make_sample, solve

MakeWorld = Callable[..., Any]


class TestSample:
    N, D, loss = np.geomspace(1e6, 1e9, 8), np.geomspace(1e8, 1e10, 8), np.linspace(2.5, 2.0, 8)

    def test_columns_and_compute(self) -> None:
        sample = make_sample(self.N, self.D, self.loss)
        assert len(sample) == 8
        np.testing.assert_allclose(sample.C, 6 * self.N * self.D)
        assert (sample.weights == 1).all()
        assert np.isnan(sample.batch).all()
        assert not sample.has_batches

    def test_some_of_the_runs(self) -> None:
        batch = np.arange(1.0, 9.0)
        sample = make_sample(self.N, self.D, self.loss, batch, weights=batch)
        part = sample.take(self.N > 1e8)
        assert len(part) == int((self.N > 1e8).sum())
        np.testing.assert_array_equal(part.batch, part.weights)
        np.testing.assert_array_equal(part.loss, self.loss[self.N > 1e8])

    def test_batches_count_where_all_are_known_and_two_differ(self) -> None:
        same, one_missing = np.full(8, 512.0), np.array([math.nan, *range(1, 8)])
        assert not make_sample(self.N, self.D, self.loss, same).has_batches
        assert not make_sample(self.N, self.D, self.loss, one_missing).has_batches
        assert make_sample(self.N, self.D, self.loss, np.arange(1.0, 9.0)).has_batches

    @pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("name", ["N", "D", "loss"])
    def test_values_that_are_none_name_their_row(self, name: str, bad: float) -> None:
        columns = {"N": self.N.copy(), "D": self.D.copy(), "loss": self.loss.copy()}
        columns[name][5] = bad
        with pytest.raises(FitError, match=f"{name} of row 5 is not a positive number"):
            make_sample(**columns)

    def test_lengths_that_differ(self) -> None:
        with pytest.raises(FitError, match="7, 8, 8, 7, 7 rows"):
            make_sample(self.N[1:], self.D, self.loss)
        with pytest.raises(FitError, match="rows"):
            make_sample(self.N, self.D, self.loss, [512.0])

    @pytest.mark.parametrize("weights", [np.zeros(8), np.full(8, -1.0), np.full(8, math.nan), np.full(8, math.inf)])
    def test_weights_that_are_none(self, weights: np.ndarray) -> None:
        with pytest.raises(FitError, match="weights"):
            make_sample(self.N, self.D, self.loss, weights=weights)


class TestProblem:
    def test_rows_are_centred_on_geometric_means(self, world: MakeWorld) -> None:
        made = world("chinchilla")
        problem = make_problem(find_form("chinchilla"), made.sample(), 1e-3)
        assert problem.rows.x.mean() == pytest.approx(0, abs=1e-12)
        assert problem.rows.y.mean() == pytest.approx(0, abs=1e-12)
        np.testing.assert_allclose(np.exp(problem.rows.x + problem.rows.log_N0), made.N)
        np.testing.assert_allclose(np.exp(problem.rows.y + problem.rows.log_D0), made.D)
        assert (problem.low < problem.high).all()

    @pytest.mark.parametrize("name", FORM_NAMES)
    def test_a_form_takes_two_runs_more_than_it_has_parameters(self, name: str, world: MakeWorld) -> None:
        form, sample = find_form(name), world("chinchilla").sample()
        needed = len(form.names) + 2
        make_problem(form, sample.take(np.arange(needed)), 1e-3)
        with pytest.raises(FitError, match=f"{needed - 1} runs") as raised:
            make_problem(form, sample.take(np.arange(needed - 1)), 1e-3)
        assert f"at least {needed} runs" in raised.value.why

    def test_a_batch_term_needs_batches(self, world: MakeWorld) -> None:
        with pytest.raises(FitError, match="batch size") as raised:
            make_problem(find_form("gamma+batch"), world("chinchilla").sample(), 1e-3)
        assert raised.value.hint.endswith("fit gamma")

    def test_a_plateau_lies_above_every_loss(self, world: MakeWorld) -> None:
        made = world("bounded")
        top = float(made.loss.max())
        make_problem(find_form("bounded", top + 0.01), made.sample(), 1e-3)
        with pytest.raises(FitError, match="below a loss"):
            make_problem(find_form("bounded", top), made.sample(), 1e-3)


def test_the_best_of_several_starts_is_kept(world: MakeWorld) -> None:
    made = world("bounded", sd=0.003)
    sample = made.sample()
    problem = make_problem(find_form("bounded"), sample, 1e-3)
    reached = solve(problem, sample.weights, 8)
    assert reached.value == reached.values.min()
    assert reached.value == pytest.approx(problem.value(reached.theta[None], sample.weights[None])[0], rel=1e-12)
    assert len(reached.ends) == len(reached.values) == 8
    assert reached.gradient_norm < 1e-6
    again = solve(problem, sample.weights, reached.ends[:2])
    assert len(again.ends) == 2
    assert again.value <= reached.values[:2].min() * (1 + 1e-12)
