from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.alphabet import STANDARD, SYMBOLS, UNUSUAL, encode
from plm_scaling.core.architecture import ModelShape
from plm_scaling.models.build import build_model
from plm_scaling.models.documents import Documents
from plm_scaling.models.progen2 import PROGEN2_SYMBOLS, ProGen2, progen2_ids

SHAPE = ModelShape(architecture="progen2", n_layers=2, d_model=32, n_heads=4, rotary_dim=4)


def rough(model: ProGen2) -> ProGen2:
    """Weights far from their start, so that every part of the mathematics shows."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def documents(*lengths: int, seed: int = 0) -> Documents:
    generator = torch.Generator().manual_seed(seed)
    return Documents.of([torch.randint(4, 29, (n,), generator=generator) for n in lengths])


@settings(max_examples=10, deadline=None)
@given(
    layers=st.integers(1, 3),
    heads=st.sampled_from([1, 2, 4]),
    width=st.sampled_from([4, 6]),
    ffn=st.sampled_from([None, 10]),
)
def test_it_has_the_parameters_its_shape_counts(layers: int, heads: int, width: int, ffn: int | None) -> None:
    shape = ModelShape(
        architecture="progen2", n_layers=layers, d_model=heads * width, n_heads=heads, rotary_dim=2, d_ffn=ffn
    )
    model = ProGen2(shape, causal=True, context=8)
    assert sum(p.numel() for p in model.parameters()) == shape.N_total
    assert sum(p.numel() for p in model.blocks.parameters()) == shape.N


def test_initial_weights_are_a_function_of_the_seed_alone() -> None:
    first = ProGen2(SHAPE, causal=True, context=8, seed=3)
    torch.manual_seed(99)
    again, other = (build_model(SHAPE, causal=True, context=8, seed=seed) for seed in (3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.head, other.head)
    assert first.blocks[1].qkv.std().item() == pytest.approx(0.02, rel=0.05)
    assert not first.blocks[0].mlp_in_bias.any()
    assert first.final_norm.eq(1).all()


@pytest.mark.parametrize("causal", [True, False])
def test_what_a_position_sees(causal: bool) -> None:
    """Gradients of one logit reach its own document: all of it, or what is not after it."""
    model = rough(ProGen2(SHAPE, causal=causal, context=16))
    packed = documents(5, 7, 4)
    shown_PD = torch.randn(16, 32, requires_grad=True)
    x_PD = shown_PD
    for block in model.blocks:
        x_PD = block(x_PD, model.turn_TR[packed.position_P], packed)
    x_PD[8].sum().backward()
    assert shown_PD.grad is not None
    reached = shown_PD.grad.abs().sum(1) > 0
    assert reached.nonzero().flatten().tolist() == list(range(5, 9 if causal else 12))


def test_packed_documents_get_the_logits_they_get_alone() -> None:
    model = rough(ProGen2(SHAPE, causal=False, context=16))
    lengths = (5, 1, 7)
    packed = documents(*lengths)
    alone = [model(Documents.of([part])) for part in packed.tokens_P.split(lengths)]
    torch.testing.assert_close(model(packed), torch.cat(alone), atol=1e-5, rtol=0)


def test_scored_positions_are_rows_of_all() -> None:
    model = rough(ProGen2(SHAPE, causal=True, context=16))
    packed = documents(6, 5)
    scored_S = torch.tensor([9, 0, 4])
    torch.testing.assert_close(model(packed, scored_S), model(packed)[scored_S], atol=1e-6, rtol=0)
    assert model(packed).shape == (11, 32)


def test_only_the_rotary_features_are_turned() -> None:
    """With every query and key in the features that are not turned, order leaves no trace; in the others it does."""
    for kept, moves in ((slice(0, 4), True), (slice(4, 8), False)):
        model = rough(ProGen2(SHAPE, causal=False, context=16))
        with torch.no_grad():
            for block in model.blocks:
                qk = block.qkv[:64].view(2, 4, 8, 32)
                dropped = torch.ones(8, dtype=torch.bool)
                dropped[kept] = False
                qk[:, :, dropped] = 0
        forward = documents(6)
        backward = Documents.of([forward.tokens_P.flip(0)])
        differs = (model(forward) - model(backward).flip(0)).abs().max().item()
        assert (differs > 1e-2) == moves, differs


def test_dropout_acts_in_training_alone() -> None:
    model = rough(ProGen2(SHAPE, causal=True, context=16, dropout=0.5))
    packed = documents(9)
    assert not torch.equal(model(packed), model(packed))
    model.eval()
    assert torch.equal(model(packed), model(packed))


def test_symbols_keep_their_meaning() -> None:
    ids = progen2_ids().tolist()
    assert len(PROGEN2_SYMBOLS) == 30
    for symbol, own in zip(SYMBOLS, ids, strict=True):
        if symbol in STANDARD + UNUSUAL:
            assert PROGEN2_SYMBOLS[own] == symbol
    assert len({ids[SYMBOLS.index(s)] for s in (*STANDARD, *UNUSUAL, "<cls>", "<eos>", "<pad>", "<mask>")}) == 29
    sentence = torch.tensor([0, *encode("MKV").tolist(), 2])
    model = ProGen2(SHAPE, causal=True, context=16)
    assert [PROGEN2_SYMBOLS[i] for i in model.model_ids(sentence).tolist()] == ["1", "M", "K", "V", "2"]
    assert model.model_ids(torch.tensor([[32, 3]])).tolist() == [[30, PROGEN2_SYMBOLS.index("X")]]
    assert {ids[SYMBOLS.index(s)] for s in (".", "-", "<null_1>")} == {31}
