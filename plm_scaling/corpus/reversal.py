"""Which documents a causal model is shown from their end: a pure function of (seed, epoch, record)."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.corpus.mixing import GOLDEN, mix64, mix_key

__all__ = ["reversed_documents"]

_REVERSED: Final = 0x7265766572736564
"""Keeps this choice apart from those of the masks, which hash the same numbers."""
_ROW_STEP, _EPOCH_STEP = np.uint64(GOLDEN), np.uint64(0xDA942042E4DD58B5)


def reversed_documents(
    row: npt.NDArray[np.int64], epoch: npt.NDArray[np.integer] | int, seed: int, share: float
) -> npt.NDArray[np.bool_]:
    """Whether each position belongs to a reversed document, bool[...]: drawn anew every epoch, all pieces of one alike.

    Parameters
    ----------
    row : int64[...], record of each position, negative on padding, which is never reversed.
    epoch : int, or an array that broadcasts to `row`.
    seed : the run's seed. share : probability of a document to be reversed.
    """
    counter = row.astype(np.uint64) * _ROW_STEP
    counter = counter + (np.asarray(epoch).astype(np.uint64) * _EPOCH_STEP + np.uint64(mix_key(seed, _REVERSED)))
    drawn: npt.NDArray[np.bool_] = (mix64(counter) >> np.uint64(40)) < np.uint64(round(share * (1 << 24)))
    return drawn & (row >= 0)
