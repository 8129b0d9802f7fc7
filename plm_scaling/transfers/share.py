"""How much of a fixed budget to spend on the source.

At a total compute worth D target tokens, a share s buys the source and leaves D_f = (1 - s) D; the transferred run
then stands at D_f + D_t scratch tokens. Unless a law of D_t is identified, a source token is credited with the rate
that was measured and with no more; since the rate falls as sources grow, shares beyond the one measured are not
answered for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from plm_scaling.laws.forms import FloatArray, log_loss
from plm_scaling.laws.law_fit import Interval, Refusal
from plm_scaling.laws.surface import form_of, rows_at, surface_optimum, theta_draws, theta_of
from plm_scaling.transfers.curves import LossCurves, surface_curves
from plm_scaling.transfers.exponents import FittedLaw
from plm_scaling.transfers.limited import limited_tokens
from plm_scaling.transfers.mixture import MeasuredPair, interval_or_none, weighted_median
from plm_scaling.transfers.scratch_laws import LawMember, ScratchLaw, ScratchLaws
from plm_scaling.transfers.transfer_fit import SourceShare

__all__ = ["source_shares"]

_SHARES: Final = np.linspace(0.0, 0.9, 181)


@dataclass(frozen=True)
class _Choice:
    """The best share and the scratch tokens it amounts to, float64[1 + draws] each, the estimate first."""

    rate: FloatArray
    share: FloatArray
    tokens: FloatArray
    tried: float
    limited: bool


def source_shares(
    pairs: Sequence[MeasuredPair], laws: Sequence[FittedLaw], scratch: ScratchLaws
) -> tuple[tuple[SourceShare, ...], tuple[Refusal, ...]]:
    """The best source share at the size and the total compute of every pair, and what it gains.

    Two comparators at equal total compute: a scratch run of the same size, and one of the compute-optimal size. A
    rate of one or less in compute terms gives a share of zero. Refused: the source's compute or a scratch law missing.

    **Source:** L_M(N, D_f + D_t) minimised over the share, 1/D_t = 1/(k D_f^a N^b) + 1/(rate D_source).
    """
    shares, refusals = [], []
    for one in pairs:
        law = scratch.of(one.target)
        pair = one.pair
        if pair.D_t is None:
            continue
        if not pair.source_worth or not law.members:
            code, reason = "NO_SCRATCH_LAW", "the scratch runs determine no law to weigh sizes and tokens by"
            if not pair.source_worth:
                code, reason = "NO_SOURCE_COMPUTE", "the source's compute is unknown"
            what = f"best source share at {pair.target_run_id}"
            refusals.append(Refusal(quantity=what, code=code, reason=reason))
            continue
        fitted = next((f for f in laws if _same_direction(f, one) and f.law.rate is not None), None)
        shares.append(_share(one, law, _choose(one, fitted)))
    return tuple(shares), tuple(refusals)


def _same_direction(fitted: FittedLaw, one: MeasuredPair) -> bool:
    law, pair = fitted.law, one.pair
    return (law.source_objective, law.objective) == (pair.source_objective, pair.objective)


def _choose(one: MeasuredPair, fitted: FittedLaw | None) -> _Choice:
    """The share that leaves the target at the most scratch tokens: the loss falls with these alone."""
    pair = one.pair
    worth = pair.source_worth or math.nan
    total = pair.D + worth
    rate = np.concatenate([[(pair.D_t or 0.0) / worth], one.draws / worth])
    rate = np.clip(rate, -1e3, 1e3)
    if fitted is None:
        own = worth / total
        share = np.where(rate > 1.0, own, 0.0)
        return _Choice(rate, share, total * (1.0 + share * (rate - 1.0)), own, False)
    at = np.arange(len(rate)) % len(fitted.theta)
    x = math.log(pair.N / fitted.law.N0)
    with np.errstate(divide="ignore"):
        source = np.log(_SHARES * total * (pair.D_source / worth))
    D_f = (1.0 - _SHARES) * total
    tokens = D_f + limited_tokens(fitted.theta, x, np.log(D_f), fitted.law.D0, source)
    best = tokens.argmax(axis=1)
    reached = tokens[np.arange(len(tokens)), best]
    return _Choice(rate, _SHARES[best][at], reached[at], float(_SHARES[-1]), True)


def _share(one: MeasuredPair, law: ScratchLaw, choice: _Choice) -> SourceShare:
    pair = one.pair
    total = pair.D + (pair.source_worth or 0.0)
    parts = [_gains(one, member, choice, total) for member in law.members]
    weights = np.array([member.weight for member in law.members])
    same, best, N_best = (
        weighted_median(np.array([part[name][0] for part in parts]), weights) for name in ("same", "best", "N")
    )
    picked = np.arange(1, len(choice.rate))
    which = np.minimum(one.member, len(parts) - 1)
    drawn = {name: np.stack([part[name] for part in parts])[which, picked] for name in ("same", "best")}
    flags = ["NOT_WORTH_ITS_COMPUTE"] if choice.share[0] == 0 else []
    flags += ["SHARE_AT_EDGE"] if choice.share[0] >= choice.tried - 1e-9 else []
    share = _interval(float(choice.share[0]), choice.share[1:])
    flags += ["SHARE_OPEN"] if share.low == 0 < share.high else []
    range_N = law.members[0].surface.range_N
    if math.isfinite(N_best) and not range_N[0] <= N_best <= range_N[1]:
        flags.append("BEST_SIZE_OUT_OF_HULL")
    return SourceShare(
        target_run_id=pair.target_run_id,
        source_objective=pair.source_objective,
        objective=pair.objective,
        N=pair.N,
        C=6.0 * pair.N * total,
        rate=_interval(float(choice.rate[0]), choice.rate[1:]),
        law="saturating law" if choice.limited else "measured rate",
        share=share,
        share_tried=choice.tried,
        gain_same_N=_interval(same, drawn["same"]),
        gain_best_N=interval_or_none(best, np.nan_to_num(drawn["best"], nan=math.inf)),
        N_best=N_best if math.isfinite(N_best) else None,
        flags=tuple(flags),
    )


def _interval(value: float, draws: FloatArray) -> Interval:
    low, high = (float(q) for q in np.quantile(draws, [0.025, 0.975], method="inverted_cdf"))
    return Interval(value=value, low=min(low, value), high=max(high, value))


def _gains(one: MeasuredPair, member: LawMember, choice: _Choice, total: float) -> dict[str, FloatArray]:
    """Losses of the two comparators minus the loss at the chosen share, float64[1 + draws]; and the best size.

    One form of the law, shifted to the pair's scratch level; sample i of the form's own resample i.
    """
    surface, target, anchor = member.surface, one.target, one.question.anchor
    estimate, drawn = surface_curves(surface, target.N, math.log(target.D), target.batch_tokens)
    which = one.question.law_draws(len(drawn.log_loss))
    curves = LossCurves(estimate.log_D, np.concatenate([estimate.log_loss, drawn.log_loss[which]]))
    shift = 0.0 if anchor.kind == "law" else math.log(anchor.level) - curves.at(anchor.log_D)
    reached = np.exp(curves.at(np.log(choice.tokens)) + shift)
    scratch = np.exp(curves.at(math.log(total)) + shift)
    N, best = _at_best_size(member, 6.0 * target.N * total, target.batch_tokens)
    picked = np.concatenate([[0], 1 + which])
    return {"same": scratch - reached, "best": np.exp(best[picked] + shift) - reached, "N": N}


def _at_best_size(member: LawMember, C: float, batch_tokens: float | None) -> tuple[FloatArray, FloatArray]:
    """Compute-optimal N at C and ln loss there, float64[1 + B], the estimate first; NaN without a minimum."""
    surface = member.surface
    N, D = surface_optimum(surface, C, batch_tokens)
    known = np.isfinite(N)
    theta = np.concatenate([theta_of(surface), theta_draws(surface)])[known]
    rows = rows_at(surface, N[known], D[known], batch_tokens)
    loss = np.full(len(N), np.nan)
    loss[known] = [
        float(log_loss(form_of(surface), theta[i : i + 1], rows.take(np.array([i])))[0, 0]) for i in range(len(theta))
    ]
    return N, loss
