"""Doubles against enumeration: every sequence of a length, all 20 letters."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.errors import ConfigError, CorpusError, RefusedError
from plm_scaling.evals.adapters.base import Adapter, Query
from plm_scaling.evals.adapters.doubles import MarkovModel, PlantedProfile, UniformModel

RNG = np.random.default_rng(4)
TRANSITION = RNG.dirichlet(np.full(20, 0.3), size=20)
START = RNG.dirichlet(np.full(20, 0.5))
THREE = ["".join(letters) for letters in itertools.product(STANDARD, repeat=3)]


def joint(start: np.ndarray = START) -> np.ndarray:
    """p of every sequence of three residues, [20, 20, 20]."""
    return start[:, None, None] * TRANSITION[:, :, None] * TRANSITION[None]


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_likelihoods_of_a_chain_are_those_of_the_joint_distribution(direction) -> None:
    some = slice(None, None, 13)
    given = MarkovModel(TRANSITION, START).residue_logprobs(THREE[some], direction=direction)
    np.testing.assert_allclose(np.sum(given, axis=1), np.log(joint()).ravel()[some], rtol=1e-12)
    pair = joint().sum(0)  # of the last two residues
    middle = np.log(pair / pair.sum(0)) if direction == "reverse" else np.log(TRANSITION)
    wanted = np.broadcast_to(middle[None] if direction == "reverse" else middle[..., None], (20, 20, 20))
    np.testing.assert_allclose(np.array(given)[:, 1], wanted.ravel()[some], rtol=1e-9)


def test_masked_sites_of_a_chain_are_conditionals_of_the_joint_distribution() -> None:
    model, p = MarkovModel(TRANSITION, START), joint()
    sequence = "KAC"
    k, a, c = (STANDARD.index(letter) for letter in sequence)
    wanted = {
        ((0,), 0): p[:, a, c],
        ((1,), 1): p[k, :, c],
        ((2,), 2): p[k, a],
        ((0, 1), 0): p[:, :, c].sum(1),
        ((0, 1), 1): p[:, :, c].sum(0),
        ((1, 2), 1): p[k].sum(1),
        ((0, 1, 2), 1): p.sum((0, 2)),
        ((), 1): p[k, :, c],
    }
    answers = model.masked_logprobs([Query(sequence, masked, (site,)) for masked, site in wanted])
    for ((masked, site), joint_p), answer in zip(wanted.items(), answers, strict=True):
        np.testing.assert_allclose(np.exp(answer[0]), joint_p / joint_p.sum(), rtol=1e-9, err_msg=f"{masked} {site}")


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_with_an_end_the_probabilities_of_all_sequences_up_to_a_length_sum_to_theirs(direction) -> None:
    model = MarkovModel(TRANSITION, START, end=0.3)
    all_up_to = [*STANDARD, *map("".join, itertools.product(STANDARD, repeat=2))]
    totals = [x.sum() for x in model.residue_logprobs(all_up_to, direction=direction, letters="raw")]
    assert np.exp(totals).sum() == pytest.approx(1 - 0.7**2, rel=1e-12)


def test_without_a_start_a_chain_is_stationary() -> None:
    start = MarkovModel(TRANSITION).start_A
    np.testing.assert_allclose(start @ TRANSITION, start, atol=1e-12)


def test_a_uniform_model_gives_minus_l_ln_20() -> None:
    sequences = ["M", "MKV", STANDARD * 5]
    for letters in ("20", "raw"):
        for sequence, logp in zip(sequences, UniformModel().residue_logprobs(sequences, letters=letters), strict=True):
            assert logp.sum() == pytest.approx(-len(sequence) * np.log(20), rel=1e-14)
            assert len(logp) == len(sequence) + (letters == "raw")
    [masked] = UniformModel().masked_logprobs([Query("MKV", (1,), (1, 2))])
    assert masked.shape == (2, 20)
    assert np.all(masked == -np.log(20))


def test_a_profile_sees_no_other_site() -> None:
    profile = PlantedProfile(np.log(RNG.dirichlet(np.ones(20), size=3)))
    one, other = profile.masked_logprobs([Query("MKV", (0,), (2, 0)), Query("CCC", (), (2, 0))])
    assert np.array_equal(one, other)
    assert np.array_equal(one, profile.logprobs_LA[[2, 0]])
    [logp] = profile.residue_logprobs(["MKV"])
    assert logp.tolist() == [profile.logprobs_LA[i, STANDARD.index(x)] for i, x in enumerate("MKV")]
    with pytest.raises(CorpusError, match="4 residues, the profile has 3 sites"):
        profile.residue_logprobs(["MKVA"])


@pytest.mark.parametrize("model", [UniformModel(), MarkovModel(TRANSITION), PlantedProfile(np.log(TRANSITION))])
def test_what_a_double_cannot_do_is_refused_by_name(model: Adapter) -> None:
    with pytest.raises(RefusedError, match="cannot show activations"):
        model.embed(["MKV"])
    with pytest.raises(RefusedError, match="cannot show attention maps") as refusal:
        model.attentions("MKV")
    assert "it has masked, causal" in refusal.value.why


@pytest.mark.parametrize(
    ("sequence", "what"),
    [("MK-V", "'-' is not a residue letter, at residue 3 of 4"), ("MKX", "'X' is none of the 20"), ("", "empty")],
)
def test_wrong_letters_are_named(sequence: str, what: str) -> None:
    with pytest.raises(CorpusError, match=what):
        UniformModel().residue_logprobs([sequence])


def test_sites_outside_the_sequence_are_named() -> None:
    with pytest.raises(CorpusError, match="site 3 shall be read, the sequence has sites 0 to 2"):
        MarkovModel(TRANSITION).masked_logprobs([Query("MKV", (1,), (3,))])


@pytest.mark.parametrize(
    "make",
    [
        lambda: MarkovModel(2 * TRANSITION),
        lambda: MarkovModel(TRANSITION[:5]),
        lambda: MarkovModel(TRANSITION, START, end=1.5),
        lambda: PlantedProfile(TRANSITION),
    ],
)
def test_what_is_no_distribution_is_no_model(make) -> None:
    with pytest.raises(ConfigError):
        make()
