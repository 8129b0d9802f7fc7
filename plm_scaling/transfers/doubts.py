"""What is doubtful about transferred tokens, in plain sentences."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

from plm_scaling.transfers.transfer_fit import TransferPair

__all__ = ["SENTENCES", "doubts_of_exponents", "explain_pair"]

_MIN_PAIRS: Final = 6
_MAX_CONDITION: Final = 10.0

SENTENCES: Final[dict[str, str]] = {
    "OUTSIDE_SCRATCH_RANGE": "the scratch runs of this size do not bracket the transferred loss: D_t is read off the "
    "fitted surface if there is one, else only bounded on the side that the runs show.",
    "OPEN_INTERVAL": "the noise allows a D_t beyond the scratch runs of this size: the interval has no end there.",
    "GAP_WITHIN_NOISE": "the gap is less than twice its noise: no detectable effect of the transfer.",
    "TRANSFER_HURTS": "the transferred run ended worse than its scratch partner by more than twice the noise.",
    "SEED_DIFFERS": "the scratch partner has another seed: the gap carries the full noise of the seeds.",
    "NO_SEED_NOISE": "no replicates of this objective: the interval leaves out the noise of the seeds.",
    "NO_SOURCE_COMPUTE": "the source's compute is unknown: no net gain is given.",
    "METHODS_DISAGREE": "same-size runs and the fitted surface differ by more than a factor of 1.5 in D_t.",
    "MIXED_BATCH": "no scratch runs of several lengths share the partner's batch and peak learning rate: D_t is read "
    "off runs that differ in them.",
    "SOURCE_DATA_REPLAYED": "its source had seen {replayed:.0%} of the tokens that this run was trained on: D_t counts "
    "training on them again as transfer.",
}


def explain_pair(pair: TransferPair) -> tuple[str, ...]:
    """One sentence per flag of a pair, naming its transferred run."""
    replayed = pair.replayed_share or 0.0
    return tuple(
        f"{flag}: {pair.target_run_id}: {SENTENCES[flag].format(replayed=replayed)}"
        for flag in pair.flags
        if flag in SENTENCES
    )


def doubts_of_exponents(pairs: Sequence[TransferPair]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Flags and sentences: why the exponents of D_t = k D_f^a N^b are refused, empty where nothing stands against them.

    They are with too few settings, where ln D_f and ln N move together, or where some pairs replay the source's data
    and others do not.
    """
    if not pairs:
        return ("NO_PAIRS",), ("NO_PAIRS: the table holds no transferred run with a scratch partner.",)
    settings = np.unique(np.array([[math.log(p.D), math.log(p.N)] for p in pairs]), axis=0)
    condition = math.inf
    if len(settings) >= 3 and (np.ptp(settings, axis=0) > 0).all():
        r = abs(float(np.corrcoef(settings.T)[0, 1]))
        condition = math.sqrt((1.0 + r) / max(1.0 - r, 1e-12))
    flags = ["TOO_FEW_PAIRS_FOR_EXPONENTS"] if len(settings) < _MIN_PAIRS else []
    flags += ["COLLINEAR_DESIGN"] if condition > _MAX_CONDITION else []
    notes = []
    if flags:
        notes.append(
            f"{flags[0]}: the exponents of D_t = k D_f^a N^b are refused: {len(settings)} different (N, D_f), "
            f"condition number of ln D_f and ln N {condition:.3g}; at least {_MIN_PAIRS} settings with a condition "
            f"number below {_MAX_CONDITION:.0f} would identify them."
        )
    overlaps = Counter(pair.overlap for pair in pairs)
    if len(overlaps) > 1:
        flags.append("MIXED_OVERLAP")
        counts = ", ".join(f"{overlaps[kind]} {kind}" for kind in sorted(overlaps))
        notes.append(
            "MIXED_OVERLAP: the exponents of D_t = k D_f^a N^b are refused: the pairs differ in whether the target was "
            f"trained on its source's data ({counts})."
        )
    return tuple(flags), tuple(notes)
