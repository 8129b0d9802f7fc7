"""Roots and lowest points of awkward functions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.laws.bracket import lowest_bracketed, root_around, root_of_rising

some = settings(max_examples=40, deadline=None)
ROOTS = st.floats(-50, -1e-3) | st.floats(1e-3, 50)  # about zero there is no end to neighbouring doubles


@some
@given(root=ROOTS, steep=st.floats(0.01, 50), power=st.sampled_from([1, 3, 5]))
def test_smooth_flat_and_steep_roots_are_found(root: float, steep: float, power: int) -> None:
    calls = 0

    def f(x: float) -> float:
        nonlocal calls
        calls += 1
        return math.sinh(min(max(steep * (x - root), -600.0), 600.0)) if power == 1 else (x - root) ** power

    assert root_of_rising(f, -60.0, 70.0) == pytest.approx(root, rel=1e-13)
    assert calls < 250


@some
@given(root=ROOTS, left=st.floats(1e-9, 1e9), right=st.floats(1e-9, 1e9))
def test_jumps_and_infinities_are_roots(root: float, left: float, right: float) -> None:
    assert root_of_rising(lambda x: right if x >= root else -left, -60.0, 60.0) == pytest.approx(root, rel=1e-14)
    assert root_of_rising(lambda x: math.inf if x >= root else -left, -60.0, 60.0) == pytest.approx(root, rel=1e-14)


def test_without_a_sign_change_an_end_is_the_answer() -> None:
    assert root_of_rising(lambda x: x + 5.0, 0.0, 1.0) == 0.0
    assert root_of_rising(lambda x: x - 5.0, 0.0, 1.0) == 1.0
    assert root_of_rising(lambda x: x - 1e-250, 0.0, 1.0) == pytest.approx(1e-250, rel=1e-12)


@some
@given(root=st.floats(-3000, 3000), start=st.floats(-100, 100))
def test_a_bracket_grows_from_a_guess(root: float, start: float) -> None:
    assert root_around(lambda x: x - root, start) == pytest.approx(root, rel=1e-12, abs=1e-12)


@some
@given(shift=st.floats(-3, 3), depth=st.floats(0.01, 0.5))
def test_the_lower_of_two_valleys_is_taken(shift: float, depth: float) -> None:
    points = [-6.0 + 0.01 * k for k in range(1201)]
    low = lowest_bracketed(
        lambda x: (x * x - 4.0) ** 2 + depth * x + shift, lambda x: 4.0 * x * (x * x - 4.0) + depth, points
    )
    assert low == pytest.approx(-2.0, abs=0.1)
    assert 4.0 * low * (low * low - 4.0) + depth == pytest.approx(0.0, abs=1e-9)


def test_ends_and_cusps_are_tried_and_the_first_of_equals_taken() -> None:
    assert lowest_bracketed(lambda x: -x, lambda x: -1.0, [0.0, 0.5, 1.0]) == 1.0
    assert lowest_bracketed(lambda x: 0.0, lambda x: 0.0, [0.0, 0.5, 1.0]) == 0.0
    cusp = lowest_bracketed(lambda x: abs(x - 0.3), lambda x: math.copysign(1.0, x - 0.3), [0.0, 1.0])
    assert cusp == pytest.approx(0.3, rel=1e-12)
