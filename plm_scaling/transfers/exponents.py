"""The exponents of D_t = k D_f^a N^b, where the pairs determine them; a pair with only a bound is a censored one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from plm_scaling.laws.fit import percentile_interval
from plm_scaling.laws.forms import FloatArray, Rows, log_loss
from plm_scaling.laws.law_fit import Interval, Refusal
from plm_scaling.transfers.exchange import by_direction, direction_in_words
from plm_scaling.transfers.limited import LIMITED, fit_limited
from plm_scaling.transfers.mixture import MeasuredPair
from plm_scaling.transfers.transfer_fit import TransferLaw, TransferPair

__all__ = ["MIN_SETTINGS", "FittedLaw", "censored_lines", "condition_number", "design_refusals", "transfer_laws"]

LAW: Final = "D_t = k D_f^a N^b"
MIN_SETTINGS: Final = 6
MIN_LIMITED: Final = 8
"""Pairs for four parameters, as six are for three."""
MAX_CONDITION: Final = 10.0
_DRAWS: Final = 400
_EM_STEPS: Final = 400


@dataclass(frozen=True)
class FittedLaw:
    """A law of D_t and its samples: ln k, a, b and, where limited, ln rate, float64[B, 3 or 4], estimate first."""

    law: TransferLaw
    theta: FloatArray


@dataclass(frozen=True)
class _Design:
    """Pairs of one direction as a regression sees them: float64[n] each."""

    log_D: FloatArray
    log_N: FloatArray
    log_source: FloatArray
    """ln of the source's tokens."""
    log_D_t: FloatArray
    """ln D_t, or the bound."""
    censored: FloatArray
    """0: known; 1: at least so many; -1: at most."""

    @property
    def columns(self) -> FloatArray:
        """1, ln D_f and ln N about their means, float64[n, 3]."""
        log_D, log_N = self.log_D - self.log_D.mean(), self.log_N - self.log_N.mean()
        return np.stack([np.ones_like(log_D), log_D, log_N], axis=1)


def transfer_laws(pairs: Sequence[MeasuredPair], *, seed: int = 0) -> tuple[tuple[FittedLaw, ...], tuple[Refusal, ...]]:
    """k, a and b of every direction whose design identifies them, else why it does not.

    At least six different (D_f, N), a condition number of ln D_f and ln N below ten, and pairs that are alike in
    whether the target saw its source's data again. Where sources of different lengths tell it, the rate at which few
    source tokens count is fitted beside them. Intervals: the wider of a bootstrap over pairs and of the
    pairs' own samples, which share the form of the scratch law.

    **Source:** Hernandez et al. 2021, eq. 1.2; Tobin 1958 (censored regression).
    """
    laws, refusals = [], []
    directions = by_direction(pairs)
    if not directions:
        reason = "the table holds no transferred run with a D_t"
        return (), (Refusal(quantity=f"exponents of {LAW}", code="NO_PAIRS", reason=reason),)
    for (source, target), group in directions.items():
        what = f"exponents of {LAW}, {direction_in_words(source, target)}"
        against = design_refusals([(one.pair.D, one.pair.N) for one in group], what)
        against += _mixed_overlap([one.pair for one in group], what)
        usable = [one for one in group if _logs(one.pair) is not None]
        if not against and len(usable) < MIN_SETTINGS:
            reason = f"only {len(usable)} pairs have a positive D_t or a bound of one"
            against = [Refusal(quantity=what, code="TOO_FEW_PAIRS_FOR_EXPONENTS", reason=reason)]
        refusals += against
        if not against:
            laws.append(_law(usable, seed))
    return tuple(laws), tuple(refusals)


def condition_number(columns: FloatArray) -> float:
    """Ratio of the largest to the smallest singular value of standardised columns float64[n, k]; inf where one is
    constant.

    **Source:** Belsley, Kuh & Welsch 1980.
    """
    spread = columns.std(axis=0)
    if len(columns) < columns.shape[1] + 1 or (spread < 1e-9).any():
        return math.inf
    values = np.linalg.svd((columns - columns.mean(axis=0)) / spread, compute_uv=False)
    return float(values[0] / values[-1]) if values[-1] > 1e-12 * values[0] else math.inf


def design_refusals(settings: Sequence[tuple[float, float]], what: str) -> list[Refusal]:
    """What stands against exponents from these (D_f, N)."""
    different = np.unique(np.round(np.log(np.array(settings)), 2), axis=0)
    condition = condition_number(different)
    facts = (
        f"{len(different)} different (N, D_f), condition number of ln D_f and ln N {condition:.3g}; at least "
        f"{MIN_SETTINGS} settings with a condition number below {MAX_CONDITION:.0f} would identify them"
    )
    codes = ["TOO_FEW_PAIRS_FOR_EXPONENTS"] if len(different) < MIN_SETTINGS else []
    codes += ["COLLINEAR_DESIGN"] if condition > MAX_CONDITION else []
    return [Refusal(quantity=what, code=code, reason=facts) for code in codes]


def _mixed_overlap(pairs: Sequence[TransferPair], what: str) -> list[Refusal]:
    overlaps = Counter(pair.overlap for pair in pairs)
    if len(overlaps) < 2:
        return []
    counts = ", ".join(f"{overlaps[kind]} {kind}" for kind in sorted(overlaps))
    reason = f"the pairs differ in whether the target was trained on its source's data ({counts})"
    return [Refusal(quantity=what, code="MIXED_OVERLAP", reason=reason)]


def _logs(pair: TransferPair) -> tuple[float, int] | None:
    """Ln D_t or of its bound, and how it is censored; None where nothing positive is known."""
    if pair.D_t is not None and pair.D_t > 0:
        return math.log(pair.D_t), 0
    if pair.D_t is None and pair.D_t_low is not None and pair.D_t_low > 0:
        return math.log(pair.D_t_low), 1
    if pair.D_t_high is not None and pair.D_t_high > 0:
        return math.log(pair.D_t_high), -1
    return None


def _design(pairs: Sequence[MeasuredPair]) -> _Design:
    logs = [found for one in pairs if (found := _logs(one.pair)) is not None]
    return _Design(
        log_D=np.log([one.pair.D for one in pairs]),
        log_N=np.log([one.pair.N for one in pairs]),
        log_source=np.log([max(one.pair.D_source, 1.0) for one in pairs]),
        log_D_t=np.array([value for value, _ in logs]),
        censored=np.array([float(side) for _, side in logs]),
    )


def _law(pairs: Sequence[MeasuredPair], seed: int) -> FittedLaw:
    design = _design(pairs)
    targets, weights = _resamples(pairs, design, seed)
    theta, sd = censored_lines(design.columns, targets, design.censored, weights)
    limited = _limited(design, targets, weights, theta[0])
    if limited is not None:
        theta, sd = limited, np.sqrt(np.mean(_misfit(design, limited[:1]) ** 2, axis=1))
    intervals = [_interval(theta[:, i]) for i in range(theta.shape[1])]
    first = pairs[0].pair
    record = TransferLaw(
        source_objective=first.source_objective,
        objective=first.objective,
        D0=math.exp(design.log_D.mean()),
        N0=math.exp(design.log_N.mean()),
        k=_exponential(intervals[0]),
        a=intervals[1],
        b=intervals[2],
        residual_sd=float(sd[0]),
        n_pairs=len(pairs),
        n_censored=int((design.censored != 0).sum()),
        condition=condition_number(design.columns[:, 1:]),
        rate=_exponential(intervals[3]) if limited is not None else None,
    )
    both = theta[1 : 1 + _DRAWS] + theta[1 + _DRAWS :] - theta[0]
    return FittedLaw(record, np.concatenate([theta[:1], both]))


def _resamples(pairs: Sequence[MeasuredPair], design: _Design, seed: int) -> tuple[FloatArray, FloatArray]:
    """Ln D_t and weights float64[1 + 2 B, n]: the pairs as they are, B resamples of them, and B samples of their D_t.

    A pair's samples of D_t hold noise that the scatter of the pairs holds too, so the two are not drawn at once.
    """
    rng = np.random.default_rng([seed, 11])
    n = len(pairs)
    weights = rng.multinomial(n, np.full(n, 1.0 / n), size=_DRAWS).astype(np.float64)
    # A resample of too few settings has no exponents of its own: the pairs stay as they are.
    good = [condition_number(design.columns[w > 0, 1:]) < 10.0 * MAX_CONDITION for w in weights]
    weights = np.where(np.array(good)[:, None], weights, 1.0)
    drawn = np.stack([one.draws[np.arange(_DRAWS) % len(one.draws)] for one in pairs], axis=1)
    usable = (drawn > 0) & np.isfinite(drawn) & (design.censored == 0)
    sampled = np.where(usable, np.log(np.where(usable, drawn, 1.0)), design.log_D_t)
    as_read = np.repeat(design.log_D_t[None], 1 + _DRAWS, axis=0)
    return np.concatenate([as_read, sampled]), np.concatenate([np.ones((1, n)), weights, np.ones((_DRAWS, n))])


def _interval(draws: FloatArray) -> Interval:
    """The estimate with the wider of two intervals at either end: resampled pairs, and samples of their D_t."""
    value = float(draws[0])
    ends = [percentile_interval(value, part) for part in (draws[1 : 1 + _DRAWS], draws[1 + _DRAWS :])]
    return Interval(value=value, low=min(end.low for end in ends), high=max(end.high for end in ends))


def _rows(design: _Design) -> Rows:
    return Rows(design.columns[:, 2], design.columns[:, 1], design.log_source)


def _misfit(design: _Design, theta: FloatArray) -> FloatArray:
    return np.asarray(log_loss(LIMITED, theta, _rows(design)) - design.log_D_t)


def _limited(design: _Design, targets: FloatArray, weights: FloatArray, start: FloatArray) -> FloatArray | None:
    """Ln k, a, b and ln rate float64[B, 4], where sources vary apart from D_f and N and both limits are felt."""
    sources = np.stack([design.columns[:, 1], design.columns[:, 2], design.log_source], axis=1)
    if design.censored.any() or len(design.log_D) < MIN_LIMITED or condition_number(sources) > MAX_CONDITION:
        return None
    theta = fit_limited(_rows(design), targets, weights, start)
    spread = np.quantile(theta[1:, [0, 3]], [0.025, 0.975], axis=0)
    return theta if (spread[1] - spread[0] < math.log(100.0)).all() else None


def _exponential(interval: Interval) -> Interval:
    low, value, high = (math.exp(min(end, 700.0)) for end in (interval.low, interval.value, interval.high))
    return Interval(value=value, low=low, high=high)


def censored_lines(
    columns: FloatArray, targets: FloatArray, censored: FloatArray, weights: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Maximum likelihood of normal linear regressions whose targets may be bounds, many at once.

    Parameters
    ----------
    columns : float64[n, p]. targets : values or bounds, float64[B, n]. weights : float64[B, n].
    censored : 0 known, 1 the value is at least the target, -1 at most, float64[n].

    Returns
    -------
    Coefficients float64[B, p] and standard deviations float64[B].

    **Source:** Tobin 1958; Dempster, Laird & Rubin 1977 (expectation maximisation).
    """
    gram = np.einsum("bn,ni,nj->bij", weights, columns, columns)
    gram = gram + 1e-12 * np.trace(gram, axis1=1, axis2=2)[:, None, None] * np.eye(columns.shape[1])
    total = weights.sum(axis=1)
    filled, extra = targets.copy(), np.zeros_like(targets)
    theta, sd = np.zeros((len(targets), columns.shape[1])), np.ones(len(targets))
    for _ in range(_EM_STEPS):
        new = np.linalg.solve(gram, ((weights * filled) @ columns)[:, :, None])[:, :, 0]
        squares = (filled - new @ columns.T) ** 2 + extra
        sd = np.sqrt(np.maximum((weights * squares).sum(axis=1) / total, 1e-12))
        moved, theta = np.abs(new - theta).max(), new
        if not censored.any() or moved < 1e-7:
            break
        filled, extra = _expected(theta @ columns.T, sd[:, None], targets, censored)
    return theta, sd


def _expected(
    mean: FloatArray, sd: FloatArray, targets: FloatArray, censored: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Expected values and variances of the targets given what is known of them, float64[B, n]."""
    from scipy.special import log_ndtr

    t = censored * (targets - mean) / sd
    hazard = np.exp(-0.5 * t * t - 0.5 * math.log(2.0 * math.pi) - log_ndtr(-t))
    filled = np.where(censored == 0, targets, mean + censored * sd * hazard)
    extra = np.where(censored == 0, 0.0, sd**2 * np.clip(1.0 + t * hazard - hazard**2, 0.0, 1.0))
    return filled, extra
