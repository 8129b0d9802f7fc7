"""Attention of packed documents behind one function. Shapes: P positions, H heads, K width of a head."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from plm_scaling.models.documents import Documents

__all__ = ["attend"]


def attend(
    q_PHK: Tensor, k_PHK: Tensor, v_PHK: Tensor, documents: Documents, *, causal: bool, scale: float | None = None
) -> Tensor:
    """Mix the values of each document, [P, H, K].

    Parameters
    ----------
    q_PHK, k_PHK, v_PHK : queries, keys, values, already turned by position.
    causal : whether a position sees only itself and what is before it in its document.
    scale : factor on the scores, 1 / sqrt(K) by default.
    """
    scale = 1.0 / math.sqrt(q_PHK.shape[-1]) if scale is None else scale
    mixed = []
    for begin, end in documents.spans:
        q_HnK, k_HnK, v_HnK = (x_PHK[begin:end].transpose(0, 1) for x_PHK in (q_PHK, k_PHK, v_PHK))
        mixed.append(F.scaled_dot_product_attention(q_HnK, k_HnK, v_HnK, is_causal=causal, scale=scale))
    return torch.cat(mixed, dim=1).transpose(0, 1)
