"""Sequences that begin alike, computed once: the trie of their beginnings as packed documents, for causal models.

Rows of tokens are sorted, so that each shares its longest beginning with the row before it; what is new in a row is a
document that sees the path before it. A batch of rows is one forward pass of the model as it is; keys and values of
the beginning that the next batch goes on with are kept.

Shapes: R rows, n tokens of a row, P new positions of a batch, m positions kept from the batch before, H heads,
K width of a head, B documents of one group, q of their positions new, k seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from plm_scaling.models.documents import Attention, Documents

__all__ = ["Branches", "KeysValues", "PathAttention", "plan_branches"]

Int = npt.NDArray[np.int64]
KeysValues = tuple[Tensor, Tensor]
"""Of one layer, each [m, H, K]."""
_WORTH_SHARING: Final = 16
"""Beginnings of fewer positions are computed again: plain documents have the faster kernels."""
_GATHERED: Final = 2**25
"""Numbers of keys that are laid side by side at once, at most."""


@dataclass(frozen=True)
class Branches:
    """A batch of rows that follow each other in the sorted order.

    Attributes
    ----------
    rows : numbers of the rows, in that order.
    tokens_P, position_P : int64, what is new in them, and where it stands in its row.
    paths : of each row the slots of its positions, int64[n]: slots below m are kept ones, slot m + p is position p.
    bounds : int64[R + 1], where the new part of each row begins among the P.
    kept : m, positions taken over from the batch before: the beginning of its last row.
    keep : positions of the last row that the next batch takes over.
    """

    rows: tuple[int, ...]
    tokens_P: Int
    position_P: Int
    paths: tuple[Int, ...]
    bounds: Int
    kept: int
    keep: int

    @property
    def plain(self) -> bool:
        """Nothing is shared, within the batch or with its neighbours."""
        return not self.kept and not self.keep and sum(map(len, self.paths)) == len(self.tokens_P)

    def documents(self, attention: Attention | None = None) -> Documents:
        """The new parts as documents of their own; unless `plain`, only `PathAttention` shows them what is before."""
        return Documents(
            torch.from_numpy(self.tokens_P),
            torch.from_numpy(self.position_P),
            torch.from_numpy(self.bounds.astype(np.int32)),
            longest=int(np.diff(self.bounds).max()),
            attention=attention,
        )


def plan_branches(
    rows: Sequence[Int], budget: int, *, share: bool = True, shortest: int = _WORTH_SHARING
) -> list[Branches]:
    """Batches of at most `budget` new positions (one row at least) over all rows.

    Parameters
    ----------
    rows : tokens of each row, int64[n], values below 256.
    share : False computes every row whole, the shortest first.
    shortest : positions of a beginning from which on it is shared.
    """
    if share:
        texts = [row.astype(np.uint8).tobytes() for row in rows]
        order = sorted(range(len(rows)), key=texts.__getitem__)
    else:
        order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
    common = [_common(rows[a], rows[b]) if share else 0 for a, b in pairwise(order)]
    shared = [0, *(n if n >= shortest else 0 for n in common)]
    batches, begin, new = [], 0, 0
    for place, (number, known) in enumerate(zip(order, shared, strict=True)):
        fresh = len(rows[number]) - known
        if place > begin and new + fresh > budget:
            batches.append(_branches(rows, order, shared, begin, place))
            begin, new = place, 0
        new += fresh
    if order:
        batches.append(_branches(rows, order, shared, begin, len(order)))
    return batches


def _common(a: Int, b: Int) -> int:
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if different.size else n


def _branches(rows: Sequence[Int], order: Sequence[int], shared: Sequence[int], begin: int, end: int) -> Branches:
    kept = shared[begin]
    path, slot = np.arange(kept), kept
    tokens, positions, paths, bounds = [], [], [], [0]
    for place in range(begin, end):
        row, known = rows[order[place]], shared[place]
        fresh = len(row) - known
        path = np.concatenate([path[:known], np.arange(slot, slot + fresh)])
        slot += fresh
        tokens.append(row[known:])
        positions.append(np.arange(known, len(row)))
        paths.append(path)
        bounds.append(bounds[-1] + fresh)
    return Branches(
        rows=tuple(order[begin:end]),
        tokens_P=np.concatenate(tokens),
        position_P=np.concatenate(positions),
        paths=tuple(paths),
        bounds=np.array(bounds),
        kept=kept,
        keep=shared[end] if end < len(order) else 0,
    )


@dataclass
class PathAttention:
    """Attention of the new part of every row to the whole path before it; an `Attention` for one forward pass.

    Rows of equal lengths are computed together.

    Attributes
    ----------
    past : keys and values of each layer kept from the batch before, [m, H, K]; empty for none.
    keep : slots whose keys and values are kept; None for the beginning that the next batch goes on with.
    next : after the pass, what is kept of each layer.
    """

    branches: Branches
    past: Sequence[KeysValues] = ()
    keep: Int | None = None
    next: list[KeysValues] = field(default_factory=list)

    def __post_init__(self) -> None:
        groups: dict[tuple[int, int], list[int]] = {}
        for number, path in enumerate(self.branches.paths):
            if new := int(self.branches.bounds[number + 1] - self.branches.bounds[number]):
                groups.setdefault((new, len(path)), []).append(number)
        self._groups = groups

    def __call__(self, q_PHK: Tensor, k_PHK: Tensor, v_PHK: Tensor, causal: bool, scale: float) -> Tensor:
        """Mix the values, [P, H, K]."""
        layer, device = len(self.next), q_PHK.device
        if self.past:
            past_k, past_v = self.past[layer]
            k_PHK, v_PHK = torch.cat([past_k, k_PHK]), torch.cat([past_v, v_PHK])
        mixed_PHK = torch.empty_like(q_PHK)
        for (new, seen), numbers in self._groups.items():
            visible = torch.ones(new, seen, dtype=torch.bool, device=device).tril(seen - new) if new < seen else None
            at_once = max(1, _GATHERED // (seen * k_PHK[0].numel()))
            for begin in range(0, len(numbers), at_once):
                query_Bq, key_Bk = (i.to(device) for i in self._places(numbers[begin : begin + at_once], new))
                q_BHqK, k_BHkK, v_BHkK = (
                    x[i].transpose(1, 2) for x, i in ((q_PHK, query_Bq), (k_PHK, key_Bk), (v_PHK, key_Bk))
                )
                mixed_BHqK = F.scaled_dot_product_attention(
                    q_BHqK, k_BHkK, v_BHkK, attn_mask=visible, is_causal=causal and visible is None, scale=scale
                )
                mixed_PHK[query_Bq] = mixed_BHqK.transpose(1, 2)
        slots = self.branches.paths[-1][: self.branches.keep] if self.keep is None else self.keep
        kept = torch.from_numpy(slots).to(device)
        self.next.append((k_PHK[kept], v_PHK[kept]))
        return mixed_PHK

    def _places(self, numbers: Sequence[int], new: int) -> tuple[Tensor, Tensor]:
        """Positions of the queries among the P, and slots of the keys, of some rows."""
        starts = self.branches.bounds[list(numbers)]
        keys = np.stack([self.branches.paths[number] for number in numbers])
        return torch.from_numpy(starts[:, None] + np.arange(new)), torch.from_numpy(keys)
