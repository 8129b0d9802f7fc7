from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.laws.fit import fit_surface
from plm_scaling.laws.forms import log_loss_gradient, predict_log_loss, surface_loss, surface_optimum

THETA = st.tuples(*(st.floats(-2, 2) for _ in range(3)), st.floats(0.05, 1.5), st.floats(0.05, 1.5))


@settings(deadline=None)
@given(theta=THETA)
def test_the_gradient_is_the_slope_of_the_value(theta: tuple[float, ...]) -> None:
    x, y = np.array([-1.5, 0.2, 2.0]), np.array([1.0, -0.3, 0.4])
    at = np.array([theta])
    gradient = log_loss_gradient(at, x, y)[0]
    for k in range(5):
        step = np.zeros((1, 5))
        step[0, k] = 1e-6
        slope = (predict_log_loss(at + step, x, y) - predict_log_loss(at - step, x, y))[0] / 2e-6
        np.testing.assert_allclose(gradient[:, k], slope, atol=1e-8)


def test_value_is_the_sum_of_three_terms() -> None:
    theta = np.log([[1.5, 0.4, 0.3, np.e**0.35, np.e**0.28]])
    x, y = np.array([0.5, -1.0]), np.array([0.1, 2.0])
    expected = np.log(1.5 + 0.4 * np.exp(-0.35 * x) + 0.3 * np.exp(-0.28 * y))
    np.testing.assert_allclose(predict_log_loss(theta, x, y)[0], expected, rtol=1e-14)


def test_a_fitted_surface_predicts_and_has_its_optimum_where_it_is_lowest() -> None:
    N, D = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e4, 1e6, 5), np.geomspace(1e6, 1e8, 5)))
    loss = 1.2 + 40 * N**-0.45 + 90 * D**-0.4
    fit = fit_surface(N, D, loss, draws=2)
    np.testing.assert_allclose(surface_loss(fit, N.reshape(5, 5), D.reshape(5, 5)), loss.reshape(5, 5), rtol=1e-8)
    C = 6e12
    N_opt, D_opt = surface_optimum(fit, C)
    assert 6 * N_opt * D_opt == pytest.approx(C)
    grid = np.geomspace(N_opt / 5, N_opt * 5, 101)
    assert abs(int(np.argmin(surface_loss(fit, grid, C / 6 / grid))) - 50) <= 1
