from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.errors import ConfigError
from plm_scaling.laws.forms import FORM_NAMES, Form, Rows, find_form, inner_terms, log_loss, paired_log_loss
from plm_scaling.laws.newton import Problem, expand

Parameters = Callable[..., dict[str, float]]

WITH_BATCH = tuple(f"{name}+batch" for name in FORM_NAMES if name not in ("log_quadratic", "overtraining"))
EVERY = (*FORM_NAMES, *WITH_BATCH)
N0, D0 = 3e8, 7e9


def rows_of(n: int = 9, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-2.5, 2.5, (2, n))
    return Rows(x, y, rng.uniform(11.0, 15.0, n), log_N0=math.log(N0), log_D0=math.log(D0))


def theta_of(form: Form, values: dict[str, float]) -> np.ndarray:
    return form.theta(np.array([[values[name] for name in form.names]]))


def derivatives(form: Form, theta: np.ndarray, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """d ln L / d theta float64[n, p] and its second derivatives float64[n, p, p], by way of the objective.

    With weight on one row, whose residual is one, the gradient of squares is that of ln L, and what the exact Hessian
    has beyond its outer product is the curvature of ln L.
    """
    n, p = len(rows.x), len(form.names)
    problem = Problem(form, rows, np.zeros(n), math.inf, np.full(p, -1e9), np.full(p, 1e9))
    targets = np.repeat(log_loss(form, theta, rows) - 1.0, n, axis=0)
    _, gradient, exact, irls = expand(problem, np.repeat(theta, n, axis=0), np.eye(n), targets)
    np.testing.assert_allclose(irls, gradient[:, :, None] * gradient[:, None, :], rtol=1e-9, atol=1e-12)
    return gradient, exact - irls


GIVEN = [(name, 3.1) for name in EVERY if name.startswith(("bounded", "saturating"))]


@pytest.mark.parametrize(("name", "plateau"), [*((name, None) for name in EVERY), *GIVEN])
def test_derivatives_by_theta(name: str, plateau: float | None, parameters: Parameters) -> None:
    form, rows = find_form(name, plateau), rows_of()
    theta = theta_of(form, parameters(name, plateau))
    first, second = derivatives(form, theta, rows)
    h = 1e-3
    for i in range(len(form.names)):
        step = h * np.eye(len(form.names))[i]
        up, down, far_up, far_down = (theta + k * step for k in (1, -1, 2, -2))
        near = log_loss(form, up, rows) - log_loss(form, down, rows)
        far = log_loss(form, far_up, rows) - log_loss(form, far_down, rows)
        np.testing.assert_allclose(first[:, i], ((8 * near - far) / (12 * h))[0], rtol=1e-6, atol=1e-9)
        near2 = derivatives(form, up, rows)[0] - derivatives(form, down, rows)[0]
        far2 = derivatives(form, far_up, rows)[0] - derivatives(form, far_down, rows)[0]
        np.testing.assert_allclose(second[:, i], (8 * near2 - far2) / (12 * h), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", EVERY)
def test_a_pair_of_theta_and_row_is_the_diagonal_of_all(name: str, parameters: Parameters) -> None:
    form, rows = find_form(name), rows_of(4)
    theta = np.repeat(theta_of(form, parameters(name)), 4, axis=0) + 0.01 * np.arange(4)[:, None]
    np.testing.assert_allclose(paired_log_loss(form, theta, rows), np.diagonal(log_loss(form, theta, rows)), rtol=1e-13)


@settings(deadline=None, max_examples=25)
@given(data=st.data(), name=st.sampled_from(EVERY))
def test_natural_parameters_and_theta_are_two_ways_to_say_one_thing(data: st.DataObject, name: str) -> None:
    form = find_form(name)
    natural = np.array([[data.draw(st.floats(1e-6, 1e6)) for _ in form.names]])
    np.testing.assert_allclose(form.natural(form.theta(natural)), natural, rtol=1e-12)
    theta = np.array([[data.draw(st.floats(-20.0, 20.0)) for _ in form.names]])
    np.testing.assert_allclose(form.theta(form.natural(theta)), theta, rtol=1e-12, atol=1e-12)


def test_an_amplitude_of_zero_has_a_theta() -> None:
    assert np.isfinite(find_form("chinchilla").theta(np.zeros((1, 5)))).all()


class TestPublishedFormulas:
    """Each form against its paper's formula in N and D, not in centred logs."""

    rows = rows_of()
    N, D = N0 * np.exp(rows.x), D0 * np.exp(rows.y)

    def loss(self, name: str, values: dict[str, float], plateau: float | None = None) -> np.ndarray:
        form = find_form(name, plateau)
        return np.exp(log_loss(form, theta_of(form, values), self.rows)[0])

    def test_chinchilla(self) -> None:
        E, A, B, alpha, beta = 1.69, 406.4, 410.7, 0.34, 0.28
        values = {"E": E, "A0": A * N0**-alpha, "B0": B * D0**-beta, "alpha": alpha, "beta": beta}
        np.testing.assert_allclose(self.loss("chinchilla", values), E + A / self.N**alpha + B / self.D**beta)

    def test_kaplan(self) -> None:
        a_N, a_D, N_c, D_c = 0.076, 0.103, 6.4e13, 1.8e13
        r = a_N / a_D
        values = {"A0": (N_c / N0) ** r, "B0": D_c / D0, "r": r, "a_D": a_D}
        np.testing.assert_allclose(self.loss("kaplan", values), ((N_c / self.N) ** r + D_c / self.D) ** a_D)

    def test_overtraining(self) -> None:
        E, a, b, eta = 1.5, 140.0, 220.0, 0.12
        M, C = self.D / self.N, 6.0 * self.N * self.D
        expected = E + (a * M**eta + b * M**-eta) * C**-eta
        scale = 6.0**-eta
        values = {"E": E, "A0": a * scale * N0 ** (-2 * eta), "B0": b * scale * D0 ** (-2 * eta), "eta": eta}
        np.testing.assert_allclose(self.loss("overtraining", values), expected)

    def test_gamma(self) -> None:
        E, A, B, alpha, beta, g = 1.2, 3000.0, 20000.0, 0.41, 0.46, 0.65
        values = {"E": E, "A0": A * N0**-alpha, "B0": B * D0**-beta, "alpha": alpha, "beta": beta, "g": g}
        np.testing.assert_allclose(self.loss("gamma", values), E + (A * self.N**-alpha + B * self.D**-beta) ** g)

    @pytest.mark.parametrize("plateau", [None, 2.9])
    def test_bounded_and_saturating(self, plateau: float | None) -> None:
        E, A, B, alpha, beta, k = 1.2, 300.0, 2000.0, 0.31, 0.36, 1.7
        R, h = A * self.N**-alpha + B * self.D**-beta, 2.9 - E
        values = {"E": E, "A0": A * N0**-alpha, "B0": B * D0**-beta, "alpha": alpha, "beta": beta, "k": k, "L0": 2.9}
        np.testing.assert_allclose(self.loss("bounded", values, plateau), E + h * R / (h + R))
        expected = E + h * R / (h**k + R**k) ** (1 / k)
        np.testing.assert_allclose(self.loss("saturating", values, plateau), expected)

    def test_forms_without_a_sum(self) -> None:
        values = {"K0": 2.5, "alpha": 0.05, "beta": 0.07}
        expected = 2.5 * (self.N / N0) ** -0.05 * (self.D / D0) ** -0.07
        np.testing.assert_allclose(self.loss("multiplicative", values), expected)
        x, y = self.rows.x, self.rows.y
        values = dict(
            zip(("l0", "lN", "lD", "lNN", "lND", "lDD"), (0.9, -0.05, -0.06, 0.01, -0.006, 0.02), strict=True)
        )
        expected = np.exp(0.9 - 0.05 * x - 0.06 * y + 0.01 * x**2 - 0.006 * x * y + 0.02 * y**2)
        np.testing.assert_allclose(self.loss("log_quadratic", values), expected)

    @pytest.mark.parametrize("name", WITH_BATCH)
    def test_a_batch_b_makes_tokens_worth_one_over_1_plus_b_over_B_c(self, name: str, parameters: Parameters) -> None:
        plain = name.removesuffix("+batch")
        form, batched = find_form(plain), find_form(name)
        values = parameters(name)
        fewer = Rows(self.rows.x, self.rows.y - np.log1p(np.exp(self.rows.z) / values["B_c"]), self.rows.z)
        expected = log_loss(form, theta_of(form, values), fewer)
        np.testing.assert_allclose(log_loss(batched, theta_of(batched, values), self.rows), expected, rtol=1e-12)


class TestRelations:
    rows = rows_of(20, seed=3)

    def value(self, name: str, values: dict[str, float], plateau: float | None = None) -> np.ndarray:
        form = find_form(name, plateau)
        return log_loss(form, theta_of(form, values), self.rows)[0]

    def test_overtraining_is_the_tied_form_with_exponents_2_eta(self) -> None:
        shared = {"E": 1.4, "A0": 0.5, "B0": 0.7}
        tied = self.value("tied", shared | {"alpha": 0.3})
        np.testing.assert_allclose(self.value("overtraining", shared | {"eta": 0.15}), tied, rtol=1e-14)

    def test_tied_is_chinchilla_with_equal_exponents(self) -> None:
        shared = {"E": 1.4, "A0": 0.5, "B0": 0.7, "alpha": 0.3}
        np.testing.assert_allclose(self.value("chinchilla", shared | {"beta": 0.3}), self.value("tied", shared))

    def test_no_floor_is_chinchilla_without_its_floor(self, parameters: Parameters) -> None:
        values = parameters("no_floor")
        np.testing.assert_allclose(self.value("chinchilla", values | {"E": 0.0}), self.value("no_floor", values))

    def test_gamma_of_one_is_chinchilla(self, parameters: Parameters) -> None:
        values = parameters("chinchilla")
        np.testing.assert_allclose(self.value("gamma", values | {"g": 1.0}), self.value("chinchilla", values))

    def test_a_plateau_far_up_leaves_chinchilla(self, parameters: Parameters) -> None:
        values = parameters("chinchilla")
        expected = self.value("chinchilla", values)
        far = [np.abs(self.value("bounded", values | {"L0": L0}) - expected).max() for L0 in (1e2, 1e4, 1e6)]
        assert far[0] > 50 * far[1] > 2500 * far[2]
        np.testing.assert_allclose(self.value("bounded", values, 1e12), expected, rtol=1e-10)

    def test_saturating_with_exponent_one_is_bounded(self, parameters: Parameters) -> None:
        values = parameters("bounded")
        np.testing.assert_allclose(
            self.value("saturating", values | {"k": 1.0}), self.value("bounded", values), rtol=1e-13
        )

    @pytest.mark.parametrize("name", WITH_BATCH)
    def test_a_critical_batch_without_limit_leaves_the_plain_form(self, name: str, parameters: Parameters) -> None:
        plain = name.removesuffix("+batch")
        got = self.value(name, parameters(plain) | {"B_c": 1e20})
        np.testing.assert_allclose(got, self.value(plain, parameters(plain)), rtol=1e-12)

    @pytest.mark.parametrize("name", ["bounded", "saturating"])
    def test_no_loss_passes_the_plateau(self, name: str, parameters: Parameters) -> None:
        values = parameters(name) | {"A0": 1e6}
        loss = np.exp(self.value(name, values))
        assert (loss <= 2.9).all()
        assert loss.max() > 2.89

    def test_larger_models_and_more_tokens_never_cost(self, parameters: Parameters) -> None:
        for name in EVERY:
            if name != "log_quadratic":
                form = find_form(name)
                first, _ = derivatives(form, theta_of(form, parameters(name)), self.rows)
                for amplitude in ("A0", "B0", "K0"):
                    assert amplitude not in form.names or (first[:, form.index(amplitude)] > 0).all()


class TestFindForm:
    @pytest.mark.parametrize(
        ("wrong", "hint"),
        [
            ("chinchila", "did you mean chinchilla?"),
            ("bounded+bach", "did you mean bounded+batch?"),
            ("log_quadratic+batch", "did you mean log_quadratic?"),
            ("xyz", "allowed: "),
            ("", "allowed: "),
            ("chinchilla+batch+batch", "did you mean chinchilla+batch?"),
        ],
    )
    def test_an_unknown_name_gets_a_suggestion(self, wrong: str, hint: str) -> None:
        with pytest.raises(ConfigError, match="no form is called") as raised:
            find_form(wrong)
        assert hint in raised.value.hint

    def test_a_plateau_belongs_to_bounded_forms(self) -> None:
        assert "L0" not in find_form("bounded", 2.9).names
        assert "L0" in find_form("bounded").names
        with pytest.raises(ConfigError, match="no plateau"):
            find_form("chinchilla", 2.9)

    @pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
    def test_a_plateau_is_a_positive_loss(self, bad: float) -> None:
        with pytest.raises(ConfigError, match="positive loss"):
            find_form("bounded", bad)

    @pytest.mark.parametrize("name", EVERY)
    def test_every_form_knows_its_formula_and_source(self, name: str) -> None:
        form = find_form(name)
        assert form.name == name
        assert "L" in form.equation
        assert form.source
        assert len(set(form.names)) == len(form.names)
        assert form.has_batch == name.endswith("+batch")
        used = {parameter for atom in form.atoms for parameter, _ in atom.terms}
        assert used == set(form.names)

    def test_the_sum_that_decides_the_optimum(self) -> None:
        tied = find_form("overtraining")
        terms = inner_terms(tied, theta_of(tied, {"E": 1.0, "A0": 0.5, "B0": 0.25, "eta": 0.1}))
        assert terms is not None
        np.testing.assert_allclose(terms[:, 0], [math.log(0.5), math.log(0.25), 0.2, 0.2])
        kaplan = find_form("kaplan")
        terms = inner_terms(kaplan, theta_of(kaplan, {"A0": 2.0, "B0": 3.0, "r": 0.7, "a_D": 0.1}))
        assert terms is not None
        np.testing.assert_allclose(terms[:, 0], [math.log(2.0), math.log(3.0), 0.7, 1.0])
        assert inner_terms(find_form("log_quadratic"), np.zeros((1, 6))) is None
