from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.errors import PlanError
from plm_scaling.corpus import order as order_module
from plm_scaling.corpus.mixing import mix64, mix_key
from plm_scaling.corpus.order import BatchOrder, feistel

GOLDEN_FEISTEL = [8, 6, 7, 0, 2, 5, 4, 9, 3, 1]
GOLDEN_BATCH = [[0, 1, 1, 1], [2, 1, 3, 4], [2, 3, 3, 3]]
GOLDEN_KEY = 7702586659592502839

weights = st.lists(st.floats(0.01, 10), min_size=1, max_size=4)


@settings(deadline=None, max_examples=150)
@given(n=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_feistel_is_a_bijection(n: int, key: int) -> None:
    image = feistel(np.arange(n), n, key)
    assert np.array_equal(np.sort(image), np.arange(n))


@settings(deadline=None, max_examples=50)
@given(n=st.integers(2, 10**12), key=st.integers(0, 2**64 - 1), data=st.data())
def test_feistel_of_large_domains_stays_inside_and_is_injective(n: int, key: int, data: st.DataObject) -> None:
    index = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=40, unique=True)))
    image = feistel(index, n, key)
    assert image.min() >= 0
    assert image.max() < n
    assert len(np.unique(image)) == len(index)
    assert feistel(index[::-1], n, key).tolist() == image[::-1].tolist()


def test_feistel_scatters() -> None:
    n = 50_000
    index = np.arange(n)
    image = feistel(index, n, 7)
    assert abs(np.corrcoef(index, image)[0, 1]) < 0.02
    assert abs(np.corrcoef(feistel(index, n, 8), image)[0, 1]) < 0.02
    assert abs(np.diff(image)).mean() == pytest.approx(n / 3, rel=0.03)
    assert (image == index).sum() < 10


def test_feistel_of_small_domains_reaches_every_place_about_equally() -> None:
    counts = np.zeros((5, 5), dtype=int)
    for key in range(2000):
        counts[np.arange(5), feistel(np.arange(5), 5, key)] += 1
    assert counts.min() > 300
    assert counts.max() < 500


def test_golden_values() -> None:
    """The order is part of the format: other values here mean that no run can be resumed or recomputed."""
    assert feistel(np.arange(10), 10, 42).tolist() == GOLDEN_FEISTEL
    order = BatchOrder((5, 7), (1.0, 2.0), 4, seed=3)
    assert [a.tolist() for a in order.batch(9)] == GOLDEN_BATCH
    assert mix_key(1, 2, 3) == GOLDEN_KEY
    assert mix64(np.arange(2, dtype=np.uint64)).tolist() == [0, 0x5692161D100B05E5]


@settings(deadline=None, max_examples=100)
@given(weights=weights, batch=st.integers(1, 9), steps=st.integers(0, 60))
def test_quotas(weights: list[float], batch: int, steps: int) -> None:
    order = BatchOrder((5,) * len(weights), tuple(weights), batch, 0)
    table = order.draws_at(np.arange(steps + 1))
    assert (table.sum(axis=1) == np.arange(steps + 1) * batch).all()
    assert (np.diff(table, axis=0) >= 0).all()
    share = np.array(weights) / sum(weights)
    assert abs(table - table.sum(axis=1, keepdims=True) * share).max() <= len(weights)
    assert [order.draws(k) for k in range(steps + 1)] == [tuple(row) for row in table.tolist()]


@settings(deadline=None, max_examples=60)
@given(data=st.data(), batch=st.integers(1, 7), seed=st.integers(0, 5))
def test_every_window_once_per_epoch(data: st.DataObject, batch: int, seed: int) -> None:
    sizes = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=3))
    order = BatchOrder(tuple(sizes), tuple(1.0 + i for i in range(len(sizes))), batch, seed)
    steps = 40
    seen: list[list[tuple[int, int]]] = [[] for _ in sizes]
    first: dict[tuple[int, int], int] = {}
    for step in range(steps):
        stream, window, epoch = order.batch(step)
        assert len(stream) == len(window) == len(epoch) == batch
        for place, (s, w, e) in enumerate(zip(stream.tolist(), window.tolist(), epoch.tolist(), strict=True)):
            seen[s].append((e, w))
            first.setdefault((s, w), step * batch + place)
    for s, n in enumerate(sizes):
        for begin in range(0, len(seen[s]), n):
            part = seen[s][begin : begin + n]
            assert {e for e, _ in part} == {begin // n}
            assert len({w for _, w in part}) == len(part)
        visits = np.bincount([w for _, w in seen[s]], minlength=n)
        assert order.visits(s, order.draws(steps)[s]).tolist() == visits.tolist()
        assert order.first_times(s, steps).tolist() == [first.get((s, w), -1) for w in range(n)]


def test_batch_is_a_pure_function_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_module, "_BLOCK", 16)  # several blocks per epoch, some of them dropped
    monkeypatch.setattr(order_module, "_KEPT_BLOCKS", 2)

    def fresh() -> BatchOrder:
        return BatchOrder((50, 33), (3.0, 1.0), 5, 11)

    straight = fresh()
    expected = [tuple(a.tolist() for a in straight.batch(k)) for k in range(40)]
    steps = np.random.default_rng(0).permutation(40).tolist()
    jumping = fresh()
    for k in steps:
        assert tuple(a.tolist() for a in jumping.batch(k)) == expected[k]
        assert tuple(a.tolist() for a in fresh().batch(k)) == expected[k]
    monkeypatch.undo()
    assert tuple(a.tolist() for a in fresh().batch(17)) == expected[17]


def test_seeds_streams_and_epochs_differ() -> None:
    order = BatchOrder((40, 40), (1.0, 1.0), 8, 0)
    epochs = [order.span(0, 40 * e, 40 * e + 40)[0].tolist() for e in range(4)]
    epochs += [order.span(1, 0, 40)[0].tolist(), BatchOrder((40,), (1.0,), 8, 1).span(0, 0, 40)[0].tolist()]
    assert len({tuple(e) for e in epochs}) == len(epochs)
    assert order.span(0, 3, 3)[0].tolist() == []


def test_refusals() -> None:
    with pytest.raises(PlanError, match="2 streams with 1 weights"):
        BatchOrder((1, 2), (1.0,), 4, 0)
    for bad in (((0,), (1.0,), 4), ((3,), (0.0,), 4), ((3,), (1.0,), 0)):
        with pytest.raises(PlanError, match="not positive"):
            BatchOrder(*bad, seed=0)
