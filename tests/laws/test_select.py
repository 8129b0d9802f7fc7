from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from plm_scaling.laws.forms import find_form
from plm_scaling.laws.law_fit import FormScore
from plm_scaling.laws.problem import Sample, make_problem, make_sample, solve
from plm_scaling.laws.select import candidate_forms, compute_cuts, prediction_sd, score_form, score_forms

MakeWorld = Callable[..., Any]
CONTAINS_CHINCHILLA = {"chinchilla", "gamma", "bounded"}


def score(sample: Sample, *names: str) -> dict[str, FormScore]:
    return {found.form: found for found in score_forms(sample, [find_form(name) for name in names])}


@pytest.fixture(scope="module")
def bounded(world: MakeWorld) -> dict[str, FormScore]:
    return score(world("bounded", sd=0.001, seed=1).sample(), "chinchilla", "no_floor", "bounded", "multiplicative")


class TestCandidates:
    def test_plain_forms_without_batches(self, world: MakeWorld) -> None:
        names = [form.name for form in candidate_forms(world("chinchilla").sample())]
        assert "chinchilla" in names
        assert "bounded" in names
        assert not any("+batch" in name for name in names)

    def test_a_batch_term_where_batches_differ(self, world: MakeWorld) -> None:
        names = [form.name for form in candidate_forms(world("chinchilla", batches=True).sample())]
        assert {"chinchilla+batch", "gamma+batch", "bounded+batch"} <= set(names)

    def test_a_plateau_above_every_loss_is_tried_beside_a_free_one(self, world: MakeWorld) -> None:
        sample = world("bounded").sample()
        forms = candidate_forms(sample, 2.95)
        assert [form.plateau for form in forms if form.name == "bounded"] == [None, 2.95]
        below = candidate_forms(sample, float(sample.loss.max()) - 0.01)
        assert [form.plateau for form in below if form.name == "bounded"] == [None]

    def test_no_form_of_more_parameters_than_runs_bear(self, world: MakeWorld) -> None:
        few = world("chinchilla").sample().take(np.arange(7))
        assert all(len(form.names) <= 5 for form in candidate_forms(few))


class TestCuts:
    def test_one_cut_above_each_budget_with_runs_on_both_sides(self) -> None:
        C = np.repeat(np.geomspace(1e18, 1e20, 5), 7)
        cuts = compute_cuts(C)
        assert [(int((cuts[i] >= C).sum())) for i in range(len(cuts))] == [21, 28]

    def test_runs_of_one_budget_are_never_parted(self) -> None:
        rng = np.random.default_rng(0)
        C = np.repeat(np.geomspace(1e18, 1e20, 6), 8) * np.exp(rng.uniform(-0.02, 0.02, 48))
        for cut in compute_cuts(C):
            assert (cut >= C).sum() % 8 == 0

    def test_at_most_five(self) -> None:
        assert len(compute_cuts(np.repeat(np.geomspace(1e17, 1e22, 30), 4))) == 5

    def test_one_budget_has_none(self) -> None:
        assert len(compute_cuts(np.full(30, 1e18))) == 0


class TestWorlds:
    def test_a_bounded_world_is_won_by_a_bounded_form(self, bounded: dict[str, FormScore]) -> None:
        assert next(iter(bounded)) == "bounded"
        assert bounded["chinchilla"].extrapolation > 2 * bounded["bounded"].extrapolation
        assert bounded["bounded"].extrapolation < 0.003
        # Chinchilla's floor is too high: what it promises of larger budgets is too bad.
        assert bounded["chinchilla"].folds[0].bias > 0

    def test_a_chinchilla_world_by_a_form_that_holds_it(self, world: MakeWorld) -> None:
        made = score(
            world("chinchilla", sd=0.001, seed=2).sample(), "chinchilla", "no_floor", "kaplan", "gamma", "bounded"
        )
        assert next(iter(made)) in CONTAINS_CHINCHILLA
        assert made["chinchilla"].extrapolation < 1.5 * min(each.extrapolation for each in made.values())
        assert made["no_floor"].weight < made["chinchilla"].weight

    def test_a_world_with_batches_by_a_form_with_a_batch_term(self, world: MakeWorld) -> None:
        made = score(world("chinchilla+batch", sd=0.001, batches=True).sample(), "chinchilla", "chinchilla+batch")
        assert next(iter(made)) == "chinchilla+batch"
        assert made["chinchilla"].rms_relative_error > 2 * made["chinchilla+batch"].rms_relative_error

    def test_without_noise_the_right_form_errs_nowhere(self, world: MakeWorld) -> None:
        found, theta = score_form(world("chinchilla").sample(), find_form("chinchilla"))
        assert found.extrapolation < 1e-4
        assert found.leave_one_out < 1e-4
        assert len(theta) == 5


class TestFolds:
    def test_each_is_fitted_below_and_tested_above(self, bounded: dict[str, FormScore], world: MakeWorld) -> None:
        C = world("bounded").C
        for fold in bounded["bounded"].folds:
            assert fold.n_fitted == (fold.fitted_to_C * 1.01 >= C).sum()
            assert fold.tested_to_C > fold.fitted_to_C
            assert fold.tested_to_C < 12 * fold.fitted_to_C
            assert fold.n_tested == ((fold.fitted_to_C * 1.01 < C) & (fold.tested_to_C * 1.01 >= C)).sum()
            assert fold.error >= abs(fold.bias)
            assert 0 <= fold.coverage <= 1

    @pytest.mark.parametrize("name", ["chinchilla", "bounded", "log_quadratic"])
    def test_losses_above_a_cut_do_not_reach_its_fit(self, name: str, world: MakeWorld) -> None:
        """A tenth off every loss above a cut moves its relative errors by the same tenth and nothing else.

        But for how far a fold crawls along a flat valley: a thousandth of the loss, where a fit that saw the losses
        above would move by many.
        """
        made = world("bounded", sd=0.002, seed=3)
        sample, factor = made.sample(), 0.9
        folds = score_form(sample, find_form(name))[0].folds
        assert len(folds) >= 2
        for k, fold in enumerate(folds):
            above = fold.fitted_to_C * 1.01 < sample.C
            changed = make_sample(sample.N, sample.D, np.where(above, factor, 1.0) * sample.loss, sample.batch)
            other = score_form(changed, find_form(name))[0].folds[k]
            assert (other.fitted_to_C, other.n_fitted) == (fold.fitted_to_C, fold.n_fitted)
            assert 1 + other.bias == pytest.approx((1 + fold.bias) / factor, rel=2e-3)

    def test_order_of_rows_does_not_matter(self, world: MakeWorld) -> None:
        sample = world("bounded", sd=0.002, seed=3).sample()
        shuffled = sample.take(np.random.default_rng(0).permutation(len(sample)))
        a, b = (score(each, "chinchilla", "bounded", "no_floor") for each in (sample, shuffled))
        assert list(a) == list(b)
        for name in a:
            assert b[name].extrapolation == pytest.approx(a[name].extrapolation, rel=0.01)
            assert b[name].leave_one_out == pytest.approx(a[name].leave_one_out, rel=0.01)
            assert b[name].weight == pytest.approx(a[name].weight, abs=0.01)
            assert b[name].aic == pytest.approx(a[name].aic, abs=0.1)

    def test_the_score_is_the_geometric_mean_of_the_folds(self, bounded: dict[str, FormScore]) -> None:
        for found in bounded.values():
            mean = math.exp(np.mean([math.log(fold.error) for fold in found.folds]))
            assert found.extrapolation == pytest.approx(mean, rel=1e-9)


class TestWeights:
    def test_they_sum_to_one_and_fall_with_the_cube_of_the_error(self, bounded: dict[str, FormScore]) -> None:
        assert sum(found.weight for found in bounded.values()) == pytest.approx(1)
        first, second, *_ = bounded.values()
        ratio = (second.extrapolation / first.extrapolation) ** 3
        assert first.weight / second.weight == pytest.approx(ratio, rel=1e-9)
        weights = [found.weight for found in bounded.values()]
        assert weights == sorted(weights, reverse=True)

    def test_without_folds_akaike_decides(self, world: MakeWorld) -> None:
        made = world("chinchilla", sd=0.002)
        one = made.sample().take(made.C < 3.5e18)
        scores = score_forms(one, [find_form(name) for name in ("no_floor", "multiplicative", "chinchilla")])
        assert all(found.extrapolation is None and found.folds == () for found in scores)
        assert sum(found.weight for found in scores) == pytest.approx(1)
        assert scores[0].aic == 0
        assert [found.aic for found in scores] == sorted(found.aic for found in scores)
        assert scores[1].weight / scores[0].weight == pytest.approx(math.exp(-0.5 * scores[1].aic))


def test_the_spread_of_a_prediction_grows_away_from_the_runs(world: MakeWorld) -> None:
    made = world("chinchilla", sd=0.003)
    sample = made.sample()
    low = sample.C < 2e19
    problem = make_problem(find_form("chinchilla"), sample, 1e-3)
    theta = solve(problem, sample.weights * low, 6).theta
    sd = prediction_sd(problem, theta, sample.weights * low, problem.rows)
    assert (sd >= 0.0015).all()
    assert sd[sample.C > 2e20].mean() > 1.3 * sd[low].mean()


def test_left_out_runs_are_predicted_worse_than_fitted_ones(world: MakeWorld) -> None:
    sample = world("chinchilla", sd=0.004, seed=6).sample()
    problem = make_problem(find_form("chinchilla"), sample, 1e-3)
    found, theta = score_form(sample, find_form("chinchilla"))
    inside = np.abs(np.expm1(problem.residual(theta[None])[0])).mean()
    assert inside < found.leave_one_out < 1.6 * inside


def test_a_border_of_zero_still_tells_forms_apart(world: MakeWorld) -> None:
    """Least absolute deviations have no curvature to descend by; forms are compared at a narrow border instead."""
    sample = world("chinchilla", sd=0.003, seed=6).sample()
    forms = [find_form(name) for name in ("multiplicative", "chinchilla")]
    scores = score_forms(sample, forms, huber_delta=0.0)
    assert scores[0].form == "chinchilla"
    usual = score_form(sample, find_form("chinchilla"))[0]
    assert scores[0].rms_relative_error == pytest.approx(usual.rms_relative_error, rel=0.25)
