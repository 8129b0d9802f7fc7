from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import RefusedError
from plm_scaling.evals import embedding_cache
from plm_scaling.evals.adapters.base import Query
from plm_scaling.evals.adapters.own import OwnModel
from plm_scaling.evals.adapters.own_models import random_weights
from plm_scaling.evals.contact_head import published_contact_head
from plm_scaling.evals.embedding_cache import CachedAdapter, cached, uncached
from plm_scaling.evals.model_lists import model_openers
from plm_scaling.evals.sampling import next_logprobs

torch.set_num_threads(1)
SHAPE = ModelShape(architecture="esm2", n_layers=1, d_model=16, n_heads=2)
SEQUENCES = ["MKVLA", "ACDEFGHIK", "W", "MKVLA"]


def model(seed: int = 0) -> OwnModel:
    return random_weights(SHAPE, seed=seed, device="cpu")


@pytest.mark.parametrize("pool", ["mean", "none"])
def test_embeddings_are_those_of_the_model_and_asked_for_once(tmp_path: Path, pool, monkeypatch) -> None:
    monkeypatch.setattr(embedding_cache, "_AT_ONCE", 6)
    plain = model().embed(SEQUENCES, pool=pool)
    first, again, other_process = (cached(model(), tmp_path) for _ in range(3))
    for keeper, asked in ((first, 3), (first, 3), (again, 0)):
        for x, y in zip(keeper.embed(SEQUENCES, pool=pool), plain, strict=True):
            np.testing.assert_allclose(x, y, atol=1e-6)
            assert x.shape == y.shape
            assert x.dtype == np.float32
        assert keeper.computed == asked
    assert len(list(tmp_path.glob("*/*"))) == 2
    other_process.embed(["GGG"], pool=pool)
    again.embed(["GGG", *SEQUENCES], pool=pool)
    assert again.computed == 0, "what another process has written since is found"


def test_nothing_is_mistaken_for_another(tmp_path: Path, monkeypatch) -> None:
    kept = cached(model(), tmp_path)
    kept.embed(SEQUENCES)
    kept.embed(SEQUENCES, layer=0)
    kept.embed(SEQUENCES, pool="none")
    other = cached(model(seed=1), tmp_path)
    assert not np.allclose(other.embed(SEQUENCES[:1])[0], kept.embed(SEQUENCES[:1])[0])
    monkeypatch.setattr(embedding_cache, "_code_version", lambda: "later")
    later = cached(model(), tmp_path)
    later.embed(SEQUENCES)
    assert (kept.computed, other.computed, later.computed) == (9, 1, 3)


@pytest.mark.parametrize("damage", [lambda data: data[:-7], lambda data: b"", lambda data: data[:-4] + b"abcd"])
def test_a_damaged_file_is_computed_again(tmp_path: Path, damage) -> None:
    plain = cached(model(), tmp_path).embed(SEQUENCES)
    [file] = tmp_path.glob("*/*")
    file.write_bytes(damage(file.read_bytes()))
    again = cached(model(), tmp_path)
    for x, y in zip(again.embed(SEQUENCES), plain, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)
    assert again.computed == 3
    assert cached(model(), tmp_path).embed(SEQUENCES)[0].tolist() == plain[0].tolist()


def test_a_cached_model_is_asked_like_the_model_itself(tmp_path: Path) -> None:
    [opener, control] = model_openers(["random:esm2-8m", "uniform"], control=False, cache=tmp_path)
    kept, doubles = opener(), control()
    assert isinstance(kept, CachedAdapter)
    assert kept.info == uncached(kept).info
    [row] = kept.masked_logprobs([Query("MKV", (1,), (1,))])
    np.testing.assert_array_equal(row, uncached(kept).masked_logprobs([Query("MKV", (1,), (1,))])[0])
    assert kept.attentions("MKV").shape == (120, 3, 3)
    assert published_contact_head(kept) is None
    assert kept.run is None
    assert doubles.residue_logprobs(["MK"])[0].tolist() == [-np.log(20)] * 2
    assert next_logprobs(doubles, ["M"])[0, 0] == pytest.approx(-np.log(20))
    with pytest.raises(RefusedError, match="cannot show activations"):
        doubles.embed(["MK"])
