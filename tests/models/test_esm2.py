from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.alphabet import EOS, MASK
from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import CheckpointError
from plm_scaling.models.contacts import attention_map, contact_probabilities
from plm_scaling.models.documents import Documents
from plm_scaling.models.esm2 import Esm2

SMALL = ModelShape(architecture="esm2", n_layers=2, d_model=16, n_heads=2)


@torch.no_grad()
@pytest.mark.parametrize(
    ("size", "lengths"),
    [((2, 24, 3), (9, 40, 2, 23)), ((1, 32, 2), (1024, 7)), ((6, 320, 20), (31, 12))],
    ids=["small", "long", "6x320x20"],
)
def test_logits_of_packed_documents_are_those_of_padded_fair_esm(
    size, lengths, fair_esm, taken_over, masked_documents, padded, largest_difference
) -> None:
    peer, documents = fair_esm(*size), masked_documents(lengths)
    ours = taken_over(peer, context=max(lengths))(Documents.of(documents))
    theirs = peer(padded(documents))["logits"]
    assert 5 < theirs[0, : lengths[0]].std() < 20
    assert any((d == MASK).any() for d in documents)
    assert largest_difference(ours, theirs, documents) < 1e-4


@torch.no_grad()
def test_contacts_are_those_of_fair_esm(fair_esm, taken_over, masked_documents) -> None:
    peer, documents = fair_esm(2, 24, 3, seed=5), masked_documents((15, 30, 4))
    # Random maps are nearly flat: a larger regression spreads the probabilities.
    peer.contact_head.regression.weight.mul_(40)
    model = taken_over(peer, context=30)
    ours = contact_probabilities(model, Documents.of(documents))
    for document, contacts in zip(documents, ours, strict=True):
        theirs = peer.predict_contacts(document[None])[0]
        torch.testing.assert_close(contacts, theirs, rtol=0, atol=1e-5)
        torch.testing.assert_close(contacts, contacts.T, rtol=0, atol=1e-6)
    assert torch.cat([c.flatten() for c in ours]).std() > 0.1


def test_contacts_of_documents_without_ends_keep_every_residue() -> None:
    model = Esm2(SMALL, causal=True, context=20)
    model.set_contact_regression(torch.ones(1, 4), torch.zeros(1))
    piece = torch.randint(4, 24, (9,), generator=torch.Generator().manual_seed(1))
    whole = torch.cat([piece, torch.tensor([EOS])])
    sizes = [tuple(c.shape) for c in contact_probabilities(model, Documents.of([piece, whole, whole[-1:]]))]
    assert sizes == [(9, 9), (9, 9), (0, 0)]
    with pytest.raises(CheckpointError, match="no contact regression"):
        contact_probabilities(Esm2(SMALL, causal=False, context=20), Documents.of([piece]))


def test_causal_maps_look_back_only() -> None:
    q_THK, k_THK = torch.randn(2, 7, 3, 4, generator=torch.Generator().manual_seed(0))
    map_HTT = attention_map(q_THK, k_THK, causal=True)
    assert not map_HTT.triu(1).any()
    torch.testing.assert_close(map_HTT.sum(-1), torch.ones(3, 7))


def test_parameter_count_of_the_smallest_size() -> None:
    shape = ModelShape(architecture="esm2", n_layers=6, d_model=320, n_heads=20)
    model = Esm2(shape, causal=False, context=4)
    assert sum(p.numel() for p in model.parameters()) == shape.N_total
    assert sum(p.numel() for p in model.blocks.parameters()) == shape.N
    model.set_contact_regression(torch.zeros(1, 120), torch.zeros(1))
    assert shape.N_total + sum(b.numel() for b in (model.contact_weight, model.contact_bias)) == 7_512_474
    assert sum(p.numel() for _, p in model.trainable()) == shape.N_total


@pytest.mark.parametrize("causal", [True, False])
def test_packed_logits_are_those_of_each_document_alone(causal: bool, masked_documents) -> None:
    model = Esm2(SMALL, causal=causal, context=30, seed=3)
    documents = masked_documents((12, 30, 5))
    packed = model(Documents.of(documents)).split([12, 30, 5])
    for part, document in zip(packed, documents, strict=True):
        torch.testing.assert_close(part, model(Documents.of([document])), rtol=0, atol=2e-6)
    scored = torch.tensor([0, 13, 46])
    torch.testing.assert_close(model(Documents.of(documents), scored), torch.cat(packed)[scored], rtol=0, atol=2e-6)


@pytest.mark.parametrize("causal", [True, False])
def test_no_gradient_crosses_documents(causal: bool) -> None:
    model = Esm2(SMALL, causal=causal, context=12)
    documents = Documents.of(list(torch.randint(4, 24, (12,)).split([5, 6, 1])))
    seen: list[torch.Tensor] = []
    hook = model.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].requires_grad_()))
    model.embedding.requires_grad_(False)
    model(documents)[7].sum().backward()
    hook.remove()
    influence = seen[0].grad.abs().sum(-1) > 0
    assert influence.tolist() == [5 <= t <= (7 if causal else 10) for t in range(12)]


@settings(deadline=None, max_examples=20)
@given(st.lists(st.lists(st.booleans(), min_size=0, max_size=9), min_size=1, max_size=5))
def test_the_input_is_scaled_by_what_each_document_shows(masked: list[list[bool]]) -> None:
    model = Esm2(SMALL, causal=False, context=9)
    documents = Documents.of([torch.where(torch.tensor(m, dtype=torch.bool), MASK, 7) for m in masked])
    x_PD = model.embedded(documents)
    expected = []
    for mask in masked:
        scale = 0.88 * len(mask) / max(1, len(mask) - sum(mask))
        expected += [torch.zeros(16) if m else scale * model.embedding[7] for m in mask]
    assert len(x_PD) == len(expected)
    if expected:
        torch.testing.assert_close(x_PD, torch.stack(expected))
    plain = Esm2(SMALL, causal=False, context=9, token_dropout=False).embedded(documents)
    assert torch.equal(plain, model.embedding[documents.tokens_P])


def test_the_mask_symbol_learns_nothing_from_the_input() -> None:
    model = Esm2(SMALL, causal=False, context=9)
    model.embedded(Documents.of([torch.tensor([0, MASK, 5, 2])])).sum().backward()
    assert not model.embedding.grad[MASK].any()
    assert model.embedding.grad[5].any()


def test_initial_weights_follow_the_seed_and_the_stated_spread() -> None:
    shape = ModelShape(architecture="esm2", n_layers=2, d_model=64)
    one, same, other = (Esm2(shape, causal=True, context=8, seed=s) for s in (1, 1, 2))
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.blocks[1].qkv, other.blocks[1].qkv)
    assert one.blocks[0].mlp_in.std().item() == pytest.approx(0.5 / 8, rel=0.05)
    assert one.blocks[0].mlp_out.std().item() == pytest.approx(0.5 / 8 / 2, rel=0.05)
    assert not any(p.any() for name, p in one.named_parameters() if name.endswith("bias"))


def test_half_precision_keeps_weights_and_logits_in_float32(masked_documents) -> None:
    documents = Documents.of(masked_documents((12, 30)))
    exact = Esm2(SMALL, causal=False, context=30)(documents)
    model = Esm2(SMALL, causal=False, context=30, dtype=torch.bfloat16)
    assert model.embedded(documents).dtype == torch.bfloat16
    logits = model(documents)
    assert logits.dtype == torch.float32
    assert 0 < (logits - exact).abs().max() < 0.05
    logits.sum().backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())


def test_dropout_is_for_training_only(masked_documents) -> None:
    documents = Documents.of(masked_documents((12, 30)))
    model = Esm2(SMALL, causal=False, context=30, dropout=0.5)
    torch.manual_seed(0)
    assert not torch.equal(model(documents), model(documents))
    plain = Esm2(SMALL, causal=False, context=30)
    assert torch.equal(model.eval()(documents), plain(documents))


def test_a_model_that_knows_nothing_is_uniform(masked_documents) -> None:
    model = Esm2(SMALL, causal=True, context=30)
    torch.nn.init.zeros_(model.embedding)
    loss = torch.nn.functional.cross_entropy(model(Documents.of(masked_documents((30,)))), torch.full((30,), 5))
    assert loss.item() == pytest.approx(math.log(33), abs=1e-6)
