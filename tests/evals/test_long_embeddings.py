"""Activations of long proteins: those of the whole where a model looks only near, and never refused."""

from __future__ import annotations

import numpy as np
import pytest

from plm_scaling.core.alphabet import FIRST_RESIDUE, STANDARD
from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import PlmScalingError
from plm_scaling.evals.adapters.own_models import random_weights
from plm_scaling.evals.contact_head import attention_features
from plm_scaling.evals.long_embeddings import embed_any_length


@pytest.mark.parametrize("objective", ["clm", "mlm"])
def test_long_proteins_are_read_in_windows(objective: str) -> None:
    model = random_weights(ModelShape(n_layers=1, d_model=16), objective=objective, context=32)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    sequences = ["".join(rng.choice(list("ACDEFGHIKL"), length)) for length in (20, 75, 30, 31)]
    pooled, whole = (embed_any_length(model, sequences, pool=pool) for pool in ("mean", "none"))  # type: ignore[arg-type]
    assert [one.shape for one in whole] == [(len(s), 16) for s in sequences]
    for one, all_of_it, sequence in zip(pooled, whole, sequences, strict=True):
        np.testing.assert_allclose(one, all_of_it.mean(axis=0), atol=1e-6)
        if len(sequence) <= 30:
            np.testing.assert_allclose(one, model.embed([sequence])[0], atol=1e-6)
    # The first residues of a long protein are those of its first window, where nothing was cut before them.
    first = model.embed([sequences[1][:30]], pool="none")[0]
    np.testing.assert_allclose(whole[1][:8], first[:8], atol=0.05)
    np.testing.assert_array_equal(embed_any_length(model, sequences[1:2])[0], pooled[1])


def test_numbers_that_are_none_are_refused_by_sequence() -> None:
    model = random_weights(ModelShape(n_layers=1, d_model=16), objective="mlm", context=32, name="damaged")
    model.model.embedding[STANDARD.index("W") + FIRST_RESIDUE] = float("nan")  # type: ignore[operator, index, assignment]
    for others in ([], ["AC" * 40]):
        with pytest.raises(PlmScalingError, match="damaged shows activations of 1 of") as refusal:
            embed_any_length(model, ["ACDE", "ACWE", *others])
        assert refusal.value.where == "sequence 2, ACWE"
    with pytest.raises(PlmScalingError, match="attention maps that are no finite"):
        attention_features(model, "ACWE")
