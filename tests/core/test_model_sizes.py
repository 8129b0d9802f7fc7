from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import ConfigError
from plm_scaling.core.model_sizes import MODEL_SIZES, NAMED_SIZES, model_size

ESM2 = [name for name in MODEL_SIZES if name.startswith("esm2")]
CHENG = {name: size for name, size in NAMED_SIZES.items() if name.startswith("cheng")}


@pytest.mark.parametrize("name", ESM2)
def test_esm2_counts_as_fair_esm_does(name: str) -> None:
    from esm.model.esm2 import ESM2 as FairEsm2

    shape = MODEL_SIZES[name]
    with torch.device("meta"):
        peer = FairEsm2(shape.n_layers, shape.d_model, shape.heads)
    contact_head = shape.n_layers * shape.heads + 1
    assert sum(p.numel() for p in peer.parameters()) == shape.N_total + contact_head
    assert sum(p.numel() for p in peer.layers.parameters()) == shape.N


def test_the_smallest_esm2_has_the_released_count() -> None:
    shape = model_size("esm2-8m")
    assert shape.N_total + 6 * 20 + 1 == 7_512_474


def test_progen2_has_the_published_counts() -> None:
    """In millions, as the paper and the releases round them."""
    counts = {"small": 151, "medium": 765, "large": 2517, "xlarge": 6444}
    assert {name: round(model_size(f"progen2-{name}").N_total / 1e6) for name in counts} == counts


@pytest.mark.parametrize("name", CHENG)
def test_shapes_of_the_study_have_its_sizes(name: str) -> None:
    """Published N is 12 L d^2 where a shape is called exact, and of no layers and width where it is not."""
    size = CHENG[name]
    assert size.published is not None
    widths = {d: size.published // (12 * d * d) for d in range(64, 8193, 8) if size.published % (12 * d * d) == 0}
    if size.shape is None:
        assert size.status == "unknown"
        assert not widths
        return
    L, d = size.shape.n_layers, size.shape.d_model
    assert (widths.get(d) == L) == bool(widths) == (size.status == "exact")
    assert 12 * L * d * d == pytest.approx(size.published, rel=0.002)
    assert 12 * L * d * d + 2 * L * d == size.shape.N
    assert size.shape.head_dim == 64


def test_names_are_found_whatever_their_case() -> None:
    assert model_size("progen2-BFD90") == model_size("progen2-large") == model_size("PROGEN2-bfd90")
    assert model_size("cheng-85m") == ModelShape(n_layers=12, d_model=768)
    assert NAMED_SIZES["progen2-xlarge"].status == "unverified"
    assert len(MODEL_SIZES) == 6 + 7 + 26


def test_a_typo_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"did you mean esm2-650m\?"):
        model_size("esm2_650m")
    with pytest.raises(ConfigError, match="progen2-medium"):
        model_size("nothing of the kind")


def test_a_size_without_a_shape_says_what_is_near() -> None:
    with pytest.raises(ConfigError, match=r"N = 13,192,320.*\n.*cheng-10m"):
        model_size("cheng-13m")
    with pytest.raises(ConfigError, match=r"cheng-680m is the nearest"):
        model_size("cheng-650m")


def test_torch_stays_out() -> None:
    code = "import sys, plm_scaling.core.model_sizes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
