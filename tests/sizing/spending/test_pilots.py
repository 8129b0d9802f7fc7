"""Pilots are worth what they save when the truth is another law: never less than nothing, never more than all."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.laws.zoo import find_law
from plm_scaling.sizing.information_value import Beliefs, ObservationError
from plm_scaling.sizing.law_ensemble import LawEnsemble, ensemble_of_published
from plm_scaling.sizing.pilots import Pilot, pilot_candidates, pilot_plan
from plm_scaling.sizing.spending import Spending
from plm_scaling.sizing.training_price import price_per_flop

PRICE = price_per_flop(2.4e-18)


def toy(K: int, seed: int = 0) -> tuple[Beliefs, np.ndarray, np.ndarray]:
    """Decisions t in [0, 1] that cost (t - truth)^2; a pilot shows the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.random(K)
    t = np.linspace(0, 1, 101)
    return Beliefs(np.full(K, 1 / K), (t[None] - truth[:, None]) ** 2), truth, t


def test_values_of_a_toy_are_those_of_the_books() -> None:
    beliefs, truth, _ = toy(3000)
    assert beliefs.perfect == pytest.approx(1 / 12, rel=0.05), "the variance of a uniform"
    # Observed with noise s the mean posterior variance is what remains; by direct simulation of the exact posterior.
    s = 0.2
    rng = np.random.default_rng(1)
    true = rng.random(4000)
    seen = true + s * rng.standard_normal(4000)
    x = np.linspace(0, 1, 1001)
    w = np.exp(-0.5 * ((seen[:, None] - x) / s) ** 2)
    left = np.mean(((w @ x) / w.sum(axis=1) - true) ** 2)
    value, se = beliefs.sample(truth[:, None], ObservationError(np.array([s])), outcomes=2000)
    assert value == pytest.approx(1 / 12 - left, abs=3 * se + 1e-3)


@pytest.mark.parametrize("common", [0.0, 0.3])
def test_more_noise_is_worth_less_and_more_runs_more(common: float) -> None:
    beliefs, truth, _ = toy(800)
    slopes = np.column_stack([truth, 2 * truth, -truth])
    values = [
        beliefs.sample(slopes, ObservationError(np.full(3, s), common), outcomes=1500)[0]
        for s in (1e-3, 0.1, 0.5, 5.0, 1e3)
    ]
    assert all(later <= earlier + 2e-3 for earlier, later in itertools.pairwise(values))
    assert values[0] == pytest.approx(beliefs.perfect, rel=0.02)
    assert values[-1] == pytest.approx(0.0, abs=2e-3)
    error = ObservationError(np.full(3, 0.3), common)
    one = beliefs.sample(slopes[:, :1], error.take(np.array([0])), outcomes=1500)[0]
    assert 0.0 <= one <= beliefs.sample(slopes, error, outcomes=1500)[0] + 2e-3 <= beliefs.perfect + 2e-3


def test_one_run_on_another_scale_says_nothing() -> None:
    beliefs, truth, _ = toy(800)
    alone = beliefs.sample(truth[:, None], ObservationError(np.array([0.01]), 100.0), outcomes=1500)[0]
    pair = np.column_stack([truth, -truth])
    both = beliefs.sample(pair, ObservationError(np.full(2, 0.01), 100.0), outcomes=1500)[0]
    assert alone < 0.05 * both


@pytest.fixture(scope="module")
def wide(ensemble: LawEnsemble) -> LawEnsemble:
    """Laws that disagree on the size, 200 draws each."""
    rng = np.random.default_rng(3)

    def widened(member: object, k: int) -> object:
        theta = np.repeat(member.theta[:1], 201, axis=0)  # type: ignore[attr-defined]
        alpha, A = (member.form.index(name) for name in ("alpha", "A0"))  # type: ignore[attr-defined]
        moved = 0.12 * theta[0, alpha] * rng.standard_normal(201) + 0.02 * k
        theta[:, alpha] += moved
        theta[:, A] += moved * np.log(3e8)
        return replace(member, theta=theta)  # type: ignore[type-var]

    members = tuple(widened(member, k) for k, member in enumerate(ensemble.members))
    return replace(ensemble, members=members, noise_sd=0.003, repeats=None)  # type: ignore[arg-type]


def test_the_plan_is_consistent(wide: LawEnsemble) -> None:
    spending = Spending(wide, PRICE, 1e5)
    plan = pilot_plan(spending)
    assert plan.evpi > 0
    for value in (*plan.candidates, *plan.first):
        assert 0.0 <= value.evsi <= plan.evpi
        assert value.pays == (value.evsi * plan.usd_per_nat > value.usd)
    assert sum(value.evsi for value in plan.first) <= plan.evpi + 1e-12
    assert plan.regret_after == pytest.approx(plan.evpi - sum(v.evsi for v in plan.first), abs=1e-12)
    per_usd = [value.nats_per_usd for value in plan.candidates]
    assert per_usd == sorted(per_usd, reverse=True)
    # A nat that is worth a fortune buys pilots, a worthless one none.
    rich, poor = (pilot_plan(spending, usd_per_nat=worth) for worth in (1e9, 1e-3))
    assert len(rich.first) > 0
    assert poor.first == ()
    assert "no pilot pays" in poor.stop


def test_losses_on_another_scale_make_single_runs_worthless(wide: LawEnsemble) -> None:
    spending = Spending(wide, PRICE, 1e5)
    run = Pilot("one run", (1e9,), (1e10,), 10.0)
    own = pilot_plan(spending, [run], usd_per_nat=1e6)
    other = pilot_plan(replace(spending, ensemble=replace(wide, status="read")), [run], usd_per_nat=1e6)
    assert other.common_sd > 0 == own.common_sd
    assert "OTHER_SCALE" in other.flags
    assert other.candidates[0].evsi < own.candidates[0].evsi


def test_pilots_really_reduce_regret(wide: LawEnsemble) -> None:
    """Truths from outside the draws: run the pilots with noise, reweight, decide, and pay by the truth."""
    spending = Spending(wide, PRICE, 1e5)
    row = pilot_candidates(spending, (0.01,))[0]
    plan = pilot_plan(spending, [row], usd_per_nat=1e6, outcomes=400)
    half = replace(wide, members=tuple(replace(m, theta=m.theta[:101]) for m in wide.members))
    truths = replace(wide, members=tuple(replace(m, theta=m.theta[[0, *range(101, 201)]]) for m in wide.members))
    N = np.geomspace(1e9, 1e12, 81)
    D = spending.usd / PRICE.usd(N)
    pilots = np.array(row.N), np.array(row.D)
    prior = Beliefs(half.draw_weights, half.losses(N, D))
    predicted, true = np.log(half.losses(*pilots)), np.log(truths.losses(*pilots))
    paid, error = truths.losses(N, D), ObservationError(np.full(len(row.N), wide.noise_sd))
    rng = np.random.default_rng(5)
    gains = []
    for k, seen in enumerate(true + wide.noise_sd * rng.standard_normal(true.shape)):
        chosen = prior.after(predicted, seen, error).choice
        gains.append(paid[k, prior.choice] - paid[k, chosen])
    weights = truths.draw_weights
    realised = float(weights @ np.array(gains))
    spread = float(np.sqrt(weights**2 @ (np.array(gains) - realised) ** 2))
    assert realised > 3 * spread, "pilots pay"
    assert realised == pytest.approx(plan.candidates[0].evsi, abs=3 * (spread + plan.candidates[0].evsi_se))


def test_refusals(ensemble: LawEnsemble) -> None:
    one = ensemble_of_published([find_law("besiroglu2024")])
    with pytest.raises(RefusedError, match="single law"):
        pilot_plan(Spending(one, PRICE, 1e4, 5e9))
    with pytest.raises(ConfigError, match="value of a nat"):
        pilot_plan(Spending(ensemble, PRICE, 1e4), usd_per_nat=0.0)


def test_pilots_are_valued_where_the_run_would_stop_early(turning: LawEnsemble) -> None:
    plan = pilot_plan(Spending(turning, PRICE, 3e5, 2e9), usd_per_nat=1e5)
    assert 0 < plan.evpi < 1, "decisions that stop are among those compared"
    with pytest.raises(RefusedError, match="what a nat is worth"):
        pilot_plan(Spending(turning, PRICE, 3e5, 2e9))
