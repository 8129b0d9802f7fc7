"""Inputs made ahead of the steps that use them, and copied to the device while it computes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from queue import Full, Queue
from typing import Final, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from plm_scaling.models.documents import Documents
from plm_scaling.training.objectives import PackedInput

__all__ = ["CudaCopies", "DeviceCopies", "ahead", "feed"]

_DEPTH: Final = 4
_LOOK_S: Final = 0.05
T = TypeVar("T")
Copy = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _End:
    """No more items; `error` is what ended them before their time."""

    error: BaseException | None = None


@dataclass(frozen=True)
class _Item(Generic[T]):
    value: T


def ahead(source: Iterable[T], *, depth: int = _DEPTH) -> Iterator[T]:
    """The items of `source` in its order, made by a thread that is at most `depth` of them ahead.

    An exception in `source` is raised here, after the items before it. Closing this iterator ends the thread.
    """
    handed: Queue[_Item[T] | _End] = Queue(depth)
    stop = threading.Event()

    def put(item: _Item[T] | _End) -> None:
        while not stop.is_set():
            try:
                return handed.put(item, timeout=_LOOK_S)
            except Full:
                continue

    def work() -> None:
        try:
            for value in source:
                put(_Item(value))
                if stop.is_set():
                    return
        except BaseException as error:  # raised again in the thread that trains
            put(_End(error))
        else:
            put(_End())

    thread = threading.Thread(target=work, name="feed", daemon=True)
    thread.start()
    try:
        while isinstance(item := handed.get(), _Item):
            yield item.value
        if item.error is not None:
            raise item.error
    finally:
        stop.set()
        thread.join()


class DeviceCopies(Protocol):
    """A way to copy to a device that does not hold up the step that runs there."""

    def send(self, batch: PackedInput) -> PackedInput:
        """Begin to copy; called in the thread that makes the inputs."""

    def arrive(self, batch: PackedInput) -> PackedInput:
        """Have the device wait for the copy; called in the thread that trains."""


def _copied(batch: PackedInput, copy: Copy) -> PackedInput:
    """The batch and its documents, which are found on the CPU, through `copy`."""
    found = batch.documents
    there = PackedInput(*(copy(getattr(batch, name)) for name in batch.__dataclass_fields__))
    there.__dict__["documents"] = Documents(
        there.tokens_BT.reshape(-1), there.position_BT.reshape(-1), copy(found.bounds), found.longest
    )
    return there


class CudaCopies:
    """Copies from pinned memory on a stream of their own."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def send(self, batch: PackedInput) -> PackedInput:
        """Begin to copy."""
        with torch.cuda.stream(self.stream):
            there = _copied(batch, lambda t: t.pin_memory().to(self.device, non_blocking=True))
            there.__dict__["copied"] = self.stream.record_event()
        return there

    def arrive(self, batch: PackedInput) -> PackedInput:
        """Have the device wait for the copy."""
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(batch.__dict__["copied"])
        for tensor in (*(getattr(batch, name) for name in batch.__dataclass_fields__), batch.documents.bounds):
            tensor.record_stream(stream)  # its memory is not used again before the step is done with it
        return batch


def feed(
    inputs: Iterable[PackedInput],
    device: torch.device,
    *,
    micro_windows: int | None = None,
    copies: DeviceCopies | None = None,
) -> Iterator[PackedInput]:
    """The same inputs in the same order: on a CPU as they are, for a GPU made ahead and copied there.

    Parameters
    ----------
    micro_windows : of the step; inputs that it cuts into pieces stay on the CPU.
    copies : how they are copied; chosen by the device if None.
    """
    if copies is None:
        if device.type != "cuda":  # a run has one thread there: making inputs ahead would only take it away
            yield from inputs
            return
        copies = CudaCopies(device)
    if micro_windows is not None:
        yield from ahead(inputs)
        return
    for batch in ahead(map(copies.send, inputs)):
        yield copies.arrive(batch)
