from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from plm_scaling.core.alphabet import CLS, EOS, MASK, encode
from plm_scaling.core.errors import CorpusError
from plm_scaling.corpus import floors as floors_module
from plm_scaling.corpus.floors import clm_floor, count_symbols, entropy_floors, mlm_floor
from plm_scaling.corpus.masks import mlm_mask
from plm_scaling.corpus.reader import Corpus


def test_counts(small: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floors_module, "_BLOCK", 50)
    rows = small.rows("val_iid")
    expected = np.bincount(np.concatenate([small.tokens(int(row)) for row in rows]), minlength=33)
    assert count_symbols(small, rows).tolist() == expected.tolist()
    assert count_symbols(small).sum() == small.manifest.unique_tokens
    assert count_symbols(small, rows[:0]).sum() == 0


def test_against_a_count_by_hand(small: Corpus) -> None:
    valid_rows = small.rows("val_iid")
    train = Counter("".join(small.sequence(int(row)) + "$" for row in small.rows("train")))
    valid = Counter("".join(small.sequence(int(row)) + "$" for row in valid_rows))
    total = sum(train.values()) + 26
    expected = -sum(n * math.log((train[x] + 1) / total) for x, n in valid.items()) / sum(valid.values())
    floors = entropy_floors(small, valid_rows)
    assert floors.clm_per_token == pytest.approx(expected, rel=1e-12)
    del train["$"], valid["$"]
    total = sum(train.values()) + 25
    expected = -sum(n * math.log((train[x] + 1) / total) for x, n in valid.items()) / sum(valid.values())
    assert floors.clm_per_residue == pytest.approx(expected, rel=1e-12)
    assert floors.mlm < floors.clm_per_residue


def test_uniform_frequencies_in_closed_form() -> None:
    even = np.append(np.full(20, 10**9), np.zeros(5, dtype=np.int64))
    assert clm_floor(even, even) == pytest.approx(math.log(20), abs=1e-6)
    # Shown residue s: it is the true one with probability (.1 + .1/20) / .2, each other one with (.1/20) / .2.
    right = 0.525
    shown = -right * math.log(right) - (1 - right) * math.log((1 - right) / 19)
    assert mlm_floor(even, even) == pytest.approx(0.8 * math.log(20) + 0.2 * shown, abs=1e-6)


def test_mlm_floor_is_what_the_best_context_free_model_reaches() -> None:
    """Masks drawn by `mlm_mask`; the model is the table of true residues under each shown symbol."""
    rng = np.random.default_rng(0)
    share = rng.dirichlet(np.full(20, 3.0))
    tokens = rng.choice(np.arange(4, 24), size=(1000, 1500), p=share).astype(np.uint8)
    row, residue = (x.astype(np.int64) for x in np.indices(tokens.shape))
    inputs, targets = mlm_mask(row, residue, 0, tokens, seed=1, rate=0.5)
    table = np.zeros((33, 33))
    np.add.at(table, (inputs[targets], tokens[targets]), 1)
    given_shown = table / np.maximum(1, table.sum(axis=1, keepdims=True))
    loss = -np.sum(table[table > 0] * np.log(given_shown[table > 0])) / table.sum()
    counts = np.bincount(tokens.reshape(-1), minlength=33)[4:29]
    assert mlm_floor(counts, counts) == pytest.approx(loss, abs=2e-3)
    assert set(np.flatnonzero(table.sum(axis=1))) == {*range(4, 24), MASK}


def test_published_frequencies_give_the_known_floor() -> None:
    """Swiss-Prot-like composition (H = 2.88 to 2.90): the floor lies about .176 below H."""
    percent = "9.65 8.25 7.07 6.86 6.65 5.52 5.36 5.9 5.46 4.74 5.79 3.93 4.06 3.86 2.92 2.41 2.27 1.1 1.38 6.71"
    counts = np.array([round(float(share) * 1e6) for share in percent.split()] + [0] * 5)
    assert clm_floor(counts, counts) == pytest.approx(2.88, abs=0.03)
    assert clm_floor(counts, counts) - mlm_floor(counts, counts) == pytest.approx(0.176, abs=0.003)


def test_a_residue_training_never_saw_costs_a_finite_amount(write: Callable[..., Corpus], tmp_path: Path) -> None:
    corpus = write(tmp_path / "c", {"a": ["LAGVLLA", "WWU"]}, lambda s: "val_iid" if "W" in s else "train")
    floors = entropy_floors(corpus, corpus.rows("val_iid"))
    assert floors.clm_per_token == pytest.approx(-(3 * math.log(1 / 34) + math.log(2 / 34)) / 4)
    assert math.isfinite(floors.mlm)
    assert {CLS, EOS}.isdisjoint(encode("WWU"))


def test_no_sequences(small: Corpus) -> None:
    with pytest.raises(CorpusError, match="no sequences"):
        entropy_floors(small, np.zeros(0, dtype=np.int64))
