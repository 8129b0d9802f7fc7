"""Rotary positions: the factors that turn pairs of features. T positions, K width of a head."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

__all__ = ["rotary_frequency", "rotary_table", "rounded_rotary_table"]

_ROTARY_BASE: Final = 10_000.0


def rotary_table(head_dim: int, context: int) -> Tensor:
    """complex64[context, head_dim / 2]: unit factor that turns feature pair (2i, 2i+1) at each position.

    **Source:** Su et al. 2021 (RoFormer), equation 34: angle = position * 10000^(-2i / head_dim).
    """
    pairs = torch.arange(head_dim // 2, dtype=torch.float64)
    angle_TK = torch.arange(context, dtype=torch.float64)[:, None] * _ROTARY_BASE ** (-2.0 * pairs / head_dim)
    return torch.polar(torch.ones_like(angle_TK), angle_TK).to(torch.complex64)


def rotary_frequency(head_dim: int) -> Tensor:
    """float32[head_dim / 2]: angle per position of each pair of features, rounded to float32.

    So do ESM-2 and ProGen2: at position 1,000 exact ones change logits of order 10 by up to 6e-4.

    **Source:** Su et al. 2021 (RoFormer), equation 34; the released code of both for the rounding.
    """
    return 1.0 / (10_000 ** (torch.arange(0, head_dim, 2).float() / head_dim))


def rounded_rotary_table(head_dim: int, context: int) -> Tensor:
    """complex64[context, head_dim / 2]: as `rotary_table`, by frequencies and angles in float32."""
    angle_TK = torch.arange(context).float()[:, None] * rotary_frequency(head_dim)
    return torch.complex(angle_TK.cos(), angle_TK.sin())
