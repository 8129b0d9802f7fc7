"""Do scores rise with size? Slopes of one family and of several, against other proteins and against other models.

n: models of a family, F: families, B: sets of proteins drawn anew. More is better throughout.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.laws.lines import fitted_line, slopes_of, student_t
from plm_scaling.sizing.downstream_records import SizeEffect, SizeTrend, TrendVerdict

__all__ = ["quantiles_of", "size_effect", "size_trend"]

FloatArray = npt.NDArray[np.float64]
Pair = tuple[float | None, float | None]

_LEVEL: Final = 0.95
_ONE_PEAK: Final = 0.75
"""Least share of pairs of models in keeping with one peak, for scores that rise and fall to be called so."""


def size_trend(
    family: str, models: Sequence[str], N: FloatArray, score: FloatArray, draws_nB: FloatArray | None = None
) -> SizeTrend:
    """A family's score against log10 N, more being better.

    It rises if the slope lies above 0 over proteins drawn anew (where they can be) and, with four models or more, over
    the scatter about the line; two or three models without scores per protein show nothing. It then levels off if the
    largest is not the best, and falls if the best model beats both the smallest and the largest over proteins and
    three quarters of the pairs of models keep to one peak.

    Parameters
    ----------
    N : float64[n], smallest first.
    score : float64[n].
    draws_nB : the scores over sets of proteins, float64[n, B].

    **Source:** least squares; Kendall's tau with its exact permutation distribution.
    """
    x = np.log10(N)
    if len(set(x)) < 2:
        return SizeTrend(family=family, models=tuple(models), slope=None, verdict="one size")
    slope, points = fitted_line(x, score)
    proteins = quantiles_of(None if draws_nB is None else slopes_of(x, draws_nB))
    tau, p_rising = _kendall(x, score)
    peak = int(np.argmax(score))
    beyond, beyond_draws = None, None
    if peak < len(score) - 1:
        beyond = float(score[-1] - score[peak])
        beyond_draws = None if draws_nB is None else draws_nB[-1] - draws_nB[peak]
    beyond_low, beyond_high = quantiles_of(beyond_draws)
    return SizeTrend(
        family=family,
        models=tuple(models),
        slope=slope,
        low=proteins[0],
        high=proteins[1],
        points_low=points[0],
        points_high=points[1],
        kendall_tau=tau,
        p_rising=p_rising,
        peak=models[peak],
        peak_share=None if draws_nB is None else float(np.mean(np.argmax(draws_nB, axis=0) == peak)),
        beyond_peak=beyond,
        beyond_peak_low=beyond_low,
        beyond_peak_high=beyond_high,
        verdict=_verdict(score, draws_nB, [proteins, points] if len(x) > 3 else [proteins], beyond_high),
    )


def _verdict(
    score: FloatArray, draws_nB: FloatArray | None, slopes: Sequence[Pair], beyond_high: float | None
) -> TrendVerdict:
    """By the intervals of the slope, those that are known, and of what lies behind the peak."""
    peak = int(np.argmax(score))
    if draws_nB is not None and peak > 0 and beyond_high is not None and beyond_high < 0:
        climb, _ = quantiles_of(draws_nB[peak] - draws_nB[0])
        if climb is not None and climb > 0 and _one_peak(score, peak) >= _ONE_PEAK:
            return "rises, then falls"
    known = [(low, high) for low, high in slopes if low is not None and high is not None]
    if known and all(low > 0 for low, _ in known):
        return "rises" if peak == len(score) - 1 else "rises, then levels off"
    return "falls" if known and all(high < 0 for _, high in known) else "no detectable gain"


def size_effect(
    families: Sequence[str], slopes: Sequence[float], draws_FB: FloatArray | None = None, *, above: float = 0.0
) -> SizeEffect:
    """Whether families of models gain from size: their mean slope, with 95 % for the mean of other such families.

    Parameters
    ----------
    slopes : score per tenfold N of each family.
    draws_FB : the same over sets of proteins, float64[families, B].

    **Source:** Student's t over families; the percentile bootstrap over proteins where it is wider.
    """
    rising = sum(slope > 0 for slope in slopes)
    told = {"above": above, "families": tuple(families), "rising": rising}
    mean = float(np.mean(slopes)) if slopes else None
    if mean is None or len(slopes) < 3:
        return SizeEffect.model_validate({**told, "slope": mean, "verdict": "too few families"})
    half = student_t(len(slopes) - 1) * float(np.std(slopes, ddof=1)) / math.sqrt(len(slopes))
    low, high = mean - half, mean + half
    if draws_FB is not None:
        other_low, other_high = np.quantile(draws_FB.mean(axis=0), [0.5 - _LEVEL / 2, 0.5 + _LEVEL / 2])
        low, high = min(low, float(other_low)), max(high, float(other_high))
    verdict = "gain from size" if low > 0 else "loss from size" if high < 0 else "no detectable gain from size"
    return SizeEffect.model_validate({**told, "slope": mean, "low": low, "high": high, "verdict": verdict})


def _one_peak(y: FloatArray, peak: int) -> float:
    """Share of the pairs of models that rise towards the peak before it, and fall away from it behind it."""
    pairs = [*itertools.combinations(range(peak + 1), 2), *itertools.combinations(range(peak, len(y)), 2)]
    return float(np.mean([(y[j] > y[i]) == (j <= peak) for i, j in pairs]))


def _kendall(x: FloatArray, y: FloatArray) -> tuple[float, float]:
    """Kendall's tau-a of few points, pairs of equal x left out, and the share of orders of y that reach it."""
    pairs = [(i, j) for i, j in itertools.combinations(range(len(x)), 2) if x[i] != x[j]]
    first, second = np.array(pairs).T
    orders = y[np.array(list(itertools.permutations(range(len(x)))))]  # float64[n!, n], as it is first
    agree = np.sign(orders[:, second] - orders[:, first]) @ np.sign(x[second] - x[first])
    return float(agree[0]) / len(pairs), float(np.mean(agree >= agree[0] - 1e-9))


def quantiles_of(draws: FloatArray | None) -> Pair:
    """The central 95 % of draws; None for none."""
    if draws is None:
        return None, None
    low, high = np.quantile(draws, [0.5 - _LEVEL / 2, 0.5 + _LEVEL / 2])
    return float(low), float(high)
