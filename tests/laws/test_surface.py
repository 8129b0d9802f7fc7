from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.laws.fit import fit_surface
from plm_scaling.laws.forms import FORM_NAMES, Rows
from plm_scaling.laws.law_fit import SurfaceFit
from plm_scaling.laws.surface import (
    form_of,
    log_optimum,
    optimal_exponent,
    rows_at,
    surface_loss,
    surface_optimum,
    theta_draws,
    theta_of,
)

Surface = Callable[..., SurfaceFit]
WITH_OPTIMUM = [
    *(name for name in FORM_NAMES if name != "multiplicative"),
    *(f"{name}+batch" for name in FORM_NAMES if name not in ("multiplicative", "log_quadratic", "overtraining")),
]


@pytest.mark.parametrize("batch", [None, 2e6])
@pytest.mark.parametrize("name", WITH_OPTIMUM)
def test_the_closed_form_is_the_lowest_point_of_a_fine_grid(name: str, batch: float | None, surface: Surface) -> None:
    fit = surface(name)
    for C in (1e18, 3e20):
        N, D = surface_optimum(fit, C, batch)
        grid = np.geomspace(N[0] / 30, N[0] * 30, 200_001)
        loss = surface_loss(fit, grid, C / 6 / grid, batch)
        assert grid[int(np.argmin(loss))] == pytest.approx(N[0], rel=2e-4)
        assert N[0] * D[0] * 6 == pytest.approx(C)
        assert loss.min() == pytest.approx(float(surface_loss(fit, N[0], D[0], batch)), rel=1e-12)


@pytest.mark.parametrize("name", WITH_OPTIMUM)
def test_the_exponent_is_the_slope_of_the_optimum(name: str, surface: Surface) -> None:
    fit = surface(name)
    rows = rows_at(fit, np.array([fit.N0]), np.array([fit.D0]))
    centre = 6.0 * fit.N0 * fit.D0
    up, down = (math.log(surface_optimum(fit, centre * f)[0][0]) for f in (1.001, 1 / 1.001))
    slope = (up - down) / (2 * math.log(1.001))
    assert optimal_exponent(form_of(fit), theta_of(fit), rows)[0] == pytest.approx(slope, rel=1e-6)
    values = {key: interval.value for key, interval in fit.parameters.items()}
    if {"alpha", "beta"} <= values.keys():
        assert slope == pytest.approx(values["beta"] / (values["alpha"] + values["beta"]), rel=1e-6)
    if name.startswith(("tied", "overtraining")):
        assert slope == pytest.approx(0.5, rel=1e-6)
    if name.startswith("kaplan"):
        assert slope == pytest.approx(1 / (1 + values["r"]), rel=1e-6)


def test_a_larger_batch_needs_more_tokens(surface: Surface) -> None:
    fit = surface("chinchilla+batch")
    sizes = [surface_optimum(fit, 1e20, batch)[0][0] for batch in (1e3, 8e5, 1e7)]
    assert sizes[0] > sizes[1] > sizes[2]
    assert surface_optimum(fit, 1e20)[0][0] == surface_optimum(fit, 1e20, fit.batch_typical)[0][0]


def test_a_product_has_no_optimum(surface: Surface) -> None:
    N, D = surface_optimum(surface("multiplicative"), 1e20)
    assert np.isnan(N).all()
    assert np.isnan(D).all()


def test_a_quadratic_that_bends_down_has_none(surface: Surface) -> None:
    fit = surface("log_quadratic")
    theta = theta_of(fit)
    bent = theta * np.where(np.arange(6) > 2, -1.0, 1.0)
    rows = rows_at(fit, np.array([fit.N0]), np.array([fit.D0]))
    both = log_optimum(form_of(fit), np.concatenate([theta, bent]), math.log(1e20 / 6), rows)
    assert np.isfinite(both[0])
    assert np.isnan(both[1])


@settings(deadline=None, max_examples=20)
@given(C=st.floats(1e15, 1e24), name=st.sampled_from(["chinchilla", "bounded", "gamma", "kaplan"]))
def test_no_shift_along_a_budget_is_better(C: float, name: str, surface: Surface) -> None:
    fit = surface(name)
    N, D = (column[0] for column in surface_optimum(fit, C))
    shifts = np.exp(np.array([0.0, 0.1, -0.1, 1.0, -1.0]))
    loss = surface_loss(fit, N * shifts, D / shifts)
    assert (loss[1:] > loss[0]).all()


def test_the_estimate_comes_first_and_the_draws_follow(surface: Surface) -> None:
    values = [1.8, 0.38, 0.3, 0.35, 0.4]
    draws = [values, [1.8, 0.38, 0.3, 0.3, 0.45], [1.8, 0.5, 0.3, 0.35, 0.4]]
    fit = surface("chinchilla", draws=draws)
    N, _ = surface_optimum(fit, 1e20)
    assert N.shape == (4,)
    assert N[1] == pytest.approx(N[0], rel=1e-12)
    assert N[3] > N[0]
    np.testing.assert_allclose(form_of(fit).natural(theta_draws(fit)), draws)
    assert theta_draws(surface("chinchilla")).shape == (1, 5)


def test_a_missing_batch_is_the_runs_median(surface: Surface) -> None:
    fit = surface("chinchilla+batch")
    N, D = np.full(3, 1e8), np.full(3, 1e9)
    loss = surface_loss(fit, N, D, [math.nan, 5e5, 4e6])
    assert loss[0] == loss[1] < loss[2]
    assert float(surface_loss(fit, 1e8, 1e9)) == loss[0]
    rows = rows_at(fit, N, D)
    assert isinstance(rows, Rows)
    np.testing.assert_allclose(rows.z, math.log(5e5))


def test_a_fitted_surface_predicts_at_arrays_of_any_shape() -> None:
    N, D = np.meshgrid(np.geomspace(1e4, 1e6, 5), np.geomspace(1e6, 1e8, 5))
    loss = 1.2 + 40 * N**-0.45 + 90 * D**-0.4
    fit = fit_surface(N.ravel(), D.ravel(), loss.ravel(), draws=2)
    np.testing.assert_allclose(surface_loss(fit, N, D), loss, rtol=1e-8)
    np.testing.assert_allclose(surface_loss(fit, N[0], D[:, :1]), loss, rtol=1e-8)
    assert surface_loss(fit, 1e4, 1e6).shape == ()
    assert float(surface_loss(fit, 1e4, 1e6)) == pytest.approx(loss[0, 0], rel=1e-8)
