"""What all architectures share: one signature, one way to be built.

Shapes: P positions, S scored ones, D width, K what is turned of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from plm_scaling.core.architecture import ModelShape
from plm_scaling.models.documents import Documents

__all__ = ["ProteinModel"]


class ProteinModel(nn.Module):
    """A protein language model over packed documents.

    Attributes
    ----------
    shape : what decides its size.
    causal : whether a position sees only itself and what is before it in its document.
    context : longest document, in positions.
    dtype : of the activations; weights stay float32.
    dropout : share of the values each block adds to the residual stream that training drops.
    blocks : the layers, in order; what sharding and activation checkpointing wrap.
    """

    blocks: nn.ModuleList

    def __init__(
        self, shape: ModelShape, *, causal: bool, context: int, dtype: torch.dtype = torch.float32, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.shape, self.causal, self.context = shape, causal, context
        self.dtype, self.dropout = dtype, dropout

    def forward(self, documents: Documents, scored_S: Tensor | None = None) -> Tensor:
        """Logits, float32, of every position [P, V], or of the scored ones only [S, V].

        Parameters
        ----------
        documents : what the model is shown.
        scored_S : int64, positions among the P.
        """
        x_PD = self.stream(documents)
        return self.logits(self.normed(x_PD if scored_S is None else x_PD[scored_S]))

    def stream(self, documents: Documents, n_blocks: int | None = None) -> Tensor:
        """Residual stream [P, D], in the dtype of the activations, before the last norm.

        Parameters
        ----------
        documents : what the model is shown.
        n_blocks : after so many blocks, 0 for the embeddings; None for all of them.
        """
        turn_PK, x_PD = self.turns(documents), self.embedded(documents)
        for block in list(self.blocks)[:n_blocks]:
            x_PD = block(x_PD, turn_PK, documents)
        return x_PD

    def turns(self, documents: Documents) -> Tensor:
        """Rotary factors at each position, complex64[P, K / 2]."""
        raise NotImplementedError

    def embedded(self, documents: Documents) -> Tensor:
        """Residual stream before the first block, [P, D], in the dtype of the activations."""
        raise NotImplementedError

    def normed(self, x_SD: Tensor) -> Tensor:
        """The norm after the last block, [S, D]."""
        raise NotImplementedError

    def logits(self, h_SD: Tensor) -> Tensor:
        """The output head on the normed stream, float32[S, V]."""
        raise NotImplementedError

    def model_ids(self, ids: Tensor) -> Tensor:
        """Token ids of `core.alphabet` in the model's own vocabulary, the numbering of its logits."""
        return ids

    def trainable(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Names and parameters that training changes."""
        return ((name, p) for name, p in self.named_parameters() if p.requires_grad)
