"""What a decision's money buys, at the prices and the speed that size.json was made with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from plm_scaling.core.errors import PlmScalingError, RefusedError
from plm_scaling.core.run import Objective
from plm_scaling.sizing.action import ActionTable
from plm_scaling.sizing.action_parts import Situation
from plm_scaling.sizing.actions import compare_actions
from plm_scaling.sizing.costs import bill_for, gpu_named, load_hardware, throughput_for
from plm_scaling.sizing.law_ensemble import LawEnsemble
from plm_scaling.sizing.marginal import MarginalValues, marginal_values
from plm_scaling.sizing.recommendation import Recommendation
from plm_scaling.sizing.spending import Spending
from plm_scaling.sizing.training_price import training_price
from plm_scaling.transfers.transfer_fit import TransferFit

__all__ = ["budget_spending", "priced_actions", "priced_values", "tried"]

_T = TypeVar("_T")
_ACTION_DRAWS: Final = 24
"""Draws of a form: nine actions of two objectives are then compared in a second or two."""


def tried(part: str, make: Callable[[], _T], omitted: dict[str, str]) -> _T | None:
    """A part of the page, or None with the reason in `omitted`."""
    if part in omitted:
        return None
    try:
        return make()
    except PlmScalingError as error:
        omitted[part] = f"Not computed: {error.what}" + (f" ({error.why})." if error.why else ".")
        return None


def budget_spending(sizing: Recommendation, law: LawEnsemble) -> Spending:
    """The budget of size.json as a sum of money.

    Raises
    ------
    RefusedError : it states no price.
    ConfigError : its accelerator is not in the hardware file.
    """
    if not sizing.usd or not sizing.gpu_hours:
        raise RefusedError("size.json states no price")
    hardware = load_hardware()
    gpu = gpu_named(sizing.gpu, hardware)
    usd_per_hour = sizing.usd / sizing.gpu_hours
    usual = throughput_for(sizing.N, gpu, hardware).mfu
    faster = (sizing.mfu or usual) / usual

    def cost_of(N: float, D: float) -> tuple[float, float]:
        speed = faster * throughput_for(N, gpu, hardware).flops_6nd_per_s
        bill = bill_for(6.0 * N * D / speed / 3600.0, gpu, hardware, usd_per_gpu_hour=usd_per_hour)
        return bill.gpu_hours, bill.usd_mid

    price, made = training_price(cost_of), sizing.decision
    # A plan that stops early leaves money unspent: the budget is what the plan's size could have cost.
    D = sizing.D if made is None else made.C_budget / (6.0 * made.N)
    return Spending(law, price, D * float(price.usd(sizing.N)), unique_tokens=sizing.unique_tokens)


def priced_values(sizing: Recommendation, law: LawEnsemble) -> MarginalValues:
    """What a dollar more buys; errors as `budget_spending`."""
    return marginal_values(budget_spending(sizing, law))


def priced_actions(
    sizing: Recommendation, laws: Mapping[Objective, LawEnsemble], transfer: TransferFit | None
) -> ActionTable:
    """Every way to spend the budget; errors as `budget_spending`."""
    situations = []
    for objective, law in laws.items():
        own = transfer if transfer and any(share.objective == objective for share in transfer.shares) else None
        situations.append(Situation(objective, budget_spending(sizing, law.thinned(_ACTION_DRAWS)), transfer=own))
    return compare_actions(situations)
