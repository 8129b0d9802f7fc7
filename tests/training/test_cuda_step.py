from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.run import Objective
from plm_scaling.core.run_order import Recompute
from plm_scaling.models.build import build_model
from plm_scaling.training.cuda_step import CudaStep, fixed_input
from plm_scaling.training.feed import feed
from plm_scaling.training.flat import FlatParameters
from plm_scaling.training.objectives import packed_input
from plm_scaling.training.recompute import recompute_blocks
from plm_scaling.training.speed import random_batch
from plm_scaling.training.steps import AutogradStep, gradient_step

SHAPES = (ModelShape(n_layers=2, d_model=32), ModelShape(architecture="esm2", n_layers=1, d_model=32, n_heads=2))


class Noted:
    """In place of a compiler: notes the shapes it would compile for."""

    def __init__(self) -> None:
        self.shapes: set[tuple[torch.Size, ...]] = set()
        self.recorded: bool | None = None

    def __call__(self, function: Callable[..., Tensor], recorded: bool) -> Callable[..., Tensor]:
        self.recorded = recorded

        def noted(*args: Tensor | int) -> Tensor:
            self.shapes.add(tuple(x.shape for x in args if isinstance(x, Tensor)))
            return function(*args)

        return noted


@pytest.mark.parametrize("objective", ["clm", "mlm"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: s.architecture)
@pytest.mark.parametrize("micro_windows", [None, 2])
def test_padded_shapes_change_neither_loss_nor_gradient(
    shape: ModelShape, objective: Objective, micro_windows: int | None
) -> None:
    model = build_model(shape, causal=objective == "clm", context=60, seed=3)
    flat = FlatParameters.of(model)
    inputs = packed_input(random_batch(3, 60), objective, mask_seed=0, mask_rate=0.3)
    n = len(inputs.target_S)
    loss = AutogradStep(model).gradients(inputs, n)
    expected = flat.grad.clone()
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter.grad, 7.0)  # type: ignore[arg-type]
    step = CudaStep(model, micro_windows=micro_windows, compile_=Noted())
    for _ in range(2):  # nothing is left over from the step before
        torch.testing.assert_close(step.gradients(inputs, n), loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(flat.grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("policy", ["every_other", "all"])
def test_recomputed_blocks_change_no_bit(policy: Recompute) -> None:
    inputs = packed_input(random_batch(3, 60), "mlm", mask_seed=0, mask_rate=0.3)
    found = []
    for kind in ("none", policy):
        model = build_model(SHAPES[0], causal=False, context=60, seed=3)
        flat = FlatParameters.of(model)
        recompute_blocks(model, kind)
        loss = CudaStep(model, compile_=Noted()).gradients(inputs, len(inputs.target_S))
        found.append((loss, flat.grad))
    (plain, expected), (again, gradient) = found
    assert torch.equal(plain, again)
    assert torch.equal(expected, gradient)


@pytest.mark.parametrize("objective", ["clm", "mlm"])
def test_batches_of_many_kinds_have_few_shapes(objective: Objective) -> None:
    shapes = set()
    for seed in range(40):
        batch = packed_input(random_batch(4, 256, seed=seed), objective, mask_seed=seed, mask_rate=0.15)
        fixed = fixed_input(batch.documents, batch.scored_S, batch.target_S)
        shapes.add((len(fixed.tokens_P), len(fixed.bounds), len(fixed.scored_S)))
        S = len(batch.scored_S)
        assert torch.equal(fixed.scored_S[:S], batch.scored_S)
        assert torch.equal(fixed.target_S[:S], batch.target_S)
        assert bool((fixed.target_S[S:] < 0).all())
        n = len(batch.documents.bounds)
        assert torch.equal(fixed.bounds[:n], batch.documents.bounds)
        assert bool((fixed.bounds[n:] == len(fixed.tokens_P)).all())
    assert len(shapes) <= 3


def test_only_small_models_are_recorded() -> None:
    small, large = Noted(), Noted()
    CudaStep(build_model(SHAPES[0], causal=True, context=8), compile_=small)
    model = build_model(SHAPES[0], causal=True, context=8)
    model.shape = ModelShape(n_layers=30, d_model=640)
    CudaStep(model, compile_=large)
    assert (small.recorded, large.recorded) == (True, False)


def test_a_batch_without_targets_has_no_gradient() -> None:
    model = build_model(SHAPES[0], causal=False, context=20)
    flat = FlatParameters.of(model)
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter.grad, 7.0)  # type: ignore[arg-type]
    inputs = packed_input(random_batch(2, 20), "mlm", mask_seed=0, mask_rate=1e-9)
    assert CudaStep(model, compile_=Noted()).gradients(inputs, 0).item() == 0.0
    assert flat.grad.abs().sum().item() == 0.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("objective", ["clm", "mlm"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: s.architecture)
@pytest.mark.parametrize("recompute", ["none", "all"])
def test_a_gpu_step_is_near_that_of_a_cpu(shape: ModelShape, objective: Objective, recompute: Recompute) -> None:
    inputs = [packed_input(random_batch(4, 128, seed=k), objective, mask_seed=k, mask_rate=0.15) for k in range(4)]
    on_cpu = build_model(shape, causal=objective == "clm", context=128, seed=3)
    expected = FlatParameters.of(on_cpu)
    device = torch.device("cuda", 0)
    on_gpu = build_model(shape, causal=objective == "clm", context=128, seed=3, dtype=torch.bfloat16).to(device)
    flat = FlatParameters.of(on_gpu)
    recompute_blocks(on_gpu, recompute)
    step = gradient_step(on_gpu, 4, 128, by_hand=recompute == "none")
    assert isinstance(step, CudaStep)
    for plain, fed in zip(inputs, feed(iter(inputs), device), strict=True):
        n = len(plain.target_S)
        loss = AutogradStep(on_cpu).gradients(plain, n)
        assert step.gradients(fed, n).item() == pytest.approx(loss.item(), rel=1e-2)
        assert torch.nn.functional.cosine_similarity(flat.grad.cpu(), expected.grad, dim=0).item() > 0.99
