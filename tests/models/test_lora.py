from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from plm_scaling.core.architecture import ModelShape
from plm_scaling.models.base import ProteinModel
from plm_scaling.models.build import build_model
from plm_scaling.models.documents import Documents
from plm_scaling.models.lora import add_lora, merged_state

SHAPES = {
    "plm": ModelShape(n_layers=2, d_model=16),
    "esm2": ModelShape(architecture="esm2", n_layers=2, d_model=16, n_heads=2),
    "progen2": ModelShape(architecture="progen2", n_layers=2, d_model=16, n_heads=2, rotary_dim=4, d_ffn=48),
}
ADAPTED = ("qkv", "attention_out", "mlp_in", "mlp_out")


def documents() -> Documents:
    generator = torch.Generator().manual_seed(0)
    return Documents.of([torch.randint(4, 24, (n,), generator=generator) for n in (7, 12)])


def built(architecture: str, *, lora: bool) -> ProteinModel:
    model = build_model(SHAPES[architecture], causal=True, context=16, seed=3)
    if lora:
        add_lora(model, rank=3, alpha=12.0, seed=5)
    return model


@pytest.fixture(params=SHAPES)
def architecture(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_nothing_changes_before_the_first_step(architecture: str) -> None:
    plain, adapted = built(architecture, lora=False), built(architecture, lora=True)
    assert torch.equal(plain(documents()), adapted(documents()))
    state = dict(plain.named_parameters())
    merged = merged_state(adapted)
    assert merged.keys() == state.keys()
    assert all(torch.equal(merged[name], p) for name, p in state.items())


def test_only_the_additions_are_trained(architecture: str) -> None:
    model, shape = built(architecture, lora=True), SHAPES[architecture]
    names = [name for name, _ in model.trainable()]
    expected = {
        f"blocks.{block}.parametrizations.{matrix}.0.{part}"
        for block in range(shape.n_layers)
        for matrix in ADAPTED
        for part in ("down", "up")
    }
    assert set(names) == expected
    count = sum(p.numel() for _, p in model.trainable())
    assert count == shape.lora_parameters(3) == shape.n_layers * 3 * (8 * shape.d_model + 2 * shape.ffn)
    ups = [p for name, p in model.trainable() if name.endswith("up")]
    assert all(not p.any() for p in ups)


def test_the_additions_follow_the_formula_and_merge_into_plain_weights(architecture: str) -> None:
    """W + (alpha / r) B A, written out, in a plain model: the same logits as the model with additions."""
    base, model = built(architecture, lora=False), built(architecture, lora=True)
    generator = torch.Generator().manual_seed(1)
    parts = dict(model.trainable())
    with torch.no_grad():
        for parameter in parts.values():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        for block in range(2):
            for matrix in ADAPTED:
                stem = f"blocks.{block}.parametrizations.{matrix}.0"
                weight = base.get_parameter(f"blocks.{block}.{matrix}")
                before = weight.clone()
                weight += 12.0 / 3 * parts[f"{stem}.up"] @ parts[f"{stem}.down"]
                assert (weight - before).abs().max() > 0.01
    torch.testing.assert_close(model(documents()), base(documents()), rtol=1e-4, atol=1e-5)
    merged = merged_state(model)
    for name, parameter in base.named_parameters():
        torch.testing.assert_close(merged[name], parameter, rtol=1e-6, atol=1e-7)
    assert not any(tensor.requires_grad for tensor in merged.values())


def test_gradients_reach_the_additions_alone(architecture: str) -> None:
    """The first gradient of A is zero, B being zero; that of B is not."""
    model = built(architecture, lora=True)
    tokens = documents().tokens_P
    F.cross_entropy(model(documents()), model.model_ids(tokens)).backward()
    for name, parameter in model.named_parameters():
        if name.endswith(".up"):
            assert parameter.grad is not None
            assert parameter.grad.abs().max() > 0, name
        elif name.endswith(".down"):
            assert parameter.grad is not None
            assert not parameter.grad.any(), name
        else:
            assert parameter.grad is None, name


def test_the_additions_are_a_function_of_the_seed() -> None:
    def drawn(seed: int) -> torch.Tensor:
        model = build_model(SHAPES["plm"], causal=True, context=16)
        add_lora(model, rank=2, alpha=2.0, seed=seed)
        return torch.cat([p.detach().reshape(-1) for _, p in model.trainable()])

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_a_model_without_additions_is_merged_already() -> None:
    model = built("plm", lora=False)
    merged = merged_state(model)
    assert list(merged) == [name for name, _ in model.named_parameters()]
    assert all(torch.equal(merged[name], p) for name, p in model.named_parameters())
