"""The sequences every run is scored on: fixed by the corpus, with fixed MLM masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.files import canonical_json, sha256_text
from plm_scaling.core.run import Objective
from plm_scaling.corpus.format import HELD_OUT_PREFIX, VAL_CLUSTER, VAL_IID
from plm_scaling.corpus.packing import Windows, open_windows
from plm_scaling.corpus.reader import Corpus

__all__ = ["VALIDATION_MASK_SEED", "ValidationSet", "validation_rows", "validation_sets"]

VALIDATION_MASK_SEED: Final = 0x56414C
"""Seed of the validation masks (with epoch 0), whatever the run's seed."""
_FIRST: Final = {VAL_IID: 0, VAL_CLUSTER: 1}
_PROTOCOL: Final = 1
"""Raise it when the same model would get another loss on the same sequences."""


@dataclass(frozen=True)
class ValidationSet:
    """Packed validation windows.

    Attributes
    ----------
    name : the split's name (val_iid, val_cluster, heldout_NAME).
    validation_id : hash of the scored sequences, the masks and the protocol; equal ids may be compared and paired.
    rows : int64[n], the scored records.
    windows : their windows.
    """

    name: str
    validation_id: str
    rows: npt.NDArray[np.int64]
    windows: Windows


def validation_rows(corpus: Corpus, split: str, max_tokens: int) -> npt.NDArray[np.int64]:
    """A prefix of a split's keyed permutation that holds at most `max_tokens` tokens, and at least one sequence."""
    rows = corpus.rows(split)
    ends = np.cumsum(corpus.length[rows] + 1)
    return rows[: max(1, int(np.searchsorted(ends, max_tokens, side="right")))]


def validation_sets(
    corpus: Corpus, context: int, max_tokens: int, objective: Objective, mask_rate: float = 0.15
) -> list[ValidationSet]:
    """Every split made for scoring that has sequences: `val_iid`, `val_cluster`, then the held-out ones.

    The held-out splits come in the manifest's order. What split `excluded` holds is never scored.

    Parameters
    ----------
    context : positions of a window; longer sequences are cut, so it is part of the protocol.
    max_tokens : at most so many tokens of each set.
    objective : clm or mlm; the losses of the two are never compared, so their ids differ.
    mask_rate : share of the residues scored by an MLM.
    """
    sets = []
    for split in sorted(corpus.manifest.splits, key=lambda split: _FIRST.get(split.name, len(_FIRST))):
        if not split.sequences or not (split.name in _FIRST or split.name.startswith(HELD_OUT_PREFIX)):
            continue
        rows = validation_rows(corpus, split.name, max_tokens)
        protocol: dict[str, Any] = {
            "protocol": _PROTOCOL,
            "objective": objective,
            "context": context,
            "sequences": sha256_text(corpus.hash[rows].astype("<u8").tobytes().hex()),
        }
        if objective == "mlm":
            # Masks follow from the row numbers, so equal sequences at other rows are another validation set.
            protocol["rows"] = sha256_text(rows.astype("<i8").tobytes().hex())
            protocol["masks"] = [VALIDATION_MASK_SEED, mask_rate]
        windows = open_windows(corpus, rows, context)
        sets.append(ValidationSet(split.name, sha256_text(canonical_json(protocol))[:16], rows, windows))
    return sets
