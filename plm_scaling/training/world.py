"""The processes that train one run together, and what they tell each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Self

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

__all__ = ["World"]

_PATIENCE: Final = timedelta(minutes=30)
"""A process that waits so long for the others ends with an error. One that died is noticed at once, by its sockets."""
_FAILURE: Final = "failure"


@dataclass(frozen=True)
class World:
    """One process of `size`.

    Attributes
    ----------
    rank, size : this process and how many there are.
    local_rank : this process among those of its machine, and the number of its GPU.
    local_size : processes on its machine.
    store : where a process says why it fails, for the others to read; None if it is alone.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    store: Store | None = field(default=None, compare=False, repr=False)

    @classmethod
    @contextmanager
    def from_environment(cls) -> Iterator[Self]:
        """The world that `torchrun` started this process in; a process it did not start is alone.

        CPU tensors and messages travel by gloo, tensors of a GPU by NCCL.
        """
        if not ("RANK" in os.environ and "WORLD_SIZE" in os.environ):
            yield cls()
            return
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        store, rank, size = next(rendezvous("env://", timeout=_PATIENCE))
        local_rank, local_size = (
            int(os.environ.get(f"LOCAL_{name}", n)) for name, n in (("RANK", rank), ("WORLD_SIZE", size))
        )
        # On one machine torchrun keeps its store when it restarts processes: without a name of their own they would
        # look for the addresses of the dead. On several each round has a new store, and the counts may differ.
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if local_size == size else "0"
        store = PrefixStore(f"start/{restart}", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)
        clean = False
        try:
            yield cls(rank, size, local_rank, local_size, PrefixStore("plm_scaling", store))
            clean = True
        finally:
            if clean or backend == "gloo":  # NCCL would wait for those that may be gone; this process ends anyway
                dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def share(self, n: int) -> int:
        """How many of `n` things fall to this process if each takes every `size`-th, from the `rank`-th on."""
        return len(range(self.rank, n, self.size))

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over all processes, the same bits in all of them."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return self.totals([flag])[0] > 0

    def totals(self, counts: list[int]) -> list[int]:
        """Sums of counts over all processes: one message of the CPU, no device is waited for."""
        if self.size == 1:
            return counts
        totals: list[int] = self.sum_(torch.tensor(counts, dtype=torch.int64)).tolist()
        return totals

    def blame(self, reason: str) -> str:
        """Say why this process fails; returns the reason of the process that failed first.

        The others only see that a connection was closed, which says nothing.
        """
        if self.store is None:
            return reason
        try:
            own = f"process {self.rank}: {reason}"
            first: bytes | str = self.store.compare_set(_FAILURE, "", own)
        except (RuntimeError, ValueError):  # the store is gone with the process that kept it
            return reason
        text = first.decode() if isinstance(first, bytes) else first
        return reason if text in ("", own) else f"{text} (process {self.rank} ended with it)"
