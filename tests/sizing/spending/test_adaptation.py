"""A user's own sequences: what pre-training is worth to them, what training on them costs, and what compares."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.errors import ConfigError
from plm_scaling.core.model_sizes import model_size
from plm_scaling.core.units import format_count
from plm_scaling.laws.zoo import find_law
from plm_scaling.sizing.action import Action, ActionTable
from plm_scaling.sizing.action_parts import Situation
from plm_scaling.sizing.actions import compare_actions
from plm_scaling.sizing.adaptation import adaptation_of, balanced_sizes, transfer_laws, transferred_tokens
from plm_scaling.sizing.adaptation_pilots import AdaptationPilots, adaptation_pilots
from plm_scaling.sizing.answers import published_sizing_law
from plm_scaling.sizing.costs import Budget
from plm_scaling.sizing.law_ensemble import LawEnsemble
from plm_scaling.sizing.metric_map import MetricPoint
from plm_scaling.sizing.null_actions import public_model
from plm_scaling.sizing.own_sequences import AdaptedRun, OwnSequences, read_adapted_runs
from plm_scaling.sizing.situations import make_situations
from plm_scaling.sizing.spending import Spending, search_ensemble
from plm_scaling.sizing.training_price import price_per_flop

HELD, LENGTH = 7.36e7, 736.0
LOSSES = {0.0: 2.6, 0.1: 2.2, 1.0: 2.0}
HEADER = "model,method,tokens,loss,metric\n"


def cost_of(flops: float, d_model: float) -> tuple[float, float]:
    del d_model
    return flops / 1e18, 3.0 * flops / 1e18


OWN = OwnSequences(HELD, cost_of, LENGTH)


def run(model: str, method: str, share: float, loss: float, metric: float | None = None) -> AdaptedRun:
    return AdaptedRun.checked(model=model, method=method, tokens=share * HELD, loss=loss, metric=metric)


RUNS = (
    run("esm2-650m", "as is", 0.0, 2.6, 0.28),
    run("esm2-650m", "full", 0.1, 2.2, 0.34),
    run("esm2-650m", "full", 1.0, 2.0, 0.41),
    run("esm2-650m", "lora", 1.0, 2.05, 0.39),
    run("esm2-35m", "full", 1.0, 2.3, 0.33),
    run("esm2-35m", "scratch", 1.0, 2.25, 0.34),
)


@pytest.fixture(scope="module")
def bare(ensemble: LawEnsemble) -> Situation:
    laws = search_ensemble(ensemble, 4)
    return Situation("mlm", Spending(laws, price_per_flop(2.4e-18), 2e4, 5e9), own=OWN)


@pytest.fixture(scope="module")
def measured(bare: Situation) -> Situation:
    return replace(bare, own=replace(OWN, runs=RUNS))


@pytest.fixture(scope="module")
def table(bare: Situation) -> ActionTable:
    return compare_actions([bare])


def of(table: ActionTable, name: str) -> Action:
    found = table.of(name)
    assert found is not None
    return found


# ---- cost ----------------------------------------------------------------------------------------------------------


def test_the_bill_counts_every_product_of_the_models_own_shape() -> None:
    """ESM-2 8M by hand: 6 blocks of 8 d^2 + 4 d 4d, scores of 4 d len, a head of 2 d^2 + 2 d V; backward twice."""
    model, d = public_model("esm2-8m"), 320
    per_token = 6 * (24 * d**2 + 4 * d * LENGTH) + 2 * d**2 + 2 * d * 33
    found = adaptation_of(model, "full", OWN, HELD, 4.0)
    assert found.flops == pytest.approx(3 * per_token * 4 * HELD)
    assert (found.gpu_hours, found.usd) == cost_of(found.flops, d)
    assert found.state_gb == pytest.approx(16e-9 * model_size("esm2-8m").N_total)
    lora = adaptation_of(model, "lora", OWN, HELD, 4.0)
    assert lora.flops == found.flops, "gradients go back through the frozen weights"
    added = 6 * 8 * (8 * d + 2 * 4 * d)
    assert lora.state_gb == pytest.approx(4e-9 * model_size("esm2-8m").N_total + 16e-9 * added)
    assert adaptation_of(model, "as is", OWN, HELD, 4.0).flops == pytest.approx(found.flops / 3)


# ---- what pre-training is worth ------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(tokens=st.floats(1e5, 1e10), more=st.floats(1.0, 100.0), objective=st.sampled_from(["mlm", "clm"]))
def test_transferred_tokens_lie_between_the_laws(tokens: float, more: float, objective: str) -> None:
    names = {"mlm": ("esm2-35m", "esm2-650m"), "clm": ("progen2-small", "progen2-xlarge")}[objective]
    small, large = (public_model(name) for name in names)
    found, coefficients = transferred_tokens(large, objective, tokens)  # type: ignore[arg-type]
    each = [
        min(p["k"] * tokens ** p["a"] * large.N ** p["b"], large.D or math.inf)
        for p in (law.params for law in transfer_laws(objective))  # type: ignore[arg-type]
    ]
    assert (found.low, found.high) == pytest.approx((min(each), max(each)))
    assert found.low <= found.value * (1 + 1e-12)
    assert found.value <= found.high * (1 + 1e-12)
    assert {c.status for c in coefficients} <= {"read", "unverified"}
    assert transferred_tokens(large, objective, more * tokens)[0].value >= found.value * (1 - 1e-12)  # type: ignore[arg-type]
    assert transferred_tokens(small, objective, tokens)[0].value < found.value  # type: ignore[arg-type]


@settings(max_examples=30, deadline=None)
@given(log_C=st.floats(math.log(1e15), math.log(1e27)))
def test_sizes_and_tokens_belong_together(log_C: float) -> None:
    law = find_law("besiroglu2024")
    sizes = balanced_sizes(published_sizing_law(law))
    N, D = law.optimum(math.exp(log_C))
    assert sizes.tokens_for(N) == pytest.approx(D, rel=1e-6)
    assert sizes.size_for(D) == pytest.approx(N, rel=1e-6)
    assert sizes.tokens_for(1e30) is None


# ---- the actions ---------------------------------------------------------------------------------------------------


def test_without_measurements_nothing_of_ones_own_is_ranked(bare: Situation, table: ActionTable) -> None:
    own = [action for action in table.actions if action.key in ("adapt", "own_scratch", "add_own")]
    assert [a.name for a in own if a.key == "adapt"] == [
        f"mlm adapt {method}" for method in ("full esm2-35m", "full esm2-150m", "full esm2-650m", "lora esm2-650m")
    ]
    assert all(action.rank is None and action.ruled_out and action.assumptions for action in own)
    assert {a.group for a in own if a.key != "add_own"} == {"mlm on your own sequences"}
    assert table.comparable, "what is not ranked takes nothing from the others"
    # The other actions are those of a user without sequences of their own.
    without = compare_actions([replace(bare, own=None)])
    assert without.actions == tuple(action for action in table.actions if action not in own)
    tuned = of(table, "mlm adapt full esm2-650m")
    assert {"UNVERIFIED", "TRANSFER_BY_ANALOGY"} <= set(tuned.flags)
    assert tuned.usd == adaptation_of(public_model("esm2-650m"), "full", OWN, HELD, 4.0).usd
    assert tuned.transferred == transferred_tokens(public_model("esm2-650m"), "mlm", HELD)[0]
    alone = of(table, "mlm own_scratch")
    assert "4 epochs of 74M tokens feed" in alone.ruled_out
    assert alone.N is not None
    assert f"1/{format_count(public_model('esm2-35m').N / alone.N, 2)} of esm2-35m" in alone.ruled_out
    fewer = compare_actions([replace(bare, own=replace(OWN, tokens=1e6))])
    assert of(fewer, "mlm own_scratch").ruled_out.endswith(": hopeless")
    assert "OSSIFICATION_POSSIBLE" not in tuned.flags


def test_a_large_collection_outnumbers_what_is_transferred(bare: Situation) -> None:
    found = compare_actions([replace(bare, own=replace(OWN, tokens=5e9))])
    assert {"OSSIFICATION_POSSIBLE", "BEYOND_LOW_DATA"} <= set(of(found, "mlm adapt full esm2-35m").flags)
    poor = replace(bare, own=replace(OWN, tokens=5e9), spending=replace(bare.spending, usd=10.0))
    assert of(compare_actions([poor]), "mlm adapt full esm2-650m").ruled_out == "it costs more than the budget"


def test_added_to_the_corpus_they_count_as_far_as_they_are_many(bare: Situation, table: ActionTable) -> None:
    few = of(table, "mlm add_own")
    assert few.ruled_out.startswith("at most 0.")
    assert "negligible" in few.ruled_out
    assert few.unique_tokens == 5e9 + HELD
    scratch = of(table, "mlm scratch")
    laws, weights = bare.spending.laws, bare.spending.laws.draw_weights
    gain = weights @ (laws.losses(scratch.N, scratch.D, 5e9) - laws.losses(scratch.N, scratch.D, few.unique_tokens))  # type: ignore[arg-type]
    assert scratch.loss is not None
    assert few.loss is not None
    assert scratch.loss.value - few.loss.value == pytest.approx(float(gain[0]), rel=1e-6)
    assert 0 < gain[0] < 0.01
    many = of(compare_actions([replace(bare, own=replace(OWN, tokens=1e11))]), "mlm add_own")
    assert many.rank is not None
    assert many.loss is not None
    assert many.loss.value < few.loss.value - 0.01
    unlimited = replace(bare, spending=replace(bare.spending, unique_tokens=None))
    assert "less than a millionth" in of(compare_actions([unlimited]), "mlm add_own").ruled_out


def test_measured_losses_rank_among_themselves(measured: Situation, table: ActionTable) -> None:
    found = compare_actions([measured])
    assert not found.comparable
    assert found.best is None
    own = [action for action in found.actions if action.group == "mlm on your own sequences" and action.rank]
    assert [(a.name, a.loss.value) for a in sorted(own, key=lambda a: a.rank or 0) if a.loss] == [
        ("mlm adapt full esm2-650m", 2.0),
        ("mlm adapt lora esm2-650m", 2.05),
        ("mlm own_scratch esm2-35m", 2.25),
        ("mlm adapt full esm2-35m", 2.3),
        ("mlm adapt as is esm2-650m", 2.6),
    ]
    assert own[0].p_best is not None
    assert 0.8 < own[0].p_best <= 1.0
    ranks = {a.name: a.rank for a in found.actions if a.group != "mlm on your own sequences"}
    assert ranks == {a.name: a.rank for a in table.actions if a.name in ranks}
    assert any(line.startswith("best of mlm on your own sequences: fine-tune esm2-650m") for line in found.sentences)


def test_a_metric_joins_what_is_measured_on_ones_own_sequences(measured: Situation) -> None:
    named = compare_actions([measured], metric="binding of ours")
    tuned = of(named, "mlm adapt full esm2-650m")
    assert tuned.utility is not None
    assert tuned.utility.value == pytest.approx(0.41, abs=0.03), "a line through six noisy models"
    assert of(named, "mlm scratch").utility is None
    assert tuned.rank == 1
    assert not named.comparable
    points = [MetricPoint(loss=1.9 + 0.1 * k, metric=0.35 - 0.03 * k) for k in range(8)]
    both = compare_actions([measured], metric="binding of ours", points=points)
    ranked = [action for action in both.actions if action.rank]
    assert [action.rank for action in ranked] == list(range(1, len(ranked) + 1)), "one scale, one order"
    assert ranked[0].name == "mlm adapt full esm2-650m"
    assert {"mlm scratch", "mlm adapt lora esm2-650m"} <= {action.name for action in ranked}


# ---- pilots --------------------------------------------------------------------------------------------------------


def pilots_of(situation: Situation) -> AdaptationPilots:
    found = adaptation_pilots(situation)
    assert found is not None
    return found


def test_pilots_have_a_price_and_say_what_settles(bare: Situation, measured: Situation) -> None:
    found = pilots_of(bare)
    assert found.usd == pytest.approx(sum(one.usd for one in found.runs))
    full = {(one.model, round(one.tokens / HELD, 6)) for one in found.runs if one.method == "full"}
    assert full == {(m, s) for m in ("esm2-35m", "esm2-150m", "esm2-650m") for s in (0.01, 0.1, 1.0)}
    assert found.findings == ()
    assert any(line.startswith("ossified is a size") for line in found.design)
    said = pilots_of(measured).findings
    assert said[0].startswith("esm2-35m: ossified: fine-tuned 2.300, from scratch 2.250")
    assert said[1].startswith("esm2-650m: more sequences pay: 2.200 nats on 7.4M tokens, 2.000 on 74M")
    assert len(said) == 2
    alike = (run("esm2-35m", "scratch", 1.0, 2.3 * math.exp(0.9 * found.noise)), RUNS[4])
    assert "pre-training buys nothing" in pilots_of(replace(bare, own=replace(OWN, runs=alike))).findings[0]
    # A gain within the noise of two runs is none.
    near = (
        run("esm2-650m", "full", 0.1, 2.0 * math.exp(0.9 * found.noise)),
        RUNS[2],
        run("esm2-150m", "full", 1.0, 1.9),
    )
    said = pilots_of(replace(bare, own=replace(OWN, runs=near))).findings
    assert said[0].startswith("esm2-650m: more sequences hardly pay")
    assert said[1].startswith("esm2-650m ends above esm2-150m")
    assert adaptation_pilots(replace(bare, own=None)) is None


# ---- what a user says ----------------------------------------------------------------------------------------------


def test_runs_are_read_from_a_table(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(HEADER + "ESM2-650M,as is,,2.6,\nesm2-650m,full,7.36e7,2.0,.41\n")
    assert read_adapted_runs(path) == (run("esm2-650m", "as is", 0.0, 2.6), RUNS[2])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model,method,tokens\nesm2-8m,full,1e6\n", "loss"),
        (HEADER + "esm2-9m,full,1e6,2,\n", "esm2-9m"),
        (HEADER + "esm2-8m,half,1e6,2,\n", "method"),
        (HEADER + "esm2-8m,full,1e6,-2,\n", "loss"),
        ("model,method,tokens,loss,score\nesm2-8m,full,1e6,2,1\n", "score"),
    ],
)
def test_a_table_that_cannot_be_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        read_adapted_runs(path)
    assert f"{path}:2" in str(caught.value)


def test_what_cannot_be_said_of_ones_own_sequences() -> None:
    with pytest.raises(ConfigError, match="how many tokens"):
        make_situations(Budget(usd=1e3), ["mlm"], own_length=700.0)
    with pytest.raises(ConfigError, match="tokens of your own sequences"):
        OwnSequences(math.nan, cost_of)
    with pytest.raises(ConfigError, match="you hold 1e"):
        OwnSequences(1e6, cost_of, runs=RUNS)
