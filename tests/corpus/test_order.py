from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.errors import PlanError
from plm_scaling.corpus import order as order_module
from plm_scaling.corpus.mixing import mix64, mix_key
from plm_scaling.corpus.order import BatchOrder, Passes, feistel

GOLDEN_FEISTEL = [8, 6, 7, 0, 2, 5, 4, 9, 3, 1]
GOLDEN_BATCH = [[0, 1, 1, 1], [2, 1, 3, 4], [2, 3, 3, 3]]
GOLDEN_KEY = 7702586659592502839


def flat(*sizes: int) -> tuple[Passes, ...]:
    return tuple(Passes(size) for size in sizes)


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
    order = BatchOrder(flat(5, 7), (1.0, 2.0), 4, seed=3)
    assert [a.tolist() for a in order.batch(9)] == GOLDEN_BATCH
    assert mix_key(1, 2, 3) == GOLDEN_KEY
    assert mix64(np.arange(2, dtype=np.uint64)).tolist() == [0, 0x5692161D100B05E5]


@settings(deadline=None, max_examples=100)
@given(weights=weights, batch=st.integers(1, 9), steps=st.integers(0, 60))
def test_quotas(weights: list[float], batch: int, steps: int) -> None:
    order = BatchOrder(flat(*[5] * len(weights)), tuple(weights), batch, 0)
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
    order = BatchOrder(flat(*sizes), tuple(1.0 + i for i in range(len(sizes))), batch, seed)
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
        return BatchOrder(flat(50, 33), (3.0, 1.0), 5, 11)

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
    order = BatchOrder(flat(40, 40), (1.0, 1.0), 8, 0)
    epochs = [order.span(0, 40 * e, 40 * e + 40)[0].tolist() for e in range(4)]
    epochs += [order.span(1, 0, 40)[0].tolist(), BatchOrder(flat(40), (1.0,), 8, 1).span(0, 0, 40)[0].tolist()]
    assert len({tuple(e) for e in epochs}) == len(epochs)
    assert order.span(0, 3, 3)[0].tolist() == []


sizes_of_passes = st.lists(st.integers(1, 9), min_size=60, max_size=60)


@settings(deadline=None, max_examples=60)
@given(sizes=sizes_of_passes, draws=st.lists(st.integers(0, 59), min_size=1, max_size=8))
def test_passes_of_changing_size(sizes: list[int], draws: list[int]) -> None:
    """Against the list of all draws; asked in any order, each size once."""
    asked: list[int] = []

    def size(epoch: int) -> int:
        asked.append(epoch)
        return sizes[epoch]

    passes = Passes(size)
    every = [(epoch, position) for epoch, n in enumerate(sizes) for position in range(n)]
    for draw in draws:
        assert passes.locate(draw) == every[draw]
        epoch = every[draw][0]
        assert passes.size(epoch) == sizes[epoch]
        assert passes.start(epoch) == sum(sizes[:epoch])
    assert asked == list(range(len(asked)))
    assert len(asked) <= max(every[draw][0] for draw in draws) + 1
    assert not passes.constant
    steady = Passes(sizes[0])
    assert steady.constant
    assert [steady.locate(draw) for draw in draws] == [divmod(draw, sizes[0]) for draw in draws]
    assert steady.start(3) == 3 * steady.size(3) == 3 * sizes[0]


@settings(deadline=None, max_examples=30)
@given(sizes=sizes_of_passes, batch=st.integers(1, 7), seed=st.integers(0, 5))
def test_every_window_once_in_passes_of_changing_size(sizes: list[int], batch: int, seed: int) -> None:
    passes = (Passes(sizes.__getitem__), Passes(5))
    order = BatchOrder(passes, (2.0, 1.0), batch, seed)
    steps = 40 // batch
    seen: list[list[tuple[int, int]]] = [[], []]
    when: dict[tuple[int, int, int], int] = {}
    for step in range(steps):
        stream, window, epoch = order.batch(step)
        for place, (s, w, e) in enumerate(zip(stream.tolist(), window.tolist(), epoch.tolist(), strict=True)):
            when[s, e, w] = step * batch + place
            seen[s].append((e, w))
    for s in (0, 1):
        draws = order.draws(steps)[s]
        assert len(set(seen[s])) == len(seen[s]) == draws
        assert [e for e, _ in seen[s]] == [passes[s].locate(draw)[0] for draw in range(draws)]
        for epoch in range(passes[s].locate(draws)[0] + 1):
            here = [w for e, w in seen[s] if e == epoch]
            assert order.drawn(s, epoch, draws).tolist() == here
            assert set(here) <= set(range(passes[s].size(epoch)))
            times = [when.get((s, epoch, w), -1) for w in range(passes[s].size(epoch))]
            assert order.first_times(s, steps, epoch).tolist() == times


def test_a_pass_without_windows_is_refused() -> None:
    passes = Passes([3, 0].__getitem__)
    assert passes.locate(2) == (0, 2)
    with pytest.raises(PlanError, match="pass 1 over a stream has no window"):
        passes.locate(3)


def test_refusals() -> None:
    with pytest.raises(PlanError, match="2 streams with 1 weights"):
        BatchOrder(flat(1, 2), (1.0,), 4, 0)
    for size, weight, batch in ((0, 1.0, 4), (3, 0.0, 4), (3, 1.0, 0)):
        with pytest.raises(PlanError, match="not positive"):
            BatchOrder(flat(size), (weight,), batch, seed=0)
