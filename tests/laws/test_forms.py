from __future__ import annotations

import numpy as np

from plm_scaling.laws.fit import fit_surface
from plm_scaling.laws.forms import log_loss_terms, surface_loss


def test_value_is_the_sum_of_three_terms() -> None:
    theta = np.log([[1.5, 0.4, 0.3, np.e**0.35, np.e**0.28]])
    x, y = np.array([0.5, -1.0]), np.array([0.1, 2.0])
    expected = np.log(1.5 + 0.4 * np.exp(-0.35 * x) + 0.3 * np.exp(-0.28 * y))
    value, shares = log_loss_terms(theta, x, y)
    np.testing.assert_allclose(value[0], expected, rtol=1e-14)
    np.testing.assert_allclose(shares.sum(axis=0), 1.0)
    np.testing.assert_allclose(shares[0, 0], 1.5 / np.exp(expected))


def test_a_fitted_surface_predicts_at_arrays_of_any_shape() -> None:
    N, D = np.meshgrid(np.geomspace(1e4, 1e6, 5), np.geomspace(1e6, 1e8, 5))
    loss = 1.2 + 40 * N**-0.45 + 90 * D**-0.4
    fit = fit_surface(N.ravel(), D.ravel(), loss.ravel(), draws=2)
    np.testing.assert_allclose(surface_loss(fit, N, D), loss, rtol=1e-8)
    np.testing.assert_allclose(surface_loss(fit, N[0], D[:, :1]), loss, rtol=1e-8)
    assert surface_loss(fit, 1e4, 1e6) == np.float64(surface_loss(fit, N, D)[0, 0])
