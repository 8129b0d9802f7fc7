from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.corpus.placement import best_fit, exact_patterns, place

CONTEXT = 24
lengths = st.lists(st.integers(1, CONTEXT), min_size=1, max_size=150).map(lambda x: np.array(x, dtype=np.int64))


def loads(length: np.ndarray, window: np.ndarray) -> np.ndarray:
    return np.bincount(window, weights=length)


@pytest.mark.parametrize("method", [best_fit, exact_patterns, place])
@settings(deadline=None, max_examples=60)
@given(length=lengths)
def test_every_piece_once_and_none_too_many(method, length) -> None:  # type: ignore[no-untyped-def]
    load = loads(length, method(length, CONTEXT))
    assert load.min() > 0  # numbered without gaps
    assert load.max() <= CONTEXT
    assert load.sum() == length.sum()


@settings(deadline=None, max_examples=60)
@given(length=lengths)
def test_best_fit_is_best_fit_decreasing_piece_by_piece(length: np.ndarray) -> None:
    rooms: list[int] = []
    for size in sorted(length.tolist(), reverse=True):
        fitting = [room for room in rooms if room >= size]
        if fitting:
            rooms.remove(min(fitting))
        rooms.append((min(fitting) if fitting else CONTEXT) - size)
    load = loads(length, best_fit(length, CONTEXT))
    assert sorted(CONTEXT - load) == sorted(rooms)


def test_patterns_find_the_exact_fill_that_best_fit_misses() -> None:
    # 24 = 12 + 6 + 6 = 10 + 7 + 7: best fit puts 10s beside 12s and leaves the small ones over.
    length = np.repeat([12, 10, 7, 6], [100, 100, 200, 200])
    assert best_fit(length, CONTEXT).max() + 1 > 200
    assert place(length, CONTEXT).max() + 1 == 200


@pytest.mark.parametrize(
    ("mean", "sigma", "context"), [(50, 0.5, 128), (50, 0.75, 128), (300, 0.75, 256), (300, 0.75, 1024)]
)
def test_fill(mean: int, sigma: float, context: int) -> None:
    rng = np.random.default_rng(0)
    length = np.clip(rng.lognormal(np.log(mean) - sigma**2 / 2, sigma, 20_000), 5, None).astype(np.int64) % context + 1
    window = place(length, context)
    assert length.sum() / ((window.max() + 1) * context) >= 0.98
