"""ProGen2: attention and feed-forward side by side on one LayerNorm, after GPT-J, over 32 symbols of its own.

Shapes: P positions, S scored ones, D width, H heads, K = D / H, R features of a head that are turned by position,
T positions of a document, V vocabulary.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plm_scaling.core.alphabet import SYMBOLS
from plm_scaling.core.architecture import ModelShape
from plm_scaling.models.attention import attend
from plm_scaling.models.base import ProteinModel
from plm_scaling.models.documents import Documents
from plm_scaling.models.plm import NORM_EPS
from plm_scaling.models.rotary import rounded_rotary_table

__all__ = ["PROGEN2_SYMBOLS", "ProGen2", "ProGen2Block", "progen2_ids"]

PROGEN2_SYMBOLS: Final = ("<|pad|>", "<|bos|>", "<|eos|>", "1", "2", *"ABCDEFGHIKLMNOPQRSTUVWXYZ")
"""ProGen2's tokenizer in id order; two rows of its embedding, 30 and 31, are never used.

**Source:** `tokenizer.json` of the released code (Nijkamp et al. 2023).
"""
_MASK_ROW: Final = 30
_NEVER_ROW: Final = 31
_NAMED: Final = {
    "<pad>": PROGEN2_SYMBOLS.index("<|pad|>"),
    "<cls>": PROGEN2_SYMBOLS.index("1"),  # a sequence in forward direction is written 1 ... 2
    "<eos>": PROGEN2_SYMBOLS.index("2"),
    "<mask>": _MASK_ROW,
    "<unk>": PROGEN2_SYMBOLS.index("X"),
}
_INIT_SD: Final = 0.02


def progen2_ids() -> Tensor:
    """int64[33]: ProGen2's id of each symbol of `core.alphabet`.

    `<cls>` and `<eos>` are the terminals "1" and "2", `<unk>` is X. `<mask>`, which ProGen2 does not have, takes the
    free row 30; a gap, a dot and `<null_1>`, which no prepared corpus holds, share the free row 31.
    """
    letters = {symbol: PROGEN2_SYMBOLS.index(symbol) for symbol in SYMBOLS if symbol in PROGEN2_SYMBOLS}
    return torch.tensor([(letters | _NAMED).get(symbol, _NEVER_ROW) for symbol in SYMBOLS])


class ProGen2Block(nn.Module):
    """Attention and feed-forward of one normed stream, both added to the residual stream."""

    def __init__(self, shape: ModelShape, *, causal: bool, dropout: float = 0.0) -> None:
        super().__init__()
        D, F_ = shape.d_model, shape.ffn
        self.norm = nn.Parameter(torch.ones(D))
        self.norm_bias = nn.Parameter(torch.zeros(D))
        self.qkv = nn.Parameter(torch.empty(3 * D, D))
        self.attention_out = nn.Parameter(torch.empty(D, D))
        self.mlp_in = nn.Parameter(torch.empty(F_, D))
        self.mlp_in_bias = nn.Parameter(torch.zeros(F_))
        self.mlp_out = nn.Parameter(torch.empty(D, F_))
        self.mlp_out_bias = nn.Parameter(torch.zeros(D))
        self.head_dim, self.causal, self.dropout = shape.head_dim, causal, dropout

    def forward(self, x_PD: Tensor, turn_PR: Tensor, documents: Documents) -> Tensor:
        """One block.

        Parameters
        ----------
        x_PD : residual stream.
        turn_PR : rotary factors at each position, complex64[P, R / 2].
        """
        cast = x_PD.dtype
        h_PD = F.layer_norm(x_PD, self.norm.shape, self.norm.to(cast), self.norm_bias.to(cast), NORM_EPS)
        wide_PF = F.linear(h_PD, self.mlp_in.to(cast), self.mlp_in_bias.to(cast))
        fed_PD = F.linear(F.gelu(wide_PF, approximate="tanh"), self.mlp_out.to(cast), self.mlp_out_bias.to(cast))
        return x_PD + self._dropped(self._attention(h_PD, turn_PR, documents)) + self._dropped(fed_PD)

    def _attention(self, h_PD: Tensor, turn_PR: Tensor, documents: Documents) -> Tensor:
        P, D = h_PD.shape
        q_PHK, k_PHK, v_PHK = (
            F.linear(h_PD, self.qkv.to(h_PD.dtype)).view(P, 3, D // self.head_dim, self.head_dim).unbind(1)
        )
        # Scores and softmax are float32 whatever the activations: every kernel behind `attend` sums them so.
        mixed_PHK = attend(_turned(q_PHK, turn_PR), _turned(k_PHK, turn_PR), v_PHK, documents, causal=self.causal)
        return F.linear(mixed_PHK.reshape(P, D), self.attention_out.to(h_PD.dtype))

    def _dropped(self, h_PD: Tensor) -> Tensor:
        return F.dropout(h_PD, self.dropout, self.training) if self.dropout else h_PD


def _turned(x_PHK: Tensor, turn_PR: Tensor) -> Tensor:
    """Neighbouring pairs of the first R features turned by position, the others as they are."""
    R = 2 * turn_PR.shape[-1]
    pairs = torch.view_as_complex(x_PHK[..., :R].float().reshape(*x_PHK.shape[:-1], -1, 2))
    turned_PHR = torch.view_as_real(pairs * turn_PR[:, None]).flatten(-2).to(x_PHK.dtype)
    return torch.cat([turned_PHR, x_PHK[..., R:]], dim=-1)


class ProGen2(ProteinModel):
    """ProGen2; with `causal=False` a bidirectional model of the same blocks.

    It is shown ids of `core.alphabet`; its logits are in its own numbering (`model_ids`).

    Parameters
    ----------
    shape, causal, context, dtype, dropout : see `ProteinModel`.
    seed : of the initial weights.

    **Source:** Nijkamp et al. 2023 and its released code, which is GPT-J's block (Wang & Komatsuzaki 2021). Init as
    there: normal, sd 0.02 for every matrix, biases 0, gains 1.
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
        V, D = shape.vocab, shape.d_model
        self.embedding = nn.Parameter(torch.empty(V, D))
        self.blocks = nn.ModuleList(ProGen2Block(shape, causal=causal, dropout=dropout) for _ in range(shape.n_layers))
        self.final_norm = nn.Parameter(torch.ones(D))
        self.final_norm_bias = nn.Parameter(torch.zeros(D))
        self.head = nn.Parameter(torch.empty(V, D))
        self.head_bias = nn.Parameter(torch.zeros(V))
        self.register_buffer("turn_TR", rounded_rotary_table(shape.turned, context), persistent=False)
        self.turn_TR: Tensor
        self.register_buffer("own_ids", progen2_ids(), persistent=False)
        self.own_ids: Tensor
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=_INIT_SD, generator=generator)

    def model_ids(self, ids: Tensor) -> Tensor:
        """ProGen2's ids of ids of `core.alphabet`, of any shape."""
        return self.own_ids[ids]

    def turns(self, documents: Documents) -> Tensor:
        """Rotary factors at each position, complex64[P, R / 2]."""
        return self.turn_TR[documents.position_P]

    def embedded(self, documents: Documents) -> Tensor:
        """Residual stream before the first block, [P, D], in the dtype of the activations."""
        return F.embedding(self.model_ids(documents.tokens_P), self.embedding).to(self.dtype)

    def normed(self, x_SD: Tensor) -> Tensor:
        """The norm after the last block, [S, D]."""
        gain_D, bias_D = self.final_norm.to(self.dtype), self.final_norm_bias.to(self.dtype)
        return F.layer_norm(x_SD, gain_D.shape, gain_D, bias_D, NORM_EPS)

    def logits(self, h_SD: Tensor) -> Tensor:
        """The output head on the normed stream, float32[S, V], in ProGen2's numbering."""
        return F.linear(h_SD, self.head.to(self.dtype), self.head_bias.to(self.dtype)).float()
