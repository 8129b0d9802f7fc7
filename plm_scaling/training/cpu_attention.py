"""Attention of packed documents, forward and backward, in two layouts; used by `cpu_step`.

`WindowAttention` scores whole windows and hides other documents: few calls, best for short windows of small models.
`DocumentAttention` scores every document alone: no wasted arithmetic, best where windows hold many documents.

Shapes: B windows, T positions per window, P = B * T, n positions of a document, H heads, K width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

from plm_scaling.training.objectives import PackedInput, document_ends

__all__ = ["Attention", "AttentionSpace", "DocumentAttention", "WindowAttention", "attention_for"]

_DOCUMENT_WISE_FROM: Final = 256
"""Context from which documents are scored alone: below, calls cost more than hidden scores."""
_softmax_backward = torch._softmax_backward_data


@dataclass(frozen=True)
class AttentionSpace:
    """Where attention reads and writes. Queries come turned and scaled.

    Attributes
    ----------
    windows, context, causal : B, T, and whether a position sees only what is before it.
    qkv_P3D, mixed_HPK : input and output of each layer.
    d_mixed_HPK, d_qkv_3HPK : gradient of the output and of the input, shared by all layers; None without backward.
    """

    windows: int
    context: int
    causal: bool
    qkv_P3D: Sequence[Tensor]
    mixed_HPK: Sequence[Tensor]
    d_mixed_HPK: Tensor | None
    d_qkv_3HPK: Tensor | None


class Attention(Protocol):
    """A way to carry out the attention of all layers of a model."""

    def prepare(self, batch: PackedInput) -> None:
        """Take note of which positions see which; once per batch."""

    def forward(self, number: int) -> None:
        """Mix the values of layer `number`."""

    def backward(self, number: int) -> None:
        """Gradients of queries, keys and values of layer `number` from that of its mixed values."""


def attention_for(space: AttentionSpace) -> Attention:
    """The faster layout for windows of this length."""
    return DocumentAttention(space) if space.context >= _DOCUMENT_WISE_FROM else WindowAttention(space)


def _hidden(T: int) -> Tensor:
    return torch.full((T, T), -math.inf)


@dataclass(frozen=True)
class _Head:
    """Views of one head of one layer. Names with two axes swapped are transposes."""

    q_BTK: Tensor
    k_BTK: Tensor
    k_BKT: Tensor
    v_BTK: Tensor
    v_BKT: Tensor
    score_BTT: Tensor
    a_BTT: Tensor
    a_BTT_swapped: Tensor
    mixed_BTK: Tensor


@dataclass(frozen=True)
class _HeadGradient:
    """Views of one head of the gradients, shared by all layers."""

    d_mixed_BTK: Tensor
    d_a_BTT: Tensor
    d_score_BTT: Tensor
    d_score_BTT_swapped: Tensor
    d_q_BTK: Tensor
    d_k_BTK: Tensor
    d_v_BTK: Tensor


class WindowAttention:
    """Attention over whole windows with an additive mask."""

    def __init__(self, space: AttentionSpace) -> None:
        B, T = self.B, self.T = space.windows, space.context
        H, _, K = space.mixed_HPK[0].shape
        self.causal = space.causal
        # Row i of one table hides the keys before i, of the other those after i: two rows make a query's mask.
        self.hide_before_TT, self.hide_after_TT = _hidden(T).tril(-1), _hidden(T).triu(1)
        self.score_HBTT = torch.empty(H, B, T, T)
        keep = space.d_mixed_HPK is not None
        shared = torch.empty(0) if keep else torch.empty(H, B, T, T)
        self.a_HBTT = [torch.empty(H, B, T, T) if keep else shared for _ in space.mixed_HPK]
        self.heads = [
            [self._head(qkv.view(B, T, 3 * H, K), a, mixed.view(H, B, T, K), h) for h in range(H)]
            for qkv, a, mixed in zip(space.qkv_P3D, self.a_HBTT, space.mixed_HPK, strict=True)
        ]
        if space.d_mixed_HPK is not None and space.d_qkv_3HPK is not None:
            self.d_a_HBTT, self.d_score_HBTT = torch.empty(H, B, T, T), torch.empty(H, B, T, T)
            d_mixed, d_qkv = space.d_mixed_HPK.view(H, B, T, K), space.d_qkv_3HPK.view(3, H, B, T, K)
            self.gradients = [
                _HeadGradient(
                    d_mixed[h], self.d_a_HBTT[h], self.d_score_HBTT[h], self.d_score_HBTT[h].mT, *d_qkv[:, h].unbind()
                )
                for h in range(H)
            ]

    def _head(self, qkv: Tensor, a_HBTT: Tensor, mixed_HBTK: Tensor, h: int) -> _Head:
        H = len(mixed_HBTK)
        q_BTK, k_BTK, v_BTK = qkv[:, :, h], qkv[:, :, H + h], qkv[:, :, 2 * H + h]
        a_BTT = a_HBTT[h]
        return _Head(q_BTK, k_BTK, k_BTK.mT, v_BTK, v_BTK.mT, self.score_HBTT[h], a_BTT, a_BTT.mT, mixed_HBTK[h])

    def prepare(self, batch: PackedInput) -> None:
        """Make the additive mask."""
        bias_BTT = self.hide_before_TT.index_select(0, batch.first_P).view(self.B, self.T, self.T)
        if self.causal:
            self.bias_BTT = bias_BTT.add_(self.hide_after_TT)
        else:
            after_BTT = self.hide_after_TT.index_select(0, batch.last_P).view(self.B, self.T, self.T)
            self.bias_BTT = bias_BTT.add_(after_BTT)

    def forward(self, number: int) -> None:
        """Mix the values of layer `number`."""
        heads = self.heads[number]
        for head in heads:
            torch.baddbmm(self.bias_BTT, head.q_BTK, head.k_BKT, out=head.score_BTT)
        torch.softmax(self.score_HBTT, -1, out=self.a_HBTT[number])
        for head in heads:
            torch.bmm(head.a_BTT, head.v_BTK, out=head.mixed_BTK)

    def backward(self, number: int) -> None:
        """Gradients of layer `number`'s queries, keys and values."""
        pairs = list(zip(self.heads[number], self.gradients, strict=True))
        for head, gradient in pairs:
            torch.bmm(head.a_BTT_swapped, gradient.d_mixed_BTK, out=gradient.d_v_BTK)
            torch.bmm(gradient.d_mixed_BTK, head.v_BKT, out=gradient.d_a_BTT)
        _softmax_backward(self.d_a_HBTT, self.a_HBTT[number], -1, torch.float32, grad_input=self.d_score_HBTT)
        for head, gradient in pairs:
            torch.bmm(gradient.d_score_BTT, head.k_BTK, out=gradient.d_q_BTK)
            torch.bmm(gradient.d_score_BTT_swapped, head.q_BTK, out=gradient.d_k_BTK)


class DocumentAttention:
    """Attention document by document, all heads at once. Padding counts as a document."""

    def __init__(self, space: AttentionSpace) -> None:
        self.space = space
        self.hide_after_TT = _hidden(space.context).triu(1) if space.causal else None
        self.qkv_3HPK = [
            qkv.view(len(qkv), 3, -1, mixed.shape[-1]).permute(1, 2, 0, 3)
            for qkv, mixed in zip(space.qkv_P3D, space.mixed_HPK, strict=True)
        ]
        self.a_Hnn: list[list[Tensor]] = [[] for _ in self.qkv_3HPK]

    def prepare(self, batch: PackedInput) -> None:
        """Find the documents."""
        ends = document_ends(batch.segment_BT.numpy()).tolist()
        self.spans = [slice(begin, end) for begin, end in zip([0, *ends[:-1]], ends, strict=True)]

    def forward(self, number: int) -> None:
        """Mix the values of layer `number`."""
        kept: list[Tensor] = []
        for span in self.spans:
            q_HnK, k_HnK, v_HnK = self.qkv_3HPK[number][:, :, span].unbind()
            if self.hide_after_TT is None:
                score_Hnn = torch.bmm(q_HnK, k_HnK.mT)
            else:
                n = span.stop - span.start
                score_Hnn = torch.baddbmm(self.hide_after_TT[:n, :n], q_HnK, k_HnK.mT)
            a_Hnn = torch.softmax(score_Hnn, -1)
            self.space.mixed_HPK[number][:, span].copy_(torch.bmm(a_Hnn, v_HnK))
            if self.space.d_mixed_HPK is not None:
                kept.append(a_Hnn)
        self.a_Hnn[number] = kept

    def backward(self, number: int) -> None:
        """Gradients of layer `number`'s queries, keys and values."""
        d_mixed_HPK, d_qkv_3HPK = self.space.d_mixed_HPK, self.space.d_qkv_3HPK
        assert d_mixed_HPK is not None
        assert d_qkv_3HPK is not None
        for span, a_Hnn in zip(self.spans, self.a_Hnn[number], strict=True):
            q_HnK, k_HnK, v_HnK = self.qkv_3HPK[number][:, :, span].unbind()
            d_q_HnK, d_k_HnK, d_v_HnK = d_qkv_3HPK[:, :, span].unbind()
            d_mixed_HnK = d_mixed_HPK[:, span]
            d_v_HnK.copy_(torch.bmm(a_Hnn.mT, d_mixed_HnK))
            d_score_Hnn = _softmax_backward(torch.bmm(d_mixed_HnK, v_HnK.mT), a_Hnn, -1, torch.float32)
            d_q_HnK.copy_(torch.bmm(d_score_Hnn, k_HnK))
            d_k_HnK.copy_(torch.bmm(d_score_Hnn.mT, q_HnK))
        self.a_Hnn[number] = []
