"""What a source is worth at each size, and the size at which it is worth its compute."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np

from plm_scaling.laws.forms import FloatArray
from plm_scaling.laws.law_fit import Interval, Refusal
from plm_scaling.transfers.mixture import MeasuredPair
from plm_scaling.transfers.transfer_fit import ExchangeTrend

__all__ = ["by_direction", "direction_in_words", "exchange_trends"]

_MIN_SIZES: Final = 3
_SAME_SIZE: Final = 0.02
_MAX_DECADES: Final = 2.0
_CONFOUNDED: Final = 0.9
_LEAST_RATE: Final = 1e-3
"""A rate at or below zero, or beyond its inverse, stands here in the logarithm."""


def by_direction(pairs: Sequence[MeasuredPair]) -> dict[tuple[str, str], list[MeasuredPair]]:
    """Pairs by (source objective, objective), in the order of the table."""
    groups: defaultdict[tuple[str, str], list[MeasuredPair]] = defaultdict(list)
    for one in pairs:
        groups[one.pair.source_objective, one.pair.objective].append(one)
    return dict(groups)


def direction_in_words(source: str, target: str) -> str:
    """CLM -> MLM."""
    return f"{source.upper()} -> {target.upper()}"


def exchange_trends(pairs: Sequence[MeasuredPair]) -> tuple[tuple[ExchangeTrend, ...], tuple[Refusal, ...]]:
    """The trend of ln(D_t / source_worth) over ln N in each direction, and where it crosses zero.

    Source and target of one size pay the same compute per token, so the rate is D_t / D_source in most designs.
    Intervals hold the noise of every pair and the choice of form, common to all pairs; not whether a power law holds.
    Refused: fewer than three sizes, or a break-even whose interval spans more than two decades.
    """
    trends, refusals = [], []
    for (source, target), group in by_direction(pairs).items():
        what = f"break-even size, {direction_in_words(source, target)}"
        usable = [one for one in group if one.pair.D_t is not None and one.pair.source_worth]
        if _sizes(usable) < _MIN_SIZES:
            reason = f"{_sizes(usable)} sizes with a D_t and a known source compute; a trend takes {_MIN_SIZES}"
            refusals.append(Refusal(quantity=what, code="TOO_FEW_SIZES", reason=reason))
            continue
        trend, refusal = _trend(sorted(usable, key=lambda one: one.pair.N), what)
        trends.append(trend)
        refusals += [refusal] if refusal else []
    return tuple(trends), tuple(refusals)


def _sizes(pairs: Sequence[MeasuredPair]) -> int:
    logs = np.sort([math.log(one.pair.N) for one in pairs])
    return int((np.diff(logs) > _SAME_SIZE).sum()) + 1 if len(logs) else 0


def _trend(pairs: Sequence[MeasuredPair], what: str) -> tuple[ExchangeTrend, Refusal | None]:
    worth = np.array([one.pair.source_worth or math.nan for one in pairs])
    rate = np.array([one.pair.D_t or 0.0 for one in pairs]) / worth
    drawn = np.stack([one.draws for one in pairs], axis=1) / worth
    x = np.log([one.pair.N for one in pairs])
    slopes, levels = _lines(x, _log_rate(np.concatenate([rate[None], drawn])))
    slope = _interval(slopes)
    flags = ["THREE_SIZES"] if _sizes(pairs) == _MIN_SIZES else []
    share = np.log([one.pair.source_worth / one.pair.D if one.pair.source_worth else 1.0 for one in pairs])
    if np.ptp(share) > 0.05 and abs(float(np.corrcoef(x, share)[0, 1])) > _CONFOUNDED:
        flags.append("SHARE_CONFOUNDED")
    crossing, why = _crossing(x, slopes, levels)
    if crossing is not None and not x[0] <= math.log(crossing.value) <= x[-1]:
        flags.append("BREAK_EVEN_EXTRAPOLATED")
    first = pairs[0].pair
    trend = ExchangeTrend(
        source_objective=first.source_objective,
        objective=first.objective,
        N=tuple(one.pair.N for one in pairs),
        rate=tuple(rate.tolist()),
        slope=slope,
        break_even_N=crossing,
        flags=tuple(flags),
    )
    return trend, None if crossing else Refusal(quantity=what, code="BREAK_EVEN_OPEN", reason=why)


def _log_rate(rate: FloatArray) -> FloatArray:
    return np.log(np.clip(np.nan_to_num(rate, nan=_LEAST_RATE), _LEAST_RATE, 1.0 / _LEAST_RATE))


def _lines(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Least-squares slopes and mean levels float64[B] of rows y float64[B, n] over x float64[n]."""
    centred = x - x.mean()
    return y @ centred / (centred @ centred), y.mean(axis=1)


def _crossing(x: FloatArray, slopes: FloatArray, levels: FloatArray) -> tuple[Interval | None, str]:
    """The size at which the line of ln rate is zero, the estimate first; or why there is none to speak of."""
    turned = float(np.mean(np.sign(slopes[1:]) != np.sign(slopes[0])))
    if turned > 0.025:
        return None, f"the rate's trend over size has the other sign in {turned:.0%} of the draws"
    keep = np.sign(slopes) == np.sign(slopes[0])
    log_N = x.mean() - levels[keep] / slopes[keep]
    low, high = np.quantile(log_N[1:], [0.025, 0.975])
    decades = float(high - low) / math.log(10.0)
    if decades > _MAX_DECADES:
        ends = f"{math.exp(min(low, 600)):.2g} to {math.exp(min(high, 600)):.2g}"
        return None, f"its interval ({ends} parameters) spans more than two decades"
    low, value, high = (math.exp(end) for end in (low, log_N[0], high))
    return Interval(value=value, low=min(low, value), high=max(high, value)), ""


def _interval(draws: FloatArray) -> Interval:
    """The first value with the 95 % interval of the others."""
    low, high = np.quantile(draws[1:], [0.025, 0.975])
    value = float(draws[0])
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value))
