"""The step on a GPU: the same shapes at every step, compiled, recorded for small models, never waiting for the device.

Shapes: P positions, S scored ones, n documents, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from plm_scaling.models.base import ProteinModel
from plm_scaling.models.documents import Documents
from plm_scaling.training.objectives import PackedInput
from plm_scaling.training.steps import AutogradStep

__all__ = ["CudaStep", "FixedInput", "fixed_input"]

_RECORDED_UP_TO: Final = 50_000_000
"""Parameters up to which launching kernels costs more than running them, so that they are recorded as CUDA graphs."""
_DOCUMENT_STEP: Final = 64
"""Numbers of documents are rounded up to powers of two of at least this: an empty document costs nothing."""
_SCORED_STEPS: Final = 16
"""Numbers of scored positions are rounded up to this many equal steps."""
_IGNORED: Final = -100
Compile = Callable[[Callable[..., Tensor], bool], Callable[..., Tensor]]


@dataclass(frozen=True)
class FixedInput:
    """A batch whose shapes do not depend on what is in it.

    Attributes
    ----------
    tokens_P, position_P, bounds, number_P, longest : the documents, followed by empty ones.
    scored_S : scored positions, followed by position 0 again and again.
    target_S : true tokens, followed by `_IGNORED`.
    """

    tokens_P: Tensor
    position_P: Tensor
    bounds: Tensor
    number_P: Tensor
    scored_S: Tensor
    target_S: Tensor
    longest: int

    def documents(self) -> Documents:
        """The documents, with what compilers cannot look up by themselves, because it is behind a lock."""
        made = Documents(self.tokens_P, self.position_P, self.bounds, self.longest)
        made.__dict__["number_P"] = self.number_P
        return made


def fixed_input(documents: Documents, scored_S: Tensor, target_S: Tensor) -> FixedInput:
    """Pad documents and scored positions, on the device they are on, without waiting for it."""
    P, S, n = len(documents.tokens_P), len(scored_S), len(documents.bounds) - 1
    n_fixed = max(_DOCUMENT_STEP, 1 << max(0, n - 1).bit_length())
    step = -(-P // _SCORED_STEPS)
    S_fixed = max(1, math.ceil(S / step)) * step
    return FixedInput(
        documents.tokens_P,
        documents.position_P,
        F.pad(documents.bounds, (0, n_fixed - n), value=P),
        documents.number_P,
        F.pad(scored_S, (0, S_fixed - S)),
        F.pad(target_S, (0, S_fixed - S), value=_IGNORED),
        documents.longest,
    )


def _compiled(function: Callable[..., Tensor], recorded: bool) -> Callable[..., Tensor]:
    mode = "reduce-overhead" if recorded else None
    compiled: Any = torch.compile(function, dynamic=False, mode=mode)
    return compiled  # type: ignore[no-any-return]


class CudaStep(AutogradStep):
    """Loss and gradients on a GPU by cross entropy.

    Parameters
    ----------
    model, micro_windows : see `AutogradStep`.
    compile_ : makes a function fast; its second argument says whether to record kernels.
    """

    def __init__(self, model: ProteinModel, *, micro_windows: int | None = None, compile_: Compile = _compiled) -> None:
        super().__init__(model, micro_windows=micro_windows)
        recorded = model.shape.N_total <= _RECORDED_UP_TO
        self._summed: Callable[..., Tensor] = compile_(self._summed_loss, recorded)
        self._grads = [p.grad for _, p in model.trainable() if p.grad is not None]

    def _summed_loss(self, *parts: Any) -> Tensor:
        fixed = FixedInput(*parts)
        logits_SV = self.model(fixed.documents(), fixed.scored_S)
        return F.cross_entropy(logits_SV, fixed.target_S, ignore_index=_IGNORED, reduction="sum")

    def gradients(self, batch: PackedInput, n_targets: int, key: int = 0) -> Tensor:
        """Write the gradient of (summed loss / `n_targets`); returns the summed loss in nats."""
        if self._grads:
            torch._foreach_zero_(self._grads)
        if self.model.dropout:
            torch.manual_seed(key)
        total = torch.zeros((), device=self.device)
        for piece in [batch] if self.micro_windows is None else batch.pieces(self.micro_windows):
            documents, piece = piece.documents.to(self.device), piece.to(self.device)
            fixed = fixed_input(documents, piece.scored_S, self.model.model_ids(piece.target_S))
            if self.device.type == "cuda":
                torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            loss = self._summed(*(getattr(fixed, name) for name in fixed.__dataclass_fields__))
            (loss / max(1, n_targets)).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total
