"""The `plm` transformer: one block for both objectives, which differ only in the attention mask and the loss.

Pre-norm, rotary positions over the whole head, GELU, no biases, untied output head. This file is the reference
(autograd, any device); `training/cpu_step.py` carries out the same mathematics without autograd, for speed.

Shapes: B windows, T positions per window, P = B * T, D width, H heads, K = D / H, V vocabulary, S scored positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plm_scaling.core.alphabet import VOCAB_SIZE

__all__ = ["NORM_EPS", "Block", "FlatParameters", "Transformer", "attention_bias", "head_dim_for", "rotary_table"]

NORM_EPS: Final = 1e-5
_ROTARY_BASE: Final = 10_000.0
_HEAD_DIMS: Final = (48, 32, 24, 16, 8, 4, 2)
_ALIGN: Final = 16
"""Parameters start at multiples of 64 bytes, where vector instructions load fastest."""


def head_dim_for(d_model: int) -> int:
    """Width of a head: 64 where it divides `d_model`, one head below 64, else the largest of 48, 32, ... that divides.

    Raises
    ------
    ValueError : `d_model` is odd, so no head can be rotated.
    """
    if d_model % 64 == 0:
        return 64
    if d_model < 64 and d_model % 2 == 0:
        return d_model
    for head_dim in _HEAD_DIMS:
        if d_model % head_dim == 0:
            return head_dim
    raise ValueError(f"d_model {d_model} is odd: rotary positions turn pairs of features")


def rotary_table(head_dim: int, context: int) -> Tensor:
    """complex64[context, head_dim / 2]: unit factor that turns feature pair (2i, 2i+1) at each position.

    **Source:** Su et al. 2021 (RoFormer), equation 34: angle = position * 10000^(-2i / head_dim).
    """
    pairs = torch.arange(head_dim // 2, dtype=torch.float64)
    angle_TK = torch.arange(context, dtype=torch.float64)[:, None] * _ROTARY_BASE ** (-2.0 * pairs / head_dim)
    return torch.polar(torch.ones_like(angle_TK), angle_TK).to(torch.complex64)


def attention_bias(segment_BT: Tensor, *, causal: bool) -> Tensor:
    """float32[B, T, T]: 0 where a query (dim 1) may see a key (dim 2), -inf elsewhere: no document sees another.

    Padding (segment -1) forms a document of its own, so that every query sees at least itself.
    """
    allowed_BTT = segment_BT[:, :, None] == segment_BT[:, None, :]
    if causal:
        T = segment_BT.shape[1]
        allowed_BTT &= torch.ones(T, T, dtype=torch.bool, device=segment_BT.device).tril()
    return torch.zeros(allowed_BTT.shape, device=segment_BT.device).masked_fill_(~allowed_BTT, -math.inf)


class Block(nn.Module):
    """Attention and feed-forward, each after a weight-only LayerNorm and added to the residual stream."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        D = d_model
        self.attention_norm = nn.Parameter(torch.ones(D))
        self.qkv = nn.Parameter(torch.empty(3 * D, D))
        self.attention_out = nn.Parameter(torch.empty(D, D))
        self.mlp_norm = nn.Parameter(torch.ones(D))
        self.mlp_in = nn.Parameter(torch.empty(4 * D, D))
        self.mlp_out = nn.Parameter(torch.empty(D, 4 * D))
        self.head_dim = head_dim_for(D)

    def forward(self, x_BTD: Tensor, turn_BTK: Tensor, bias_BTT: Tensor) -> Tensor:
        """One block.

        Parameters
        ----------
        x_BTD : residual stream.
        turn_BTK : rotary factors at each position, complex64[B, T, K / 2].
        bias_BTT : additive attention mask.
        """
        B, T, D = x_BTD.shape
        h_BTD = F.layer_norm(x_BTD, (D,), self.attention_norm.to(x_BTD.dtype), None, NORM_EPS)
        qkv_BT3HK = F.linear(h_BTD, self.qkv.to(h_BTD.dtype)).view(B, T, 3, D // self.head_dim, self.head_dim)
        q_BHTK, k_BHTK = (_turned(qkv_BT3HK[:, :, i], turn_BTK).transpose(1, 2) for i in (0, 1))
        v_BHTK = qkv_BT3HK[:, :, 2].transpose(1, 2)
        # Explicit products: for windows of 128-256 positions as fast as the fused kernel forward, faster backward.
        score_BHTT = q_BHTK @ k_BHTK.mT / math.sqrt(self.head_dim) + bias_BTT[:, None]
        mixed_BHTK = score_BHTT.softmax(-1).to(v_BHTK.dtype) @ v_BHTK
        x_BTD = x_BTD + F.linear(mixed_BHTK.transpose(1, 2).reshape(B, T, D), self.attention_out.to(x_BTD.dtype))
        h_BTD = F.layer_norm(x_BTD, (D,), self.mlp_norm.to(x_BTD.dtype), None, NORM_EPS)
        h_BTD = F.linear(F.gelu(F.linear(h_BTD, self.mlp_in.to(h_BTD.dtype))), self.mlp_out.to(h_BTD.dtype))
        return x_BTD + h_BTD


def _turned(x_BTHK: Tensor, turn_BTK: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x_BTHK.float().reshape(*x_BTHK.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turn_BTK[:, :, None]).flatten(-2).to(x_BTHK.dtype)


class Transformer(nn.Module):
    """A protein language model over packed windows.

    Parameters
    ----------
    n_layers, d_model : shape; the number of heads follows from `head_dim_for`.
    causal : whether a position sees only itself and what is before it in its document.
    context : longest window, in positions.
    seed : of the initial weights.
    dtype : of the activations; weights stay float32.

    **Source:** init: normal, sd 0.5 / sqrt(d_model); matrices that write into the residual stream are smaller by
    sqrt(2 n_layers) (Radford et al. 2019, section 2.3, for the factor).
    """

    def __init__(
        self,
        n_layers: int,
        d_model: int,
        *,
        causal: bool,
        context: int,
        vocab: int = VOCAB_SIZE,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.d_model, self.causal, self.context, self.dtype = d_model, causal, context, dtype
        self.head_dim = head_dim_for(d_model)
        self.embedding = nn.Parameter(torch.empty(vocab, d_model))
        self.blocks = nn.ModuleList(Block(d_model) for _ in range(n_layers))
        self.final_norm = nn.Parameter(torch.ones(d_model))
        self.head = nn.Parameter(torch.empty(vocab, d_model))
        self.register_buffer("turn_TK", rotary_table(self.head_dim, context), persistent=False)
        self.turn_TK: Tensor
        self._initialise(n_layers, seed)

    def _initialise(self, n_layers: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        sd = 0.5 / math.sqrt(self.d_model)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                small = name.endswith(("attention_out", "mlp_out"))
                scale = sd / math.sqrt(2 * n_layers) if small else sd
                nn.init.normal_(parameter, std=scale, generator=generator)

    def forward(
        self, tokens_BT: Tensor, segment_BT: Tensor, position_BT: Tensor, scored_S: Tensor | None = None
    ) -> Tensor:
        """Logits of every position, float32[B, T, V], or of the scored ones only, float32[S, V].

        Parameters
        ----------
        tokens_BT : token ids.
        segment_BT : number of the document within its window, -1 on padding.
        position_BT : position within the document.
        scored_S : flat indices into the B * T positions.
        """
        bias_BTT = attention_bias(segment_BT, causal=self.causal).to(self.dtype)
        turn_BTK = self.turn_TK[position_BT.long()]
        x_BTD = F.embedding(tokens_BT.long(), self.embedding).to(self.dtype)
        for block in self.blocks:
            x_BTD = block(x_BTD, turn_BTK, bias_BTT)
        if scored_S is not None:
            x_BTD = x_BTD.flatten(0, 1)[scored_S]
        h_BTD = F.layer_norm(x_BTD, (self.d_model,), self.final_norm.to(self.dtype), None, NORM_EPS)
        return F.linear(h_BTD, self.head.to(self.dtype)).float()


@dataclass(frozen=True)
class FlatParameters:
    """All parameters of a model in one tensor, matrices first, so that an optimiser step is a few calls.

    Attributes
    ----------
    value, grad : float32[n]; the model's parameters and their `.grad` are views of them.
    n_matrix : elements before the norm gains: weight decay applies to matrices only.
    """

    value: Tensor
    grad: Tensor
    n_matrix: int

    @classmethod
    def of(cls, model: nn.Module) -> FlatParameters:
        """Move the parameters of `model` into one tensor."""
        ordered = sorted(model.parameters(), key=lambda p: p.dim() < 2)  # stable: matrices, then gains
        sizes = [-(-p.numel() // _ALIGN) * _ALIGN for p in ordered]
        value = torch.zeros(sum(sizes), device=ordered[0].device)
        grad = torch.zeros_like(value)
        begin = 0
        for parameter, size in zip(ordered, sizes, strict=True):
            here = slice(begin, begin + parameter.numel())
            value[here] = parameter.detach().reshape(-1)
            parameter.data = value[here].view(parameter.shape)
            parameter.grad = grad[here].view(parameter.shape)
            begin += size
        return cls(value, grad, sum(s for p, s in zip(ordered, sizes, strict=True) if p.dim() == 2))
