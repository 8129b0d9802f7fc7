from __future__ import annotations

import numpy as np
import pytest
import torch

from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.evals.adapters.doubles import UniformModel
from plm_scaling.evals.adapters.own_models import random_weights
from plm_scaling.evals.finetuning import TuningChoice, tune
from plm_scaling.evals.floors import EncodedTable
from plm_scaling.evals.metrics import accuracy, spearman
from plm_scaling.evals.splits import Split, find_split
from plm_scaling.evals.supervised import embed_table, head_scores
from plm_scaling.evals.tables import LabelledTable

torch.set_num_threads(1)
SHAPE = ModelShape(architecture="esm2", n_layers=1, d_model=32, n_heads=4)


def made(kind: str) -> tuple[EncodedTable, Split]:
    """The first letter decides: a mean over residues hardly tells which of them was the first."""
    rng = np.random.default_rng(0)
    names = tuple(dict.fromkeys("".join(row) for row in rng.choice(list("LAGV"), size=(500, 8))))
    first = np.array([float(name[0] in "LA") for name in names])
    targets = first + rng.normal(0.0, 0.1, len(names)) if kind == "values" else first * 2 + 1
    table = LabelledTable("made", names, targets, "values" if kind == "values" else "classes", ("",) * len(names))
    return EncodedTable(table), find_split(table, "sampled")


def test_training_the_model_finds_what_its_frozen_activations_do_not_show() -> None:
    data, split = made("values")
    model = random_weights(SHAPE, objective="mlm", seed=1)
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    truth = data.table.targets[split.test]
    frozen = spearman(truth, head_scores(embed_table(model, data, split), data, split))
    full = tune(model, data, split, TuningChoice("full", epochs=8, learning_rate=1e-2))
    assert spearman(truth, full.scores) > max(frozen, 0.0) + 0.1
    assert len(full.held_out) == 8
    assert full.held_out[full.epoch - 1] == max(one for one in full.held_out if one is not None)
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())
    assert model.model.state_dict().keys() == before.keys()


@pytest.mark.slow
def test_low_rank_additions_learn_with_few_parameters() -> None:
    data, split = made("classes")
    model = random_weights(SHAPE, objective="mlm", seed=1)
    found = tune(model, data, split, TuningChoice("lora", epochs=8, learning_rate=2e-2, rank=2))
    small = Split("small", split.train[:60], split.test[:20])
    everything = tune(model, data, small, TuningChoice("full", epochs=1))
    assert found.trained == 1 * 2 * (8 * 32 + 2 * 128) + 2 * 33  # L r (8 D + 2 F) and the head
    assert everything.trained > 5 * found.trained
    assert set(found.scores) <= {1.0, 3.0}
    truth = data.table.targets[split.test]
    frozen = head_scores(embed_table(model, data, split), data, split, head="logistic")
    assert accuracy(truth, found.scores) > accuracy(truth, frozen) + 0.05
    again = tune(model, data, small, TuningChoice("full", epochs=1))
    np.testing.assert_array_equal(again.scores, everything.scores)
    assert "rank 2" in found.protocol


def test_what_cannot_be_trained_is_refused() -> None:
    data, split = made("values")
    with pytest.raises(RefusedError, match="cannot be trained here"):
        tune(UniformModel(), data, split)
    with pytest.raises(ConfigError, match="30 are the least"):
        tune(random_weights(SHAPE), data, Split("few", split.train[:20], split.test))
    with pytest.raises(RefusedError, match="reads up to 6"):
        tune(random_weights(SHAPE, context=8), data, split)
