from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.errors import FitError
from plm_scaling.laws.power_laws import bootstrap_power_law, fit_power_law, fit_power_laws, log_lines

C = np.geomspace(1e18, 1e21, 7)


def points(seed: int, n: int = 7, sd: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    x = np.geomspace(1e18, 1e21, n)
    return x, 1e-3 * x**0.58 * np.exp(sd * np.random.default_rng(seed).standard_normal(n))


@pytest.mark.parametrize("method", ["log", "linear"])
@given(a=st.floats(-1.5, 1.5), log_k=st.floats(-30, 30))
@settings(max_examples=40, deadline=None)
def test_an_exact_power_law_is_recovered(method: str, a: float, log_k: float) -> None:
    found, k = fit_power_law(C, np.exp(log_k) * C**a, method=method)  # type: ignore[arg-type]
    assert found == pytest.approx(a, abs=1e-9)
    assert np.log(k) == pytest.approx(log_k, abs=1e-6)


def test_what_is_no_power_law() -> None:
    with pytest.raises(FitError, match="positive"):
        fit_power_law([1, 2], [0, 1])
    with pytest.raises(FitError, match="two or more"):
        fit_power_law([2, 2], [1, 1])
    with pytest.raises(FitError, match="entries"):
        fit_power_law([1, 2], [1, 1, 1])
    with pytest.raises(FitError, match="leave two"):
        fit_power_law([1, 2], [1, 1], [1, 0])
    with pytest.raises(FitError, match="weights"):
        fit_power_law([1, 2], [1, 1], [1, -1])
    with pytest.raises(FitError, match="cubic"):
        fit_power_law([1, 2], [1, 1], method="cubic")  # type: ignore[arg-type]


def test_many_lines_are_weighted_least_squares() -> None:
    x, root = np.array([0.0, 1.0, 3.0]), np.array([1.0, 2.0, 0.5])
    y = np.array([[0.0, 1.0, 2.0], [5.0, 4.0, 4.5]])
    slopes, levels = log_lines(x, y, root)
    expected = [np.polyfit(x, line, 1, w=root) for line in y]
    np.testing.assert_allclose(np.stack([slopes, levels], axis=1), expected)


class TestLinearSpace:
    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("weighted", [False, True])
    def test_it_is_the_published_recipe(self, seed: int, weighted: bool) -> None:
        from scipy.optimize import curve_fit

        x, y = points(seed, sd=0.3)
        weights = np.geomspace(1, 9, len(x)) if weighted else None
        a, k = fit_power_law(x, y, weights, method="linear")
        # In units near one, started at the log-log line: the recipe's optimiser fails in FLOPs.
        scale_x, scale_y = x.max(), y.max()
        start = (fit_power_law(x, y)[0], 1.0)
        sigma = None if weights is None else 1 / np.sqrt(weights)
        expected, _ = curve_fit(
            lambda t, a, b: b * t**a, x / scale_x, y / scale_y, p0=start, sigma=sigma, ftol=1e-14, xtol=1e-14
        )
        assert a == pytest.approx(expected[0], rel=1e-6)
        assert k * scale_x**a / scale_y == pytest.approx(expected[1], rel=1e-6)

    def test_the_largest_point_decides(self) -> None:
        y = 1e-3 * C**0.58
        y[-1] *= 1.3
        log, linear = fit_power_law(C, y)[0], fit_power_law(C, y, method="linear")[0]
        assert log == pytest.approx(0.58, abs=0.03)
        assert linear > 0.65
        assert fit_power_law(C, y, method="linear")[1] * C[-1] ** linear == pytest.approx(y[-1], rel=0.02)

    def test_many_at_once_equal_one_at_a_time(self) -> None:
        drawn = np.stack([np.log(points(seed)[1]) for seed in range(5)])
        slopes, levels = fit_power_laws(np.log(C), drawn, np.ones(7), "linear")
        for i, line in enumerate(drawn):
            assert (slopes[i], np.exp(levels[i])) == pytest.approx(fit_power_law(C, np.exp(line), method="linear"))


class TestIntervals:
    def test_they_hold_the_estimates_of_fit_power_law(self) -> None:
        x, y = points(0)
        for method in ("log", "linear"):
            law = bootstrap_power_law(x, y, method=method, at=1e22)  # type: ignore[arg-type]
            a, k = fit_power_law(x, y, method=method)  # type: ignore[arg-type]
            assert (law.a.value, law.k) == pytest.approx((a, k))
            assert law.y_at.value == pytest.approx(k * 1e22**a)
            assert law.a.low < a < law.a.high
            assert law.y_at.low < law.y_at.value < law.y_at.high
            assert (law.method, law.n_points, law.x_at) == (method, 7, 1e22)

    def test_linear_space_is_less_certain(self) -> None:
        widths = [
            np.median(
                [
                    np.subtract(law.a.high, law.a.low)
                    for law in (
                        bootstrap_power_law(*points(seed), method=method, draws=300)
                        for seed in range(10)  # type: ignore[arg-type]
                    )
                ]
            )
            for method in ("log", "linear")
        ]
        assert widths[1] > 1.5 * widths[0]

    def test_they_lie_about_the_estimate_in_linear_space_too(self) -> None:
        y = points(0, sd=0.02)[1]
        y[-1] *= 2.0
        law = bootstrap_power_law(C, y, method="linear", level=0.1)
        assert law.a.level == law.y_at.level == 0.1
        assert law.a.low < law.a.value < law.a.high
        assert fit_power_law(C, y)[0] < law.a.low

    def test_points_on_a_line_leave_no_doubt(self) -> None:
        law = bootstrap_power_law(C, C**0.5)
        assert law.a.high - law.a.low < 1e-9

    def test_a_point_without_weight_is_ignored(self) -> None:
        x, y = points(3)
        spoiled, weights = y.copy(), np.ones(7)
        spoiled[2], weights[2] = 1e3, 0.0
        law = bootstrap_power_law(x, spoiled, weights)
        assert law.a.value == pytest.approx(fit_power_law(np.delete(x, 2), np.delete(y, 2))[0])

    def test_two_points_have_none(self) -> None:
        with pytest.raises(FitError, match="three or more points"):
            bootstrap_power_law([1, 2], [1, 2])
        with pytest.raises(FitError, match="three or more points"):
            bootstrap_power_law([1, 2, 3], [1, 2, 3], [1, 1, 0])

    @pytest.mark.parametrize("n", [4, 7])
    def test_they_cover_the_truth(self, n: int) -> None:
        held = []
        for seed in range(200):
            law = bootstrap_power_law(*points(seed, n), draws=300, at=1e22, seed=seed)
            held.append((law.a.low <= 0.58 <= law.a.high, law.y_at.low <= 1e-3 * 1e22**0.58 <= law.y_at.high))
        # Binomial 3 sigma about 95 % with 200 tables: .904.
        assert np.mean(held, axis=0).min() >= 0.904
        assert np.mean(held) < 0.995
