"""Actions are ranked by what may be compared, and each says what it rests on."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from plm_scaling.core.errors import ConfigError
from plm_scaling.laws.interval import Interval, normal_strata
from plm_scaling.laws.zoo import find_law
from plm_scaling.laws.zoo_forms import two_powers
from plm_scaling.sizing.action import ActionTable, PublicScore
from plm_scaling.sizing.action_parts import PUBLISHED_RATE, Situation
from plm_scaling.sizing.actions import compare_actions
from plm_scaling.sizing.distilled import distil
from plm_scaling.sizing.law_ensemble import LawEnsemble
from plm_scaling.sizing.metric_map import MetricPoint
from plm_scaling.sizing.public_actions import distilled_worth
from plm_scaling.sizing.spending import Spending, search_ensemble
from plm_scaling.sizing.token_source import TokenSource
from plm_scaling.sizing.training_price import price_per_flop
from plm_scaling.transfers.transfer_fit import SourceShare, TransferFit

PRICE = price_per_flop(2.4e-18)


def sequenced(price: float) -> TokenSource:
    return TokenSource(name="metagenomes", usd_per_token=price)


def generated(rho: float, **more: object) -> TokenSource:
    sure = Interval(value=rho, low=rho, high=rho)
    return TokenSource.checked(name="generated", kind="generated", tokens=1e12, rho=sure, status="measured", **more)


@pytest.fixture(scope="module")
def laws(ensemble: LawEnsemble) -> LawEnsemble:
    return search_ensemble(ensemble, 6)


@pytest.fixture(scope="module")
def situation(laws: LawEnsemble) -> Situation:
    sources = (sequenced(1e-7), generated(0.5, usd_per_token=1e-9))
    losses = {"esm2-650m": 2.6}
    return Situation("mlm", Spending(laws, PRICE, 2e4, 5e9, sources), public_losses=losses)


@pytest.fixture(scope="module")
def table(situation: Situation) -> ActionTable:
    return compare_actions([situation])


def loss(table: ActionTable, name: str) -> float:
    action = table.of(name)
    assert action is not None
    assert action.loss is not None
    return action.loss.value


def test_every_action_is_there_and_says_what_it_rests_on(table: ActionTable) -> None:
    keys = {action.key for action in table.actions}
    assert keys >= {"scratch", "transfer", "more_data", "synthetic", "continue", "distil", "reuse", "alignment"}
    for action in table.actions:
        assert (action.rank is None) == bool(action.ruled_out or action.key == "alignment")
        assert action.assumptions
        assert action.coefficients or not action.loss
        assert all(
            c.status in ("own fit", "measured", "read", "stated", "unverified", "unknown") for c in action.coefficients
        )
        if any(c.status == "unverified" for c in action.coefficients):
            assert {"UNVERIFIED", "TOKENS_UNVERIFIED"} & set(action.flags), action.name
    assert table.of("mlm scratch").coefficients[0].status == "own fit"  # type: ignore[union-attr]


def test_ranks_follow_regret_and_the_weights_add_up(table: ActionTable) -> None:
    ranked = [action for action in table.actions if action.rank is not None]
    assert table.comparable
    assert [action.rank for action in ranked] == list(range(1, len(ranked) + 1))
    regrets = [action.regret for action in ranked]
    assert regrets == sorted(regrets)  # type: ignore[type-var]
    assert all(regret is not None and regret >= 0 for regret in regrets)
    assert sum(action.p_best or 0.0 for action in ranked) == pytest.approx(1.0)
    assert table.best is ranked[0]
    # A difference of regrets is a difference of mean losses.
    scratch, more = table.of("mlm scratch"), table.of("mlm more_data")
    assert scratch is not None
    assert more is not None
    assert (scratch.regret or 0) - (more.regret or 0) == pytest.approx(
        loss(table, scratch.name) - loss(table, more.name), abs=0.01
    )


def test_a_cheaper_token_never_lowers_the_utility(situation: Situation) -> None:
    found = [
        compare_actions([replace(situation, spending=replace(situation.spending, sources=(sequenced(price),)))])
        for price in (1e-5, 1e-6, 1e-7, 1e-8)
    ]
    losses = [loss(table, "mlm more_data") for table in found]
    assert all(b <= a + 2e-5 for a, b in itertools.pairwise(losses))
    assert losses[0] <= loss(found[0], "mlm scratch") + 2e-5
    dear, cheap = (table.of("mlm more_data") for table in (found[1], found[-1]))
    assert dear is not None
    assert cheap is not None
    assert cheap.regret is not None
    assert dear.regret is not None
    assert cheap.regret <= dear.regret + 1e-5


def test_without_a_price_or_a_rate_nothing_is_made_up(laws: LawEnsemble) -> None:
    bare = compare_actions([Situation("mlm", Spending(laws, PRICE, 2e4, 5e9))])
    for key in ("more_data", "synthetic", "reuse esm2-650m", "continue esm2-650m"):
        action = bare.of(f"mlm {key}")
        assert action is not None
        assert action.loss is None
        assert action.ruled_out
    assert "pays below $" in bare.of("mlm more_data").assumptions[0]  # type: ignore[union-attr]
    unlimited = compare_actions([Situation("mlm", Spending(laws, PRICE, 2e4))])
    assert unlimited.of("mlm more_data") is None
    worthless = Spending(laws, PRICE, 2e4, 5e9, (generated(-0.2),))
    action = compare_actions([Situation("mlm", worthless)]).of("mlm synthetic")
    assert action is not None
    assert "none is worth taking" in action.ruled_out


def test_the_published_split_is_the_best_of_a_grid(laws: LawEnsemble) -> None:
    """On unlimited data a first phase at a rate above one pays up to the largest share that was tried."""
    spending = Spending(laws, PRICE, 4.0)
    found = compare_actions([Situation("mlm", spending)]).of("mlm transfer")
    assert found is not None
    assert found.share is not None
    assert found.share.value == pytest.approx(0.19)
    rates = [TokenSource(name="", rho=PUBLISHED_RATE).rho_at(float(z)) for z in normal_strata(8)]
    losses = [laws.losses(found.N, found.D * (0.81 + 0.19 * rate))[:, 0] for rate in rates]  # type: ignore[arg-type, operator]
    assert found.loss is not None
    assert found.loss.value == pytest.approx(np.mean([laws.draw_weights @ loss for loss in losses]), abs=1e-9)
    assert "RATE_EXTRAPOLATED" not in found.flags
    assert compare_actions([Situation("clm", replace(spending, ensemble=laws))]).of("clm transfer") is None
    # The unverified law limits the gain, once it is asked for, and then says so.
    limited = compare_actions([Situation("mlm", spending, unverified=True)]).of("mlm transfer")
    assert limited is not None
    assert limited.loss is not None
    assert limited.loss.value > found.loss.value
    assert any(c.status == "unverified" for c in limited.coefficients)
    # Beyond the sizes of the pairs, and on repeats, it may not even be worth its compute.
    far = compare_actions([Situation("mlm", Spending(laws, PRICE, 2e4, 5e9))]).of("mlm transfer")
    assert far is not None
    assert {"RATE_EXTRAPOLATED", "UNTESTED_ON_REPEATS"} <= set(far.flags)
    assert "down to 0.7" in far.assumptions[-1]
    grid = np.linspace(0, 0.19, 400)
    law = find_law("cheng-transfer").params
    D_f = (1 - grid) * found.D
    with np.errstate(divide="ignore"):
        D_t = 1 / (1 / (law["k"] * D_f ** law["a"] * found.N ** law["b"]) + 1 / (PUBLISHED_RATE.value * grid * found.D))
    best = grid[np.argmax(D_f + D_t)]
    assert limited.share is not None
    assert limited.share.low - 0.03 <= best <= limited.share.high + 0.03


def own_pairs(rate: float, tried: float = 0.3) -> TransferFit:
    share = SourceShare(
        target_run_id="t",
        source_objective="mlm",
        objective="clm",
        N=8e9,
        C=1e21,
        rate=Interval(value=rate, low=0.8 * rate, high=1.2 * rate),
        law="measured rate",
        share=Interval(value=tried, low=0.0, high=tried),
        share_tried=tried,
        gain_same_N=Interval(value=0.0, low=0.0, high=0.0),
    )
    return TransferFit(pairs=(), shares=(share,), data_hash="h")


@pytest.mark.parametrize(("rate", "share"), [(0.5, 0.0), (0.95, 0.0), (2.0, 0.3)])
def test_own_pairs_decide_whether_a_first_phase_pays(laws: LawEnsemble, rate: float, share: float) -> None:
    spending = Spending(laws, PRICE, 2e4)
    found = compare_actions([Situation("clm", spending, transfer=own_pairs(rate))]).of("clm transfer")
    assert found is not None
    assert found.share is not None
    assert found.share.value == pytest.approx(share)
    assert bool(found.ruled_out) == (share == 0)
    assert found.coefficients[-1].value == rate


@pytest.mark.slow
def test_a_public_model_that_is_better_is_reused(situation: Situation) -> None:
    known = replace(situation, public_losses={"esm2-650m": 1.5})
    found = compare_actions([known])
    assert found.best is not None
    assert found.best.name == "mlm reuse esm2-650m"
    assert found.best.usd == 0
    # Continuing never ends worse than it began, and cannot beat what no law reaches at its size.
    continued = found.of("mlm continue esm2-650m")
    assert continued is not None
    assert continued.loss is not None
    assert continued.loss.value == pytest.approx(1.5, abs=0.02)
    far = compare_actions([replace(situation, public_losses={"esm2-650m": 3.5})])
    assert loss(far, "mlm continue esm2-650m") < 3.0
    with pytest.raises(ConfigError) as caught:
        compare_actions([replace(situation, public_losses={"esm2-65m": 2.0})])
    assert "did you mean esm2-650m" in str(caught.value)


@pytest.mark.slow
def test_the_rule_of_distillation(situation: Situation) -> None:
    def ruled_out(one: Situation) -> str:
        found = [a for a in compare_actions([one]).actions if a.key == "distil"]
        return found[0].ruled_out if found else "no teacher can be paid for"

    assert "unverified" in ruled_out(situation)
    scarce = replace(situation, unverified=True)
    assert ruled_out(scarce) == ""
    assert "not the bottleneck" in ruled_out(replace(scarce, spending=replace(scarce.spending, unique_tokens=1e12)))
    rich = replace(scarce, teacher_free=False, spending=replace(scarce.spending, usd=1e7), teacher="esm2-650m")
    assert "have to be trained" in ruled_out(rich)


@pytest.mark.parametrize("student", [(1.5e8, 2e10), (5.5e8, 2e11), (3e9, 1e12)])
def test_the_worth_of_a_distilled_token_leads_back_to_its_loss(student: tuple[float, float]) -> None:
    teacher = (3e9, 2e11)
    supervised = two_powers(find_law("busbridge2025-supervised").params)
    wanted = distil(supervised, find_law("busbridge2025-distillation").params, student=student, teacher=teacher).loss
    worth = distilled_worth(student, teacher)
    assert supervised.loss(student[0], worth * student[1]) == pytest.approx(wanted, rel=1e-9)


LINE = [MetricPoint(loss=1.9 + 0.1 * k, metric=0.8 - 0.03 * k) for k in range(10)]


def both(situation: Situation) -> list[Situation]:
    return [situation, Situation("clm", replace(situation.spending, sources=()))]


def test_losses_never_rank_across_objectives(situation: Situation) -> None:
    found = compare_actions(both(situation))
    assert not found.comparable
    assert found.best is None
    assert len(found.groups) == 2
    for group in found.groups:
        ranks = [action.rank for action in found.actions if action.group == group and action.rank]
        assert ranks == list(range(1, len(ranks) + 1))
    named = compare_actions(both(situation), metric="fitness")
    assert named.flags == ("NOT_COMPARABLE",)
    assert "not comparable" in named.sentences[0]
    # Points that do not say whose they are cannot be shared by two objectives.
    anonymous = compare_actions(both(situation), metric="fitness", points=LINE)
    assert "NOT_COMPARABLE" in anonymous.flags
    assert not anonymous.comparable


def test_a_map_ranks_all_actions_together(situation: Situation) -> None:
    points = [p.model_copy(update={"objective": o}) for o in ("mlm", "clm") for p in LINE]
    scores = [PublicScore(name="alignment", value=0.95), PublicScore(name="esm2-650m", value=0.1, low=0.05, high=0.15)]
    found = compare_actions(both(situation), metric="fitness", points=points, scores=scores)
    assert found.comparable
    assert found.best is not None
    assert found.best.key == "alignment", "an alignment that scores better than any model wins"
    assert {"mlm", "clm"} <= {action.objective for action in found.actions if action.rank}
    worst = max((action for action in found.actions if action.rank), key=lambda action: action.rank or 0)
    assert worst.name == "mlm reuse esm2-650m"
    # Through a falling map the order of one objective's actions is that of their losses.
    by_loss = [a.name for a in compare_actions([situation]).actions if a.rank and a.key != "reuse"]
    assert [a.name for a in found.actions if a.rank and a.objective == "mlm" and a.key != "reuse"] == by_loss


def test_no_detectable_gain_is_an_answer(situation: Situation) -> None:
    flat = [MetricPoint(loss=2.0 + 0.1 * k, metric=0.4 + 0.01 * ((7 * k) % 3 - 1)) for k in range(9)]
    found = compare_actions([situation], metric="fitness", points=flat)
    assert found.flags == ("NO_DETECTABLE_GAIN",)
    assert "no detectable gain" in found.sentences[0]
    assert not found.comparable
    assert all(action.utility is None for action in found.actions)


def test_what_cannot_be_asked(situation: Situation) -> None:
    with pytest.raises(ConfigError, match="no objective"):
        compare_actions([])
    with pytest.raises(ConfigError, match="two situations"):
        compare_actions([situation, situation])
    with pytest.raises(ConfigError, match="name of their metric"):
        compare_actions([situation], points=LINE)
