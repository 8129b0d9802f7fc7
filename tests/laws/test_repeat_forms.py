"""The formulas of repeated data: exact derivatives, limits, and what must rise or fall."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.errors import ConfigError
from plm_scaling.laws.forms import log_loss
from plm_scaling.laws.newton import Problem, expand
from plm_scaling.laws.repeat_forms import REPEAT_FORMS, base_form, make_repeat_rows, repeat_form, repeat_parameters

BASE = {"E": np.log(1.6), "A0": np.log(0.5), "B0": np.log(0.6), "alpha": 0.4, "beta": 0.33}
MORE = {"L0": np.log(2.9), "B_c": np.log(3e5), "k": 0.2, "g": -0.3}
OWN = {"R_D": np.log(7.0), "R_N": np.log(3.0), "P0": np.log(0.05), "delta": 0.7, "kappa": 0.5, "offset": 0.02}
N0, D0 = np.log(1e8), np.log(5e9)


def rows(n: int = 40, seed: int = 0):
    rng = np.random.default_rng(seed)
    N, U = np.exp(rng.uniform(np.log(1e7), np.log(1e9), n)), np.exp(rng.uniform(np.log(1e8), np.log(5e9), n))
    epochs = np.where(np.arange(n) % 4 == 0, 1.0, np.exp(rng.uniform(0.0, 4.0, n)))
    batch, shift = np.exp(rng.uniform(11.0, 14.0, n)), (np.arange(n) % 3 == 0).astype(float)
    return make_repeat_rows(N, U * epochs, U, batch, shift, (N0, D0, np.log(5.0), np.log(0.1)))


def theta_of(form, move: float = 0.0, seed: int = 0) -> np.ndarray:
    values = BASE | MORE | OWN
    theta = np.array([values[name] for name in form.names])
    return theta * (1.0 + move * np.random.default_rng(seed).uniform(-1, 1, len(theta)))


@pytest.mark.parametrize("kind", [kind for kind in REPEAT_FORMS if kind != "none"])
@pytest.mark.parametrize("base", ["chinchilla", "tied", "bounded+batch", "saturating", "gamma"])
@pytest.mark.parametrize("free_base", [True, False])
def test_derivatives_are_exact(kind: str, base: str, free_base: bool) -> None:
    shape, data = base_form(base), rows()
    known = {} if free_base else {name: (BASE | MORE)[name] for name in shape.names}
    form = repeat_form(kind, shape, known, offset=True)
    theta = theta_of(form, 0.1)
    target = log_loss(form, theta_of(form)[None], data)[0]
    problem = Problem(form, data, target, np.inf, theta - 9.0, theta + 9.0)
    weights = np.random.default_rng(1).uniform(0.5, 2.0, len(target))
    _, gradient, hessian, _ = expand(problem, theta[None], weights[None])
    step = 1e-5 * np.eye(len(theta))
    up, down = (expand(problem, theta + sign * step, np.tile(weights, (len(theta), 1))) for sign in (1, -1))
    scale = np.abs(hessian[0]).max()
    np.testing.assert_allclose((up[0] - down[0]) / 2e-5, gradient[0], rtol=1e-5, atol=1e-7 * scale)
    np.testing.assert_allclose((up[1] - down[1]) / 2e-5, hessian[0], rtol=1e-4, atol=1e-6 * scale)


@pytest.mark.parametrize("kind", list(REPEAT_FORMS))
def test_known_and_free_parameters_give_the_same_loss(kind: str) -> None:
    data, shape = rows(), base_form("bounded+batch")
    every = repeat_form(kind, shape, {}, offset=True)
    loss = log_loss(every, theta_of(every)[None], data)
    for held in ([*shape.names], ["alpha"], ["beta", "kappa"], [*every.names]):
        form = repeat_form(kind, shape, {name: (BASE | MORE | OWN)[name] for name in held}, offset=True)
        np.testing.assert_allclose(log_loss(form, theta_of(form)[None], data), loss, rtol=1e-13)


def loss_at(kind: str, N, D, U, base: str = "chinchilla", **changed: float) -> np.ndarray:
    N, D, U = (np.atleast_1d(np.asarray(v, dtype=float)) for v in np.broadcast_arrays(N, D, U))
    form = repeat_form(kind, base_form(base), {}, offset=False)
    data = make_repeat_rows(N, D, U, np.full(len(N), 1e5), np.zeros(len(N)), (N0, D0, np.log(5.0), np.log(0.1)))
    theta = np.array([(BASE | MORE | OWN | changed)[name] for name in form.names])
    return np.exp(log_loss(form, theta[None], data)[0])


sizes, tokens = st.floats(15.0, 22.0).map(np.exp), st.floats(17.0, 24.0).map(np.exp)
bases = st.sampled_from(["chinchilla", "bounded"])


@settings(deadline=None, max_examples=40)
@given(N=sizes, U=tokens, base=bases, R=st.floats(1e-12, 1e-7))
def test_without_repeats_there_is_only_the_base_law(N: float, U: float, base: str, R: float) -> None:
    plain = loss_at("none", N, U, U, base)
    for kind in ("data_decay", "penalty"):
        np.testing.assert_allclose(loss_at(kind, N, U, U, base), plain, rtol=1e-14)
        np.testing.assert_allclose(loss_at(kind, N, U * (1 + R), U, base), plain, rtol=1e-5)
    # A model no larger than the best size for U tokens loses nothing either.
    best = np.exp((np.log(0.4) + BASE["A0"] - np.log(0.33) - BASE["B0"] + 0.33 * (np.log(U) - D0)) / 0.4 + N0)
    small = min(N, 0.99 * best)
    np.testing.assert_allclose(loss_at("decay", small, U, U, base), loss_at("none", small, U, U, base), rtol=1e-14)


@settings(deadline=None, max_examples=40)
@given(N=sizes, U=tokens, base=bases)
def test_a_decay_only_slows_the_fall(N: float, U: float, base: str) -> None:
    epochs = np.geomspace(1.0, 3e3, 60)
    plain = loss_at("none", N, U * epochs, U, base)
    for kind in ("data_decay", "decay"):
        worn = loss_at(kind, N, U * epochs, U, base)
        assert (np.diff(worn) <= 1e-14 * worn[1:]).all()
        assert (worn >= plain - 1e-12).all()
    limit = loss_at("data_decay", N, U * 1e5, U, base)
    np.testing.assert_allclose(limit, loss_at("none", N, U * (1.0 + 7.0), U * (1.0 + 7.0), base), rtol=1e-9)
    endless = loss_at("data_decay", N, U * epochs, U, base, R_D=np.log(1e9))
    np.testing.assert_allclose(endless, plain, rtol=1e-5)


@settings(deadline=None, max_examples=40)
@given(U=tokens, base=bases)
def test_excess_parameters_are_worth_less_but_never_nothing(U: float, base: str) -> None:
    N = np.exp(np.linspace(15.0, 24.0, 60))
    worn = loss_at("size_decay", N, U, U, base)
    assert (np.diff(worn) <= 1e-14 * worn[1:]).all()
    assert (worn >= loss_at("none", N, U, U, base) - 1e-12).all()


@settings(deadline=None, max_examples=40)
@given(N=sizes, U=tokens, delta=st.floats(0.1, 3.0), kappa=st.floats(0.0, 2.0))
def test_a_penalty_grows_with_repeats_and_size(N: float, U: float, delta: float, kappa: float) -> None:
    epochs = np.geomspace(1.001, 1e3, 40)
    cost = loss_at("penalty", N, U * epochs, U, delta=delta, kappa=kappa) - loss_at("none", N, U * epochs, U)
    slack = 1e-14 * loss_at("none", N, U, U)
    assert (cost >= -slack).all()
    assert (np.diff(cost) >= -slack).all()
    wider = loss_at("penalty", 2 * N, U * 9, U, delta=delta, kappa=kappa) - loss_at("none", 2 * N, U * 9, U)
    here = loss_at("penalty", N, U * 9, U, delta=delta, kappa=kappa) - loss_at("none", N, U * 9, U)
    np.testing.assert_allclose(wider, here * 2.0**kappa, rtol=1e-6, atol=1e-13)
    turned = loss_at("penalty", N, U * np.geomspace(1.0, 1e6, 200), U, delta=1.0, P0=0.0)
    assert turned[-1] > turned.min()


def test_more_unique_tokens_than_were_seen_do_not_count() -> None:
    for kind in REPEAT_FORMS:
        np.testing.assert_allclose(loss_at(kind, 1e8, 1e9, 5e9), loss_at(kind, 1e8, 1e9, 1e9), rtol=1e-15)


def test_unknown_names_are_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError) as error:
        repeat_parameters("data_decoy")
    assert "data_decay" in str(error.value)
    with pytest.raises(ConfigError, match="repeats cannot be added to the form 'log_quadratic'"):
        base_form("log_quadratic")


def test_rows_can_be_taken_apart() -> None:
    data = rows()
    part = data.take(np.array([1, 5, 7]))
    form = repeat_form("penalty", base_form("chinchilla"), {}, offset=True)
    theta = theta_of(form)[None]
    np.testing.assert_array_equal(log_loss(form, theta, part)[0], log_loss(form, theta, data)[0][[1, 5, 7]])
