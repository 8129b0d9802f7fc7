"""What a model is shown and scored on. CLM and MLM differ here and in the attention mask, nowhere else.

Shapes: B windows, T positions per window, P = B * T, S scored positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from plm_scaling.core.run import Objective
from plm_scaling.corpus.batches import Batch
from plm_scaling.corpus.masks import mlm_mask

__all__ = ["PackedInput", "clm_scored", "packed_input"]

Int = npt.NDArray[np.int64]


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
        return PackedInput(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


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
    """Inputs and targets of a batch.

    CLM: position t predicts token t + 1 of the same document. MLM: masked residues are predicted where they stand.

    Parameters
    ----------
    mask_seed, mask_rate : of the MLM masks, which also depend on each window's epoch unless `mask_refresh` is off.
    """
    tokens, segment = batch.tokens, batch.segment
    B, T = tokens.shape
    place = np.arange(B * T, dtype=np.int64)
    within = place.reshape(B, T) % T
    position = batch.position.astype(np.int64)
    if objective == "clm":
        shown, last = tokens, within.reshape(-1)
        scored = clm_scored(segment)
        target = tokens.reshape(-1)[scored + 1]
    else:
        epoch = batch.epoch[:, None] if mask_refresh else 0
        shown, is_target = mlm_mask(batch.row, batch.residue, epoch, tokens, mask_seed, mask_rate)
        scored = np.flatnonzero(is_target)
        target = tokens.reshape(-1)[scored]
        last = _last_of_document(segment)
    return PackedInput(
        tokens_BT=torch.from_numpy(shown.astype(np.int64)),
        segment_BT=torch.from_numpy(segment),
        position_BT=torch.from_numpy(position),
        first_P=torch.from_numpy((within - position).reshape(-1)),
        last_P=torch.from_numpy(last),
        scored_S=torch.from_numpy(scored),
        target_S=torch.from_numpy(target.astype(np.int64)),
    )


def _last_of_document(segment: npt.NDArray[np.int32]) -> Int:
    """int64[P]: place within its window of the last position of each position's document."""
    B, T = segment.shape
    ends = np.ones((B, T), dtype=np.bool_)
    np.not_equal(segment[:, 1:], segment[:, :-1], out=ends[:, :-1])
    last = np.flatnonzero(ends)
    return np.repeat(last % T, np.diff(last, prepend=-1))
