"""Site-conditional nats reach exact conditional entropies, by masks and by totals alike, where a prefix does not."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.errors import ConfigError, PlmScalingError, RefusedError
from plm_scaling.evals.adapters.base import FloatArray, Letters, Query
from plm_scaling.evals.adapters.doubles import MarkovModel, PlantedProfile, UniformModel
from plm_scaling.evals.site_nats import site_nats
from plm_scaling.evals.site_sample import sample_sites

RNG = np.random.default_rng(21)
TRANSITION = RNG.dirichlet(np.full(20, 0.3), size=20)


class TreeModel(UniformModel):
    """Hidden states on a binary tree of eight leaves, of which each emits one of three letters; answers by messages.

    It fills masks by summing over the hidden states of the whole tree, and gives a sequence its likelihood from the
    left by summing over the residues still to come: two computations that share nothing but the tree.
    """

    letters = "AKW"
    leaves = 8

    def __init__(self) -> None:
        super().__init__(name="tree")
        rng = np.random.default_rng(3)
        self.prior = rng.dirichlet(np.full(3, 5.0))
        self.edges = 0.8 * np.eye(3) + 0.2 * rng.dirichlet(np.ones(3), size=(3, 2, 3))  # [level, child, parent, state]
        self.emission = 0.85 * np.eye(3) + 0.15 * rng.dirichlet(np.ones(3), size=3)  # [state, letter]

    def probability(self, ids_BL: np.ndarray) -> np.ndarray:
        """Of what is seen, float64[B]; -1 stands for a residue that is not."""
        message_BLK = np.where(ids_BL[..., None] >= 0, self.emission.T[np.maximum(ids_BL, 0)], 1.0)
        for edges_CKK in self.edges:
            up = [message_BLK[:, child::2] @ edges_CKK[child].T for child in (0, 1)]
            message_BLK = up[0] * up[1]
        return message_BLK[:, 0] @ self.prior

    def ids(self, sequence: str) -> list[int]:
        return [self.letters.find(letter) for letter in sequence]

    def masked_logprobs(self, queries: Sequence[Query], *, letters: Letters = "20") -> list[FloatArray]:
        ids = np.array([self.ids(query.sequence) for query in queries])
        assert all(len(query.masked) == 1 and query.masked == query.read for query in queries)
        site, row = np.array([query.read[0] for query in queries]), np.arange(len(queries))
        table = np.zeros((len(queries), 20))
        for number, letter in enumerate(self.letters):
            ids[row, site] = number
            table[:, STANDARD.index(letter)] = self.probability(ids)
        with np.errstate(divide="ignore"):
            return list(np.log(table / table.sum(1, keepdims=True))[:, None])

    def residue_logprobs(self, sequences, *, direction="forward", letters="20") -> list[FloatArray]:
        known = [all(letter in self.letters for letter in sequence) for sequence in sequences]
        ids = np.array([self.ids(s) if k else [0] * 8 for s, k in zip(sequences, known, strict=True)])
        seen = np.tril(np.ones((9, 8), dtype=bool), -1)
        if direction == "reverse":
            seen = seen[:, ::-1]
        log_p = np.log([self.probability(np.where(some, ids, -1)) for some in seen]).T
        steps = np.diff(log_p)[:, :: 1 if direction == "forward" else -1]
        return [row if k else np.full(8, -np.inf) for row, k in zip(steps, known, strict=True)]


def chain_source(n: int) -> tuple[MarkovModel, list[str], FloatArray]:
    """A chain, sequences of 12 residues from it, and the exact entropy of each site given the others."""
    model, rng = MarkovModel(TRANSITION), np.random.default_rng(5)
    ids = np.zeros((n, 12), dtype=int)
    ids[:, 0] = rng.choice(20, n, p=model.start_A)
    for i in range(1, 12):
        ids[:, i] = (TRANSITION[ids[:, i - 1]].cumsum(1) < rng.random((n, 1))).sum(1).clip(0, 19)
    triple = model.start_A[:, None, None] * TRANSITION[:, :, None] * TRANSITION[None]

    def entropy(joint: np.ndarray, axis: int) -> float:
        positive = joint[joint > 0]
        rest = joint.sum(axis)
        return float((rest[rest > 0] * np.log(rest[rest > 0])).sum() - (positive * np.log(positive)).sum())

    pair = triple.sum(2)
    exact = np.array([entropy(pair, 0), *[entropy(triple, 1)] * 10, entropy(pair, 1)])
    return model, ["".join(STANDARD[k] for k in row) for row in ids], exact


def tree_source(n: int) -> tuple[TreeModel, list[str], FloatArray]:
    """The same of the tree, its entropies by listing all 6,561 sequences."""
    model, rng = TreeModel(), np.random.default_rng(6)
    every = np.array(list(itertools.product(range(3), repeat=8)))
    p = model.probability(every)
    assert p.sum() == pytest.approx(1.0, abs=1e-12)
    full = p.reshape((3,) * 8)
    total = -(p * np.log(p)).sum()
    rests = [full.sum(axis) for axis in range(8)]
    exact = np.array([total + (rest * np.log(rest)).sum() for rest in rests])
    drawn = every[rng.choice(len(every), n, p=p / p.sum())]
    return model, ["".join(model.letters[k] for k in row) for row in drawn], exact


@pytest.mark.parametrize("source", [chain_source, tree_source])
def test_masks_and_totals_both_reach_the_exact_conditional_entropy(source) -> None:
    model, sequences, exact = source(160)
    sample = sample_sites(sequences, per_sequence=2)
    wanted = exact[sample.position].mean()
    by_masks = site_nats(model, sequences, sample, method="masked")
    by_totals = site_nats(model, sequences, sample, method="causal", directions="forward")
    # One joint distribution, hence the same conditionals site by site.
    np.testing.assert_allclose(by_totals.values, by_masks.values, atol=1e-9)
    for found in (by_masks, by_totals):
        assert found.mean.se < 0.1 * wanted
        assert abs(found.mean.value - wanted) < 3.0 * found.mean.se
    few = sample_sites(sequences[:20], per_sequence=2)
    both = site_nats(model, sequences[:20], few, method="causal")
    assert both.directions == ("forward", "reverse")
    np.testing.assert_allclose(both.values, by_masks.values[:40], atol=1e-9)
    # What a causal model's own loss says of a site is another quantity.
    answers = model.residue_logprobs(sequences)
    prefix = [-answers[s][p] for s, p in zip(sample.sequence, sample.position, strict=True)]
    apart = prefix - by_masks.values
    assert apart.mean() > 4.0 * apart.std() / np.sqrt(len(apart))


def test_a_sample_follows_from_letters_and_seed() -> None:
    sequences = ["MKTAYIAKQRX", "MKV", "MKTAYIAKQR"]
    sample = sample_sites(sequences, per_sequence=4)
    turned = sample_sites(sequences[::-1], per_sequence=4)
    for number in range(3):
        own = sample.position[sample.sequence == number]
        np.testing.assert_array_equal(own, turned.position[turned.sequence == 2 - number])
        assert len(own) == min(4, len(sequences[number]))
        assert 10 not in own  # X is no amino acid of the 20
    assert sample.sha256 == sample_sites(sequences, per_sequence=4).sha256
    others = [sample_sites(sequences, per_sequence=4, seed=1), sample_sites(["MKV"], per_sequence=4), turned]
    assert len({sample.sha256, *(other.sha256 for other in others)}) == 4
    with pytest.raises(RefusedError, match="not the sequences"):
        site_nats(UniformModel(), sequences[::-1], sample)
    with pytest.raises(ConfigError):
        sample_sites([])


def test_a_profile_is_read_off_and_the_uniform_model_costs_ln_20() -> None:
    planted = np.log(RNG.dirichlet(np.ones(20), size=9))
    sequences = ["".join(RNG.choice(list(STANDARD), 9)) for _ in range(2)]
    sample = sample_sites(sequences, per_sequence=9)
    wanted = [
        -planted[p, STANDARD.index(sequences[s][p])] for s, p in zip(sample.sequence, sample.position, strict=True)
    ]
    for method in ("auto", "masked", "causal"):
        for letters in ("20", "raw"):
            found = site_nats(PlantedProfile(planted), sequences, sample, method=method, letters=letters)
            np.testing.assert_allclose(found.values, wanted, atol=1e-9)
            flat = site_nats(UniformModel(), sequences, sample, method=method, letters=letters)
            np.testing.assert_allclose(flat.values, np.log(20), rtol=1e-12)
    assert site_nats(PlantedProfile(planted), sequences, sample).method == "profile"


def test_totals_share_beginnings_and_long_sequences_are_cut_around_the_site() -> None:
    model = MarkovModel(TRANSITION)
    sequences = ["".join(RNG.choice(list(STANDARD), 40)) for _ in range(3)]
    sample = sample_sites(sequences, per_sequence=3)
    whole = site_nats(model, sequences, sample, method="causal", directions="forward")
    assert whole.cut == 0
    assert whole.cost.forwards <= 3 * 3 * 20
    assert whole.cost.tokens < 0.75 * whole.cost.tokens_unshared
    model._info = model._info.model_copy(update={"context": 12})
    for method in ("causal", "masked"):  # a chain looks no further than its neighbours
        short = site_nats(model, sequences, sample, method=method)
        inner = (sample.position > 0) & (sample.position < 39)
        np.testing.assert_allclose(short.values[inner], whole.values[inner], atol=1e-9)
        assert short.cut == 9
    with pytest.raises(RefusedError, match="in raw letters") as refusal:
        site_nats(model, sequences, sample, method="causal", letters="raw")
    assert "a window ends where the protein does not" in refusal.value.why


def test_many_sites_are_asked_in_parts_and_in_order(monkeypatch) -> None:
    import plm_scaling.evals.site_nats as module

    model = MarkovModel(TRANSITION)
    sequences = ["".join(RNG.choice(list(STANDARD), n)) for n in (7, 1, 12, 3, 9)]
    sample = sample_sites(sequences, per_sequence=10)
    whole = site_nats(model, sequences, sample, method="masked").values
    monkeypatch.setattr(module, "_AT_ONCE", 100)  # five sites of totals at once, fewer than some sequences have
    np.testing.assert_allclose(site_nats(model, sequences, sample, method="causal").values, whole, atol=1e-9)
    monkeypatch.setattr(module, "_AT_ONCE", 4)
    np.testing.assert_array_equal(site_nats(model, sequences, sample, method="masked").values, whole)


def test_a_model_without_numbers_is_named() -> None:
    class Broken(UniformModel):
        def masked_logprobs(self, queries, *, letters="20"):
            return [np.full((1, 20), np.nan) for _ in queries]

    sequences = ["MKTAY", "KKK"]
    with pytest.raises(PlmScalingError, match="8 of 8 residues") as error:
        site_nats(Broken(), sequences, sample_sites(sequences), method="masked")
    assert "sequence 1, residue 1" in str(error.value)
