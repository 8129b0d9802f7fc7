"""Scores against closed forms: chains, planted profiles, the uniform model; windows, counts and refusals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.errors import ConfigError, PlmScalingError, RefusedError
from plm_scaling.evals.adapters.base import Ability, FloatArray, Letters, ModelInfo, Query
from plm_scaling.evals.adapters.doubles import MarkovModel, PlantedProfile, UniformModel
from plm_scaling.evals.cost import causal_cost
from plm_scaling.evals.likelihoods import clm_totals, pseudo_totals
from plm_scaling.evals.scoring import score_variants
from plm_scaling.evals.variants import parse_variants
from plm_scaling.evals.windows import covering_windows, edge_weights, optimal_window

RNG = np.random.default_rng(8)
TRANSITION = RNG.dirichlet(np.full(20, 0.5), size=20)
CHAIN = MarkovModel(TRANSITION)
WILD = "".join(RNG.choice(list(STANDARD), 60))


class Limited(MarkovModel):
    """A chain that refuses more residues than its context holds, and counts what it is shown."""

    def __init__(self, context: int, *abilities: Ability, objective: str = "mlm") -> None:
        super().__init__(TRANSITION)
        changes = {
            "context": context,
            "abilities": abilities or ("masked", "causal", "reverse"),
            "objective": objective,
        }
        self._info: ModelInfo = self._info.model_copy(update=changes)
        self.shown: list[str] = []

    def masked_logprobs(self, queries: Sequence[Query], *, letters: Letters = "20") -> list[FloatArray]:
        self._see([query.sequence for query in queries])
        return super().masked_logprobs(queries, letters=letters)

    def residue_logprobs(self, sequences, *, direction="forward", letters="20") -> list[FloatArray]:
        self._see(sequences)
        return super().residue_logprobs(sequences, direction=direction, letters=letters)

    def _see(self, sequences: Sequence[str]) -> None:
        self.shown += sequences
        assert not self.info.context or max(map(len, sequences)) <= self.info.context - 2


def library(n: int, sites: Sequence[int], most: int, seed: int = 0) -> list[str]:
    """Variants of WILD at some sites, as tables write them."""
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(n):
        places = sorted(rng.choice(sites, rng.integers(1, most + 1), replace=False).tolist())
        texts.append(":".join(f"{WILD[p]}{p + 1}{rng.choice(list(STANDARD))}" for p in places))
    return texts


def log_p(sequence: str) -> float:
    ids = [STANDARD.index(letter) for letter in sequence]
    return float(np.log(CHAIN.start_A[ids[0]]) + np.log(TRANSITION[ids[:-1], ids[1:]]).sum())


def conditional(sequence: str, site: int) -> np.ndarray:
    """Ln p(x_i | the others), from the totals of the 20 sequences."""
    totals = np.array([log_p(sequence[:site] + letter + sequence[site + 1 :]) for letter in STANDARD])
    return totals - np.logaddexp.reduce(totals)


def test_every_method_on_a_chain_is_its_definition() -> None:
    variants = parse_variants(WILD, [*library(20, range(60), 3), "WT"])
    truth = np.array([log_p(v.sequence) - log_p(WILD) for v in variants])
    for directions in ("forward", "both"):
        scores = score_variants(CHAIN, WILD, variants, "clm", directions=directions)
        np.testing.assert_allclose(scores.values, truth, atol=1e-9)
        assert scores.wild_type == pytest.approx(log_p(WILD))
    masked = [
        sum(
            conditional(WILD, c.position)[STANDARD.index(c.new)] - conditional(WILD, c.position)[STANDARD.index(c.old)]
            for c in v.substitutions
        )
        for v in variants
    ]
    scores = score_variants(CHAIN, WILD, variants, "masked_marginals")
    np.testing.assert_allclose(scores.values, masked, atol=1e-9)
    assert scores.cost.forwards == len({site for v in variants for site in v.sites})
    few = variants[:1]
    pseudo = [
        sum(
            conditional(v.sequence, i)[STANDARD.index(v.sequence[i])] - conditional(WILD, i)[STANDARD.index(WILD[i])]
            for i in range(60)
        )
        for v in few
    ]
    np.testing.assert_allclose(score_variants(CHAIN, WILD, few, "pseudo_likelihood").values, pseudo, atol=1e-9)


def test_jointly_masked_sites_do_not_see_each_other() -> None:
    variants = parse_variants(WILD, [f"{WILD[20]}21W:{WILD[21]}22C", f"{WILD[5]}6W"])
    joint, alone = (score_variants(CHAIN, WILD, variants, "masked_marginals", joint=j) for j in (True, False))
    answer = CHAIN.masked_logprobs([Query(WILD, (20, 21), (20, 21))])[0]
    new, old = ([STANDARD.index(x) for x in text] for text in ("WC", WILD[20:22]))
    assert joint.values[0] == pytest.approx((answer[[0, 1], new] - answer[[0, 1], old]).sum(), abs=1e-12)
    assert abs(joint.values[0] - alone.values[0]) > 1e-3
    assert joint.values[1] == pytest.approx(alone.values[1], abs=1e-12)
    assert joint.protocol != alone.protocol


@pytest.mark.parametrize("letters", ["20", "raw"])
def test_a_planted_profile_is_found_by_every_method(letters) -> None:
    planted = np.log(RNG.dirichlet(np.ones(20), size=60))
    model = PlantedProfile(planted)
    variants = parse_variants(WILD, library(40, range(60), 4))
    truth = [
        sum(
            planted[c.position, STANDARD.index(c.new)] - planted[c.position, STANDARD.index(c.old)]
            for c in v.substitutions
        )
        for v in variants
    ]
    for method in ("auto", "wt_marginals", "masked_marginals", "profile", "clm", "pseudo_likelihood"):
        scores = score_variants(model, WILD, variants, method, letters=letters)
        np.testing.assert_allclose(scores.values, truth, atol=1e-9, err_msg=method)
    assert score_variants(model, WILD, variants, "wt_marginals").cost.forwards == 1


class LimitedUniform(UniformModel):
    """A uniform model with a context."""

    def __init__(self, context: int) -> None:
        super().__init__()
        self._info = self._info.model_copy(update={"context": context})


@pytest.mark.parametrize("context", [0, 3, 12])
def test_totals_of_the_uniform_model_are_affine_in_length(context) -> None:
    sequences = [WILD[:n] for n in range(1, 60, 19)]
    model = LimitedUniform(context)
    for totals in (clm_totals(model, sequences), pseudo_totals(model, sequences)):
        np.testing.assert_allclose(totals.values, [-len(s) * np.log(20) for s in sequences], rtol=1e-12)
    texts = ["WT", f"{WILD[2]}3del", f"{WILD[2]}3_{WILD[3]}4insGGG"]
    variants = parse_variants(WILD, texts)
    for method in ("clm", "pseudo_likelihood"):
        scores = score_variants(model, WILD, variants, method)
        np.testing.assert_allclose(scores.values, np.log(20) * np.array([0, 1, -3]), atol=1e-9)


def test_residues_beside_the_20_are_shown_and_not_counted() -> None:
    class Gaps(UniformModel):
        def masked_logprobs(self, queries, *, letters="20"):
            assert all(query.sequence == "MKXTU" for query in queries)
            return [np.full((1, 20), -1.0) for _ in queries]

        def residue_logprobs(self, sequences, *, direction="forward", letters="20"):
            return [np.array([-1.0, -1.0, np.nan, -1.0, np.nan]) for _ in sequences]

    assert clm_totals(Gaps(), ["MKXTU"]).values == pytest.approx([-3.0])
    assert pseudo_totals(Gaps(), ["MKXTU"]).values == pytest.approx([-3.0])


@pytest.mark.parametrize(
    ("sites", "most", "method", "windows"),
    [
        (range(25, 31), 3, "clm", "one"),
        (range(4, 56), 1, "clm", "per variant"),
        (range(4, 56), 3, "masked_marginals", "per site"),
        (range(25, 31), 3, "wt_marginals", "one"),
        (range(60), 3, "clm", "overlapping"),
        (range(60), 3, "wt_marginals", "overlapping"),
        (range(60), 2, "pseudo_likelihood", "per site"),
    ],
)
def test_long_proteins_are_read_in_windows(sites, most, method, windows) -> None:
    """A chain looks one residue ahead and back: with context on both sides a window changes nothing."""
    texts = library(25, sites, most)
    if windows == "overlapping":
        texts.append(f"{WILD[1]}2W:{WILD[55]}56W")
    variants = parse_variants(WILD, texts)
    short, whole = (score_variants(Limited(c), WILD, variants, method) for c in (24, 0))
    assert (short.windows, whole.windows) == (windows, "whole")
    assert short.protocol != whole.protocol
    if windows == "overlapping":  # where a window begins the chain guesses: seldom, with little weight
        assert np.corrcoef(short.values, whole.values)[0, 1] > 0.99
    else:
        np.testing.assert_allclose(short.values, whole.values, atol=1e-9)


@given(st.integers(1, 200), st.integers(1, 60), st.sampled_from(["both", "left", "right"]), st.data())
@settings(max_examples=30)
def test_windows_cover_and_weights_sum_to_one(length, width, cut, data) -> None:
    spans = covering_windows(length, width)
    total = np.zeros(length)
    for (begin, end), weights in zip(spans, edge_weights(spans, length, cut), strict=True):
        assert 0 <= begin < end <= length
        assert end - begin == min(width, length)
        assert (weights > 0).all()
        total[begin:end] += weights
    np.testing.assert_allclose(total, 1.0, rtol=1e-12)
    site = data.draw(st.integers(0, length - 1))
    begin, end = optimal_window([site], length, width)
    assert 0 <= begin <= site < end <= length
    assert end - begin == min(width, length)
    half = width // 2
    if length > width:  # the rule in ProteinGym's words
        wanted = 0 if site < half else length - width if site >= length - half else site - half
        assert begin == wanted
    others = data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=5))
    begin, end = optimal_window(others, length, width)
    if max(others) - min(others) < min(width, length) - 1:
        assert begin <= min(others)
        assert max(others) < end


@settings(max_examples=30)
@given(st.lists(st.text("AC", min_size=1, max_size=6), unique=True, max_size=12))
def test_tokens_are_the_distinct_beginnings(sequences) -> None:
    cost = causal_cost(sorted(sequences))
    beginnings = {s[:n] for s in sequences for n in range(len(s) + 1)}
    assert cost.tokens == len(beginnings)
    assert cost.tokens_unshared == sum(len(s) + 1 for s in sequences)


def test_equal_variants_are_computed_once() -> None:
    variants = parse_variants(WILD, ["WT", "WT", f"{WILD[3]}4W", f"{WILD[3]}4W", f"{WILD[59]}60W"])
    model = Limited(0)
    scores = score_variants(model, WILD, variants, "clm", directions="forward")
    assert len(model.shown) == scores.cost.forwards == len({v.sequence for v in variants})
    model.shown.clear()
    score_variants(model, WILD, variants, "masked_marginals")
    assert len(model.shown) == 2


def test_the_usual_method_follows_what_a_model_can_do() -> None:
    substitution, indel = parse_variants(WILD, [f"{WILD[3]}4W", f"{WILD[3]}4del"])
    for model, both, one in [
        (Limited(0, "masked"), "pseudo_likelihood", "masked_marginals"),
        (Limited(0, "causal", objective="clm"), "clm", "clm"),
        (UniformModel(), "pseudo_likelihood", "profile"),
    ]:
        assert score_variants(model, WILD, [substitution, indel]).method == both
        assert score_variants(model, WILD, [substitution]).method == one
    forward = score_variants(Limited(0, "causal", objective="clm"), WILD, [indel])
    assert forward.directions == ("forward",)
    with pytest.raises(RefusedError, match="from the right"):
        score_variants(Limited(0, "causal", objective="clm"), WILD, [indel], directions="both")
    with pytest.raises(RefusedError, match="variant 2") as error:
        score_variants(Limited(0), WILD, [substitution, indel], "masked_marginals")
    assert "pseudo_likelihood" in str(error.value)
    with pytest.raises(ConfigError, match="maskd") as typo:
        score_variants(Limited(0), WILD, [substitution], "maskd_marginals")
    assert "masked_marginals" in str(typo.value)
    far = parse_variants(WILD, [f"{WILD[0]}1W:{WILD[59]}60W"])
    with pytest.raises(RefusedError, match="do not fit"):
        score_variants(Limited(24), WILD, far, "masked_marginals", joint=True)
    wild = WILD[:3] + "X" + WILD[4:]
    with pytest.raises(ConfigError, match="residue 4 of the wild type is X"):
        score_variants(Limited(0), wild, parse_variants(wild, ["X4W"]), "masked_marginals")


def test_a_score_that_is_no_number_names_its_variant() -> None:
    class Broken(UniformModel):
        def masked_logprobs(self, queries, *, letters="20"):
            return [np.where(np.arange(20) == STANDARD.index("W"), np.nan, -3.0)[None] for _ in queries]

    variants = parse_variants(WILD, [f"{WILD[3]}4C", f"{WILD[3]}4W"])
    with pytest.raises(PlmScalingError, match=r"1 of 2 variants") as error:
        score_variants(Broken(), WILD, variants, "masked_marginals")
    assert "variant 2" in str(error.value)
