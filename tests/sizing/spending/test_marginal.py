"""A dollar is worth what spending it does; data beat compute below the price that says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.core.units import format_count
from plm_scaling.laws.interval import Interval
from plm_scaling.sizing.data_limit import data_limit, unique_tokens_wanted
from plm_scaling.sizing.law_ensemble import LawEnsemble
from plm_scaling.sizing.marginal import MarginalValues, marginal_values
from plm_scaling.sizing.spending import Spending, allocation_at, best_allocation, search_ensemble
from plm_scaling.sizing.token_source import TokenSource
from plm_scaling.sizing.tornado import tornado, usual_variations
from plm_scaling.sizing.training_price import price_per_flop

P = 2.4e-18
PRICE = price_per_flop(P)


def mean(spending: Spending, losses: np.ndarray) -> float:
    return float((spending.laws.draw_weights @ losses).mean())


def nats(found: MarginalValues, key: str) -> float:
    value = found.value(key)  # type: ignore[arg-type]
    assert value is not None
    return value.nats_per_usd.value


@pytest.fixture
def sure(ensemble: LawEnsemble) -> LawEnsemble:
    return search_ensemble(replace(ensemble, repeats=replace(ensemble.repeats, log_sd=0.0)), 8)


def test_a_dollar_of_compute_is_worth_what_ten_percent_more_do(sure: LawEnsemble) -> None:
    spending = Spending(sure, PRICE, 2e4, 5e9)
    found = marginal_values(spending)
    less, more = (best_allocation(replace(spending, usd=2e4 * f)) for f in (0.95, 1.05))
    slope = (mean(spending, less.losses) - mean(spending, more.losses)) / 2e3
    assert nats(found, "compute") == pytest.approx(slope, rel=0.02)
    assert found.value("unique_tokens") is None
    # More passes do less than the path does, whose size grows; what a larger model would do is not claimed here.
    assert 0 < nats(found, "epochs") < slope
    assert found.value("parameters") is None
    # At the best size of new tokens a dollar does the same for tokens as for parameters.
    fresh = marginal_values(replace(spending, unique_tokens=None))
    for key in ("epochs", "parameters"):
        assert nats(fresh, key) == pytest.approx(nats(fresh, "compute"), rel=0.03)
    kept = marginal_values(replace(spending, N=1e9))
    assert kept.value("parameters") is None
    assert nats(kept, "epochs") == pytest.approx(nats(kept, "compute"), rel=1e-3)


def test_where_data_are_bought_the_last_dollars_are_worth_the_same(sure: LawEnsemble) -> None:
    source = TokenSource(name="new", usd_per_token=3e-7)
    spending = Spending(sure, PRICE, 2e4, 5e9, (source,))
    found = marginal_values(spending)
    unique = found.value("unique_tokens")
    assert unique is not None
    assert unique.over_compute == pytest.approx(1.0, abs=0.03)
    assert nats(found, "new_tokens") == pytest.approx(nats(found, "compute"), rel=0.05)
    assert found.parity_N == pytest.approx(3e-7 / (6 * P), rel=1e-6)
    price = found.break_even_usd_per_token
    assert price is not None
    assert price.value == pytest.approx(3e-7, rel=0.05)


def test_below_the_break_even_price_data_win(sure: LawEnsemble) -> None:
    """Brute force: a hundred dollars for tokens at half and at twice that price, against the same for compute."""
    spending = Spending(sure, PRICE, 2e4, 5e9)
    best = best_allocation(spending)
    price = marginal_values(spending, best).break_even_usd_per_token
    assert price is not None
    compute = mean(spending, best_allocation(replace(spending, usd=2e4 + 100)).losses)
    for factor, wins in ((0.5, True), (2.0, False)):
        more = replace(spending, unique_tokens=5e9 + 100 / (factor * price.value))
        assert (mean(spending, allocation_at(more, best.N, best.D).losses) < compute) is wins
        ratio = marginal_values(spending, best, usd_per_token=factor * price.value).value("unique_tokens")
        assert ratio is not None
        assert ratio.over_compute == pytest.approx(1 / factor, rel=1e-6)


def test_compute_that_only_hurts_is_worth_nothing(turning: LawEnsemble) -> None:
    found = marginal_values(Spending(search_ensemble(turning, 4), PRICE, 5e5, 1e9), usd_per_token=1e-6)
    assert "COMPUTE_BUYS_NOTHING" in found.flags
    assert nats(found, "compute") == 0.0
    unique = found.value("unique_tokens")
    assert unique is not None
    assert unique.nats_per_usd.value > 0
    assert unique.over_compute is None
    assert "buys nothing" in found.sentences[0]


def test_prices_must_be_positive_and_unknown_data_are_said(sure: LawEnsemble) -> None:
    with pytest.raises(ConfigError, match="price of a token"):
        marginal_values(Spending(sure, PRICE, 1e3, 5e9), usd_per_token=-1.0)
    found = marginal_values(Spending(sure, PRICE, 1e3))
    assert "UNIQUE_TOKENS_UNKNOWN" in found.flags
    assert found.break_even_usd_per_token is None


def test_the_best_action_can_be_to_stop_early(turning: LawEnsemble) -> None:
    laws = search_ensemble(turning, 4)
    found = data_limit(Spending(laws, PRICE, 3e5, 2e9))
    assert found.key == "stop_early"
    assert found.used < 0.9
    assert found.p_stop > 0.5
    assert found.loss < found.loss_if_spent < found.loss_if_kept
    assert found.C_useful is not None
    assert "stop early" in found.sentences[0]
    # With ten times what they can use, the tokens still use the same.
    rich = data_limit(Spending(laws, PRICE, 3e6, 2e9))
    assert pytest.approx(found.C_useful, rel=0.05) == rich.C
    assert rich.used < found.used


def test_a_penalty_on_size_shrinks_the_model(turning: LawEnsemble) -> None:
    laws = search_ensemble(turning, 4)
    repeats = turning.repeats
    assert repeats is not None
    assert not isinstance(repeats, type(laws.draw_weights))
    steep = {"delta": 0.5, "kappa": 1.5, "P0": 0.02}
    update = {
        key: interval.model_copy(update={"value": steep[key]}) if key in steep else interval
        for key, interval in repeats.parameters.items()  # type: ignore[union-attr]
    }
    laws = replace(laws, repeats=repeats.model_copy(update={"parameters": update}))  # type: ignore[union-attr]
    found = data_limit(Spending(laws, PRICE, 3e3, 5e9))
    assert found.key == "shrink", found
    assert 0.9 * found.N_unlimited > found.N
    assert found.loss < found.loss_if_kept


def test_sizes_beyond_what_turning_laws_have_seen_are_not_claimed(turning: LawEnsemble) -> None:
    # A tiny part of the money is found where it is all that can be used.
    poor = data_limit(Spending(search_ensemble(turning, 4), PRICE, 1e7, 1e7))
    assert poor.used < 1e-6
    assert poor.epochs > 1
    # Where even a second pass is ruinous the money goes into size, up to an end.
    repeats = turning.repeats
    assert repeats is not None
    dear = {**repeats.parameters, "P0": Interval(value=100.0, low=100.0, high=100.0)}  # type: ignore[union-attr]
    laws = replace(search_ensemble(turning, 4), repeats=repeats.model_copy(update={"parameters": dear}))  # type: ignore[union-attr]
    spending = Spending(laws, PRICE, 1e5, 1e8)
    found = data_limit(spending)
    assert pytest.approx(spending.largest_N, rel=1e-3) == found.N
    assert "SIZE_AT_END" in found.flags
    assert "SIZE_AT_END" not in poor.flags


def test_decays_never_stop_early_and_fresh_tokens_are_no_limit(sure: LawEnsemble) -> None:
    found = data_limit(Spending(sure, PRICE, 2e4, 5e9))
    assert (found.key, found.p_stop, found.C_useful, found.used) == ("repeat", 0.0, None, 1.0)
    assert found.loss_if_spent == found.loss
    fresh = data_limit(Spending(sure, PRICE, 2e3, 1e12))
    assert fresh.key == "fresh"
    assert fresh.loss == pytest.approx(fresh.loss_unlimited, abs=1e-9)
    with pytest.raises(RefusedError, match="unique tokens"):
        data_limit(Spending(sure, PRICE, 2e3))


def test_tokens_wanted_bring_the_budget_close(sure: LawEnsemble) -> None:
    spending = Spending(sure, PRICE, 2e4, 5e9)
    free = best_allocation(replace(spending, unique_tokens=None))
    limit = data_limit(spending)
    wanted = limit.tokens_wanted
    assert wanted is not None
    assert wanted == unique_tokens_wanted(spending, free)
    assert 5e9 < wanted < free.D
    goal = mean(spending, free.losses) + 0.01
    enough, short = (
        mean(spending, allocation_at(replace(spending, unique_tokens=wanted * f), free.N, free.D).losses)
        for f in (1.01, 0.97)
    )
    assert short > goal >= enough
    assert any(f"with {format_count(wanted, 2)} unique tokens" in sentence for sentence in limit.sentences)
    ample = data_limit(replace(spending, unique_tokens=2 * free.D))
    assert ample.tokens_wanted == pytest.approx(wanted, rel=1e-3)
    assert not any("unique tokens repeats would cost" in sentence for sentence in ample.sentences)


def test_the_tornado_moves_as_it_must(ensemble: LawEnsemble) -> None:
    source = TokenSource(name="new", usd_per_token=3e-7)
    spending = Spending(search_ensemble(ensemble, 8), PRICE, 2e4, 5e9, (source,))
    found = tornado(spending, usual_variations(spending, price=(0.8, 1.3, 3.0)))
    swings = {swing.name: swing for swing in found.swings}
    assert len(swings) == len(found.swings) == 7
    assert [s.swing_loss for s in found.swings] == sorted((s.swing_loss for s in found.swings), reverse=True)
    price, mfu, unique = (swings[k] for k in ("price per accelerator hour", "utilisation (MFU)", "unique tokens"))
    # A dearer hour buys less, a faster one more, and more unique tokens never hurt.
    assert price.loss[0] < found.loss < price.loss[1]
    assert price.N[0] > price.N[1]
    assert mfu.loss[0] > found.loss > mfu.loss[1]
    assert unique.loss[0] > found.loss > unique.loss[1]
    assert swings["worth of repeats (R_D)"].loss[0] > swings["worth of repeats (R_D)"].loss[1]
    unlimited = replace(spending, unique_tokens=None)
    draws = next(s for s in tornado(unlimited, usual_variations(unlimited)).swings if s.name == "draws of the law")
    assert draws.N[0] < draws.N[1]
    assert price.usd_same_loss[0] < found.usd < price.usd_same_loss[1]
    assert found.by("N")[0].swing_N == max(s.swing_N for s in found.swings)


@pytest.mark.slow
def test_a_budget_in_flops_keeps_its_size_when_the_price_moves(sure: LawEnsemble) -> None:
    spending = Spending(sure, PRICE, 2e4, 5e9)
    swings = tornado(spending, usual_variations(spending, fixed="flops", price=(1.0, 2.0, 4.0))).swings
    price = next(s for s in swings if s.name == "price per accelerator hour")
    assert price.swing_loss < 1e-6
    assert price.swing_N < 1e-3
    assert price.usd == pytest.approx((1e4, 4e4), rel=1e-9)
