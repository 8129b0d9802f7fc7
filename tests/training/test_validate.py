from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F

from plm_scaling.core.alphabet import CLS, EOS
from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.run import Objective, RunConfig
from plm_scaling.corpus.masks import mlm_mask
from plm_scaling.corpus.reader import Corpus
from plm_scaling.corpus.validation import VALIDATION_MASK_SEED, validation_sets
from plm_scaling.models.documents import Documents
from plm_scaling.models.plm import Transformer
from plm_scaling.training.steps import gradient_step
from plm_scaling.training.validate import SetScores, score_set, scoring_windows, summarise, val_table


def scores_of(
    corpus: Corpus, config: RunConfig, model: Transformer, dtype: torch.dtype = torch.float32
) -> list[SetScores]:
    step = gradient_step(model, scoring_windows(config.context), config.context, backward=False)
    sets = validation_sets(corpus, config.context, config.validation_tokens, config.objective)
    return [score_set(step, validation, config) for validation in sets]


def by_document(corpus: Corpus, model: Transformer, row: int, objective: Objective) -> tuple[float, int, float, int]:
    """Loss sum and targets of one whole sequence, alone in its window, over all targets and over residues."""
    tokens = np.concatenate([[CLS], corpus.tokens(row)]).astype(np.uint8)
    n = len(tokens)
    if objective == "clm":
        shown, place, target = tokens, np.arange(n - 1), tokens[1:]
    else:
        residue = np.arange(-1, n - 1)
        shown, is_target = mlm_mask(np.full(n, row), residue, 0, tokens, VALIDATION_MASK_SEED)
        place = np.flatnonzero(is_target)
        target = tokens[place]
    with torch.no_grad():
        logits = model(Documents.of([torch.from_numpy(shown)]))
    truth = torch.from_numpy(target.astype(np.int64))
    loss = F.cross_entropy(logits[place], truth, reduction="none").double().numpy()
    residues = target != EOS
    return loss.sum(), len(loss), loss[residues].sum(), int(residues.sum())


@pytest.mark.parametrize("objective", ["clm", "mlm"])
def test_sums_are_those_of_each_sequence_alone(
    corpus: Corpus, make_config: Callable[..., RunConfig], objective: Objective
) -> None:
    config = make_config(context=128, objective=objective)
    model = Transformer(ModelShape(n_layers=2, d_model=16), causal=objective == "clm", context=128, seed=1)
    found = scores_of(corpus, config, model)
    assert [s.name for s in found] == ["val_iid", "heldout_lab"]
    for scores in found:
        expected = np.array([by_document(corpus, model, int(row), objective) for row in scores.row])
        np.testing.assert_allclose(scores.loss_sum, expected[:, 0], rtol=1e-5)
        np.testing.assert_array_equal(scores.n_targets, expected[:, 1])
        np.testing.assert_allclose(scores.residue_loss_sum, expected[:, 2], rtol=1e-5)
        np.testing.assert_array_equal(scores.n_residue_targets, expected[:, 3])


def test_the_number_of_windows_scored_at_once_does_not_matter(
    corpus: Corpus, make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(validation_tokens=2000)
    model = Transformer(ModelShape(n_layers=1, d_model=16), causal=True, context=64, seed=1)
    usual = scores_of(corpus, config, model)[0]
    monkeypatch.setattr("plm_scaling.training.validate._POSITIONS", 64 * 3)
    few = scores_of(corpus, config, model)[0]
    np.testing.assert_allclose(usual.loss_sum, few.loss_sum, rtol=1e-5)
    np.testing.assert_array_equal(usual.n_targets, few.n_targets)
    tokens = (corpus.length[usual.row] + 1).sum()
    assert tokens <= 2000
    assert usual.n_targets.sum() < tokens  # first residues of continued pieces are not scored


def made(loss: list[float], n: list[int]) -> SetScores:
    counts = np.array(n)
    return SetScores("s", "id", np.arange(len(n)), np.array(loss), counts, np.array(loss) / 2, counts - (counts > 0))


def test_the_standard_error_is_that_of_a_ratio() -> None:
    got = summarise(made([2.0, 9.0, 0.0, 4.0], [1, 3, 0, 2]), "clm")
    assert got.per_token == pytest.approx(15 / 6)
    assert got.per_residue == pytest.approx(7.5 / 3)
    residual = np.array([2.0, 9.0, 4.0]) - 2.5 * np.array([1, 3, 2])
    assert got.se == pytest.approx(math.sqrt((residual**2).sum() * 3 / 2) / 6)
    assert (got.n_targets, got.n_sequences) == (6, 3)
    assert summarise(made([2.0], [2]), "mlm").se == math.inf
    assert summarise(made([2.0], [2]), "mlm").per_residue == 1.0


def test_the_table_names_the_set_of_every_row() -> None:
    table = val_table([made([1.0, 2.0], [1, 2]), made([3.0], [1])])
    assert list(table) == ["set", "row", "loss_sum", "n_targets", "residue_loss_sum", "n_residue_targets"]
    assert list(table["set"]) == ["s", "s", "s"]
    assert np.asarray(table["loss_sum"]).tolist() == [1.0, 2.0, 3.0]


def test_without_a_validation_set_the_table_is_empty() -> None:
    table = val_table([])
    assert {name: len(column) for name, column in table.items()} == dict.fromkeys(val_table([]), 0)
    assert pa.table(dict(table)).num_rows == 0
