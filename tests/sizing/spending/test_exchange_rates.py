"""Exchange rates are found again from simulated mixtures, in intervals that hold, or refused where runs do not tell."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from plm_scaling.core.errors import ConfigError, FitError, RefusedError
from plm_scaling.core.run import Stream
from plm_scaling.core.run_row import RunRow
from plm_scaling.core.run_table import RunTable
from plm_scaling.laws.interval import Interval
from plm_scaling.sizing.exchange_rates import ExchangeRate, fit_exchange_rates, source_at_rate, sources_text
from plm_scaling.sizing.law_ensemble import LawEnsemble, TokenDecay
from plm_scaling.sizing.spending import Spending, best_allocation, search_ensemble
from plm_scaling.sizing.training_price import price_per_flop

U, D = 2e9, 2e10
SHARES = (0.0, 0.2, 0.5, 0.8, 1.0)


@pytest.fixture(scope="module")
def laws(ensemble: LawEnsemble) -> LawEnsemble:
    return replace(ensemble, repeats=TokenDecay(15.0, 0.0, "made"), noise_sd=0.002)


def row(
    laws: LawEnsemble, share: float, rho: float, limit: float, N: float, rng: np.random.Generator, noise: float
) -> RunRow:
    """A run of the first draw's law on U unique target tokens and a source that wears off, on a level of its own."""
    truth = replace(laws, members=(replace(laws.members[0], weight=1.0, theta=laws.members[0].theta[:2]),))
    target = {"sources": ("uniref",), "unique_tokens": int(U), "weight": 1 - share if 0 < share < 1 else 1.0}
    other = {"sources": ("other",), "weight": share if 0 < share < 1 else 1.0}
    streams = [Stream.model_validate(s) for s in ([target] if share < 1 else []) + ([other] if share > 0 else [])]
    u = share * D
    fresh = 0.0
    if share < 1:
        grid = np.geomspace(1e6, 1e13, 4000)
        own = truth.losses(N, (1 - share) * D, U)[0, 0]
        fresh = float(np.exp(np.interp(-own, -truth.losses(N, grid)[0], np.log(grid))))
    loss = truth.losses(N, max(fresh + rho * u / (1 + u / limit), 1e4))[0, 0] * 1.1
    return RunRow(
        run_id=f"{share}-{N:g}-{rng.integers(1 << 30)}",
        objective="mlm",
        role="diversity",
        N=N,
        D=D,
        loss=float(loss * math.exp(noise * rng.standard_normal())),
        streams=json.dumps([stream.model_dump(mode="json") for stream in streams]),
    )


def table(
    laws: LawEnsemble,
    rho: float,
    limit: float = math.inf,
    *,
    sizes: tuple[float, ...] = (1e9,),
    seed: int = 0,
    noise: float = 0.002,
    shares: tuple[float, ...] = SHARES,
) -> RunTable:
    rng = np.random.default_rng(seed)
    return RunTable(tuple(row(laws, share, rho, limit, N, rng, noise) for N in sizes for share in shares))


def the_rate(laws: LawEnsemble, runs: RunTable) -> ExchangeRate:
    (rate,) = fit_exchange_rates(runs, laws).rates
    return rate


def test_a_rate_is_found_again_whatever_the_level(laws: LawEnsemble) -> None:
    found = the_rate(laws, table(laws, 0.5, noise=0.0))
    assert (found.source, found.target, found.N) == ("other", "uniref", 1e9)
    assert found.rho.low < 0.5 < found.rho.high
    assert found.rho.value == pytest.approx(0.5, rel=0.15)
    assert [point.share for point in found.points] == pytest.approx([0.2, 0.5, 0.8, 1.0])


@pytest.mark.slow
def test_intervals_hold_the_truth(laws: LawEnsemble) -> None:
    inside = 0
    for seed in range(20):
        found = the_rate(laws, table(laws, 0.5, seed=seed, shares=(0.0, 0.5)))
        inside += found.rho.low <= 0.5 <= found.rho.high
    assert inside >= 16, "95 % of 20"


def test_wear_is_shown_where_shares_tell(laws: LawEnsemble) -> None:
    quiet = replace(laws, noise_sd=1e-4)
    worn = the_rate(quiet, table(quiet, 0.8, 4e9, noise=0.0))
    assert worn.saturation_tokens is not None
    assert worn.saturation_tokens.low < 4e9 < worn.saturation_tokens.high
    per_token = [point.rho.value for point in worn.points]
    assert per_token == sorted(per_token, reverse=True)
    single = the_rate(laws, table(laws, 0.8, 4e9, shares=(0.0, 0.5)))
    assert single.saturation_tokens is None
    assert "SATURATION_OPEN" in single.flags


def test_worthless_and_harmful_tokens_are_called_so(laws: LawEnsemble) -> None:
    nothing = fit_exchange_rates(table(laws, 0.0, shares=(0.0, 0.3)), laws)
    assert "NO_DETECTABLE_WORTH" in nothing.rates[0].flags
    assert "no detectable worth" in nothing.sentences[0]
    harmful = the_rate(laws, table(laws, -0.4, shares=(0.0, 0.3)))
    assert "HARMFUL" in harmful.flags
    # Nobody takes them, not even for nothing.
    spending = Spending(search_ensemble(laws, 4), price_per_flop(2.4e-18), 2e4, 5e9, (source_at_rate(harmful),))
    assert best_allocation(spending).taken[0] < 1e5


def test_a_validation_set_that_rewards_the_mix_has_no_rate(laws: LawEnsemble) -> None:
    """Half of the other source helps more than all of it."""
    quiet = replace(laws, noise_sd=1e-3)
    half = table(quiet, 2.0, noise=0.0, shares=(0.0, 0.5)).rows
    rows = RunTable((*half, *table(quiet, 0.3, noise=0.0, shares=(1.0,)).rows))
    found = fit_exchange_rates(rows, quiet)
    assert "MIX_MATTERS" in found.rates[0].flags
    assert "no exchange rate of other" in found.sentences[0]
    with pytest.raises(RefusedError, match="no exchange rate"):
        source_at_rate(found.rates[0])
    assert "[[source]]" not in sources_text(found)
    assert "MIX_MATTERS" not in the_rate(quiet, table(quiet, 0.5, noise=0.0)).flags


def test_rates_of_several_sizes_have_a_slope(laws: LawEnsemble) -> None:
    quiet = replace(laws, noise_sd=2e-4)
    runs = [
        run
        for k, N in enumerate((2e8, 6e8, 2e9))
        for run in table(quiet, 0.8 * (N / 2e8) ** -0.2, sizes=(N,), noise=0.0, seed=k)
    ]
    found = fit_exchange_rates(RunTable(tuple(runs)), quiet)
    assert len(found.rates) == 3
    assert found.slopes["other, mlm"].low < -0.2 < found.slopes["other, mlm"].high
    near = found.nearest("other", "mlm", 1.9e9)
    assert near is not None
    assert near.N == 2e9


def test_a_measured_source_enters_the_spending(laws: LawEnsemble) -> None:
    rate = the_rate(laws, table(laws, 0.6))
    source = source_at_rate(rate, tokens=1e11, usd_per_token=1e-8, generated=True)
    assert (source.status, source.kind) == ("measured", "generated")
    few = search_ensemble(laws, 4)
    best = best_allocation(Spending(few, price_per_flop(2.4e-18), 2e4, 2e9, (source,)))
    assert best.taken[0] > 1e9
    open_ = rate.model_copy(update={"rho": Interval(value=0.5, low=0.1, high=math.inf)})
    with pytest.raises(RefusedError, match="open"):
        source_at_rate(open_)


def test_runs_that_tell_nothing_are_refused(laws: LawEnsemble) -> None:
    runs = table(laws, 0.5)
    with pytest.raises(FitError, match="no CLM runs on mixtures"):
        fit_exchange_rates(runs, replace(laws, objective="clm"))
    with pytest.raises(FitError, match="no exchange rate"):
        fit_exchange_rates(RunTable(runs.rows[:1]), laws)
    without = RunTable(runs.rows[1:])
    with pytest.raises(ConfigError, match="which source is the target"):
        fit_exchange_rates(without, laws)
    with pytest.raises(FitError, match="no exchange rate") as caught:
        fit_exchange_rates(without, laws, target="uniref")
    assert "on uniref alone" in str(caught.value)
    three = json.dumps([Stream(sources=(name,)).model_dump(mode="json") for name in ("uniref", "a", "b")])
    odd = runs.rows[1].model_copy(update={"streams": three, "run_id": "odd"})
    found = fit_exchange_rates(RunTable((*runs.rows, odd)), laws)
    assert [refusal.quantity for refusal in found.refusals] == ["odd"]
