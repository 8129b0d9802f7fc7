"""Packed documents: what every model is shown. Shapes: P positions in all, n documents."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["Attention", "Documents"]

Attention = Callable[[Tensor, Tensor, Tensor, bool, float], Tensor]
"""Queries, keys, values, each [P, H, K], causal, scale -> mixed [P, H, K]; called once for each layer in turn."""


@dataclass(frozen=True)
class Documents:
    """Documents laid one after the other; no document sees another. Padding forms documents of its own.

    Attributes
    ----------
    tokens_P : int64, token ids of `core.alphabet`.
    position_P : int64, position within the document.
    bounds : int32[n + 1], where each document begins, and P; equal neighbours are empty documents.
    longest : positions of the longest document, or a bound on it.
    attention : what carries out attention in place of the kernels, for documents that share beginnings or whose maps
        are wanted.
    """

    tokens_P: Tensor
    position_P: Tensor
    bounds: Tensor
    longest: int
    attention: Attention | None = None

    @classmethod
    def of(cls, sequences: list[Tensor]) -> Documents:
        """Documents from their token ids, each int64[len], `<cls>` and `<eos>` included."""
        lengths = torch.tensor([0, *(len(s) for s in sequences)])
        return cls(
            tokens_P=torch.cat([s.long() for s in sequences]),
            position_P=torch.cat([torch.arange(len(s)) for s in sequences]),
            bounds=lengths.cumsum(0).to(torch.int32),
            longest=int(lengths.max()),
        )

    @cached_property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Begin and end of each document that is not empty. Waits for the device."""
        bounds = self.bounds.tolist()
        return tuple((begin, end) for begin, end in itertools.pairwise(bounds) if begin < end)

    @cached_property
    def number_P(self) -> Tensor:
        """int64[P]: document of each position."""
        inside = torch.arange(len(self.tokens_P), device=self.bounds.device, dtype=self.bounds.dtype)
        return torch.searchsorted(self.bounds[1:], inside, right=True)

    def to(self, device: torch.device) -> Documents:
        """The same on another device, without waiting for it where the memory is pinned."""
        tokens_P, position_P, bounds = (
            t.to(device, non_blocking=True) for t in (self.tokens_P, self.position_P, self.bounds)
        )
        return Documents(tokens_P, position_P, bounds, self.longest, self.attention)
