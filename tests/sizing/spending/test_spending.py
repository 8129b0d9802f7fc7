"""The best spending is the lowest point of a dense grid, and no offer or saving ever makes it worse."""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from plm_scaling.core.errors import ConfigError
from plm_scaling.laws.interval import Interval
from plm_scaling.sizing.decision import decide
from plm_scaling.sizing.descent import descend
from plm_scaling.sizing.law_ensemble import LawEnsemble, TokenDecay
from plm_scaling.sizing.spending import (
    Spending,
    allocation_at,
    best_allocation,
    loss_interval,
    quantile_interval,
    search_ensemble,
)
from plm_scaling.sizing.token_source import TokenSource, rho_strata
from plm_scaling.sizing.training_price import price_per_flop, training_price

P = 2.4e-18
PRICE = price_per_flop(P)
TIGHT = 2e-5
"""Nats that the search may leave on the table."""


def few(ensemble: LawEnsemble) -> LawEnsemble:
    """So few draws that the search is over all of them."""
    return search_ensemble(ensemble, 8)


def mean_loss(spending: Spending) -> float:
    found = best_allocation(spending)
    return float((spending.laws.draw_weights @ found.losses).mean())


def fresh_size(ensemble: LawEnsemble, usd: np.ndarray) -> np.ndarray:
    """Sizes with the lowest mean loss on unlimited data, by scipy at a few sums and straight lines between."""

    def best(usd: float) -> float:
        def mean(x: float) -> float:
            return float((ensemble.draw_weights @ ensemble.losses(np.exp(x), usd / (6 * P * np.exp(x)))).item())

        return float(minimize_scalar(mean, bounds=(16.0, 28.0), method="bounded", options={"xatol": 1e-6}).x)

    nodes = np.log(usd.max()) + np.linspace(np.log(usd.min() / usd.max()), 0.0, 25)
    return np.exp(np.interp(np.log(usd), nodes, [best(float(np.exp(node))) for node in nodes]))


def brute(ensemble: LawEnsemble, usd: float, U0: float, price: float, used: np.ndarray | None = None) -> float:
    """Lowest mean loss on a grid over size, money for new tokens, and compute used.

    Where only the worth of repeats decays, sizes above that of unlimited data are left out once tokens repeat.
    """
    N, share, kept = np.meshgrid(
        np.geomspace(1e8, 1e12, 161),
        np.linspace(0.0, 0.98, 99) if price else np.zeros(1),
        np.ones(1) if used is None else used,
        indexing="ij",
    )
    left, U = usd * (1.0 - share), U0 + (share * usd / price if price else 0.0)
    if isinstance(ensemble.repeats, TokenDecay):
        fresh = fresh_size(ensemble, left)
        N = np.where(left * kept / (6.0 * P * N) > U, np.minimum(N, fresh), N)
    D = left * kept / (6.0 * P * N)
    losses = ensemble.losses(N.ravel(), D.ravel(), U.ravel() if price else U0)
    return float((ensemble.draw_weights @ losses).min())


@pytest.mark.parametrize(("usd", "U0", "price"), [(2e4, 5e9, 3e-7), (2e4, 5e9, 0.0), (3e5, 2e10, 1e-6)])
def test_the_best_spending_is_the_lowest_of_a_grid(ensemble: LawEnsemble, usd: float, U0: float, price: float) -> None:
    # The search takes R_D at its quantiles for every draw, the full laws one quantile for each: compare at one R_D.
    sure = replace(ensemble, repeats=replace(ensemble.repeats, log_sd=0.0))
    sources = (TokenSource(name="new", usd_per_token=price),) if price else ()
    spending = Spending(sure, PRICE, usd, U0, sources)
    found, lowest = mean_loss(spending), brute(sure, usd, U0, price)
    assert found <= lowest + TIGHT
    assert found >= lowest - 2e-4, "the grid is this coarse"
    best = best_allocation(spending)
    assert best.usd == pytest.approx(usd, rel=1e-9)
    assert best.D * 6 * P * best.N + price * sum(best.taken) == pytest.approx(usd, rel=1e-6)


def test_where_repeats_hurt_the_last_of_the_money_is_kept(turning: LawEnsemble) -> None:
    spending = Spending(few(turning), PRICE, 2e5, 2e9)
    best = best_allocation(spending)
    lowest = brute(few(turning), 2e5, 2e9, 0.0, np.geomspace(1e-4, 1.0, 200))
    assert mean_loss(spending) <= lowest + TIGHT
    assert best.used < 0.9
    assert best.usd < 0.9 * 2e5
    forced = best_allocation(replace(spending, spend_all=True))
    assert forced.used == 1.0
    assert mean_loss(replace(spending, spend_all=True)) > mean_loss(spending)


@settings(max_examples=5, deadline=None)
@given(
    usd=st.floats(1e3, 1e6),
    U0=st.floats(1e9, 1e11),
    price=st.floats(1e-9, 1e-5),
    rho=st.floats(0.1, 1.0),
    factor=st.floats(1.05, 4.0),
)
def test_no_offer_ever_hurts(
    ensemble: LawEnsemble, usd: float, U0: float, price: float, rho: float, factor: float
) -> None:
    laws = search_ensemble(replace(ensemble, repeats=replace(ensemble.repeats, log_sd=0.0)), 4)
    source = TokenSource(name="s", usd_per_token=price, rho=Interval(value=rho, low=rho, high=rho), tokens=1e12)
    spending = Spending(laws, PRICE, usd, U0, (source,))
    base = mean_loss(spending)
    cheaper = source.model_copy(update={"usd_per_token": price / factor})
    better = {
        "no source": mean_loss(replace(spending, sources=())) - base,
        "cheaper tokens": base - mean_loss(replace(spending, sources=(cheaper,))),
        "cheaper compute": base - mean_loss(replace(spending, price=PRICE.scaled(usd=1.0 / factor))),
        "more money": base - mean_loss(replace(spending, usd=usd * factor)),
        "more free tokens": base - mean_loss(replace(spending, unique_tokens=U0 * factor)),
    }
    assert min(better.values()) >= -TIGHT, better


def test_two_sources_are_taken_in_the_order_of_their_worth(ensemble: LawEnsemble) -> None:
    def source(name: str, price: float, rho: float, saturation: float = np.inf) -> TokenSource:
        sure = Interval(value=rho, low=rho, high=rho)
        return TokenSource(name=name, usd_per_token=price, rho=sure, saturation_tokens=saturation)

    laws = few(ensemble)
    both = (source("good", 1e-7, 0.9), source("poor", 1e-7, 0.3))
    good, poor = best_allocation(Spending(laws, PRICE, 5e4, 2e9, both)).taken
    assert good > 50 * max(poor, 1.0)
    # A source that wears out is left for the next.
    worn = (source("good", 1e-7, 0.9, 1e9), source("poor", 1e-7, 0.3))
    limited, poor = best_allocation(Spending(laws, PRICE, 5e4, 2e9, worn)).taken
    assert limited < good
    assert poor > 1e9
    # Harmful tokens are not even taken for nothing.
    assert best_allocation(Spending(laws, PRICE, 5e4, 2e9, (source("bad", 0.0, -0.5),))).taken[0] < 1e3


def test_rates_are_spread_as_stated() -> None:
    wide = TokenSource(name="a", rho=Interval(value=0.5, low=0.2, high=0.9))
    other = TokenSource(name="b", rho=Interval(value=0.1, low=0.0, high=0.2))
    z = rho_strata((wide, other), 16)
    assert z.mean(axis=0) == pytest.approx([0.0, 0.0], abs=1e-12)
    assert abs(np.corrcoef(z.T)[0, 1]) < 0.4
    assert wide.rho_at(NormalDist().inv_cdf(0.975)) == pytest.approx(0.9)
    assert wide.rho_at(NormalDist().inv_cdf(0.025)) == pytest.approx(0.2)
    assert rho_strata((TokenSource(name="sure"),)).shape == (1, 1)


def test_the_interval_holds_draws_forms_and_noise(ensemble: LawEnsemble) -> None:
    spending = Spending(ensemble, PRICE, 2e4, 5e9)
    best = best_allocation(spending)
    found = loss_interval(Spending(replace(ensemble, noise_sd=0.02), PRICE, 2e4, 5e9), best)
    quiet = loss_interval(Spending(replace(ensemble, noise_sd=0.0), PRICE, 2e4, 5e9), best)
    assert found.low < quiet.low < quiet.value < quiet.high < found.high
    far = replace(best, N=best.N * 100)
    drifting = Spending(replace(ensemble, noise_sd=0.02, drift_sd=0.05), PRICE, 2e4, 5e9)
    assert loss_interval(drifting, far).high > found.high
    sample = np.random.default_rng(0).normal(size=20001)
    interval = quantile_interval(sample, np.full(20001, 1 / 20001))
    assert (interval.low, interval.high) == pytest.approx((-1.2816, 1.2816), abs=0.03)


def test_prices_that_depend_on_size_are_read_as_billed() -> None:
    def bill(N: float, D: float) -> tuple[float, float]:
        hours = 6 * N * D / (4e17 * min(1.0, (N / 1e8) ** 0.2))
        return hours, 2.5 * hours

    price = training_price(bill)
    for N in (3.3e6, 4e8, 7e10):
        assert float(price.usd(N)) == pytest.approx(bill(N, 1.0)[1], rel=1e-3)
    assert price_per_flop(1.7554207392427817e-18).size_at(1e-7) == pytest.approx(9494400000.0, rel=1e-9)
    assert price.size_at(0.0) == 0.0
    assert price.scaled(usd=2.0).size_at(1e-7) < price.size_at(1e-7)


def test_a_choice_of_ones_own_is_billed(ensemble: LawEnsemble) -> None:
    source = TokenSource(name="new", usd_per_token=1e-7)
    mine = allocation_at(Spending(ensemble, PRICE, 1e4, 5e9, (source,)), 1e9, 2e10, (1e10,))
    assert mine.usd == pytest.approx(6 * P * 1e9 * 2e10 + 1e3)
    assert mine.epochs == pytest.approx(2e10 / 1.5e10)
    with pytest.raises(ConfigError, match="amounts"):
        allocation_at(Spending(ensemble, PRICE, 1e4, 5e9, (source,)), 1e9, 2e10, (1.0, 2.0))
    with pytest.raises(ConfigError, match="positive"):
        Spending(ensemble, PRICE, -1.0)


def test_the_descent_finds_bent_valleys_and_corners() -> None:
    def bent(x: np.ndarray) -> np.ndarray:
        return np.asarray((x[:, 0] - 1.0) ** 2 + 50.0 * (x[:, 1] - x[:, 0] ** 2) ** 2 + np.abs(x[:, 2] - 0.3))

    box = np.full(3, -2.0), np.full(3, 2.0), np.full(3, 0.3)
    point, value = descend(bent, np.array([-1.0, 1.0, 1.0]), *box)
    assert value < 1e-3, point
    corner, _ = descend(lambda x: np.asarray(x.sum(axis=1)), np.zeros(3), *box)
    assert corner == pytest.approx(np.full(3, -2.0))


def test_a_few_points_have_the_losses_of_the_ensemble(ensemble: LawEnsemble) -> None:
    mine = allocation_at(Spending(ensemble, PRICE, 1e4, 5e9), 1e9, 6e10)
    np.testing.assert_allclose(mine.losses[:, 0], ensemble.losses(1e9, 6e10, 5e9)[:, 0], rtol=1e-12)


@pytest.mark.parametrize("unique", [None, 5e9])
def test_the_best_spending_is_the_plan_of_the_decision(ensemble: LawEnsemble, unique: float | None) -> None:
    found = best_allocation(Spending(ensemble, PRICE, 2e4, unique))
    plan = decide(ensemble, lambda N: 2e4 / (6.0 * P * N), unique_tokens=unique, force=True)
    assert pytest.approx(plan.N, rel=0.01) == found.N
    assert found.loss == pytest.approx(plan.loss, abs=1e-5)
