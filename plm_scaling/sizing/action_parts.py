"""Actions that train on one's own tokens: from scratch, with more tokens, after a phase of the other objective."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.run import Objective
from plm_scaling.core.units import format_count
from plm_scaling.laws.interval import Interval, normal_strata
from plm_scaling.laws.zoo import find_law
from plm_scaling.sizing.action import Action, ActionKey, Coefficient, group_name
from plm_scaling.sizing.law_ensemble import TokenDecay
from plm_scaling.sizing.marginal import break_even_price
from plm_scaling.sizing.own_sequences import OwnSequences
from plm_scaling.sizing.phase_split import PhaseSplit
from plm_scaling.sizing.spending import (
    Allocation,
    Spending,
    best_allocation,
    loss_interval,
    run_interval,
)
from plm_scaling.sizing.token_source import TokenSource
from plm_scaling.sizing.unique_data import UNSEEN_EPOCHS
from plm_scaling.transfers.transfer_fit import SourceShare, TransferFit

__all__ = ["STRATA", "Candidate", "Situation", "group_of", "law_coefficients", "own_actions"]

FloatArray = npt.NDArray[np.float64]

STRATA: Final = 8
PUBLISHED_RATE: Final = Interval(value=math.sqrt(1.7 * 3.5), low=1.7, high=3.5, level=0.8)
"""MLM tokens that a CLM token was worth in the three published pairs (34M-202M, unrepeated data, share 9-19 %); their
range is read as an 80 % interval. **Source:** Cheng et al. 2024, released logs."""
_PUBLISHED_SHARE: Final = 0.19
_WORST_RATE: Final = 0.7
"""Where a rate was not measured (other sizes, repeated data) its interval reaches below its compute: an assumption."""
_PUBLISHED_N: Final = (3.4e7, 2.02e8)
_FULL: Final = 0.98


@dataclass(frozen=True)
class Situation:
    """One objective's budget, laws and data, and what is known of other roads to it."""

    objective: Objective
    spending: Spending
    """Its sources are what can be bought or generated."""
    transfer: TransferFit | None = None
    """Own pairs of source and target runs; None takes the released pairs (CLM -> MLM alone)."""
    public_losses: dict[str, float] = field(default_factory=dict)
    """Losses of public models, by name, measured on the validation set of the laws, nats per token."""
    teacher: str = ""
    """Public model to distil; empty: the largest listed one of this objective whose tokens are known."""
    teacher_free: bool = True
    unverified: bool = False
    """Rank what rests on coefficients nobody has checked."""
    own: OwnSequences | None = None
    """Proprietary sequences: adaptation data."""


@dataclass(frozen=True)
class Candidate:
    """An action with its losses by draw and stratum, float64[K, S]; None where no law states them."""

    action: Action
    losses: FloatArray | None = None


def group_of(situation: Situation) -> str:
    """The scale that losses of this situation are on."""
    return group_name(situation.objective, situation.spending.ensemble.validation_id)


def law_coefficients(situation: Situation) -> tuple[Coefficient, ...]:
    """Where the law of the loss and that of repeats come from."""
    laws = situation.spending.ensemble
    made = [Coefficient(name="law of the loss", status=laws.status, source=laws.source)]
    repeats = laws.repeats
    if repeats is None or situation.spending.unique_tokens is None:
        return tuple(made)
    if isinstance(repeats, TokenDecay):
        made.append(Coefficient(name="R_D", value=repeats.R_D, status=repeats.status, source=repeats.source))
    else:
        made.append(Coefficient(name=f"law of repeats ({repeats.form})", status=laws.status, source=laws.source))
    return tuple(made)


def own_actions(situation: Situation) -> list[Candidate]:
    """From scratch first; then what needs more tokens, or a first phase of the other objective."""
    scratch = best_allocation(replace(situation.spending, sources=()))
    made = [_scratch(situation, scratch), *_with_sources(situation, scratch)]
    if (transfer := _transfer(situation, scratch)) is not None:
        made.append(transfer)
    elif situation.transfer is not None:
        title, why = "a first phase of the other objective", "your pairs tell no share of the compute to spend on it"
        said = ("transfer needs scratch and transferred runs whose source compute is known",)
        made.append(Candidate(_bare(situation, "transfer", title, why, said)))
    return made


def _allocated(
    situation: Situation, key: ActionKey, title: str, found: Allocation, assumptions: tuple[str, ...], **more: object
) -> Candidate:
    flags = [flag for flag in situation.spending.ensemble.flags if flag in ("TEXT_LAW", "TEXT_REPEATS", "NO_DRAWS")]
    if (found.epochs or 0.0) > UNSEEN_EPOCHS:
        flags.append("REPEATS_UNSEEN")
    if found.used < _FULL:
        flags.append("STOPS_EARLY")
        assumptions += (f"stops at {found.used:.0%} of the money: on these tokens longer training makes it worse",)
    action = Action(
        key=key,
        name=key,
        title=title,
        objective=situation.objective,
        group=group_of(situation),
        N=found.N,
        D=found.D,
        unique_tokens=found.unique_tokens,
        epochs=found.epochs,
        C=found.C,
        gpu_hours=found.gpu_hours,
        usd=found.usd,
        usd_data=found.usd_data,
        loss=loss_interval(situation.spending, found),
        assumptions=assumptions,
        coefficients=law_coefficients(situation),
        flags=tuple(flags),
    )
    return Candidate(action.model_copy(update=more), found.losses)


def _scratch(situation: Situation, found: Allocation) -> Candidate:
    said = (
        "the laws hold at this size and these tokens, for one run at the recipe of their runs",
        *(("every token is new",) if situation.spending.unique_tokens is None else ()),
    )
    title = f"train {format_count(found.N, 2)} parameters from scratch"
    return _allocated(situation, "scratch", title, found, said)


def _with_sources(situation: Situation, scratch: Allocation) -> list[Candidate]:
    """More tokens of every kind on offer, and of all kinds together."""
    spending = situation.spending
    if spending.unique_tokens is None:
        return []
    made = []
    for kind, key in (("sequenced", "more_data"), ("generated", "synthetic")):
        offered = tuple(source for source in spending.sources if source.kind == kind)
        made.append(_sourced(situation, key, offered) if offered else _unpriced(situation, key, scratch))  # type: ignore[arg-type]
    if len({source.kind for source in spending.sources}) > 1:
        mixed = _sourced(situation, "mixed_sources", spending.sources)
        if not mixed.action.ruled_out and mixed.action.title.count(" of ") > 1:
            made.append(mixed)
    return made


def _sourced(situation: Situation, key: ActionKey, offered: tuple[TokenSource, ...]) -> Candidate:
    spending = replace(situation.spending, sources=offered)
    found = best_allocation(spending)
    verbs = {"more_data": "buy or sequence", "synthetic": "generate", "mixed_sources": "add"}
    parts = [
        f"{format_count(tokens, 2)} of {source.name}"
        for source, tokens in zip(offered, found.taken, strict=True)
        if tokens > 1e-3 * (spending.unique_tokens or 0.0)
    ]
    title = f"{verbs[key]} {' and '.join(parts) or 'nothing'}, train {format_count(found.N, 2)} parameters"
    said = tuple(
        f"one token of {source.name} is worth {source.rho.value:.2g} target tokens "
        f"({source.rho.low:.2g}-{source.rho.high:.2g}) and costs ${source.usd_per_token:.3g}"
        for source in offered
    )
    rates = tuple(
        Coefficient(name=f"rho of {s.name}", value=s.rho.value, status=s.status, source=s.evidence or "as stated")
        for s in offered
    )
    unverified = any(source.status == "unverified" for source in offered)
    ruled_out = "its exchange rate is unverified" if unverified and not situation.unverified else ""
    ruled_out = ruled_out if parts else "at this price and rate none is worth taking"
    candidate = _allocated(
        replace(situation, spending=spending),
        key,
        title,
        found,
        (*said, "every distinct token is visited equally often"),
    )
    flags = dict.fromkeys((*candidate.action.flags, *(flag for source in offered for flag in source.flags)))
    update = {
        "coefficients": (*candidate.action.coefficients, *rates),
        "flags": (*flags, *(("UNVERIFIED",) if unverified else ())),
        "ruled_out": ruled_out,
    }
    return replace(candidate, action=candidate.action.model_copy(update=update))


def _unpriced(situation: Situation, key: ActionKey, scratch: Allocation) -> Candidate:
    """An action that nobody has priced or measured: what it would have to cost, and how to find out."""
    if key == "more_data":
        price = break_even_price(replace(situation.spending, sources=()), scratch)
        title, why = "buy or sequence more tokens", "no price of a token was given"
        limit = f"pays below ${1e6 * price.value:.3g} per million unique tokens" if price else "compute is no rival"
        said: tuple[str, ...] = (limit,)
    else:
        title, why = "generate sequences and train on them", "no exchange rate of generated tokens was measured"
        said = ("whether generated tokens help is an experiment: fit rho to diversity runs with a generated source",)
    return Candidate(_bare(situation, key, title, why, said))


def _bare(situation: Situation, key: ActionKey, title: str, why: str, said: tuple[str, ...]) -> Action:
    return Action(
        key=key,
        name=key,
        title=title,
        objective=situation.objective,
        group=group_of(situation),
        ruled_out=why,
        assumptions=said,
    )


@dataclass(frozen=True)
class _Rate:
    """What a first phase of the other objective is worth."""

    rho: Interval
    most: float
    """Largest share that was tried."""
    limit: tuple[float, float, float]
    """k, a, b of k D_f^a N^b; k is inf where no law limits it."""
    coefficients: tuple[Coefficient, ...]
    assumptions: tuple[str, ...]
    flags: tuple[str, ...]


def _transfer(situation: Situation, scratch: Allocation) -> Candidate | None:
    """The best split of the compute between the other objective and this one, at the size of the scratch run.

    **Source:** L(N, D_f + D_t) over the share, 1/D_t = 1/(k D_f^a N^b) + 1/(rho D_source).
    """
    measured = _rate_of(situation, scratch)
    if measured is None:
        return None
    rate = _doubted(measured, situation, scratch)
    spending, N = situation.spending, scratch.N
    D = scratch.D
    shares = np.linspace(0.0, rate.most, 21)
    source = TokenSource(name="source", rho=rate.rho)
    z = np.roll(normal_strata(STRATA), 3)
    splits = [PhaseSplit(N, D, *rate.limit, source.rho_at(float(quantile))) for quantile in z]
    tokens = np.array([[split.tokens(float(share)) for split in splits] for share in shares])
    tokens = np.maximum(tokens, 1e-3 * D)
    laws = spending.laws
    losses = laws.losses(N, tokens.ravel(), spending.unique_tokens).reshape(-1, *tokens.shape)
    means = np.tensordot(laws.draw_weights, losses, 1).mean(axis=1)
    at = int(np.argmin(means))
    share = float(shares[at])
    per_draw = shares[losses.mean(axis=2).argmin(axis=1)]
    low, high = (float(q) for q in np.quantile(per_draw, [0.1, 0.9], method="inverted_cdf"))
    first = "CLM" if situation.objective == "mlm" else "MLM"
    flags = list(rate.flags)
    flags += ["SHARE_AT_EDGE"] if at == len(shares) - 1 else []
    title = (
        f"{first} for {share:.0%} of the compute, then {situation.objective.upper()}, {format_count(N, 2)} parameters"
    )
    found = _allocated(situation, "transfer", title, scratch, ())
    return Candidate(
        found.action.model_copy(
            update={
                "loss": run_interval(laws, losses[:, at], float(means[at]), 6.0 * N * D),
                "share": Interval(value=share, low=min(low, share), high=max(high, share), level=0.8),
                "assumptions": rate.assumptions,
                "coefficients": (*found.action.coefficients, *rate.coefficients),
                "flags": tuple(dict.fromkeys((*found.action.flags, *flags))),
                "ruled_out": "" if share > 0 else "a first phase is not worth its compute at this rate",
            }
        ),
        losses[:, at],
    )


def _less_sure(rate: Interval) -> Interval:
    """A rate beyond what it was measured on: half-way, in the logarithm, between not paying and its upper end."""
    if rate.low <= _WORST_RATE:
        return rate
    return rate.model_copy(update={"low": _WORST_RATE, "value": math.sqrt(_WORST_RATE * rate.high)})


def _doubted(rate: _Rate, situation: Situation, scratch: Allocation) -> _Rate:
    """With the flags and the width that this budget calls for."""
    flags = rate.flags
    if (situation.spending.unique_tokens or math.inf) < scratch.D:
        flags += ("UNTESTED_ON_REPEATS",)
    if not flags:
        return rate
    said = f"not measured at this size or on repeated data: down to {_WORST_RATE:g} is allowed for"
    return replace(rate, rho=_less_sure(rate.rho), flags=flags, assumptions=(*rate.assumptions, said))


def _rate_of(situation: Situation, scratch: Allocation) -> _Rate | None:
    if situation.transfer is not None:
        return _measured_rate(situation, situation.transfer, scratch)
    if situation.objective != "mlm":
        return None
    law = find_law("cheng-transfer")
    numbers = tuple(law.params[name] for name in ("k", "a", "b"))
    D_f = (1.0 - _PUBLISHED_SHARE) * scratch.D
    credit = law.answer({"N": scratch.N, "D_f": D_f})["D_t"]
    inside = _PUBLISHED_N[0] <= scratch.N <= _PUBLISHED_N[1]
    said = (
        f"a CLM token is worth {PUBLISHED_RATE.low:g}-{PUBLISHED_RATE.high:g} MLM tokens, as in the three released "
        "pairs (34M-202M, unrepeated data, CLM share 9-19 %); larger shares were not tried",
        f"the published law of transfer (unverified) would credit at most {format_count(credit, 2)} tokens"
        + (", counted here" if situation.unverified else ", not counted here"),
    )
    rate = Coefficient(
        name="rho (CLM -> MLM)",
        value=PUBLISHED_RATE.value,
        status="measured",
        source="Cheng et al. 2024, released logs, three pairs",
    )
    zoo = tuple(
        Coefficient(name=f"{name} of cheng-transfer", value=law.params[name], status=law.status, source=law.source)
        for name in ("k", "a", "b")
    )
    limit = (numbers[0], numbers[1], numbers[2]) if situation.unverified else (math.inf, 0.0, 0.0)
    flags = () if inside else ("RATE_EXTRAPOLATED",)
    return _Rate(PUBLISHED_RATE, _PUBLISHED_SHARE, limit, (rate, *(zoo if situation.unverified else ())), said, flags)


def _measured_rate(situation: Situation, fit: TransferFit, scratch: Allocation) -> _Rate | None:
    """The own pair nearest in size; limited by the own law of D_t where the design identified one."""
    own = [share for share in fit.shares if share.objective == situation.objective]
    if not own:
        return None
    near: SourceShare = min(own, key=lambda share: abs(math.log(share.N / scratch.N)))
    law = next(
        (
            one
            for one in fit.laws
            if one.rate is not None and (one.source_objective, one.objective) == (near.source_objective, near.objective)
        ),
        None,
    )
    sizes = [share.N for share in own]
    flags = () if min(sizes) / 1.5 <= scratch.N <= 1.5 * max(sizes) else ("RATE_EXTRAPOLATED",)
    rate = Coefficient(
        name=f"rho ({near.source_objective.upper()} -> {near.objective.upper()})",
        value=near.rate.value,
        status="measured",
        source=f"own pair {near.target_run_id}",
    )
    if law is None or law.rate is None:
        said = (
            f"a source token is worth {near.rate.value:.2g} target tokens ({near.rate.low:.2g}-{near.rate.high:.2g}), "
            f"as in the own pair of {format_count(near.N, 2)} parameters; its share, {near.share_tried:.0%}, is the "
            "largest tried",
        )
        return _Rate(near.rate, near.share_tried, (math.inf, 0.0, 0.0), (rate,), said, flags)
    k = law.k.value * math.exp(-law.a.value * math.log(law.D0) - law.b.value * math.log(law.N0))
    said = (f"D_t follows the own law of {law.n_pairs} pairs, at most {law.rate.value:.2g} tokens per source token",)
    return _Rate(law.rate, 0.9, (k, law.a.value, law.b.value), (rate,), said, flags)
