from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from plm_scaling.core.alphabet import PAD
from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.run import Objective, RunConfig
from plm_scaling.core.run_order import RunOrder
from plm_scaling.corpus.batches import Batch
from plm_scaling.models.build import build_model
from plm_scaling.models.plm import Transformer
from plm_scaling.training.adamw import AdamW
from plm_scaling.training.cpu_step import CpuStep
from plm_scaling.training.engine import ReplicatedEngine
from plm_scaling.training.flat import FlatParameters
from plm_scaling.training.objectives import packed_input
from plm_scaling.training.speed import random_batch
from plm_scaling.training.steps import AutogradStep, GradientStep, gradient_step, without_padding
from plm_scaling.training.world import World


def plm(n_layers: int, d_model: int, **choices: Any) -> Transformer:
    return Transformer(ModelShape(n_layers=n_layers, d_model=d_model), **choices)


@pytest.mark.parametrize("clip", [1e-3, 1e3])
def test_updates_are_those_of_torch(make_config: Callable[..., RunConfig], clip: float) -> None:
    config = make_config(grad_clip=clip)
    ours, theirs = (plm(2, 16, causal=True, context=8, seed=1) for _ in range(2))
    flat = FlatParameters.of(ours)
    optimiser = AdamW(flat, config)
    matrices = [p for p in theirs.parameters() if p.dim() == 2]
    gains = [p for p in theirs.parameters() if p.dim() == 1]
    reference = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": config.weight_decay}, {"params": gains, "weight_decay": 0.0}],
        lr=1.0,
        betas=(config.beta1, config.beta2),
    )
    generator = torch.Generator().manual_seed(0)
    for step in range(4):
        lr = 1e-2 / (step + 1)
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            gradient = torch.randn(mine.shape, generator=generator)
            assert mine.grad is not None
            mine.grad.copy_(gradient)
            other.grad = gradient
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        for group in reference.param_groups:
            group["lr"] = lr
        reference.step()
        assert optimiser.update(step, lr).item() == pytest.approx(norm.item(), rel=1e-5)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_the_step_by_hand_is_for_float32_on_a_cpu() -> None:
    for dtype, kind in ((torch.float32, CpuStep), (torch.bfloat16, AutogradStep)):
        model = plm(1, 16, causal=True, context=8, dtype=dtype)
        FlatParameters.of(model)
        assert type(gradient_step(model, 2, 8)) is kind
        assert type(gradient_step(model, 2, 8, by_hand=False)) is AutogradStep


@pytest.mark.parametrize("recompute", ["none", "all"])
def test_an_engine_takes_the_fastest_step_but_for_the_hand_written_one(
    make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, recompute: str
) -> None:
    """Recomputed blocks keep the compiled step of a GPU, but not the step that keeps everything in its own places."""
    seen: list[dict[str, Any]] = []

    def noted(*args: Any, **options: Any) -> GradientStep:
        seen.append(options)
        return gradient_step(*args, **options)

    monkeypatch.setattr("plm_scaling.training.engine.gradient_step", noted)
    config = make_config()
    order = RunOrder.model_validate({"config": config, "corpus": "c", "recompute": recompute, "micro_windows": 3})
    model = build_model(config.shape, causal=True, context=config.context, seed=0)
    ReplicatedEngine(model, config, order, World())
    [options] = seen
    assert (options["by_hand"], options["micro_windows"]) == (recompute == "none", 3)


def test_bf16_is_near_float32() -> None:
    inputs = packed_input(random_batch(2, 30), "clm", mask_seed=0, mask_rate=0.15)
    losses, gradients = [], []
    for dtype in (torch.float32, torch.bfloat16):
        model = plm(2, 32, causal=True, context=30, seed=1, dtype=dtype)
        flat = FlatParameters.of(model)
        losses.append(AutogradStep(model).gradients(inputs, len(inputs.target_S)).item())
        gradients.append(flat.grad)
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0).item() > 0.99


def test_autograd_without_targets() -> None:
    model = plm(1, 16, causal=False, context=20)
    flat = FlatParameters.of(model)
    inputs = packed_input(random_batch(2, 20), "mlm", mask_seed=0, mask_rate=1e-9)
    assert AutogradStep(model).gradients(inputs, len(inputs.target_S)).item() == 0.0
    assert flat.grad.abs().sum().item() == 0.0


def with_padding(windows: int, context: int) -> Batch:
    """A batch whose second half of every window is padding."""
    batch = random_batch(windows, context, seed=5)
    half = (slice(None), slice(context // 2, None))
    tokens, segment, position = batch.tokens.copy(), batch.segment.copy(), batch.position.copy()
    row, residue = batch.row.copy(), batch.residue.copy()
    tokens[half], segment[half], position[half], row[half], residue[half] = PAD, -1, 0, -1, -1
    return replace(batch, tokens=tokens, segment=segment, position=position, row=row, residue=residue)


@pytest.mark.parametrize("architecture", ["plm", "esm2"])
@pytest.mark.parametrize("objective", ["clm", "mlm"])
def test_no_work_is_done_on_padding(objective: Objective, architecture: str) -> None:
    inputs = packed_input(with_padding(3, 60), objective, mask_seed=0, mask_rate=0.3)
    shown, scored_S = without_padding(inputs)
    assert len(shown.tokens_P) == 3 * 30
    assert not bool((shown.tokens_P == PAD).any())
    shape = ModelShape.model_validate({"architecture": architecture, "n_layers": 1, "d_model": 16})
    model = build_model(shape, causal=objective == "clm", context=60)
    with torch.no_grad():
        whole_SV = model(inputs.documents, inputs.scored_S)
        torch.testing.assert_close(model(shown, scored_S), whole_SV, rtol=1e-5, atol=1e-6)
    losses_S = torch.nn.functional.cross_entropy(whole_SV, inputs.target_S, reduction="none")
    torch.testing.assert_close(AutogradStep(model).losses(inputs), losses_S, rtol=1e-5, atol=1e-6)


def test_where_nothing_is_padding_or_all_is_nothing_changes() -> None:
    inputs = packed_input(random_batch(2, 30), "mlm", mask_seed=0, mask_rate=0.3)
    assert without_padding(inputs) == (inputs.documents, inputs.scored_S)
    nothing = replace(inputs, segment_BT=torch.full_like(inputs.segment_BT, -1))
    assert without_padding(nothing)[0] is nothing.documents
