import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.evolution import (
    LINKER_CLASS,
    N_RESIDUES,
    Sequences,
    SubstitutionModel,
    background_frequencies,
    evolve,
    exchange_rates,
    gamma_rates,
    span_index,
)
from plm_scaling.core.alphabet import STANDARD


def model(*, indels: float = 0.0) -> SubstitutionModel:
    return SubstitutionModel(alpha=0.4, indels_per_substitution=indels, mean_span=2.0)


def pieces(sequences: Sequences) -> list[list[int]]:
    return [part.tolist() for part in np.split(sequences.states, sequences.ends[:-1])]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 6)), max_size=12))
def test_span_index_equals_a_loop(spans: list[tuple[int, int]]) -> None:
    starts, lengths = (np.array([span[i] for span in spans], dtype=np.int64) for i in range(2))
    expected = [start + step for start, length in spans for step in range(length)]
    assert span_index(starts, lengths).tolist() == expected


@given(st.data())
def test_take_and_joined_equal_list_operations(data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.lists(st.integers(0, 99), max_size=4), min_size=1, max_size=6))
    rows = data.draw(st.lists(st.integers(0, len(parts) - 1), min_size=2, max_size=8))
    flat = np.array([state for part in parts for state in part], dtype=np.uint8)
    taken = Sequences(flat, np.array([len(part) for part in parts])).take(np.array(rows))
    assert pieces(taken) == [parts[row] for row in rows]
    joined = taken.joined(np.array([1, len(rows) - 1]))
    assert pieces(joined) == [parts[rows[0]], [state for row in rows[1:] for state in parts[row]]]


def test_rate_matrix_is_reversible_scaled_and_conserves_probability() -> None:
    background, rates = background_frequencies(), exchange_rates()
    flow = background[:, None] * rates
    np.testing.assert_allclose(flow, flow.T, atol=1e-12)
    np.testing.assert_allclose(rates.sum(axis=1), 0.0, atol=1e-12)
    assert -(background @ np.diag(rates)) == pytest.approx(1.0)


def test_background_and_exchanges_look_like_proteins() -> None:
    background, rates = background_frequencies(), exchange_rates()
    assert background.min() > 0.005
    assert background.sum() == pytest.approx(1.0)
    assert -(background * np.log(background)).sum() == pytest.approx(2.9, abs=0.05)
    leucine, isoleucine, aspartate = (STANDARD.index(letter) for letter in "LID")
    assert background[leucine] > background[STANDARD.index("W")]
    assert rates[isoleucine, leucine] > 5 * rates[isoleucine, aspartate]


def test_gamma_rates_of_shape_one_are_the_exponential_quartile_means() -> None:
    # Between the quartiles a and b of an exponential, the mean is 4 (e^-a (1 + a) - e^-b (1 + b)).
    edges = -np.log(1.0 - np.arange(5)[:-1] / 4)
    tail = np.append(np.exp(-edges) * (1.0 + edges), 0.0)
    np.testing.assert_allclose(gamma_rates(1.0), 4.0 * -np.diff(tail), rtol=1e-9)


@pytest.mark.parametrize("alpha", [0.1, 0.4, 2.0, 50.0])
def test_gamma_rates_increase_and_have_mean_one(alpha: float) -> None:
    rates = gamma_rates(alpha)
    assert rates.mean() == pytest.approx(1.0)
    assert (np.diff(rates) > 0).all()


def test_branch_table_holds_the_transition_probabilities() -> None:
    from scipy.linalg import expm

    table = model().branch(0.3).table
    state = 2 * N_RESIDUES + 7
    shares = np.bincount(table[state], minlength=100)[2 * N_RESIDUES : 3 * N_RESIDUES] / table.shape[1]
    np.testing.assert_allclose(shares, expm(exchange_rates() * gamma_rates(0.4)[2] * 0.3)[7], atol=2e-5)
    linker = np.bincount(table[LINKER_CLASS * N_RESIDUES], minlength=100)[-N_RESIDUES:] / table.shape[1]
    np.testing.assert_allclose(linker, background_frequencies(), atol=2e-5)


def test_a_branch_of_length_zero_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    roots = model(indels=0.5).roots(np.full(20, 30), rng)
    after = evolve(roots, model(indels=0.5).branch(0.0), rng)
    np.testing.assert_array_equal(after.states, roots.states)
    np.testing.assert_array_equal(after.lengths, roots.lengths)


def test_divergence_matches_the_branch_length_and_sites_keep_their_class() -> None:
    rng = np.random.default_rng(1)
    roots = model().roots(np.full(2000, 50), rng)
    after = evolve(roots, model().branch(0.01), rng)
    changed = after.states != roots.states
    np.testing.assert_array_equal(after.states // N_RESIDUES, roots.states // N_RESIDUES)
    assert changed.mean() == pytest.approx(0.01, rel=0.1)
    by_class = [changed[roots.states // N_RESIDUES == rate_class].mean() for rate_class in range(4)]
    assert by_class == sorted(by_class)
    assert by_class[3] > 10 * by_class[1]


def test_a_long_branch_ends_at_the_background() -> None:
    rng = np.random.default_rng(2)
    long = dataclasses.replace(model(), alpha=50.0).branch(60.0)
    roots = Sequences(np.zeros(100_000, dtype=np.uint8), np.array([100_000]))
    shares = np.bincount(evolve(roots, long, rng).states, minlength=N_RESIDUES) / 100_000
    np.testing.assert_allclose(shares, background_frequencies(), atol=0.006)


def test_indels_come_at_their_rate_and_leave_mean_length_alone() -> None:
    rng = np.random.default_rng(3)
    roots = model().roots(np.full(40_000, 50), rng)
    after = evolve(roots, model(indels=0.1).branch(0.1), rng)
    # 50 sites x 0.1 substitutions x 0.1 indels = 0.5 events a sequence; most of them change its length.
    assert 0.3 < (after.lengths != 50).mean() < 0.42
    assert after.lengths.mean() == pytest.approx(50.0, abs=0.1)


HEAVY = model(indels=1.0).branch(2.0)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=20), st.integers(0, 2**32))
def test_heavy_indels_keep_every_sequence_and_the_books(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    sequences = model().roots(np.array(lengths), rng)
    after = evolve(sequences, HEAVY, rng)
    assert after.lengths.size == len(lengths)
    assert after.lengths.min() >= 1
    assert after.lengths.sum() == after.states.size
    assert after.states.max() < LINKER_CLASS * N_RESIDUES
