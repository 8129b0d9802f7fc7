"""When unique tokens run out: what repeats are known to do."""

from __future__ import annotations

import math
from typing import Final

from plm_scaling.core.objective import Objective
from plm_scaling.core.units import format_count
from plm_scaling.laws.repeat_worth import worth

__all__ = [
    "MAX_EPOCHS",
    "MEASURED_EPOCHS",
    "REPEAT_GAPS",
    "UNSEEN_EPOCHS",
    "effective_tokens_of",
    "repeat_findings",
]

MAX_EPOCHS: Final = 4.0
"""Epochs up to which the measured gaps between repeated and unrepeated data did not grow."""
MEASURED_EPOCHS: Final = 13.0
"""Epochs of the longest measured runs."""
UNSEEN_EPOCHS: Final = 2.0 * MEASURED_EPOCHS
"""Beyond so many the law of repeats alone decides, and no size is worth naming."""

REPEAT_GAPS: Final[dict[Objective, tuple[tuple[int, float, float], ...]]] = {
    "mlm": ((1, 0.014, 0.017), (4, 0.013, 0.017), (8, 0.019, 0.021), (13, 0.028, 0.028)),
    "clm": ((1, 0.030, 0.030), (4, 0.031, 0.031), (8, 0.037, 0.037), (13, 0.039, 0.039)),
}
"""(epochs, lowest, highest gap in nats): loss on repeated UniRef50 minus loss on the unrepeated corpus at 154M
parameters and equal tokens. The gap after one epoch is a shift of the data, not repetition.
**Source:** Cheng et al. 2024, released logs (154M runs of 200B tokens)."""

_NEGLIGIBLE_EPOCHS: Final = 1.1
_STUDY_N: Final = 154_448_288
_STUDY_UNIQUE: Final = 15.4e9
_R_D: Final = 15.387756

_STUDY_SAID: Final[dict[Objective, str]] = {
    "mlm": "the published study saw MLM overfit when UniRef was repeated",
    "clm": "the published study saw CLM lose returns when UniRef was repeated",
}


def effective_tokens_of(D: float, unique_tokens: float, R_D: float = _R_D) -> float:
    """Fresh tokens that D tokens over U unique ones are worth under the text law of repeats.

    D' = U + U R (1 - exp(-(D/U - 1)/R)); R = 15.39 is not well identified even for text.

    **Source:** Muennighoff et al. 2023, eq. 5.
    """
    return worth(D, unique_tokens, R_D)


def _gaps_sentence(objective: Objective) -> str:
    parts = []
    for epochs, low, high in REPEAT_GAPS[objective]:
        gap = f"{low:.3f}" if low == high else f"{low:.3f}-{high:.3f}"
        parts.append(f"{gap} at epoch {epochs}")
    return ", ".join(parts)


def repeat_findings(
    objective: Objective, N: float, D: float, unique_tokens: float, max_epochs: float = MAX_EPOCHS
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Flags and sentences about repeating: DATA_REPEATED, DATA_EXHAUSTED, EPOCHS_BEYOND_EVIDENCE.

    Parameters
    ----------
    max_epochs : epochs after which the unique tokens count as exhausted.

    **Source:** Cheng et al. 2024, abstract, and `REPEAT_GAPS`.
    """
    epochs = D / unique_tokens
    if epochs <= _NEGLIGIBLE_EPOCHS:
        return (), ()
    low, high = REPEAT_GAPS[objective][0][1:]
    last_low, last_high = REPEAT_GAPS[objective][-1][1:]
    flags: tuple[str, ...] = ("DATA_REPEATED",)
    said = f"{epochs:.1f} epochs over {format_count(unique_tokens)} unique tokens: {_STUDY_SAID[objective]}."
    growth = (last_low - high, last_high - low)
    grown = f"{growth[0]:.3f}" if math.isclose(*growth) else f"{growth[0]:.3f}-{growth[1]:.3f}"
    measured = (
        f"Measured in its 154M runs, repeated UniRef50 against the whole corpus, nats: {_gaps_sentence(objective)}; "
        f"the gap is there after one epoch (other sequences), so repeating 13 times cost about {grown}."
    )
    warnings = [said, measured]
    if epochs > max_epochs:
        flags += ("DATA_EXHAUSTED",)
        worth = format_count(effective_tokens_of(D, unique_tokens), 2)
        warnings.append(
            f"Your unique tokens are exhausted: this budget repeats them {epochs:.1f} times, more than {max_epochs:g}. "
            "Laws of fresh data are optimistic here; if repeats were worth what they are worth in text, "
            f"the {format_count(D, 2)} tokens would stand for {worth}. "
            f"{format_count(D / max_epochs - unique_tokens, 2)} more unique tokens would bring this run down to "
            f"{max_epochs:g} epochs; `plm-scaling spend` weighs them, a first phase of the other objective and public "
            "models against it."
        )
    if epochs > MEASURED_EPOCHS:
        flags += ("EPOCHS_BEYOND_EVIDENCE",)
        warnings.append(f"No published protein run repeats its data more than {MEASURED_EPOCHS:g} times.")
    per_token, study = N / unique_tokens, _STUDY_N / _STUDY_UNIQUE
    if per_token > 3.0 * study:
        flags += ("MORE_PARAMETERS_PER_UNIQUE_TOKEN",)
        warnings.append(
            f"Your model has {format_count(per_token / study, 2)} times as many parameters per unique token as "
            f"those runs ({format_count(per_token, 2)} against {study:.2g}): expect repeats to hurt earlier than the "
            "gaps say."
        )
    return flags, tuple(warnings)
