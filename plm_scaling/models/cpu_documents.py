"""Attention of packed documents in bf16 on a CPU that has instructions for it, by explicit matrix products.

There torch's fused kernel is slow in the backward pass. Probabilities are kept: len^2 numbers for each head.

Shapes: P positions, H heads, K width of a head, n positions of a document.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["attend_explicitly"]

_softmax_backward = torch._softmax_backward_data
Spans = Sequence[tuple[int, int]]


class _DocumentAttention(torch.autograd.Function):
    """softmax(scale q k^T) v of every document, all heads at once. Softmax is computed in float32."""

    @staticmethod
    def forward(
        ctx: Any, q_PHK: Tensor, k_PHK: Tensor, v_PHK: Tensor, spans: Spans, causal: bool, scale: float
    ) -> Tensor:
        qkv_HPK = [x_PHK.transpose(0, 1).contiguous() for x_PHK in (q_PHK * scale, k_PHK, v_PHK)]
        mixed_HPK = torch.empty_like(qkv_HPK[0])
        longest = max((end - begin for begin, end in spans), default=0)
        hidden_nn = torch.ones(longest, longest, dtype=torch.bool).triu_(1) if causal else None
        kept = []
        for begin, end in spans:
            q_HnK, k_HnK, v_HnK = (x_HPK[:, begin:end] for x_HPK in qkv_HPK)
            score_Hnn = torch.bmm(q_HnK, k_HnK.mT)
            if hidden_nn is not None:
                score_Hnn.masked_fill_(hidden_nn[: end - begin, : end - begin], -torch.inf)
            a_Hnn = torch.softmax(score_Hnn, -1)
            mixed_HPK[:, begin:end] = torch.bmm(a_Hnn, v_HnK)
            if any(ctx.needs_input_grad):
                kept.append(a_Hnn)
        ctx.save_for_backward(*qkv_HPK, *kept)
        ctx.spans, ctx.scale = spans, scale
        return mixed_HPK.transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_mixed_PHK: Tensor) -> tuple[Tensor | None, ...]:
        q_HPK, k_HPK, v_HPK, *kept = ctx.saved_tensors
        d_mixed_HPK = d_mixed_PHK.transpose(0, 1).contiguous()
        d_q_HPK, d_k_HPK, d_v_HPK = (torch.empty_like(q_HPK) for _ in range(3))
        for (begin, end), a_Hnn in zip(ctx.spans, kept, strict=True):
            q_HnK, k_HnK, v_HnK, d_mixed_HnK = (x[:, begin:end] for x in (q_HPK, k_HPK, v_HPK, d_mixed_HPK))
            d_v_HPK[:, begin:end] = torch.bmm(a_Hnn.mT, d_mixed_HnK)
            d_a_Hnn = torch.bmm(d_mixed_HnK, v_HnK.mT)
            d_score_Hnn = _softmax_backward(d_a_Hnn, a_Hnn, -1, a_Hnn.dtype, grad_input=d_a_Hnn)
            d_q_HPK[:, begin:end] = torch.bmm(d_score_Hnn, k_HnK)
            d_k_HPK[:, begin:end] = torch.bmm(d_score_Hnn.mT, q_HnK)  # the queries are scaled
        d_q_HPK.mul_(ctx.scale)
        return d_q_HPK.transpose(0, 1), d_k_HPK.transpose(0, 1), d_v_HPK.transpose(0, 1), None, None, None


def attend_explicitly(
    q_PHK: Tensor, k_PHK: Tensor, v_PHK: Tensor, spans: Spans, *, causal: bool, scale: float
) -> Tensor:
    """Mix the values of each document, [P, H, K]; see `models.attention.attend`.

    Parameters
    ----------
    spans : begin and end of every document; together they are all positions.
    """
    mixed_PHK: Tensor = _DocumentAttention.apply(  # type: ignore[no-untyped-call]
        q_PHK, k_PHK, v_PHK, spans, causal, scale
    )
    return mixed_PHK
