from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from plm_scaling.training.feed import _copied as copied
from plm_scaling.training.feed import ahead, feed
from plm_scaling.training.objectives import PackedInput, packed_input
from plm_scaling.training.speed import random_batch


def made(n: int) -> list[PackedInput]:
    return [packed_input(random_batch(2, 30, seed=k), "mlm", mask_seed=k, mask_rate=0.15) for k in range(n)]


def feed_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "feed"]


def equal(one: PackedInput, other: PackedInput) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in one.__dataclass_fields__)


class FakeCopies:
    """Notes which thread does what, and copies."""

    def __init__(self) -> None:
        self.events: list[tuple[str, bool]] = []

    def send(self, batch: PackedInput) -> PackedInput:
        self.events.append(("send", threading.current_thread() is threading.main_thread()))
        return copied(batch, torch.clone)

    def arrive(self, batch: PackedInput) -> PackedInput:
        self.events.append(("arrive", threading.current_thread() is threading.main_thread()))
        return batch


def test_everything_comes_in_order_and_the_thread_ends() -> None:
    assert list(ahead(range(100), depth=3)) == list(range(100))
    assert list(ahead([])) == []
    assert not feed_threads()


def test_no_more_than_the_depth_is_made_ahead() -> None:
    made_so_far: list[int] = []

    def source() -> Iterator[int]:
        for k in range(50):
            made_so_far.append(k)
            yield k

    items = ahead(source(), depth=2)
    assert next(items) == 0
    time.sleep(0.2)
    assert made_so_far == [0, 1, 2, 3]  # one used, two waiting, one in the thread's hand
    items.close()  # type: ignore[attr-defined]
    assert not feed_threads()


def test_what_goes_wrong_is_raised_where_the_items_are_used() -> None:
    def source() -> Iterator[int]:
        yield from range(3)
        raise RuntimeError("the corpus is gone")

    items = ahead(source())
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(RuntimeError, match="the corpus is gone"):
        next(items)
    assert not feed_threads()


def test_a_loop_that_fails_ends_the_thread() -> None:
    def failing() -> None:
        for _ in ahead(iter(int, 1)):  # never ends
            raise KeyError("step")

    with pytest.raises(KeyError, match="step"):
        failing()
    assert not feed_threads()


def test_on_a_cpu_nothing_is_changed_and_no_thread_started() -> None:
    inputs = made(3)
    fed = feed(iter(inputs), torch.device("cpu"))
    assert next(fed) is inputs[0]
    assert not feed_threads()
    assert list(fed) == inputs[1:]


def test_copies_begin_in_the_thread_and_arrive_in_the_loop() -> None:
    inputs, copies = made(6), FakeCopies()
    out = list(feed(iter(inputs), torch.device("cpu"), copies=copies))
    assert all(equal(one, other) for one, other in zip(inputs, out, strict=True))
    assert all(one is not other for one, other in zip(inputs, out, strict=True))
    for one, other in zip(inputs, out, strict=True):
        assert "documents" in other.__dict__  # found before the copy: afterwards the device would be waited for
        assert torch.equal(one.documents.bounds, other.documents.bounds)
        assert torch.equal(one.documents.tokens_P, other.documents.tokens_P)
    assert sorted(copies.events) == [("arrive", True)] * 6 + [("send", False)] * 6


def test_inputs_that_are_cut_stay_where_they_are() -> None:
    inputs, copies = made(3), FakeCopies()
    assert list(feed(iter(inputs), torch.device("cpu"), micro_windows=1, copies=copies)) == inputs
    assert copies.events == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_inputs_reach_a_gpu_unchanged() -> None:
    inputs = made(6)
    out = list(feed(iter(inputs), torch.device("cuda", 0)))
    assert all(batch.tokens_BT.is_cuda and batch.documents.bounds.is_cuda for batch in out)
    assert all(equal(one, other.to(torch.device("cpu"))) for one, other in zip(inputs, out, strict=True))
