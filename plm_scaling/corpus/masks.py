"""MLM masks as a pure function of (seed, epoch, record, residue): fresh every epoch, the same at any world size."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.alphabet import FIRST_RESIDUE, LAST_RESIDUE, MASK, STANDARD
from plm_scaling.corpus.mixing import GOLDEN, mix64, mix_key

__all__ = ["KEPT_SHARE", "MASKED_SHARE", "RANDOM_SHARE", "mlm_mask"]

MASKED_SHARE: Final = 0.8
"""Share of the targets shown as `<mask>`."""
RANDOM_SHARE: Final = 0.1
"""Share of the targets shown as one of the 20 standard residues, drawn uniformly (the true one included)."""
KEPT_SHARE: Final = 0.1
"""Share of the targets shown unchanged."""

_ROW_STEP, _RESIDUE_STEP, _EPOCH_STEP = np.uint64(GOLDEN), np.uint64(0xD1342543DE82EF95), np.uint64(0xDA942042E4DD58B5)
_S24, _S40 = np.uint64(24), np.uint64(40)
_LOW16, _LOW24 = np.uint64((1 << 16) - 1), np.uint64((1 << 24) - 1)
_IS_RESIDUE: Final = (np.arange(256) >= FIRST_RESIDUE) & (np.arange(256) <= LAST_RESIDUE)
_SHOWN_AS_MASK: Final = round(MASKED_SHARE * (1 << 16))
_SHOWN_RANDOM: Final = round((MASKED_SHARE + RANDOM_SHARE) * (1 << 16))


def mlm_mask(
    row: npt.NDArray[np.int64],
    residue: npt.NDArray[np.integer],
    epoch: npt.NDArray[np.integer] | int,
    tokens: npt.NDArray[np.uint8],
    seed: int,
    rate: float = 0.15,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Inputs and targets of masked language modelling.

    Every residue is a target with probability `rate`, independently; special symbols never are. A target is shown
    as `<mask>` (80 %), as a random standard residue (10 %) or unchanged (10 %).

    Parameters
    ----------
    row : int64[...], record of each position (any value where `tokens` is special).
    residue : int[...], position in the sequence.
    epoch : int, or an array that broadcasts to `tokens` (int64[B, 1] for a batch); 0 throughout keeps the masks the
        same every epoch.
    tokens : uint8[...], true token ids.
    seed : the run's seed.
    rate : probability of being a target.

    Returns
    -------
    inputs : uint8[...], what the model is shown.
    targets : bool[...], where it is scored.

    **Source:** Devlin et al. 2019, section 3.1 (15 %, 80/10/10).
    """
    # Distinct (row, residue, epoch) give distinct counters: the steps are odd 64-bit constants without small relations.
    counter = row.astype(np.uint64)
    counter *= _ROW_STEP
    counter += residue.astype(np.uint64) * _RESIDUE_STEP
    counter = counter + (np.atleast_1d(np.asarray(epoch)).astype(np.uint64) * _EPOCH_STEP + np.uint64(mix_key(seed)))
    bits = mix64(counter).reshape(tokens.shape)
    # One hash, three independent fields: 24 bits choose targets, 16 the treatment, 24 the random residue.
    chosen = (bits >> _S40) < np.uint64(round(rate * (1 << 24)))
    targets = chosen & _IS_RESIDUE[tokens]
    where = np.flatnonzero(targets)
    drawn = bits.reshape(-1)[where]
    treatment = (drawn >> _S24) & _LOW16
    shown = (FIRST_RESIDUE + (((drawn & _LOW24) * np.uint64(len(STANDARD))) >> _S24)).astype(np.uint8)
    inputs = tokens.copy()
    flat = inputs.reshape(-1)
    kept = treatment >= _SHOWN_RANDOM
    flat[where] = np.where(treatment < _SHOWN_AS_MASK, np.uint8(MASK), np.where(kept, flat[where], shown))
    return inputs, targets
