from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.errors import FitError
from plm_scaling.laws.fit import MIN_RUNS, fit_surface, percentile_interval


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


def test_no_start_of_a_generic_optimiser_does_better() -> None:
    from scipy.optimize import minimize

    rng = np.random.default_rng(3)
    N, D, loss = grid_table()
    loss = loss * np.exp(0.005 * rng.standard_t(3, size=len(loss)))
    fit = fit_surface(N, D, loss, draws=1)
    x, y, target = np.log(N / fit.N0), np.log(D / fit.D0), np.log(loss)

    def objective(t: np.ndarray) -> float:
        r = np.abs(np.log(np.exp(t[0]) + np.exp(t[1] - t[3] * x) + np.exp(t[2] - t[4] * y)) - target)
        return float(np.where(r < 1e-3, r * r / 2, 1e-3 * (r - 5e-4)).sum())

    best = min(
        minimize(objective, rng.normal([0, -1, -1, 0.4, 0.4], 0.3), method="Nelder-Mead", options={"maxiter": 4000}).fun
        for _ in range(3)
    )
    assert fit.objective_value <= best * (1 + 1e-9)


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
        with pytest.raises(FitError, match="entries"):
            fit_surface(N[1:], D, loss)

    def test_weights_that_are_all_zero(self) -> None:
        N, D, loss = grid_table()
        with pytest.raises(FitError, match="weights"):
            fit_surface(N, D, loss, weights=np.zeros(len(N)))


def test_an_interval_always_holds_its_estimate() -> None:
    interval = percentile_interval(5.0, np.array([1.0, 2.0, 3.0]))
    assert interval.low <= interval.value <= interval.high
