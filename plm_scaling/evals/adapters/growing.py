"""Sequences that grow by a residue at a time, each position computed once. n rows, D width, m kept slots."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from plm_scaling.models.base import ProteinModel
from plm_scaling.models.prefix import Branches, KeysValues, PathAttention

__all__ = ["GrowingPrefixes"]

Int = npt.NDArray[np.int64]
_LARGEST_BYTES: Final = 2**31


class GrowingPrefixes:
    """What a causal model has computed of the rows it was asked for last.

    Parameters
    ----------
    model : causal, in evaluation mode.
    batch_positions : new positions that are computed at once, about.
    largest_bytes : of keys and values that are kept; rows beyond are computed whole every time.
    """

    def __init__(self, model: ProteinModel, batch_positions: int, *, largest_bytes: int = _LARGEST_BYTES) -> None:
        self.model, self.batch_positions, self.largest_bytes = model, batch_positions, largest_bytes
        self._paths: dict[bytes, Int] = {}
        self._past: list[KeysValues] = []

    def streams(self, rows: Sequence[Int]) -> tuple[Tensor, int]:
        """Residual stream after the last token of each row, [n, D], and how many positions were computed.

        Parameters
        ----------
        rows : distinct, token ids of `core.alphabet`, int64[T]. What one of them shares with a row of the call before
            is taken over if it is all of that row, or all but the last token of both.
        """
        slots = self._past[0][0].shape[0] if self._past else 0
        known = [self._known(row) for row in rows]
        self._paths = {}  # should this call fail, nothing is known
        paths: list[Int] = []
        for row, path in zip(rows, known, strict=True):
            new = len(row) - len(path)
            paths.append(np.concatenate([path, np.arange(slots, slots + new)]))
            slots += new
        kept = self._kept(paths)
        used = np.unique(np.concatenate([*(paths[k] for k in range(kept)), np.arange(0)]))
        streams, cuts = [], self._cuts([len(row) - len(path) for row, path in zip(rows, known, strict=True)])
        for begin, end in pairwise(cuts):
            streams.append(self._batch(rows, known, paths, begin, end, used if end == len(rows) else None))
        place = np.zeros(slots, dtype=np.int64)
        place[used] = np.arange(len(used))
        self._paths = {rows[k].tobytes(): place[paths[k]] for k in range(kept)}
        return torch.cat(streams), sum(len(row) - len(path) for row, path in zip(rows, known, strict=True))

    def _batch(
        self, rows: Sequence[Int], known: Sequence[Int], paths: Sequence[Int], begin: int, end: int, keep: Int | None
    ) -> Tensor:
        slots = self._past[0][0].shape[0] if self._past else 0
        fresh = [row[len(path) :] for row, path in zip(rows[begin:end], known[begin:end], strict=True)]
        bounds = np.cumsum([0, *map(len, fresh)])
        branches = Branches(
            rows=tuple(range(begin, end)),
            tokens_P=np.concatenate(fresh),
            position_P=np.concatenate([np.arange(len(path) - len(new), len(path)) for path, new in
                                       zip(paths[begin:end], fresh, strict=True)]),
            paths=tuple(paths[begin:end]),
            bounds=bounds,
            kept=slots,
            keep=0,
        )  # fmt: skip
        attention = PathAttention(branches, self._past, np.arange(slots + bounds[-1]) if keep is None else keep)
        device = next(self.model.parameters()).device
        x_PD = self.model.stream(branches.documents(attention).to(device))
        self._past = attention.next
        return x_PD[torch.from_numpy(bounds[1:] - 1).to(device)]

    def _known(self, row: Int) -> Int:
        """Slots of the beginning of a row; never of all of it, since its last token has to be seen."""
        whole = self._paths.get(row.tobytes())
        if whole is not None:
            return whole[:-1]
        return self._paths.get(row[:-1].tobytes(), np.arange(0))

    def _kept(self, paths: Sequence[Int]) -> int:
        """How many rows, from the first, may be kept."""
        shape = self.model.shape
        a_slot = 2 * shape.n_layers * shape.d_model * torch.empty(0, dtype=self.model.dtype).element_size()
        sizes = np.cumsum([len(path) for path in paths]) * a_slot
        return int(np.searchsorted(sizes, self.largest_bytes, side="right"))

    def _cuts(self, new: Sequence[int]) -> list[int]:
        """Where each batch of rows begins, and their end."""
        cuts, positions = [0], 0
        for row, size in enumerate(new):
            if row > cuts[-1] and positions + size > self.batch_positions:
                cuts.append(row)
                positions = 0
            positions += size
        return [*cuts, len(new)]
