"""Losses and gradients of a batch, by the fastest means at hand. Shapes: S scored positions, V vocabulary."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from plm_scaling.models.base import ProteinModel
from plm_scaling.models.documents import Documents
from plm_scaling.models.plm import Transformer
from plm_scaling.training.cpu_step import CpuStep
from plm_scaling.training.objectives import PackedInput

__all__ = ["AutogradStep", "GradientStep", "LossFunction", "cross_entropy", "gradient_step", "without_padding"]


class GradientStep(Protocol):
    """Something that computes losses and gradients of a model."""

    def losses(self, batch: PackedInput) -> Tensor:
        """Loss of each target, float32[S] nats, without gradients."""

    def gradients(self, batch: PackedInput, n_targets: int, key: int = 0) -> Tensor:
        """Write the gradient of (summed loss / `n_targets`); returns the summed loss in nats, on the model's device.

        Parameters
        ----------
        n_targets : scored positions of the whole batch, of all processes.
        key : decides what dropout drops.
        """


class LossFunction(Protocol):
    """What is minimised, given the logits."""

    def __call__(self, logits_SV: Tensor, batch: PackedInput, target_S: Tensor) -> Tensor:
        """Loss of each target, float32[S].

        Parameters
        ----------
        batch : what the model was shown, on its device.
        target_S : true tokens in the model's numbering.
        """


def cross_entropy(logits_SV: Tensor, batch: PackedInput, target_S: Tensor) -> Tensor:
    """Negative log probability of each target, float32[S] nats."""
    del batch
    return F.cross_entropy(logits_SV, target_S, reduction="none")


def without_padding(batch: PackedInput) -> tuple[Documents, Tensor]:
    """The documents without their padding, and where the scored positions are then; paddings are empty documents.

    The number of positions differs from batch to batch: not for devices that want the same work at every step.
    """
    documents, real_P = batch.documents, batch.segment_BT.reshape(-1) >= 0
    before = F.pad(real_P.cumsum(0), (1, 0))
    if real_P.all() or not real_P.any():
        return documents, batch.scored_S
    bounds = before[documents.bounds.long()].to(torch.int32)
    shown = Documents(documents.tokens_P[real_P], documents.position_P[real_P], bounds, documents.longest)
    return shown, before[batch.scored_S]


class AutogradStep:
    """Loss and gradients by autograd: any architecture, device, dtype, number of windows.

    Parameters
    ----------
    micro_windows : windows whose gradients are computed at once; None for the whole batch.
    loss : what is minimised; `losses` is the cross entropy whatever it is.
    """

    def __init__(
        self, model: ProteinModel, *, micro_windows: int | None = None, loss: LossFunction = cross_entropy
    ) -> None:
        self.model, self.micro_windows, self.loss = model, micro_windows, loss
        self.device = next(model.parameters()).device

    def _losses(self, batch: PackedInput, loss: LossFunction) -> Tensor:
        documents, scored_S = batch.documents, batch.scored_S
        if self.device.type == "cpu":
            documents, scored_S = without_padding(batch)
        documents, batch = documents.to(self.device), batch.to(self.device)
        logits_SV = self.model(documents, scored_S.to(self.device, non_blocking=True))
        return loss(logits_SV, batch, self.model.model_ids(batch.target_S))

    @torch.no_grad()
    def losses(self, batch: PackedInput) -> Tensor:
        """Loss of each target, float32[S] nats, without gradients and without dropout."""
        self.model.eval()
        try:
            return self._losses(batch, cross_entropy)
        finally:
            self.model.train()

    def gradients(self, batch: PackedInput, n_targets: int, key: int = 0) -> Tensor:
        """Write the gradient of (summed loss / `n_targets`); returns the summed loss in nats."""
        for _, parameter in self.model.trainable():
            if parameter.grad is not None:
                parameter.grad.zero_()
        if self.model.dropout:
            torch.manual_seed(key)
        total = torch.zeros((), device=self.device)
        for piece in batch.pieces(self.micro_windows or len(batch.tokens_BT)):
            loss = self._losses(piece, self.loss).sum()
            (loss / max(1, n_targets)).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total


def gradient_step(
    model: ProteinModel,
    windows: int,
    context: int,
    *,
    backward: bool = True,
    by_hand: bool = True,
    micro_windows: int | None = None,
    loss: LossFunction = cross_entropy,
) -> GradientStep:
    """The fastest way for this model: by hand in float32 on a CPU where that is written, compiled on a GPU.

    Parameters
    ----------
    windows, context : shape of every batch.
    by_hand : whether the hand-written step may be used: it keeps what it needs in places of its own, so that blocks
        which are computed again save nothing there.
    """
    by_hand = (
        by_hand
        and type(model) is Transformer
        and model.shape.d_ffn is None
        and model.dtype == torch.float32
        and not model.dropout
        and all(p.device.type == "cpu" and p.requires_grad for p in model.parameters())
        and loss is cross_entropy
        and (micro_windows is None or micro_windows >= windows)
    )
    if by_hand:
        assert isinstance(model, Transformer)
        return CpuStep(model, windows, context, backward=backward)
    if next(model.parameters()).device.type == "cuda" and backward and loss is cross_entropy:
        from plm_scaling.training.cuda_step import CudaStep

        return CudaStep(model, micro_windows=micro_windows)
    return AutogradStep(model, micro_windows=micro_windows, loss=loss)
