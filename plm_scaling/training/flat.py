"""All parameters of a model in one tensor, so that an optimiser step, a sum over ranks, a checksum are a few calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from plm_scaling.models.base import ProteinModel

__all__ = ["FlatParameters"]

_ALIGN: Final = 16
"""Parameters start at multiples of 64 bytes, where vector instructions load fastest."""


@dataclass(frozen=True)
class FlatParameters:
    """The parameters that training changes, matrices first.

    Attributes
    ----------
    value, grad : float32[n]; the model's parameters and their `.grad` are views of them.
    n_matrix : elements before gains and biases: weight decay applies to matrices only.
    """

    value: Tensor
    grad: Tensor
    n_matrix: int

    @classmethod
    def of(cls, model: ProteinModel) -> FlatParameters:
        """Move the trainable parameters of `model` into one tensor."""
        ordered = sorted((p for _, p in model.trainable()), key=lambda p: p.dim() < 2)  # stable: matrices, then gains
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
        return cls(value, grad, sum(s for p, s in zip(ordered, sizes, strict=True) if p.dim() >= 2))
