"""`ModelShape.training_flops` against torch's own count of the matrix products that a step carries out."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from plm_scaling.core.architecture import ModelShape
from plm_scaling.models.build import build_model
from plm_scaling.models.documents import Documents

SHAPES = (
    ModelShape(n_layers=2, d_model=64),
    ModelShape(n_layers=1, d_model=32, n_heads=4, d_ffn=72),
    ModelShape(architecture="esm2", n_layers=2, d_model=40, n_heads=5),
    ModelShape(architecture="esm2", n_layers=1, d_model=32, n_heads=2, d_ffn=48),
    ModelShape(architecture="progen2", n_layers=2, d_model=48, n_heads=3, rotary_dim=8),
    ModelShape(architecture="progen2", n_layers=3, d_model=32, n_heads=2, rotary_dim=16, d_ffn=40),
)
LENGTHS = (7, 1, 12, 30)


def counted(shape: ModelShape, *, causal: bool, scored: int | None) -> int:
    """FLOPs of one forward and one backward pass through every weight."""
    model = build_model(shape, causal=causal, context=32)
    generator = torch.Generator().manual_seed(0)
    packed = Documents.of([torch.randint(4, 24, (n,), generator=generator) for n in LENGTHS])
    scored_S = None if scored is None else torch.randperm(sum(LENGTHS), generator=generator)[:scored]
    # Fused kernels hide their products from the counter; backward, they also compute the scores anew.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(packed, scored_S).sum().backward()
    assert all(p.grad is not None for _, p in model.trainable())
    return counter.get_total_flops()


@pytest.mark.parametrize("causal", [True, False], ids=["clm", "mlm"])
@pytest.mark.parametrize("scored", [None, 9])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.architecture}-{s.n_layers}x{s.d_model}")
def test_flops_are_those_torch_counts(shape: ModelShape, causal: bool, scored: int | None) -> None:
    expected = shape.training_flops(
        positions=sum(LENGTHS), sum_length_squared=sum(n * n for n in LENGTHS), head_positions=scored
    )
    assert counted(shape, causal=causal, scored=scored) == expected
