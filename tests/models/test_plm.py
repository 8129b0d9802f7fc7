from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.architecture import ModelShape, head_dim_for
from plm_scaling.core.units import block_parameters, total_parameters
from plm_scaling.models.documents import Documents
from plm_scaling.models.plm import Transformer
from plm_scaling.models.rotary import rotary_table
from plm_scaling.training.flat import FlatParameters


def plm(n_layers: int, d_model: int, *, causal: bool, context: int, seed: int = 0) -> Transformer:
    return Transformer(ModelShape(n_layers=n_layers, d_model=d_model), causal=causal, context=context, seed=seed)


def tokens(seed: int = 0) -> torch.Tensor:
    return torch.randint(4, 24, (12,), generator=torch.Generator().manual_seed(seed))


def two_documents() -> Documents:
    """5 and 6 positions, and a padding."""
    return Documents.of([tokens()[:5], tokens()[5:11], tokens()[11:]])


@pytest.mark.parametrize(("n_layers", "d_model"), [(2, 16), (1, 24), (3, 96), (2, 160)])
def test_parameter_counts_are_those_of_units(n_layers: int, d_model: int) -> None:
    model = plm(n_layers, d_model, causal=True, context=8)
    assert sum(p.numel() for p in model.parameters()) == total_parameters(n_layers, d_model)
    assert sum(p.numel() for p in model.blocks.parameters()) == block_parameters(n_layers, d_model)


@pytest.mark.parametrize(
    ("d_model", "head_dim"),
    [(16, 16), (24, 24), (32, 32), (48, 48), (64, 64), (96, 48), (160, 32), (320, 64), (40, 40), (100, 4)],
)
def test_head_dim(d_model: int, head_dim: int) -> None:
    assert head_dim_for(d_model) == head_dim


def test_odd_widths_cannot_be_turned() -> None:
    with pytest.raises(ValueError, match="odd"):
        head_dim_for(7)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("d_model", [16, 96])
def test_packed_logits_are_those_of_each_document_alone(causal: bool, d_model: int) -> None:
    model = plm(2, d_model, causal=causal, context=12, seed=3)
    packed = model(two_documents())
    for begin, end in ((0, 5), (5, 11)):
        alone = model(Documents.of([tokens()[begin:end]]))
        torch.testing.assert_close(packed[begin:end], alone, rtol=0, atol=2e-6)


@pytest.mark.parametrize("causal", [True, False])
def test_no_gradient_crosses_documents(causal: bool) -> None:
    model = plm(2, 16, causal=causal, context=12)
    seen = []
    hook = model.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].requires_grad_()))
    model.embedding.requires_grad_(False)
    model(two_documents())[7].sum().backward()
    hook.remove()
    influence = seen[0].grad.abs().sum(-1) > 0
    expected = [5 <= t <= (7 if causal else 10) for t in range(12)]
    assert influence.tolist() == expected


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10), st.integers(0, 2**16))
def test_causal_logits_ignore_the_future(last: int, seed: int) -> None:
    model = plm(1, 16, causal=True, context=12, seed=1)
    one, other = tokens(seed), tokens(seed)
    other[last + 1 :] = (other[last + 1 :] - 4 + 7) % 20 + 4
    with torch.no_grad():
        a, b = model(Documents.of([one])), model(Documents.of([other]))
    assert torch.equal(a[: last + 1], b[: last + 1])
    assert not torch.equal(a[last + 1 :], b[last + 1 :])


def test_a_model_without_a_head_is_uniform() -> None:
    model = plm(2, 16, causal=True, context=12)
    torch.nn.init.zeros_(model.head)
    logits = model(two_documents())
    assert F.cross_entropy(logits, tokens()).item() == pytest.approx(math.log(33), abs=1e-6)


def test_rotary_products_depend_on_distance_only() -> None:
    turn = rotary_table(16, 50).to(torch.complex128)
    query, key = torch.randn(2, 8, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    scores = torch.einsum("i,qi,i,ki->qk", query, turn, key.conj(), turn.conj()).real
    for distance in (0, 1, 17):
        diagonal = torch.diagonal(scores, offset=distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-5, atol=1e-5)
    assert turn[0].real.tolist() == [1.0] * 8


def test_initial_weights_follow_the_seed_and_the_stated_spread() -> None:
    one, same, other = (plm(2, 64, causal=True, context=8, seed=s) for s in (1, 1, 2))
    assert torch.equal(one.blocks[1].qkv, same.blocks[1].qkv)
    assert not torch.equal(one.blocks[1].qkv, other.blocks[1].qkv)
    assert one.blocks[0].mlp_in.std().item() == pytest.approx(0.5 / 8, rel=0.05)
    assert one.blocks[0].mlp_out.std().item() == pytest.approx(0.5 / 8 / 2, rel=0.05)


def test_flat_parameters_are_the_model() -> None:
    model = plm(2, 24, causal=True, context=8)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    flat = FlatParameters.of(model)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.data_ptr() % 64 == 0
    flat.value.zero_()
    flat.grad.fill_(2.0)
    assert all(p.abs().sum() == 0 and bool((p.grad == 2).all()) for p in model.parameters())
    matrices = sum(p.numel() for p in model.parameters() if p.dim() == 2)
    assert matrices <= flat.n_matrix < matrices + 16 * 12
