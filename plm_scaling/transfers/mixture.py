"""All estimators' readings of a pair made into one: weighted median, and an interval that holds the choice of form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from plm_scaling.core.run_table import RunRow
from plm_scaling.core.units import format_count
from plm_scaling.laws.forms import FloatArray
from plm_scaling.laws.law_fit import Interval
from plm_scaling.transfers.curves import ScratchCurve
from plm_scaling.transfers.readings import SAME_SIZE, Question, Reading
from plm_scaling.transfers.transfer_fit import Estimate, TransferPair

__all__ = ["MeasuredPair", "combine", "interval_or_none", "weighted_median"]

_DISAGREE: Final = 1.5


@dataclass(frozen=True)
class MeasuredPair:
    """A pair with the samples behind its interval; sample i is of one form and one resample of runs in all pairs."""

    pair: TransferPair
    target: RunRow
    question: Question
    draws: FloatArray
    """D_t float64[draws]; -inf or inf beyond an estimator's reach."""
    member: FloatArray
    """int[draws]: the estimator behind each sample, as an index of the law's members; the runs' are those of 0."""


def weighted_median(values: FloatArray, weights: FloatArray) -> float:
    """Middle of values float64[k] by weight; between two values where the weights balance there. NaN counts as absent.

    **Source:** Edgeworth 1888.
    """
    known = ~np.isnan(values) & (weights > 0)
    if not known.any():
        return math.nan
    order = np.argsort(values[known], kind="stable")
    value, share = values[known][order], np.cumsum(weights[known][order]) / weights[known].sum()
    at = int(np.searchsorted(share, 0.5 - 1e-12))
    balanced = abs(share[at] - 0.5) <= 1e-12 and at + 1 < len(value)
    return float(0.5 * (value[at] + value[at + 1]) if balanced else value[at])


def interval_or_none(value: float | None, draws: FloatArray, level: float = 0.95) -> Interval | None:
    """Interval of draws float64[n] that may be infinite; None where the value or an end is."""
    if value is None:
        return None
    tail = 0.5 * (1.0 - level)
    low, high = (float(q) for q in np.quantile(draws, [tail, 1.0 - tail], method="inverted_cdf"))
    if not all(math.isfinite(number) for number in (value, low, high)):
        return None
    return Interval(value=value, low=min(low, value), high=max(high, value), level=level)


def combine(
    question: Question, readings: Sequence[Reading], plain: TransferPair, curve: ScratchCurve | None
) -> MeasuredPair:
    """D_t, its interval and what it is worth, from every estimator's reading.

    The runs of the pair's size count where they bracket the transferred loss, or where nothing else is there.
    """
    flags: list[str] = []
    outside = [r for r in readings if r.name == SAME_SIZE and not math.isfinite(r.D_t)]
    if outside:
        flags.append("OUTSIDE_SCRATCH_RANGE")
        if len(readings) > 1:
            readings = [replace(r, weight=0.0) if r.name == SAME_SIZE else r for r in readings]
    weights = np.array([reading.weight for reading in readings])
    weights /= weights.sum()
    draws, member = _mix(question, readings, weights)
    D_t = weighted_median(np.array([reading.D_t for reading in readings]), weights)
    if _disagree([r.D_t for r, w in zip(readings, weights, strict=True) if w >= 0.05]):
        flags.append("METHODS_DISAGREE")
    low, high = (float(q) for q in np.quantile(draws, [0.025, 0.975], method="inverted_cdf"))
    if math.isfinite(D_t) and (math.isinf(low) or math.isinf(high)):
        flags.append("OPEN_INTERVAL")
    low, high = _known_ends(low, high, question, curve)
    if math.isfinite(D_t):
        low, high = min(low, D_t), max(high, D_t)
    net_loss = weighted_median(np.array([reading.net_loss for reading in readings]), weights)
    values = {"D_t": D_t, "D_t_low": low, "D_t_high": high, "net_loss_gain": net_loss}
    values |= _worth(plain, values)
    update: dict[str, object] = {name: value if math.isfinite(value) else None for name, value in values.items()}
    if plain.source_worth is None and math.isfinite(D_t):
        flags.append("NO_SOURCE_COMPUTE")
    update["estimates"] = tuple(
        Estimate(name=r.name, D_t=r.D_t if math.isfinite(r.D_t) else None, weight=float(w))
        for r, w in zip(readings, weights, strict=True)
    )
    update |= {"method": _in_words(readings, weights, curve), "flags": tuple(flags)}
    return MeasuredPair(plain.model_copy(update=update), question.target, question, draws, member)


def _mix(question: Question, readings: Sequence[Reading], weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Samples of D_t, each by an estimator drawn by weight: the same draw of the form in all pairs."""
    share = question.sampling.stream("form", question.target.objective).random(question.sampling.draws)
    chosen = np.minimum(np.searchsorted(np.cumsum(weights), share, side="right"), len(readings) - 1)
    table = np.stack([reading.draws for reading in readings])
    # Where noise takes the loss beyond the runs of this size, the law answers.
    if len(readings) > 1 and readings[-1].name == SAME_SIZE:
        table[-1] = np.where(np.isfinite(table[-1]), table[-1], table[0])
    names = [reading.name for reading in readings]
    runs = names.index(SAME_SIZE) if SAME_SIZE in names else len(names)
    return table[chosen, np.arange(len(chosen))], np.where(chosen == runs, 0, chosen)


def _disagree(values: Sequence[float]) -> bool:
    """Whether estimators that found a D_t differ by more than a factor of 1.5, or in sign."""
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2 or max(map(abs, finite)) == 0:
        return False
    low, high = sorted((min(finite), max(finite)), key=abs)
    return low * high < 0 or abs(high) > _DISAGREE * abs(low)


def _known_ends(low: float, high: float, question: Question, curve: ScratchCurve | None) -> tuple[float, float]:
    """A draw beyond the runs is known to lie beyond them, and no more: that end of the interval is their last point."""
    if curve is None:
        return low, high
    ends = np.exp(curve.log_D[[0, -1]]) - math.exp(question.anchor.log_D)
    return float(ends[1]) if low == math.inf else low, float(ends[0]) if high == -math.inf else high


def _worth(plain: TransferPair, values: dict[str, float]) -> dict[str, float]:
    """D_t per source token and net of the source, with their ends."""
    out = {}
    for end, name in (("", "D_t"), ("_low", "D_t_low"), ("_high", "D_t_high")):
        per_token = values[name] / plain.D_source if plain.D_source > 0 else math.nan
        out[f"D_t_per_source_token{end}"] = per_token
        out[f"net_tokens{end}"] = math.nan if plain.source_worth is None else values[name] - plain.source_worth
    return out


def _in_words(readings: Sequence[Reading], weights: FloatArray, curve: ScratchCurve | None) -> str:
    """Every estimate in words, those that count first."""
    lengths = len(curve.log_D) if curve else 0

    def shown(value: float) -> str:
        return f"{'-' if value < 0 else ''}{format_count(abs(value))}" if math.isfinite(value) else "out of range"

    order = sorted(range(len(readings)), key=lambda i: -weights[i])
    parts = []
    for i in order:
        name = readings[i].name
        name = f"same-N scratch runs ({lengths} lengths)" if name == SAME_SIZE else f"scratch law {name}"
        parts.append(f"{name}: {shown(readings[i].D_t)}")
    return "; ".join(parts)
