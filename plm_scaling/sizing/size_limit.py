"""The largest size that laws may be asked for where unique tokens are limited. numpy only."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.laws.repeat_fit import RepeatFit
from plm_scaling.sizing.law_ensemble import LawEnsemble, TokenDecay

__all__ = ["SCAN", "SIZES", "Purse", "deciding_tokens", "fresh_size", "is_held", "largest_claimed"]

FloatArray = npt.NDArray[np.float64]
Purse = Callable[[FloatArray], FloatArray]
"""Parameters float64[n] -> tokens a budget pays for, float64[n]; falls with N.

An attribute `kinks`, where there is one, lists the sizes at which it bends.
"""

SIZES: Final = (math.log(1e3), math.log(1e15))
"""Ln N between which a best size is looked for."""
SCAN: Final = 139
_BEYOND: Final = 10.0
"""Sizes beyond so many times the largest are not claimed where repeats are penalised."""
_EXACT: Final = 1e-5
"""Of ln N; the valley is flat there."""


def largest_claimed(ensemble: LawEnsemble, unique_tokens: float | None) -> float | None:
    """Ln of ten times the largest size that laws which turn have seen; None for those that do not.

    A penalty on repeats alone would spend any budget on one pass through an ever larger model.
    """
    repeats = ensemble.repeats
    if unique_tokens is None or not isinstance(repeats, RepeatFit) or repeats.form != "penalty":
        return None
    seen = [math.log(repeats.range_N[1])]
    if ensemble.range_C is not None:
        C, x = ensemble.range_C[1], np.linspace(*SIZES, SCAN)
        seen += x[ensemble.estimates(np.exp(x), C / (6.0 * np.exp(x))).argmin(axis=1)].tolist()
    return max(seen) + math.log(_BEYOND)


def is_held(ensemble: LawEnsemble, tokens: Purse, unique_tokens: float | None) -> bool:
    """Whether the size is held to what unlimited data would ask for: it would repeat tokens whose worth decays.

    A law under which tokens alone lose their worth sends the rest of a budget into parameters, without end. The
    published law lets excess parameters lose theirs, sooner, so that with repeats the best model is no larger, and is
    trained for more epochs; how much smaller it is rests on coefficients that no data identify.

    **Source:** Muennighoff et al. 2023, section 6 (short data: epochs before parameters).
    """
    if unique_tokens is None or not isinstance(ensemble.repeats, TokenDecay):
        return False
    x = fresh_size(ensemble, tokens)
    return x is not None and float(tokens(np.exp([x]))[0]) > unique_tokens


def deciding_tokens(ensemble: LawEnsemble, tokens: Purse, unique_tokens: float | None) -> float | None:
    """The unique tokens by which a size is decided: those at hand, or None (unlimited) where it is held."""
    return None if is_held(ensemble, tokens, unique_tokens) else unique_tokens


def fresh_size(ensemble: LawEnsemble, tokens: Purse) -> float | None:
    """Ln N that unlimited data would ask for by the members' estimates; None where no size between the ends is best."""

    def losses(x: FloatArray) -> FloatArray:
        N = np.exp(x)
        return np.asarray(ensemble.member_weights @ np.log(ensemble.estimates(N, tokens(N))))

    x = np.linspace(*SIZES, SCAN)
    index = int(losses(x).argmin())
    if index in (0, len(x) - 1):
        return None
    centre, width = float(x[index]), float(x[1] - x[0])
    while width > _EXACT:
        near = centre + width * np.linspace(-1.0, 1.0, 17)
        centre, width = float(near[losses(near).argmin()]), width / 7.0
    return centre
