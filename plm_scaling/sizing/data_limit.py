"""What U unique tokens allow: when to stop early, shrink the model, or add tokens instead of compute."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final, Literal

import numpy as np

from plm_scaling.core.errors import RefusedError
from plm_scaling.core.records import Record
from plm_scaling.core.units import format_count
from plm_scaling.sizing.decision_wording import unseen_repeats
from plm_scaling.sizing.spending import (
    Allocation,
    Spending,
    allocation_at,
    best_allocation,
    can_turn,
    search_ensemble,
)

__all__ = ["DataLimit", "LimitKey", "data_limit", "unique_tokens_wanted"]

LimitKey = Literal["fresh", "repeat", "stop_early", "shrink"]

_ENOUGH: Final = 1.05
_CHANGED: Final = 0.9
"""A size or a spending below this share of the other counts as smaller."""
_GAIN: Final = 1e-4
_ABSURD: Final = 1.0
"""Nats beyond which a penalty says no more than that it is large."""
_RICHER: Final = (1.0, 30.0, 1e3, 3e4)
_DECADES: Final = 5.0
WANTED_NATS: Final = 0.01
_WANTED_STEP: Final = 0.02
"""Of ln U."""
_WANTED_DRAWS: Final = 30


class DataLimit(Record):
    """The best that can be done with the unique tokens at hand, against spending everything as if they were more."""

    key: LimitKey
    """fresh: tokens suffice; repeat: spend all, over several epochs; stop_early: the last of the compute would hurt;
    shrink: it is best spent on a smaller model."""
    unique_tokens: float
    N: float
    D: float
    epochs: float
    C: float
    """6 N D of the best run."""
    used: float
    """Share of the money that it takes."""
    loss: float
    """Mean over draws x forms, nats per token."""
    N_unlimited: float
    """Best size if every token were new."""
    loss_unlimited: float
    loss_if_kept: float
    """With N_unlimited and all the money spent on these tokens."""
    loss_if_spent: float
    """With all the money spent, at the size that is best then."""
    p_stop: float
    """Weight of the draws x forms whose own best run leaves money unspent."""
    C_useful: float | None = None
    """More than this many FLOPs these tokens cannot use; None where the laws name no limit."""
    tokens_wanted: float | None = None
    """Unique tokens with which repeats would cost the best run of unlimited data 0.01 nats."""
    sentences: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


def data_limit(spending: Spending, best: Allocation | None = None) -> DataLimit:
    """The best run on the unique tokens at hand, and what goes wrong if they are taken for more than they are.

    Raises
    ------
    RefusedError : the unique tokens were not stated.

    **Source:** the budget is read as "at most C": with a penalty on repeats (Lovelace et al. 2026) the lowest loss may
    lie inside it; with decaying repeats (Muennighoff et al. 2023) it never does.
    """
    if spending.unique_tokens is None:
        raise RefusedError("no unique tokens were stated", hint="say how many distinct training tokens you have")
    alone = replace(spending, sources=())
    best = best if best is not None and not best.taken else best_allocation(alone)
    forced = best_allocation(replace(alone, spend_all=True)) if can_turn(spending.ensemble) else best
    free = best_allocation(replace(alone, unique_tokens=None))
    kept = allocation_at(alone, free.N, free.D)
    useful = _useful_compute(alone)
    found = DataLimit(
        key=_key(best, free),
        unique_tokens=spending.unique_tokens,
        N=best.N,
        D=best.D,
        epochs=best.D / spending.unique_tokens,
        C=best.C,
        used=best.used,
        loss=_mean(spending, best),
        N_unlimited=free.N,
        loss_unlimited=_mean(spending, free),
        loss_if_kept=_mean(spending, kept),
        loss_if_spent=_mean(spending, forced),
        p_stop=_share_that_stops(alone),
        C_useful=useful,
        tokens_wanted=unique_tokens_wanted(alone, free),
        flags=_flags(alone, best),
    )
    return found.model_copy(update={"sentences": _sentences(found)})


def unique_tokens_wanted(spending: Spending, free: Allocation | None = None, *, within: float = WANTED_NATS) -> float:
    """Unique tokens with which the best run of unlimited data loses no more than so many nats to repeats.

    At most the tokens of that run, where none is repeated.

    Parameters
    ----------
    free : the best run of unlimited data, where it is known.
    """
    alone = replace(spending, sources=(), ensemble=search_ensemble(spending.laws, _WANTED_DRAWS), unique_tokens=None)
    free = free or best_allocation(alone)

    def loss(unique: float | None) -> float:
        found = allocation_at(replace(alone, unique_tokens=unique), free.N, free.D)
        return _mean(alone, found)

    goal = loss(None) + within
    low, high = math.log(free.D) - _DECADES * math.log(10.0), math.log(free.D)
    while high - low > _WANTED_STEP:
        middle = 0.5 * (low + high)
        low, high = (low, middle) if loss(math.exp(middle)) <= goal else (middle, high)
    return math.exp(high)


def _flags(alone: Spending, best: Allocation) -> tuple[str, ...]:
    """SIZE_AT_END: only the largest size that the laws may be asked for holds the model back."""
    known = tuple(flag for flag in alone.ensemble.flags if flag in ("TEXT_REPEATS", "NO_DRAWS", "TEXT_LAW"))
    return (*known, *(("SIZE_AT_END",) if alone.N is None and 0.99 * alone.largest_N < best.N else ()))


def _mean(spending: Spending, found: Allocation) -> float:
    return float((spending.laws.draw_weights @ found.losses).mean())


def _key(best: Allocation, free: Allocation) -> LimitKey:
    assert best.unique_tokens is not None
    if _ENOUGH * best.unique_tokens >= best.D and best.used > _CHANGED:
        return "fresh"
    if best.used < _CHANGED:
        return "stop_early"
    return "shrink" if best.N < _CHANGED * free.N else "repeat"


def _useful_compute(alone: Spending) -> float | None:
    """FLOPs of the best run if money were no object; None where it would still spend all of it."""
    if not can_turn(alone.ensemble):
        return None
    for factor in _RICHER:
        found = best_allocation(replace(alone, usd=factor * alone.usd))
        if found.used < _CHANGED:
            return found.C
    return None


def _share_that_stops(alone: Spending) -> float:
    """Weight of the draws whose lowest loss over size and compute lies inside the budget."""
    if not can_turn(alone.ensemble):
        return 0.0
    few = search_ensemble(alone.laws, 16)
    sizes = np.array([alone.N]) if alone.N else np.geomspace(1e6, alone.largest_N, 85)
    used = np.exp(-np.linspace(0.0, 8.0, 25))
    N, share = (axis.ravel() for axis in np.meshgrid(sizes, used, indexing="ij"))
    losses = few.losses(N, alone.usd * share / alone.price.usd(N), alone.unique_tokens)
    losses = np.where(np.isfinite(losses), losses, np.inf)
    spent = losses[:, share == 1.0].min(axis=1)
    return float(few.draw_weights @ (losses.min(axis=1) < spent - _GAIN))


def _sentences(found: DataLimit) -> tuple[str, ...]:
    U = format_count(found.unique_tokens, 2)
    said = []
    if found.key == "stop_early":
        cost = found.loss_if_spent - found.loss
        said.append(
            f"stop early: the best run takes {100 * found.used:.2g} % of the money ({found.epochs:.1f} epochs of {U} "
            f"unique tokens at {format_count(found.N, 2)} parameters); spending the rest "
            + (f"costs {cost:.3f} nats." if cost < _ABSURD else "ruins the model.")
        )
    elif found.key == "shrink":
        said.append(
            f"shrink the model: {format_count(found.N, 2)} parameters on these tokens, not the "
            f"{format_count(found.N_unlimited, 2)} that unlimited data would ask for."
        )
    elif found.key == "repeat":
        said.append(
            f"{found.epochs:.1f} epochs over {U} unique tokens: {found.loss - found.loss_unlimited:.3f} nats above "
            "what as many new tokens would reach."
        )
    if unseen := unseen_repeats(found.epochs):
        said.append(unseen)
    if said and found.tokens_wanted is not None and found.tokens_wanted > found.unique_tokens:
        said.append(
            f"with {format_count(found.tokens_wanted, 2)} unique tokens repeats would cost this budget no more than "
            f"{WANTED_NATS} nats."
        )
    if found.C_useful is not None:
        said.append(
            f"your unique data cannot use more than about {found.C_useful:.1e} FLOPs; beyond that add tokens, not "
            "compute."
        )
    if "SIZE_AT_END" in found.flags:
        said.append(
            "the laws would go on to larger models than they can be asked about: repeats alone decide the size."
        )
    if found.key != "stop_early" and found.p_stop > 0.1:
        said.append(f"{found.p_stop:.0%} of the laws would stop earlier.")
    return tuple(said)
