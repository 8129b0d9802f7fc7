from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.transfers.mixture import interval_or_none, weighted_median


def test_weighted_median_by_hand() -> None:
    values = np.array([4.0, 1.0, 2.0])
    assert weighted_median(values, np.ones(3)) == 2.0
    assert weighted_median(values, np.array([5.0, 1.0, 1.0])) == 4.0
    assert weighted_median(values[:2], np.ones(2)) == 2.5
    assert weighted_median(np.array([1.0, math.inf, math.inf]), np.ones(3)) == math.inf
    assert weighted_median(np.array([1.0, math.nan]), np.ones(2)) == 1.0
    assert weighted_median(np.array([1.0, 9.0]), np.array([1.0, 0.0])) == 1.0
    assert math.isnan(weighted_median(np.array([math.nan]), np.ones(1)))


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(1, 4)), min_size=1, max_size=7))
def test_a_weight_of_k_is_k_copies(rows: list[tuple[float, int]]) -> None:
    values = np.array([v for v, _ in rows])
    weights = np.array([float(w) for _, w in rows])
    copies = np.repeat(values, weights.astype(int))
    assert weighted_median(values, weights) == pytest.approx(float(np.median(copies)), abs=1e-6)


def test_an_interval_without_an_end_is_none() -> None:
    draws = np.linspace(1.0, 2.0, 101)
    found = interval_or_none(1.5, draws)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((1.02, 1.97), abs=0.02)
    draws[-5:] = math.inf
    assert interval_or_none(1.5, draws) is None
    assert interval_or_none(None, draws) is None
