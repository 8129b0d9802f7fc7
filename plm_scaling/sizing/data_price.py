"""When unique tokens cost money: how much of a budget to spend on them, on epochs and on parameters."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from plm_scaling.laws.bracket import root_around, root_of_rising
from plm_scaling.laws.repeat_worth import worth_of_unique_share
from plm_scaling.laws.two_powers import TwoPowers

__all__ = ["BoughtTokens", "CollectOrGrow", "bought_tokens", "collect_or_grow", "parity_size"]


_FREE: Final = 1e-250
"""Share of a budget below which a token's price counts as none."""


class BoughtTokens(NamedTuple):
    """A budget split between compute and tokens that are each seen once."""

    N: float
    D: float
    loss: float
    data_usd: float
    compute_usd: float


class CollectOrGrow(NamedTuple):
    """A budget split between new unique tokens, epochs and parameters."""

    N: float
    D: float
    unique_tokens: float
    new_tokens: float
    data_usd: float
    loss: float


def parity_size(usd_per_token: float, usd_per_flop: float) -> float:
    """Parameters at which one training pass over a token costs what the token costs: q / (6 p)."""
    return usd_per_token / (6.0 * usd_per_flop)


def bought_tokens(law: TwoPowers, budget_usd: float, usd_per_flop: float, usd_per_token: float) -> BoughtTokens:
    """The lowest loss with 6 p N D + q D = budget, every token new.

    alpha A N^-alpha / (beta B D^-beta) = 6 p N / (6 p N + q): dear data push N up. The logarithm of right over left
    rises with ln N all along the budget, so that it has one root.

    Parameters
    ----------
    usd_per_flop, usd_per_token : p > 0 and q >= 0.

    **Source:** Lagrange condition of the constrained minimum.
    """
    log_compute = math.log(6.0) + math.log(usd_per_flop)
    log_price = math.log(usd_per_token) if usd_per_token > 0 else -math.inf

    def log_cost(log_N: float) -> float:
        """The logarithm of what a token costs, bought and trained on."""
        high, low = max(log_compute + log_N, log_price), min(log_compute + log_N, log_price)
        return high + math.log1p(math.exp(low - high))

    def excess(log_N: float) -> float:
        gain = law.log_data_gain(math.log(budget_usd) - log_cost(log_N))
        return log_compute + log_N - log_cost(log_N) + gain - law.log_size_gain(log_N)

    log_N = root_around(excess, math.log(law.optimum(budget_usd / usd_per_flop)[0]))
    N, D = math.exp(log_N), math.exp(math.log(budget_usd) - log_cost(log_N))
    return BoughtTokens(N, D, law.loss(N, D), usd_per_token * D, 6.0 * usd_per_flop * N * D)


def collect_or_grow(
    law: TwoPowers, budget_usd: float, usd_per_flop: float, usd_per_token: float, free_tokens: float
) -> CollectOrGrow:
    """The lowest loss with 6 p N D + q (U - U0) = budget and U >= U0, repeats worth what the law says.

    The loss is jointly convex in ln N, ln D and ln U and the budget a sum of exponentials, so that along the share
    of the budget spent on data the lowest loss has one minimum; it is found by the sign of its slope. Tokens that
    cost nothing are taken as far as they are of use.

    Parameters
    ----------
    usd_per_flop, usd_per_token : p > 0 and q >= 0.
    free_tokens : U0 >= 0, unique tokens at hand.
    """
    if usd_per_token <= _FREE * budget_usd:
        N, D = law.optimum(budget_usd / usd_per_flop)
        U = max(D, free_tokens)
        return CollectOrGrow(N, D, U, U - free_tokens, 0.0, law.repeated_loss(N, D, U))

    def at(share: float) -> tuple[float, float, float]:
        U = free_tokens + share * (budget_usd / usd_per_token)
        return *law.repeated_optimum((1.0 - share) * (budget_usd / usd_per_flop), U), U

    def slope(share: float) -> float:
        """Sign of dL / d share: what the compute no longer paid for would have gained, less what new tokens gain."""
        if share >= 1.0:
            return math.inf
        if share * (budget_usd / usd_per_token) + free_tokens <= 0:
            return -math.inf
        N, D, U = at(share)
        return _loss_per_usd(law, N, D, U, (1.0 - share) * budget_usd, usd_per_token)

    share = root_of_rising(slope, 0.0, 1.0)
    N, D, U = at(share)
    new = share * (budget_usd / usd_per_token)
    return CollectOrGrow(N, D, U, new, share * budget_usd, law.repeated_loss(N, D, U))


def _loss_per_usd(law: TwoPowers, N: float, D: float, U: float, compute_usd: float, usd_per_token: float) -> float:
    """The logarithm of what a dollar of compute gains over what a dollar of new tokens gains; rises with their share.

    At the best (N, D) for U a unit of ln C gains beta B D'^-beta times the share of repeats in it. A unit of ln U
    makes repeats new, and makes room for parameters: ln of the best size rises by beta / alpha of it.
    """
    log_N, log_D, log_U = math.log(N), math.log(D), math.log(U)
    N_worth, D_worth = law.log_worths(log_N, log_D, log_U)
    tokens = worth_of_unique_share(log_D, log_U, law.R_D)
    room = worth_of_unique_share(log_N, law.log_best_size(log_U), law.R_N) * law.beta / law.alpha
    gain_of_data = [
        gain + math.log(share)
        for gain, share in ((law.log_data_gain(D_worth), tokens), (law.log_size_gain(N_worth), room))
        if share > 0
    ]
    if not gain_of_data:
        return math.inf
    high = max(gain_of_data)
    log_data = high + math.log(sum(math.exp(gain - high) for gain in gain_of_data))
    log_compute = law.log_repeated_gains(log_N, log_D, log_U)[1]
    return log_compute - math.log(compute_usd) - log_data + math.log(U) + math.log(usd_per_token)
