"""What is drawn follows the model: frequencies, ends, temperature, top_p, and independence of company."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import ConfigError
from plm_scaling.evals.adapters.doubles import MarkovModel, UniformModel
from plm_scaling.evals.adapters.own_models import random_weights
from plm_scaling.evals.edits import edit_distance, edit_identity
from plm_scaling.evals.sampling import continue_sequences, next_logprobs, sample_sequences

RNG = np.random.default_rng(0)
TRANSITIONS = RNG.dirichlet(np.full(20, 0.3), size=20)
START = RNG.dirichlet(np.full(20, 0.3))
MARKOV = MarkovModel(TRANSITIONS, START, end=0.05)


@settings(max_examples=60, deadline=None)
@given(a=st.text("ACD", max_size=12), b=st.text("ACD", max_size=12))
def test_edit_distance_is_that_of_the_table(a: str, b: str) -> None:
    table = [[i + j if not i * j else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (a[i - 1] != b[j - 1]))
    assert edit_distance(a, b) == edit_distance(b, a) == table[-1][-1]
    assert edit_identity(a, a) == 1.0


def test_the_next_letter_is_the_models() -> None:
    """Of a chain its row of transitions times 'goes on'; the first is never an end; unknown ends are impossible."""
    table = np.exp(next_logprobs(MARKOV, ["", "MKL", "A", "MKL"]))
    assert table[0] == pytest.approx([*START, 0.0])
    for row, last in ((1, "L"), (2, "A"), (3, "L")):
        assert table[row] == pytest.approx([*(0.95 * TRANSITIONS[STANDARD.index(last)]), 0.05])
    assert np.exp(next_logprobs(UniformModel(), ["MK"]))[0] == pytest.approx([*[0.05] * 20, 0.0])


def test_a_trained_models_next_letters_sum_up_its_likelihood() -> None:
    """Letter by letter along a sequence they give its total over 21 outcomes."""
    adapter = random_weights(ModelShape(n_layers=1, d_model=16), objective="clm", context=64, device="cpu")
    sequence = "MKTAYIAKQRQISFVKSH"
    table = next_logprobs(adapter, [sequence[:k] for k in range(1, len(sequence) + 1)])
    assert np.logaddexp.reduce(table, axis=1) == pytest.approx(np.zeros(len(sequence)), abs=1e-9)
    (raw,) = adapter.residue_logprobs([sequence], letters="raw")
    letters = [table[k, STANDARD.index(letter)] for k, letter in enumerate(sequence[1:])]
    # 33 raw outcomes against 21 of them: every step differs by the same kind of normalisation, and keeps its order.
    assert np.all(np.array(letters) >= raw[1:-1] - 1e-6)
    assert np.corrcoef(letters, raw[1:-1])[0, 1] > 0.99


def test_draws_follow_the_chain() -> None:
    drawn = sample_sequences(MARKOV, 600, longest=3, seed=1)
    first = np.bincount([STANDARD.index(one.sequence[0]) for one in drawn], minlength=20) / 600
    assert np.abs(first - START).max() < 4 * 0.5 / math.sqrt(600)
    assert {len(one.sequence) for one in drawn} <= {1, 2, 3}
    ended = sum(one.ended and len(one.sequence) == 1 for one in drawn)
    assert abs(ended - 30) < 4 * math.sqrt(30)
    for one in drawn[:20]:
        (raw,) = MARKOV.residue_logprobs([one.sequence], letters="raw")
        assert one.logp == pytest.approx(raw.sum() if one.ended else raw[:-1].sum())


def test_temperature_top_p_and_company() -> None:
    likeliest = [STANDARD[int(np.argmax(START))]]
    while len(likeliest) < 6:
        likeliest.append(STANDARD[int(np.argmax(TRANSITIONS[STANDARD.index(likeliest[-1])]))])
    cold = sample_sequences(MARKOV, 2, longest=6, temperature=0.0)
    assert [one.sequence for one in cold] == ["".join(likeliest)] * 2
    narrow = sample_sequences(MARKOV, 2, longest=6, top_p=1e-6)
    assert [one.sequence for one in narrow] == ["".join(likeliest)] * 2
    many, few = (sample_sequences(MARKOV, n, prompt="MK", longest=8, seed=3) for n in (5, 2))
    assert many[:2] == few
    assert all(one.sequence.startswith("MK") for one in many)
    lengths = [len(one.sequence) for one in continue_sequences(UniformModel(), ["MK", "A"], longest=[4, 7])]
    assert lengths == [4, 7]
    with pytest.raises(ConfigError, match="temperature"):
        sample_sequences(MARKOV, 1, temperature=-1.0)
