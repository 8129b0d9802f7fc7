from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.errors import ConfigError, FitError
from plm_scaling.laws.fit import (
    LAD_DELTA,
    MIN_RUNS,
    fit_sample,
    fit_surface,
    interval_of,
    percentile_interval,
    resample,
    robust_sd,
)
from plm_scaling.laws.forms import find_form
from plm_scaling.laws.problem import make_sample
from plm_scaling.laws.surface import form_of, surface_loss

MakeWorld = Callable[..., Any]


def grid_table(E: float = 1.2, alpha: float = 0.45, beta: float = 0.4, k: int = 5) -> tuple[np.ndarray, ...]:
    N, D = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e4, 1e6, k), np.geomspace(1e6, 1e8, k)))
    return N, D, E + 30 * N**-alpha + 60 * D**-beta


@settings(deadline=None, max_examples=10)
@given(E=st.floats(0.5, 2.5), alpha=st.floats(0.2, 0.7), beta=st.floats(0.2, 0.7))
def test_a_noiseless_surface_is_found_exactly(E: float, alpha: float, beta: float) -> None:
    N, D, loss = grid_table(E, alpha, beta)
    fit = fit_surface(N, D, loss, draws=1)
    assert fit.objective_value < 1e-12
    found = {name: interval.value for name, interval in fit.parameters.items()}
    assert (found["E"], found["alpha"], found["beta"]) == pytest.approx((E, alpha, beta), rel=1e-4)
    assert found["A0"] * fit.N0 ** found["alpha"] == pytest.approx(30, rel=1e-2)
    assert fit.a_N.value == pytest.approx(beta / (alpha + beta), rel=1e-4)


def plain_objective(name: str, x: np.ndarray, y: np.ndarray, target: np.ndarray) -> Callable[[np.ndarray], float]:
    """Sum of Huber losses (border 1e-3) of a form written out by hand, of theta as the engine has it."""

    def log_loss(t: np.ndarray) -> np.ndarray:
        R = np.exp(t[1] - t[3] * x) + np.exp(t[2] - t[4] * y)
        if name == "gamma":
            return np.log(np.exp(t[0]) + R ** np.exp(t[5]))
        if name == "bounded":
            h = np.maximum(np.exp(t[5]) - np.exp(t[0]), 1e-9)
            return np.log(np.exp(t[0]) + h * R / (h + R))
        return np.log(np.exp(t[0]) + R)

    def objective(t: np.ndarray) -> float:
        with np.errstate(over="ignore", invalid="ignore"):
            r = np.abs(log_loss(t) - target)
            return float(np.nan_to_num(np.where(r < 1e-3, r * r / 2, 1e-3 * (r - 5e-4)).sum(), nan=1e9))

    return objective


@pytest.mark.parametrize("name", ["chinchilla", "gamma", "bounded"])
def test_no_start_of_a_generic_optimiser_does_better(name: str, world: MakeWorld, parameters: Any) -> None:
    from scipy.optimize import minimize

    made = world(name, sd=0.004, seed=3)
    fit = fit_surface(made.N, made.D, made.loss, form=name, draws=1)
    rng = np.random.default_rng(5)
    objective = plain_objective(name, np.log(made.N / fit.N0), np.log(made.D / fit.D0), np.log(made.loss))
    reached = form_of(fit).theta(np.array([[interval.value for interval in fit.parameters.values()]]))[0]
    assert objective(reached) == pytest.approx(fit.objective_value, rel=1e-9)
    starts = reached + 0.3 * rng.standard_normal((3, len(reached)))
    options = {"maxiter": 2500, "xatol": 1e-10, "fatol": 1e-14}
    ends = [minimize(objective, start, method="Nelder-Mead", options=options) for start in starts]
    inside = [end.fun for end in ends if 0 < end.x[3] < 4 and 0 < end.x[4] < 4]
    assert inside
    # A polytope of Nelder and Mead at our own optimum finds no way down either.
    inside.append(minimize(objective, reached, method="Nelder-Mead", options=options).fun)
    assert fit.objective_value <= min(inside) * (1 + 1e-7)


def test_squares_are_least_squares(world: MakeWorld) -> None:
    from scipy.optimize import least_squares

    made = world("chinchilla", sd=0.01, seed=1)
    fit = fit_surface(made.N, made.D, made.loss, huber_delta=math.inf, draws=1)
    x, y, target = np.log(made.N / fit.N0), np.log(made.D / fit.D0), np.log(made.loss)

    def residual(t: np.ndarray) -> np.ndarray:
        return np.log(np.exp(t[0]) + np.exp(t[1] - t[3] * x) + np.exp(t[2] - t[4] * y)) - target

    other = least_squares(residual, [0.5, -1.0, -1.0, 0.3, 0.4], xtol=1e-14, ftol=1e-14, gtol=1e-14)
    assert fit.objective_value == pytest.approx(other.cost, rel=1e-9)
    assert fit.parameters["alpha"].value == pytest.approx(other.x[3], rel=1e-4)


def test_a_border_of_zero_is_least_absolute_deviations(world: MakeWorld) -> None:
    """The linear form's least absolute deviations are a linear programme, whose optimum is known exactly."""
    from scipy.optimize import linprog

    made = world("chinchilla", sd=0.01, seed=1)
    fit = fit_surface(made.N, made.D, made.loss, form="log_quadratic", huber_delta=0.0, draws=1)
    assert fit.huber_delta == 0.0
    x, y, target = np.log(made.N / fit.N0), np.log(made.D / fit.D0), np.log(made.loss)
    design = np.column_stack([np.ones_like(x), x, y, x * x, x * y, y * y])
    n, p = design.shape
    both = np.hstack([design, np.eye(n), -np.eye(n)])
    cost, bounds = np.r_[np.zeros(p), np.ones(2 * n)], [(None, None)] * p + [(0, None)] * (2 * n)
    lowest = linprog(cost, A_eq=both, b_eq=target, bounds=bounds).fun
    ours = np.abs(design @ [interval.value for interval in fit.parameters.values()] - target).sum()
    assert ours == pytest.approx(lowest, rel=1e-5)
    assert fit.objective_value == pytest.approx(LAD_DELTA * lowest, rel=1e-3)


def test_deviations_of_a_curved_form_are_least_too(world: MakeWorld) -> None:
    from scipy.optimize import minimize

    made = world("chinchilla", sd=0.004, seed=3)
    fit = fit_surface(made.N, made.D, made.loss, huber_delta=0.0, draws=1)
    x, y, target = np.log(made.N / fit.N0), np.log(made.D / fit.D0), np.log(made.loss)

    def deviations(t: np.ndarray) -> float:
        return float(np.abs(np.log(np.exp(t[0]) + np.exp(t[1] - t[3] * x) + np.exp(t[2] - t[4] * y)) - target).sum())

    reached = form_of(fit).theta(np.array([[interval.value for interval in fit.parameters.values()]]))[0]
    options = {"maxiter": 3000, "xatol": 1e-12, "fatol": 1e-14}
    other = minimize(deviations, reached, method="Nelder-Mead", options=options)
    assert deviations(reached) <= other.fun * (1 + 1e-5)
    # As many residuals as parameters are zero at a vertex.
    r = np.abs(np.log(surface_loss(fit, made.N, made.D)) - target)
    assert 3 <= (r < 1e-6).sum() <= 6


def test_order_of_rows_does_not_matter_and_weights_count_like_copies() -> None:
    rng = np.random.default_rng(1)
    N, D, loss = grid_table()
    loss = loss * np.exp(0.004 * rng.standard_normal(len(loss)))
    fit = fit_surface(N, D, loss, draws=1)
    order = rng.permutation(len(N))
    assert fit_surface(N[order], D[order], loss[order], draws=1).a_N.value == pytest.approx(fit.a_N.value, rel=1e-7)
    weights = np.ones(len(N))
    weights[3] = 2.0
    copied = fit_surface(np.append(N, N[3]), np.append(D, D[3]), np.append(loss, loss[3]), draws=1)
    weighted = fit_surface(N, D, loss, weights=weights, draws=1)
    assert copied.objective_value == pytest.approx(weighted.objective_value, rel=1e-9)


def test_equal_seeds_give_equal_draws() -> None:
    N, D, loss = grid_table()
    loss = loss * np.exp(0.004 * np.random.default_rng(0).standard_normal(len(loss)))
    a, b, c = (fit_surface(N, D, loss, draws=30, seed=s) for s in (5, 5, 6))
    assert a == b
    assert a.draws != c.draws
    assert len(a.draws) == 30
    assert a.parameters["E"].low < a.parameters["E"].value < a.parameters["E"].high
    assert np.linalg.eigvalsh(np.array(a.covariance)).min() > -1e-12


@pytest.mark.parametrize("name", ["bounded", "gamma", "kaplan", "log_quadratic", "chinchilla+batch"])
def test_order_of_rows_does_not_matter_to_any_form(name: str, world: MakeWorld) -> None:
    made = world(name, sd=0.003, batches=True)
    order = np.random.default_rng(1).permutation(len(made.N))
    a = fit_surface(made.N, made.D, made.loss, form=name, batch_tokens=made.batch, draws=1)
    b = fit_surface(made.N[order], made.D[order], made.loss[order], form=name, batch_tokens=made.batch[order], draws=1)
    assert b.objective_value == pytest.approx(a.objective_value, rel=1e-7)
    found, again = (surface_loss(fit, made.N, made.D, made.batch) for fit in (a, b))
    np.testing.assert_allclose(found, again, rtol=1e-5)


def test_given_resamples_and_losses_are_what_the_draws_are_fitted_to(world: MakeWorld) -> None:
    made = world("chinchilla", sd=0.003)
    sample, form = made.sample(), find_form("chinchilla")
    targets = np.log(made.loss) + np.array([[0.0], [0.1]])
    fit = fit_sample(sample, form, resampled=np.ones((2, 42)), targets=targets)
    values = [interval.value for interval in fit.parameters.values()]
    np.testing.assert_allclose(fit.draws[0], values, rtol=1e-3)
    factor = np.array([*[math.exp(0.1)] * 3, 1.0, 1.0])
    np.testing.assert_allclose(fit.draws[1], values * factor, rtol=1e-3)


def test_a_fit_says_what_it_rests_on(world: MakeWorld) -> None:
    made = world("chinchilla", sd=0.003, batches=True)
    fit = fit_surface(made.N, made.D, made.loss, batch_tokens=made.batch, draws=20)
    assert fit.n_runs == 42
    assert fit.range_N == (made.N.min(), made.N.max())
    assert fit.range_C_6nd == (made.C.min(), made.C.max())
    assert fit.batch_tokens == (2.0**18, 2.0**20)
    assert fit.batch_typical == float(np.median(made.batch))
    assert fit.residual_sd == pytest.approx(0.003, rel=0.4)
    assert fit.rms_relative_error == pytest.approx(0.003, rel=0.4)


def test_a_form_without_an_optimum_has_no_exponent(world: MakeWorld) -> None:
    made = world("chinchilla", sd=0.003)
    assert fit_surface(made.N, made.D, made.loss, form="multiplicative", draws=5).a_N is None


def test_one_wild_run_hardly_moves_the_fit() -> None:
    N, D, loss = grid_table()
    clean = fit_surface(N, D, loss, draws=1).a_N.value
    loss[7] *= 1.5
    assert fit_surface(N, D, loss, draws=1).a_N.value == pytest.approx(clean, abs=0.01)


class TestFlags:
    def test_none_on_a_good_design(self) -> None:
        N, D, loss = grid_table(k=6)
        loss = loss * np.exp(0.002 * np.random.default_rng(0).standard_normal(len(loss)))
        assert set(fit_surface(N, D, loss, draws=200).flags) <= {"INFLUENTIAL_ROWS"}

    def test_tokens_in_proportion_to_size(self) -> None:
        N = np.geomspace(1e4, 1e7, 10)
        fit = fit_surface(N, 20 * N, 1 + 40 * N**-0.4 + 50 * (20 * N) ** -0.4, draws=20)
        assert "COLLINEAR_DESIGN" in fit.flags

    def test_a_run_that_the_exponent_rests_on_is_named(self) -> None:
        """The only run of a hundred times the others' tokens, and 4 % off the law, decides where the floor lies."""
        N, D, loss = grid_table(k=4)
        loss = loss * np.exp(0.001 * np.random.default_rng(1).standard_normal(len(loss)))
        N, D = np.append(N, 1e6), np.append(D, 1e10)
        loss = np.append(loss, 1.04 * (1.2 + 30 * 1e6**-0.45 + 60 * 1e10**-0.4))
        names = [f"run-{i}" for i in range(len(N))]
        form = find_form("chinchilla")
        fit = fit_sample(make_sample(N, D, loss), form, huber_delta=math.inf, draws=200, names=names)
        assert "INFLUENTIAL_ROWS" in fit.flags
        assert fit.influential == "run-16"
        nameless = fit_surface(N, D, loss, huber_delta=math.inf, draws=200)
        assert nameless.influential == "row 16"

    def test_too_few_levels(self) -> None:
        N, D, loss = grid_table(k=5)
        keep = np.isin(N, np.unique(N)[:2])
        assert "TOO_FEW_LEVELS" in fit_surface(N[keep], D[keep], loss[keep], draws=20).flags

    def test_no_floor_to_be_seen(self) -> None:
        N, D, loss = grid_table(E=1e-6)
        loss = loss * np.exp(0.01 * np.random.default_rng(2).standard_normal(len(loss)))
        assert "E_UNIDENTIFIED" in fit_surface(N, D, loss, draws=40).flags

    def test_size_without_effect(self) -> None:
        N, D, _ = grid_table()
        fit = fit_surface(N, D, 1.2 + 60 * D**-0.4, draws=2)
        assert {"EXPONENT_AT_BOUND", "MULTIMODAL"} & set(fit.flags)

    def test_optimum_outside_what_was_run(self) -> None:
        N, D = (g.ravel() for g in np.meshgrid(np.geomspace(1e3, 4e3, 5), np.geomspace(1e8, 1e9, 5)))
        assert "OUT_OF_HULL" in fit_surface(N, D, 1.2 + 30 * N**-0.45 + 60 * D**-0.4, draws=20).flags


class TestRefusals:
    def test_too_few_runs(self) -> None:
        N, D, loss = grid_table()
        k = MIN_RUNS - 1
        with pytest.raises(FitError, match=f"{k} runs"):
            fit_surface(N[:k], D[:k], loss[:k])

    @pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
    def test_values_that_are_no_losses(self, bad: float) -> None:
        N, D, loss = grid_table()
        loss[4] = bad
        with pytest.raises(FitError, match="loss of row 4"):
            fit_surface(N, D, loss)

    def test_columns_of_different_length(self) -> None:
        N, D, loss = grid_table()
        with pytest.raises(FitError, match="rows"):
            fit_surface(N[1:], D, loss)

    def test_weights_that_are_all_zero(self) -> None:
        N, D, loss = grid_table()
        with pytest.raises(FitError, match="weights"):
            fit_surface(N, D, loss, weights=np.zeros(len(N)))


def test_an_interval_always_holds_its_estimate() -> None:
    interval = percentile_interval(5.0, np.array([1.0, 2.0, 3.0]))
    assert interval.low <= interval.value <= interval.high


def test_an_interval_needs_almost_all_draws() -> None:
    draws = np.arange(100.0)
    assert interval_of(50.0, draws) is not None
    assert interval_of(math.nan, draws) is None
    few_missing, many_missing = draws.copy(), draws.copy()
    few_missing[:1], many_missing[:3] = math.nan, math.nan
    assert interval_of(50.0, few_missing) is not None
    assert interval_of(50.0, many_missing) is None


def test_resamples_are_of_n_runs_each() -> None:
    weights = resample(30, 200, seed=3)
    assert weights.shape == (200, 30)
    assert (weights.sum(axis=1) == 30).all()
    assert weights.var() == pytest.approx(29 / 30, rel=0.1)
    np.testing.assert_array_equal(weights, resample(30, 200, seed=3))


def test_the_spread_of_residuals_is_that_of_the_middle() -> None:
    rng = np.random.default_rng(0)
    clean = 0.01 * rng.standard_normal(4000)
    assert robust_sd(clean, 0) == pytest.approx(0.01, rel=0.05)
    assert robust_sd(clean, 2000) == pytest.approx(0.01 * math.sqrt(2), rel=0.05)
    wild = np.where(np.arange(4000) < 20, 5.0, clean)
    assert robust_sd(wild, 0) == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize("delta", [-1.0, -1e-9, math.nan])
def test_a_border_is_not_negative(delta: float, world: MakeWorld) -> None:
    made = world("chinchilla")
    with pytest.raises(ConfigError, match="delta"):
        fit_surface(made.N, made.D, made.loss, huber_delta=delta)
