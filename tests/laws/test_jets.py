from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from plm_scaling.laws import jets
from plm_scaling.laws.jets import Jet, Value

Formula = Callable[..., Value]
Atoms = tuple[np.ndarray, ...]

PRIMITIVES: dict[str, Formula] = {
    "sum": lambda a, b, c: a + b + 2.0 + c,
    "difference": lambda a, b, c: 1.0 - a - (b - c),
    "product": lambda a, b, c: a * b * c * 3.0,
    "square": lambda a, b, c: a * a + b * b * b - c,
    "exp": lambda a, b, c: jets.exp(a) + jets.exp(b * c),
    "log": lambda a, b, c: jets.log(a * a + 2.0) + jets.log(jets.exp(b) + 1.0) + c,
    "softplus": lambda a, b, c: jets.softplus(a * b) + jets.softplus(c),
    "log_sum_exp": lambda a, b, c: jets.log_sum_exp(a, b * a, c + 1.0),
    "log_sum_exp with a constant": lambda a, b, c: jets.log_sum_exp(a + c, np.full((1, 1), 0.3), b),
    "soft_minimum": lambda a, b, c: jets.soft_minimum(a * c, b, a - b),
    "soft_minimum with a constant": lambda a, b, c: jets.soft_minimum(a + b + c, np.full((1, 1), 0.3)),
    "array on the left": lambda a, b, c: np.full((1, 1), 2.0) * a + (np.full((1, 1), 1.0) - b) * c,
}
COMPOSED: dict[str, Formula] = {
    "additive": lambda a, b, c: jets.log_sum_exp(a, b, c),
    "gamma": lambda a, b, c: jets.log_sum_exp(a, jets.exp(c) * jets.log_sum_exp(b, a * b)),
    "bounded": lambda a, b, c: jets.log_sum_exp(
        a, jets.soft_minimum(jets.log_sum_exp(b, c), jets.log(60.0 - jets.exp(a)))
    ),
    "saturating": lambda a, b, c: jets.soft_minimum(jets.exp(c) * a, jets.exp(c) * b) * jets.exp(-c),
    "batch": lambda a, b, c: jets.log_sum_exp(a, b + c * jets.softplus(1.0 - a)),
    "saturation of repeats": lambda a, b, c: jets.log(jets.exp(a) + 0.1) - b * jets.softplus(c * a),
    "minimum": lambda a, b, c: jets.minimum(a * b + 10.0, jets.exp(c) * 0.01),
}

values = arrays(np.float64, (3, 2, 4), elements=st.floats(-2.0, 2.0, width=32))


def jet_of(f: Formula, atoms: Atoms) -> Jet:
    out = f(*(Jet.atom(i, atom) for i, atom in enumerate(atoms)))
    assert isinstance(out, Jet)
    return out


def moved(atoms: Atoms, i: int, step: float) -> Atoms:
    return tuple(atom + step * (k == i) for k, atom in enumerate(atoms))


def slope(f: Formula, atoms: Atoms, i: int) -> np.ndarray:
    """d f / d atom i by central differences of the plain values, fourth order."""
    h = 1e-3
    far, near = ([jets.value_of(f(*moved(atoms, i, s * k * h))) for s in (1, -1)] for k in (2, 1))
    return (8.0 * (near[0] - near[1]) - (far[0] - far[1])) / (12.0 * h)


def part_of(parts: dict[Any, np.ndarray], key: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(parts.get(key, np.zeros((1, 1))), shape)


def curvature(f: Formula, atoms: Atoms, i: int, j: int) -> np.ndarray:
    """d2 f / d atom i d atom j by central differences of the exact slopes."""
    h, shape = 1e-3, atoms[0].shape

    def at(step: float) -> np.ndarray:
        return part_of(jet_of(f, moved(atoms, j, step)).first, i, shape)

    return (8.0 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12.0 * h)


@pytest.mark.parametrize("name", [*PRIMITIVES, *COMPOSED])
@settings(deadline=None, max_examples=12)
@given(atoms=values)
def test_value_slopes_and_curvatures(name: str, atoms: np.ndarray) -> None:
    f = (PRIMITIVES | COMPOSED)[name]
    parts = tuple(atoms)
    jet = jet_of(f, parts)
    np.testing.assert_allclose(jet.value, jets.value_of(f(*parts)), rtol=1e-13, atol=1e-13)
    for i in range(3):
        got = part_of(jet.first, i, parts[0].shape)
        np.testing.assert_allclose(got, slope(f, parts, i), rtol=1e-7, atol=1e-7)
        for j in range(i, 3):
            got = part_of(jet.second, (i, j), parts[0].shape)
            np.testing.assert_allclose(got, curvature(f, parts, i, j), rtol=1e-7, atol=1e-7)


def complex_slope(f: Callable[[complex], complex], x: float) -> float:
    return f(complex(x, 1e-30)).imag / 1e-30


@given(x=st.floats(-5.0, 5.0))
def test_slopes_to_the_last_digit_by_a_complex_step(x: float) -> None:
    atom = Jet.atom(0, np.full((1, 1), x))
    for f, plain in (
        (jets.exp, np.exp),
        (jets.softplus, lambda z: np.log(1.0 + np.exp(z))),
        (lambda a: jets.log_sum_exp(a, 2.0 * a), lambda z: np.log(np.exp(z) + np.exp(2.0 * z))),
        (lambda a: jets.soft_minimum(a, 0.5 * a), lambda z: -np.log(np.exp(-z) + np.exp(-0.5 * z))),
    ):
        got = f(atom)
        assert isinstance(got, Jet)
        assert got.first[0].item() == pytest.approx(complex_slope(plain, x), rel=1e-12, abs=1e-14)


def test_what_is_zero_is_not_stored() -> None:
    a, b, c = (Jet.atom(i, np.ones((2, 3))) for i in range(3))
    assert (a + b).second == {}
    assert (a * 3.0 - b).second == {}
    assert set((a * b).second) == {(0, 1)}
    assert set((b * a).second) == {(0, 1)}
    assert set((c * c).second) == {(2, 2)}
    assert set((a + 1.0).first) == {0}
    chosen = jets.log_sum_exp(a, c)
    assert isinstance(chosen, Jet)
    assert set(chosen.first) == {0, 2}
    assert set(chosen.second) == {(0, 0), (0, 2), (2, 2)}


def test_plain_arrays_in_plain_arrays_out() -> None:
    x, y = np.array([[0.5, 1.0]]), np.array([[2.0, 0.1]])
    for out, expected in (
        (jets.exp(x), np.exp(x)),
        (jets.log(x), np.log(x)),
        (jets.softplus(x), np.log1p(np.exp(x))),
        (jets.minimum(x, y), np.minimum(x, y)),
        (jets.log_sum_exp(x, y), np.log(np.exp(x) + np.exp(y))),
        (jets.soft_minimum(x, y), -np.log(np.exp(-x) + np.exp(-y))),
    ):
        assert isinstance(out, np.ndarray)
        np.testing.assert_allclose(out, expected, rtol=1e-14)


def test_the_minimum_takes_the_side_of_the_smaller_one() -> None:
    x = np.array([[-1.0, 2.0]])
    a = Jet.atom(0, x)
    got = jets.minimum(a * a, a)
    assert isinstance(got, Jet)
    np.testing.assert_array_equal(got.value, [[-1.0, 2.0]])
    np.testing.assert_array_equal(got.first[0], [[1.0, 1.0]])
    np.testing.assert_array_equal(got.second[0, 0], [[0.0, 0.0]])


@pytest.mark.parametrize("size", [-800.0, -40.0, 40.0, 800.0])
def test_nothing_overflows_far_out(size: float) -> None:
    a = Jet.atom(0, np.array([[size, -size]]))
    for f in (jets.softplus, lambda x: jets.log_sum_exp(x, 0.0 * x), lambda x: jets.soft_minimum(x, 0.0 * x)):
        got = f(a)
        assert isinstance(got, Jet)
        assert np.isfinite(got.value).all()
        assert np.isfinite(got.first[0]).all()
        assert np.isfinite(got.second[0, 0]).all()
    assert float(jets.value_of(jets.softplus(np.array([[900.0]])))[0, 0]) == 900.0
