from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from plm_scaling.core.alphabet import PAD
from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.run import Objective
from plm_scaling.corpus.batches import Batch
from plm_scaling.models.plm import Transformer
from plm_scaling.training.cpu_step import CpuStep
from plm_scaling.training.flat import FlatParameters
from plm_scaling.training.objectives import packed_input
from plm_scaling.training.speed import random_batch
from plm_scaling.training.steps import AutogradStep


def padded_batch(windows: int, context: int) -> Batch:
    """A batch whose second half of the last window is padding."""
    batch = random_batch(windows, context, seed=5)
    half = (windows - 1, slice(context // 2, None))
    tokens, segment, position = batch.tokens.copy(), batch.segment.copy(), batch.position.copy()
    row, residue = batch.row.copy(), batch.residue.copy()
    tokens[half], segment[half], position[half], row[half], residue[half] = PAD, -1, 0, -1, -1
    return replace(batch, tokens=tokens, segment=segment, position=position, row=row, residue=residue)


@pytest.mark.parametrize("objective", ["clm", "mlm"])
@pytest.mark.parametrize("document_wise", [False, True])
@pytest.mark.parametrize(("n_layers", "d_model"), [(2, 16), (1, 24), (2, 96)])
def test_loss_and_gradients_are_those_of_autograd(
    objective: Objective, n_layers: int, d_model: int, document_wise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plm_scaling.training.cpu_attention._DOCUMENT_WISE_FROM", 1 if document_wise else 10_000)
    model = Transformer(ModelShape(n_layers=n_layers, d_model=d_model), causal=objective == "clm", context=40, seed=2)
    flat = FlatParameters.of(model)
    with torch.no_grad():  # norm gains away from their start
        flat.value[flat.n_matrix :] += 0.3 * torch.randn(len(flat.value) - flat.n_matrix)
    inputs = packed_input(padded_batch(3, 40), objective, mask_seed=1, mask_rate=0.3)
    by_autograd = AutogradStep(model)
    loss, losses = by_autograd.gradients(inputs, 100), by_autograd.losses(inputs)
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    flat.grad.fill_(7.0)
    by_hand = CpuStep(model, 3, 40)
    for _ in range(2):  # nothing is left over from the step before
        torch.testing.assert_close(by_hand.gradients(inputs, 100), loss, rtol=2e-6, atol=0)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        scale = expected[name].abs().max().item()
        assert (parameter.grad - expected[name]).abs().max().item() < 5e-6 * scale, name
    torch.testing.assert_close(by_hand.losses(inputs), losses, rtol=1e-5, atol=1e-6)
    forward_only = CpuStep(model, 3, 40, backward=False)
    assert torch.equal(forward_only.losses(inputs), by_hand.losses(inputs))


def test_a_batch_without_targets_has_no_gradient() -> None:
    model = Transformer(ModelShape(n_layers=1, d_model=16), causal=False, context=20)
    flat = FlatParameters.of(model)
    inputs = packed_input(random_batch(2, 20), "mlm", mask_seed=0, mask_rate=1e-9)
    assert len(inputs.target_S) == 0
    flat.grad.fill_(7.0)
    assert CpuStep(model, 2, 20).gradients(inputs, 0).item() == 0.0
    gradients = torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])
    assert np.abs(gradients.numpy()).max() == 0.0
