"""ESM-2 over packed documents, for both objectives.

Pre-norm, biases everywhere, rotary positions over the whole head, exact GELU, output matrix tied to the embedding.
Masked residues are dropped from the input, and the rest is scaled to make up for it, in each document by itself.

Shapes: P positions, S scored ones, n documents, D width, H heads, K = D / H, V vocabulary, T context.
"""

from __future__ import annotations

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plm_scaling.core.alphabet import MASK
from plm_scaling.core.architecture import ModelShape
from plm_scaling.models.attention import attend
from plm_scaling.models.base import ProteinModel
from plm_scaling.models.documents import Documents
from plm_scaling.models.plm import NORM_EPS
from plm_scaling.models.rotary import rounded_rotary_table

__all__ = ["Esm2", "Esm2Block"]

_TRAINED_DROPPED: Final = 0.15 * 0.8
"""Share of the positions that showed `<mask>` when ESM-2 was trained."""


class Esm2Block(nn.Module):
    """Attention and feed-forward, each after a LayerNorm and added to the residual stream."""

    def __init__(self, shape: ModelShape, *, causal: bool, dropout: float = 0.0) -> None:
        super().__init__()
        D, F_ = shape.d_model, shape.ffn
        self.attention_norm = nn.Parameter(torch.ones(D))
        self.attention_norm_bias = nn.Parameter(torch.zeros(D))
        self.qkv = nn.Parameter(torch.empty(3 * D, D))
        self.qkv_bias = nn.Parameter(torch.zeros(3 * D))
        self.attention_out = nn.Parameter(torch.empty(D, D))
        self.attention_out_bias = nn.Parameter(torch.zeros(D))
        self.mlp_norm = nn.Parameter(torch.ones(D))
        self.mlp_norm_bias = nn.Parameter(torch.zeros(D))
        self.mlp_in = nn.Parameter(torch.empty(F_, D))
        self.mlp_in_bias = nn.Parameter(torch.zeros(F_))
        self.mlp_out = nn.Parameter(torch.empty(D, F_))
        self.mlp_out_bias = nn.Parameter(torch.zeros(D))
        self.head_dim, self.causal, self.dropout = shape.head_dim, causal, dropout

    def forward(self, x_PD: Tensor, turn_PK: Tensor, documents: Documents) -> Tensor:
        """One block.

        Parameters
        ----------
        x_PD : residual stream.
        turn_PK : rotary factors at each position, complex64[P, K / 2].
        """
        q_PHK, k_PHK, v_PHK = self.queries_keys_values(x_PD, turn_PK)
        mixed_PHK = attend(q_PHK, k_PHK, v_PHK, documents, causal=self.causal)
        x_PD = x_PD + self._dropped(_linear(mixed_PHK.reshape(x_PD.shape), self.attention_out, self.attention_out_bias))
        h_PD = _normed(x_PD, self.mlp_norm, self.mlp_norm_bias)
        h_PD = _linear(F.gelu(_linear(h_PD, self.mlp_in, self.mlp_in_bias)), self.mlp_out, self.mlp_out_bias)
        return x_PD + self._dropped(h_PD)

    def queries_keys_values(self, x_PD: Tensor, turn_PK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What attention works on, each [P, H, K]; queries and keys are turned by position."""
        P, D = x_PD.shape
        h_PD = _normed(x_PD, self.attention_norm, self.attention_norm_bias)
        qkv_PD = _linear(h_PD, self.qkv, self.qkv_bias)
        q_PHK, k_PHK, v_PHK = qkv_PD.view(P, 3, D // self.head_dim, self.head_dim).unbind(1)
        return _turned(q_PHK, turn_PK), _turned(k_PHK, turn_PK), v_PHK

    def _dropped(self, h_PD: Tensor) -> Tensor:
        return F.dropout(h_PD, self.dropout, self.training) if self.dropout else h_PD


def _linear(x_PD: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(x_PD, weight.to(x_PD.dtype), bias.to(x_PD.dtype))


def _normed(x_PD: Tensor, gain_D: Tensor, bias_D: Tensor) -> Tensor:
    return F.layer_norm(x_PD, gain_D.shape, gain_D.to(x_PD.dtype), bias_D.to(x_PD.dtype), NORM_EPS)


def _turned(x_PHK: Tensor, turn_PK: Tensor) -> Tensor:
    """Feature i is turned with feature i + K / 2, unlike in `plm`, where neighbours are."""
    first_PHK, second_PHK = x_PHK.float().chunk(2, dim=-1)
    turned_PHK = torch.complex(first_PHK, second_PHK) * turn_PK[:, None]
    return torch.cat((turned_PHK.real, turned_PHK.imag), dim=-1).to(x_PHK.dtype)


class Esm2(ProteinModel):
    """ESM-2, or the same layers with a causal mask.

    Parameters
    ----------
    shape, causal, context, dtype, dropout : see `ProteinModel`.
    seed : of the initial weights.
    token_dropout : embed `<mask>` as zero and scale the other positions of its document by (1 - 0.12) / (1 - share of
        `<mask>` among its positions), `<cls>` and `<eos>` counted, in training and inference alike. The scale depends
        on the whole document: a causal model should be shown no `<mask>`.

    Attributes
    ----------
    contact_weight : float32[1, L H], contact_bias : float32[1]
        Logistic regression from attention maps to contacts (`models.contacts`), or None. Buffers: no part of the
        language model, never trained, not counted in N_total.

    **Source:** Lin et al. 2023 (ESM-2), released model code. How its weights were initialised is not published; they
    start as those of `plm` here (normal, sd 0.5 / sqrt(d_model), matrices that write into the residual stream smaller
    by sqrt(2 n_layers)), with biases 0 and gains 1.
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
        token_dropout: bool = True,
    ) -> None:
        super().__init__(shape, causal=causal, context=context, dtype=dtype, dropout=dropout)
        D, V = shape.d_model, shape.vocab
        self.token_dropout = token_dropout
        self.embedding = nn.Parameter(torch.empty(V, D))
        self.blocks = nn.ModuleList(Esm2Block(shape, causal=causal, dropout=dropout) for _ in range(shape.n_layers))
        self.final_norm = nn.Parameter(torch.ones(D))
        self.final_norm_bias = nn.Parameter(torch.zeros(D))
        self.head_dense = nn.Parameter(torch.empty(D, D))
        self.head_dense_bias = nn.Parameter(torch.zeros(D))
        self.head_norm = nn.Parameter(torch.ones(D))
        self.head_norm_bias = nn.Parameter(torch.zeros(D))
        self.head_bias = nn.Parameter(torch.zeros(V))
        self.register_buffer("turn_TK", rounded_rotary_table(shape.head_dim, context), persistent=False)
        self.register_buffer("contact_weight", None)
        self.register_buffer("contact_bias", None)
        self.turn_TK: Tensor
        self.contact_weight: Tensor | None
        self.contact_bias: Tensor | None
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
        x_PD = F.embedding(documents.tokens_P, self.embedding)
        if self.token_dropout:
            x_PD = x_PD * self._token_scale(documents)[:, None]
        return x_PD.to(self.dtype)

    def normed(self, x_SD: Tensor) -> Tensor:
        """The norm after the last block, [S, D]."""
        return _normed(x_SD, self.final_norm, self.final_norm_bias)

    def logits(self, h_SD: Tensor) -> Tensor:
        """The output head on the normed stream, float32[S, V]."""
        h_SD = F.gelu(_linear(h_SD, self.head_dense, self.head_dense_bias))
        h_SD = _normed(h_SD, self.head_norm, self.head_norm_bias)
        return _linear(h_SD, self.embedding, self.head_bias).float()

    @staticmethod
    def _token_scale(documents: Documents) -> Tensor:
        """float32[P]: factor on each embedding; 0 at `<mask>`."""
        masked_P = documents.tokens_P == MASK
        bounds = documents.bounds.long()
        masked_before = F.pad(masked_P.cumsum(0), (1, 0))[bounds]
        length_n, masked_n = bounds.diff(), masked_before.diff()
        scale_n = (1.0 - _TRAINED_DROPPED) * length_n / (length_n - masked_n)  # infinite where no position is scaled
        return scale_n[documents.number_P].masked_fill(masked_P, 0.0)

    def set_contact_regression(self, weight: Tensor, bias: Tensor) -> None:
        """Take over the regression of a checkpoint.

        Parameters
        ----------
        weight : [1, L H], layers first. bias : [1].
        """
        device = self.embedding.device
        self.contact_weight = weight.detach().float().reshape(1, -1).to(device)
        self.contact_bias = bias.detach().float().reshape(1).to(device)
        assert self.contact_weight.shape[1] == self.shape.n_layers * self.shape.heads
