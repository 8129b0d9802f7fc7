"""What a model is shown and scored on. CLM and MLM differ here and in the attention mask, nowhere else.

Shapes: B windows, T positions per window, P = B * T, S scored positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from plm_scaling.core.run import Objective
from plm_scaling.corpus.batches import Batch
from plm_scaling.corpus.masks import mlm_mask
from plm_scaling.corpus.reversal import reversed_documents
from plm_scaling.models.documents import Documents

__all__ = ["PackedInput", "clm_scored", "document_ends", "packed_input", "packed_inputs"]

Int = npt.NDArray[np.int64]
T_ = TypeVar("T_", bound=np.generic)


@dataclass(frozen=True)
class PackedInput:
    """Windows ready for a model, with their targets. All tensors are int64 unless said.

    Attributes
    ----------
    tokens_BT : what the model is shown.
    segment_BT : int32, number of the document within its window, -1 on padding.
    position_BT : position within the document.
    first_P, last_P : first and last key of its window that a position sees (itself on padding).
    scored_S : flat index of every scored position.
    target_S : true token there.
    """

    tokens_BT: Tensor
    segment_BT: Tensor
    position_BT: Tensor
    first_P: Tensor
    last_P: Tensor
    scored_S: Tensor
    target_S: Tensor

    def to(self, device: torch.device) -> PackedInput:
        """The same on another device."""
        return PackedInput(*(getattr(self, name).to(device, non_blocking=True) for name in self.__dataclass_fields__))

    @cached_property
    def documents(self) -> Documents:
        """The windows as documents one after the other, paddings being documents of their own."""
        ends = torch.from_numpy(document_ends(self.segment_BT.numpy()).astype(np.int32))
        bounds = torch.cat([torch.zeros(1, dtype=torch.int32), ends])
        tokens_P, position_P = self.tokens_BT.reshape(-1), self.position_BT.reshape(-1)
        return Documents(tokens_P, position_P, bounds, longest=self.tokens_BT.shape[1])

    def pieces(self, windows: int) -> Iterator[PackedInput]:
        """The batch in pieces of at most so many windows, in order."""
        B, T = self.tokens_BT.shape
        for begin in range(0, B, windows):
            rows, places = slice(begin, begin + windows), slice(begin * T, (begin + windows) * T)
            first, last = torch.searchsorted(self.scored_S, torch.tensor([places.start, places.stop])).tolist()
            yield PackedInput(
                self.tokens_BT[rows],
                self.segment_BT[rows],
                self.position_BT[rows],
                self.first_P[places],
                self.last_P[places],
                self.scored_S[first:last] - places.start,
                self.target_S[first:last],
            )


def clm_scored(segment: npt.NDArray[np.int32]) -> Int:
    """int64[S]: flat index of every position whose next token lies in the same window and document.

    Every residue and every `<eos>` is predicted once, but for the first residue of a continued piece of a sequence
    longer than the context: nothing stands before it, so it is not scored.
    """
    follows = np.zeros(segment.shape, dtype=np.bool_)
    np.logical_and(segment[:, 1:] == segment[:, :-1], segment[:, 1:] >= 0, out=follows[:, :-1])
    return np.flatnonzero(follows)


def packed_input(
    batch: Batch, objective: Objective, *, mask_seed: int, mask_rate: float, mask_refresh: bool = True
) -> PackedInput:
    """Inputs and targets of one batch; see `packed_inputs`."""
    return packed_inputs([batch], objective, mask_seed=mask_seed, mask_rate=mask_rate, mask_refresh=mask_refresh)[0]


def packed_inputs(
    batches: Sequence[Batch],
    objective: Objective,
    *,
    mask_seed: int,
    mask_rate: float,
    mask_refresh: bool = True,
    reverse_share: float = 0.0,
) -> list[PackedInput]:
    """Inputs and targets of batches of equal shape; made together, since small arrays cost as much as large ones.

    CLM: position t predicts token t + 1 of the same document. MLM: masked residues are predicted where they stand.

    Parameters
    ----------
    mask_seed, mask_rate : of the MLM masks, which also depend on each window's epoch unless `mask_refresh` is off.
    reverse_share : share of the documents that CLM is shown from their end, `<eos>` first and `<cls>` last, drawn by
        `mask_seed`, epoch and record. A document in pieces has each of them reversed where it stands.
    """
    tokens, segment = _joined([b.tokens for b in batches]), _joined([b.segment for b in batches])
    position = _joined([b.position for b in batches]).astype(np.int64)
    B, T = batches[0].tokens.shape
    within = np.arange(T, dtype=np.int64)[None].repeat(len(tokens), axis=0)
    if objective == "clm":
        if reverse_share:
            numbers, passes = _joined([b.row for b in batches]), _joined([b.epoch for b in batches])[:, None]
            turned = reversed_documents(numbers, passes, mask_seed, reverse_share)
            tokens = _turned(tokens, segment, position, turned)
        shown, last = tokens, within.reshape(-1)
        scored = clm_scored(segment)
        target = tokens.reshape(-1)[scored + 1]
    else:
        row, residue = _joined([b.row for b in batches]), _joined([b.residue for b in batches])
        epoch = _joined([b.epoch for b in batches])[:, None] if mask_refresh else 0
        shown, is_target = mlm_mask(row, residue, epoch, tokens, mask_seed, mask_rate)
        scored = np.flatnonzero(is_target)
        target = tokens.reshape(-1)[scored]
        last = _last_of_document(segment)
    counts = np.diff(np.searchsorted(scored, np.arange(len(batches) + 1) * B * T)).tolist()
    scored %= B * T
    parts = (
        torch.split(torch.from_numpy(shown.astype(np.int64)), B),
        torch.split(torch.from_numpy(segment), B),
        torch.split(torch.from_numpy(position), B),
        torch.split(torch.from_numpy((within - position).reshape(-1)), B * T),
        torch.split(torch.from_numpy(last), B * T),
        torch.split(torch.from_numpy(scored), counts),
        torch.split(torch.from_numpy(target.astype(np.int64)), counts),
    )
    return [PackedInput(*tensors) for tensors in zip(*parts, strict=True)]


def _turned(
    tokens: npt.NDArray[np.uint8], segment: npt.NDArray[np.int32], position: Int, chosen: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint8]:
    """Tokens uint8[B, T] with the chosen documents from their end, each at its place."""
    within = np.arange(tokens.shape[1])
    mirrored = _last_of_document(segment).reshape(tokens.shape) - position
    return np.take_along_axis(tokens, np.where(chosen, mirrored, within), axis=1)


def _joined(parts: list[npt.NDArray[T_]]) -> npt.NDArray[T_]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def document_ends(segment: npt.NDArray[np.int32]) -> Int:
    """int64[n]: flat index after the last position of each document, padding counted as a document."""
    ends = np.ones(segment.shape, dtype=np.bool_)
    np.not_equal(segment[:, 1:], segment[:, :-1], out=ends[:, :-1])
    return np.flatnonzero(ends) + 1


def _last_of_document(segment: npt.NDArray[np.int32]) -> Int:
    """int64[P]: place within its window of the last position of each position's document."""
    ends = document_ends(segment)
    return np.repeat((ends - 1) % segment.shape[1], np.diff(ends, prepend=0))
