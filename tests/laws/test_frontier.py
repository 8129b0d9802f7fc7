from __future__ import annotations

import numpy as np
import pytest

from plm_scaling.core.errors import FitError
from plm_scaling.laws.cheng_shapes import SHAPES, exact_flops
from plm_scaling.laws.frontier import fit_frontier

C = np.geomspace(1e18, 1e21, 8)


def test_a_known_frontier_is_found() -> None:
    loss = 1.6 + 1.1 * (C / 3e19) ** -0.16
    fit = fit_frontier(C, loss, draws=50)
    assert (fit.E.value, fit.a.value) == pytest.approx((1.6, 0.16), rel=1e-3)
    np.testing.assert_allclose(fit.E.value + fit.A0.value * (C / fit.C0) ** -fit.a.value, loss, rtol=1e-6)
    assert fit.flags == ()


def test_noise_widens_the_interval_and_it_holds_the_truth() -> None:
    rng = np.random.default_rng(1)
    loss = (1.6 + 1.1 * (C / 3e19) ** -0.16) * np.exp(0.001 * rng.standard_normal(len(C)))
    fit = fit_frontier(C, loss, draws=200)
    assert fit.a.low < 0.16 < fit.a.high
    assert fit.E.low < 1.6 < fit.E.high


def test_a_pure_power_law_has_no_floor_to_find() -> None:
    loss = 2.5 * (C / 3e19) ** -0.03
    assert "E_UNIDENTIFIED" in fit_frontier(C, loss, draws=50).flags
    pinned = fit_frontier(C, loss, asymptote=0.0, draws=50)
    assert pinned.a.value == pytest.approx(0.03, rel=1e-6)
    assert pinned.asymptote_given


def test_what_cannot_be_a_frontier_is_an_error() -> None:
    with pytest.raises(FitError, match="at least 4"):
        fit_frontier(C[:3], [2.0, 1.9, 1.8])
    with pytest.raises(FitError, match="asymptote"):
        fit_frontier(C, np.linspace(2.0, 1.8, 8), asymptote=1.9)


def test_exact_flops_of_a_known_shape() -> None:
    layers, width = SHAPES["85M"]
    N, D = 12.0 * layers * width**2, 1e9
    # 6 N D, attention over windows of 1,024 (12 L d s per token), and a head of 128 symbols (6 d V).
    assert exact_flops(N, D) == pytest.approx(
        6 * N * D + 12 * layers * width * 1024 * D + 6 * width * 128 * D, rel=1e-9
    )
