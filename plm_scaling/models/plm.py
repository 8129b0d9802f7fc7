"""The `plm` transformer: one block for both objectives, which differ only in the attention mask and the loss.

Pre-norm, rotary positions over the whole head, GELU, no biases, untied output head. This file is the reference
(autograd, any device); `training/cpu_step.py` carries out the same mathematics without autograd, for speed.

Shapes: P positions, S scored ones, D width, H heads, K = D / H, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plm_scaling.core.architecture import ModelShape
from plm_scaling.models.attention import attend
from plm_scaling.models.base import ProteinModel
from plm_scaling.models.documents import Documents
from plm_scaling.models.rotary import rotary_table

__all__ = ["NORM_EPS", "Block", "Transformer"]

NORM_EPS: Final = 1e-5


class Block(nn.Module):
    """Attention and feed-forward, each after a weight-only LayerNorm and added to the residual stream."""

    def __init__(self, shape: ModelShape, *, causal: bool, dropout: float = 0.0) -> None:
        super().__init__()
        D, F_ = shape.d_model, shape.ffn
        self.attention_norm = nn.Parameter(torch.ones(D))
        self.qkv = nn.Parameter(torch.empty(3 * D, D))
        self.attention_out = nn.Parameter(torch.empty(D, D))
        self.mlp_norm = nn.Parameter(torch.ones(D))
        self.mlp_in = nn.Parameter(torch.empty(F_, D))
        self.mlp_out = nn.Parameter(torch.empty(D, F_))
        self.head_dim, self.causal, self.dropout = shape.head_dim, causal, dropout

    def forward(self, x_PD: Tensor, turn_PK: Tensor, documents: Documents) -> Tensor:
        """One block.

        Parameters
        ----------
        x_PD : residual stream.
        turn_PK : rotary factors at each position, complex64[P, K / 2].
        """
        x_PD = x_PD + self._dropped(self._attention(self._normed(x_PD, self.attention_norm), turn_PK, documents))
        h_PD = self._normed(x_PD, self.mlp_norm)
        h_PD = F.linear(F.gelu(F.linear(h_PD, self.mlp_in.to(h_PD.dtype))), self.mlp_out.to(h_PD.dtype))
        return x_PD + self._dropped(h_PD)

    def _attention(self, h_PD: Tensor, turn_PK: Tensor, documents: Documents) -> Tensor:
        P, D = h_PD.shape
        q_PHK, k_PHK, v_PHK = (
            F.linear(h_PD, self.qkv.to(h_PD.dtype)).view(P, 3, D // self.head_dim, self.head_dim).unbind(1)
        )
        q_PHK, k_PHK = _turned(q_PHK, turn_PK), _turned(k_PHK, turn_PK)
        mixed_PHK = attend(q_PHK, k_PHK, v_PHK, documents, causal=self.causal)
        return F.linear(mixed_PHK.reshape(P, D), self.attention_out.to(h_PD.dtype))

    def _normed(self, x_PD: Tensor, gain_D: Tensor) -> Tensor:
        return F.layer_norm(x_PD, gain_D.shape, gain_D.to(x_PD.dtype), None, NORM_EPS)

    def _dropped(self, h_PD: Tensor) -> Tensor:
        return F.dropout(h_PD, self.dropout, self.training) if self.dropout else h_PD


def _turned(x_PHK: Tensor, turn_PK: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x_PHK.float().reshape(*x_PHK.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turn_PK[:, None]).flatten(-2).to(x_PHK.dtype)


class Transformer(ProteinModel):
    """The study's model.

    Parameters
    ----------
    shape, causal, context, dtype, dropout : see `ProteinModel`.
    seed : of the initial weights.

    **Source:** init: normal, sd 0.5 / sqrt(d_model); matrices that write into the residual stream are smaller by
    sqrt(2 n_layers) (Radford et al. 2019, section 2.3, for the factor).
    """

    def __init__(
        self,
        shape: ModelShape,
        *,
        causal: bool,
        context: int,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(shape, causal=causal, context=context, dtype=dtype, dropout=dropout)
        self.embedding = nn.Parameter(torch.empty(shape.vocab, shape.d_model))
        self.blocks = nn.ModuleList(Block(shape, causal=causal, dropout=dropout) for _ in range(shape.n_layers))
        self.final_norm = nn.Parameter(torch.ones(shape.d_model))
        self.head = nn.Parameter(torch.empty(shape.vocab, shape.d_model))
        self.register_buffer("turn_TK", rotary_table(shape.head_dim, context), persistent=False)
        self.turn_TK: Tensor
        self._initialise(seed)

    def _initialise(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        sd = 0.5 / math.sqrt(self.shape.d_model)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                small = name.endswith(("attention_out", "mlp_out"))
                scale = sd / math.sqrt(2 * self.shape.n_layers) if small else sd
                nn.init.normal_(parameter, std=scale, generator=generator)

    def turns(self, documents: Documents) -> Tensor:
        """Rotary factors at each position, complex64[P, K / 2]."""
        return self.turn_TK[documents.position_P]

    def embedded(self, documents: Documents) -> Tensor:
        """Residual stream before the first block, [P, D], in the dtype of the activations."""
        return F.embedding(documents.tokens_P, self.embedding).to(self.dtype)

    def normed(self, x_SD: Tensor) -> Tensor:
        """The norm after the last block, [S, D]."""
        return F.layer_norm(x_SD, self.final_norm.shape, self.final_norm.to(self.dtype), None, NORM_EPS)

    def logits(self, h_SD: Tensor) -> Tensor:
        """The output head on the normed stream, float32[S, V]."""
        return F.linear(h_SD, self.head.to(self.dtype)).float()
