"""One optimiser step: gradients by the fastest means at hand, AdamW over all parameters at once.

Shapes: S scored positions.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from plm_scaling.core.run import RunConfig
from plm_scaling.training.cpu_step import CpuStep
from plm_scaling.training.model import FlatParameters, Transformer
from plm_scaling.training.objectives import PackedInput

__all__ = ["AdamW", "AutogradStep", "GradientStep", "gradient_step"]


class GradientStep(Protocol):
    """Something that computes losses and gradients of a model."""

    def losses(self, batch: PackedInput) -> Tensor:
        """Loss of each target, float32[S] nats, without gradients."""

    def gradients(self, batch: PackedInput) -> Tensor:
        """Write the gradient of the mean loss; returns the summed loss in nats, a scalar on the model's device."""


class AutogradStep:
    """Loss and gradients by autograd: any device, any dtype, any number of windows."""

    def __init__(self, model: Transformer, flat: FlatParameters) -> None:
        self.model, self.flat = model, flat
        self.device = flat.value.device

    def _losses(self, batch: PackedInput) -> Tensor:
        batch = batch.to(self.device)
        logits_SV = self.model(batch.tokens_BT, batch.segment_BT, batch.position_BT, batch.scored_S)
        return F.cross_entropy(logits_SV, batch.target_S, reduction="none")

    @torch.no_grad()
    def losses(self, batch: PackedInput) -> Tensor:
        """Loss of each target, float32[S] nats, without gradients."""
        return self._losses(batch)

    def gradients(self, batch: PackedInput) -> Tensor:
        """Write the gradient of the mean loss; returns the summed loss in nats."""
        self.flat.grad.zero_()
        loss = self._losses(batch).sum()
        (loss / max(1, len(batch.target_S))).backward()  # type: ignore[no-untyped-call]
        return loss.detach()


def gradient_step(
    model: Transformer, flat: FlatParameters, windows: int, context: int, *, backward: bool = True
) -> GradientStep:
    """The faster way for this model: by hand in float32 on a CPU, else by autograd.

    Parameters
    ----------
    windows, context : shape of every batch.
    """
    if flat.value.device.type == "cpu" and model.dtype == torch.float32:
        return CpuStep(model, windows, context, backward=backward)
    return AutogradStep(model, flat)


class AdamW:
    """AdamW with gradient clipping on the flat parameters; weight decay on matrices only.

    Attributes
    ----------
    exp_avg, exp_avg_sq : float32[n], first and second moments: all the state there is, beside the step number.

    **Source:** Loshchilov and Hutter 2019, algorithm 2; clipping by the global norm, Pascanu et al. 2013.
    """

    def __init__(self, flat: FlatParameters, config: RunConfig) -> None:
        self.flat, self.config = flat, config
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(flat.value), torch.zeros_like(flat.value)
        self._step = torch.zeros((), device=flat.value.device)
        parts = (slice(0, flat.n_matrix), slice(flat.n_matrix, None))
        self._groups = [
            ([flat.value[p]], [flat.grad[p]], [self.exp_avg[p]], [self.exp_avg_sq[p]], decay)
            for p, decay in zip(parts, (config.weight_decay, 0.0), strict=True)
        ]

    @torch.inference_mode()
    def update(self, step: int, lr: float) -> Tensor:
        """Change the parameters by their gradients.

        Parameters
        ----------
        step : updates made before this one.
        lr : learning rate.

        Returns
        -------
        norm : global gradient norm before clipping, a scalar tensor.
        """
        norm: Tensor = torch.linalg.vector_norm(self.flat.grad)
        too_long = (norm / self.config.grad_clip).clamp_(min=1.0)
        self._step.fill_(step + 1)
        for value, grad, exp_avg, exp_avg_sq, decay in self._groups:
            # What torch.optim.AdamW(fused=True) calls; its own bookkeeping costs more than the update of a tiny model.
            torch._fused_adamw_(
                value,
                grad,
                exp_avg,
                exp_avg_sq,
                [],
                [self._step],
                lr=lr,
                beta1=self.config.beta1,
                beta2=self.config.beta2,
                weight_decay=decay,
                eps=1e-8,
                amsgrad=False,
                maximize=False,
                grad_scale=too_long,
                found_inf=None,
            )
        return norm
