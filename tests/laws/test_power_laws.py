from __future__ import annotations

import numpy as np
import pytest

from plm_scaling.core.errors import FitError
from plm_scaling.laws.power_laws import fit_power_law, log_lines


def test_power_law() -> None:
    C = np.geomspace(1e10, 1e20, 6)
    assert fit_power_law(C, 3e-4 * C**0.6) == pytest.approx((0.6, 3e-4))


def test_what_is_no_power_law() -> None:
    with pytest.raises(FitError, match="positive"):
        fit_power_law([1, 2], [0, 1])
    with pytest.raises(FitError, match="two or more"):
        fit_power_law([2, 2], [1, 1])


def test_many_lines_are_weighted_least_squares() -> None:
    x, root = np.array([0.0, 1.0, 3.0]), np.array([1.0, 2.0, 0.5])
    y = np.array([[0.0, 1.0, 2.0], [5.0, 4.0, 4.5]])
    slopes, levels = log_lines(x, y, root)
    expected = [np.polyfit(x, line, 1, w=root) for line in y]
    np.testing.assert_allclose(np.stack([slopes, levels], axis=1), expected)
