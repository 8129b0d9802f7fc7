"""From a budget and what a user has to the situations that actions are compared in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, cast

from plm_scaling.core.errors import ConfigError, RefusedError, did_you_mean
from plm_scaling.core.run import Objective
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.laws.zoo import PublishedLaw
from plm_scaling.sizing.action_parts import Situation
from plm_scaling.sizing.chosen_laws import choose_laws
from plm_scaling.sizing.costs import (
    ATTENDED_TOKENS,
    Budget,
    Hardware,
    bill_for,
    gpu_named,
    load_hardware,
    mfu_at_width,
    throughput_for,
)
from plm_scaling.sizing.decision import refuse_far
from plm_scaling.sizing.law_ensemble import LawEnsemble
from plm_scaling.sizing.null_actions import public_model
from plm_scaling.sizing.own_sequences import AdaptedRun, OwnSequences
from plm_scaling.sizing.spending import Spending, best_allocation, search_ensemble
from plm_scaling.sizing.token_source import TokenSource
from plm_scaling.sizing.tornado import Fixed
from plm_scaling.sizing.training_price import price_per_flop, training_price
from plm_scaling.transfers.transfer_fit import TransferFit

__all__ = ["Purchase", "ensemble_for", "make_situations", "spending_for"]


class Purchase(NamedTuple):
    """A budget as something to spend."""

    spending: Spending
    fixed: Fixed
    price: tuple[float, float, float] | None
    """Low, mid and high price of an accelerator hour; None where the user named one."""


def spending_for(
    budget: Budget,
    ensemble: LawEnsemble,
    *,
    gpu: str = "a100",
    hardware: Hardware | None = None,
    mfu: float | None = None,
    usd_per_gpu_hour: float | None = None,
    attended_tokens: float = ATTENDED_TOKENS,
    unique_tokens: float | None = None,
    sources: Sequence[TokenSource] = (),
) -> Purchase:
    """The money of a budget, and what a token costs at every size on an accelerator.

    Hours are worth their mid price. FLOPs buy 6 N D of any size, at what they cost at the size that is best for them.

    Raises
    ------
    ConfigError : unknown accelerator.
    """
    hardware = hardware or load_hardware()
    card = gpu_named(gpu, hardware)

    def cost_of(N: float, D: float) -> tuple[float, float]:
        speed = throughput_for(N, card, hardware, mfu=mfu, attended_tokens=attended_tokens).flops_6nd_per_s
        hours = 6.0 * N * D / speed / 3600.0
        return hours, bill_for(hours, card, hardware, usd_per_gpu_hour=usd_per_gpu_hour).usd_mid

    range_ = None
    if usd_per_gpu_hour is None:
        range_ = (card.usd_per_hour.low, card.usd_per_hour.mid, card.usd_per_hour.high)
    taken = tuple(sources)
    if budget.flops is not None:
        few = Spending(search_ensemble(ensemble), price_per_flop(1.0), budget.flops, unique_tokens)
        N = best_allocation(few).N
        hours, usd = cost_of(N, budget.flops / (6.0 * N))
        price = price_per_flop(usd / budget.flops, budget.flops / hours)
        return Purchase(Spending(ensemble, price, usd, unique_tokens, taken), "flops", range_)
    hourly = bill_for(1.0, card, hardware, usd_per_gpu_hour=usd_per_gpu_hour).usd_mid
    money = budget.usd if budget.usd is not None else cast(float, budget.gpu_hours) * hourly
    spending = Spending(ensemble, training_price(cost_of), money, unique_tokens, taken)
    return Purchase(spending, "usd" if budget.usd is not None else "gpu_hours", range_)


def make_situations(
    budget: Budget,
    objectives: Sequence[str],
    *,
    laws: Sequence[PublishedLaw | LawFit] = (),
    gpu: str = "a100",
    hardware: Hardware | None = None,
    mfu: float | None = None,
    usd_per_gpu_hour: float | None = None,
    unique_tokens: float | None = None,
    sources: Sequence[TokenSource] = (),
    transfer: TransferFit | None = None,
    public_losses: Mapping[str, float] | None = None,
    teacher: str = "",
    teacher_free: bool = True,
    unverified: bool = False,
    own_tokens: float | None = None,
    own_length: float | None = None,
    own_runs: Sequence[AdaptedRun] = (),
    force: bool = False,
) -> tuple[tuple[Situation, ...], Purchase]:
    """One situation for each objective, and the first one's purchase.

    Parameters
    ----------
    objectives : clm, mlm, or both.
    laws : own fits and published laws with a loss; each objective takes the first of its own, or the released logs'.
    public_losses : losses of public models, by name, on the validation set of their objective's laws.
    own_tokens, own_length, own_runs : proprietary sequences: distinct tokens, tokens of one, what was measured on them.

    Raises
    ------
    ConfigError : no or an unknown objective, model or accelerator; a loss that cannot be.
    RefusedError : a law that states no loss, or runs 1.5 decades away from the budget (unless `force`).
    """
    if not objectives:
        raise ConfigError("no objective", hint="clm, mlm or both")
    losses = _checked_losses(public_losses or {})
    own = _own(own_tokens, own_length, own_runs, _exact_price(gpu, hardware, mfu, usd_per_gpu_hour))
    made, purchases = [], []
    for objective in dict.fromkeys(cast(Sequence[Objective], objectives)):
        ensemble = ensemble_for(objective, laws)
        purchase = spending_for(
            budget,
            ensemble,
            gpu=gpu,
            hardware=hardware,
            mfu=mfu,
            usd_per_gpu_hour=usd_per_gpu_hour,
            unique_tokens=unique_tokens,
            sources=sources,
        )
        C = best_allocation(_alone(purchase.spending)).C
        refuse_far(f"the {objective.upper()} laws", ensemble.range_C, C, force)
        purchases.append(purchase)
        made.append(
            Situation(
                objective=objective,
                spending=purchase.spending,
                transfer=transfer,
                public_losses={name: loss for name, loss in losses.items() if _is_of(name, objective)},
                teacher=teacher if teacher and _is_of(teacher, objective) else "",
                teacher_free=teacher_free,
                unverified=unverified,
                own=own,
            )
        )
    return tuple(made), purchases[0]


def _exact_price(
    gpu: str, hardware: Hardware | None, mfu: float | None, usd_per_gpu_hour: float | None
) -> Callable[[float, float], tuple[float, float]]:
    """(exact FLOPs, width) -> hours and dollars of one accelerator."""
    hardware = hardware or load_hardware()
    card = gpu_named(gpu, hardware)

    def price(flops: float, d_model: float) -> tuple[float, float]:
        used = mfu if mfu is not None else mfu_at_width(card, d_model, hardware.mfu_by_width)
        hours = flops / (card.peak_tflops * 1e12 * used) / 3600.0
        return hours, bill_for(hours, card, hardware, usd_per_gpu_hour=usd_per_gpu_hour).usd_mid

    return price


def _own(
    tokens: float | None,
    length: float | None,
    runs: Sequence[AdaptedRun],
    cost_of: Callable[[float, float], tuple[float, float]],
) -> OwnSequences | None:
    if tokens is None:
        if length is not None or runs:
            raise ConfigError("how many tokens your own sequences have was not said", hint="--proprietary-tokens 7e7")
        return None
    return OwnSequences(tokens, cost_of, ATTENDED_TOKENS if length is None else length, tuple(runs))


def _is_of(name: str, objective: Objective) -> bool:
    return public_model(name).objective == objective


def _checked_losses(losses: Mapping[str, float]) -> dict[str, float]:
    for name, loss in losses.items():
        if not (math.isfinite(loss) and loss > 0):
            raise ConfigError(
                f"the loss of {name} must be a positive number of nats per token", why=f"got {loss!r}", hint="2.41"
            )
    return dict(losses)


def ensemble_for(objective: str, laws: Sequence[PublishedLaw | LawFit] = ()) -> LawEnsemble:
    """The laws of an objective that state a loss: the first own one of `laws`, or the released logs' fits.

    Raises
    ------
    ConfigError : an unknown objective. RefusedError : a law that states no loss.
    """
    if objective not in ("clm", "mlm"):
        raise ConfigError(f"unknown objective {objective!r}", hint=did_you_mean(objective, ("clm", "mlm")))
    # A law of text stands in for this objective; its flag says so.
    return replace(_ensemble(cast(Objective, objective), laws), objective=objective)


def _alone(spending: Spending) -> Spending:
    return Spending(search_ensemble(spending.laws), spending.price, spending.usd, spending.unique_tokens)


def _ensemble(objective: Objective, laws: Sequence[PublishedLaw | LawFit]) -> LawEnsemble:
    own = [law for law in laws if law.objective in (objective, "text")]
    ensemble = choose_laws(objective, own or None, None).ensemble
    if ensemble is None:
        name = own[0].id if own and isinstance(own[0], PublishedLaw) else f"the {objective.upper()} fit"
        raise RefusedError(
            f"{name} states no loss, so that actions cannot be held against each other",
            why="a frontier says which size, not what is lost elsewhere",
            hint="a fit of your own, or no law for the released logs' fits",
        )
    return ensemble
