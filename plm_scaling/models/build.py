"""From a shape to a model with its initial weights."""

from __future__ import annotations

import torch

from plm_scaling.core.architecture import ModelShape
from plm_scaling.models.base import ProteinModel

__all__ = ["DTYPES", "build_model"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def build_model(
    shape: ModelShape,
    *,
    causal: bool,
    context: int,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    dropout: float = 0.0,
) -> ProteinModel:
    """A model of this shape; its weights are a pure function of shape and seed.

    Parameters
    ----------
    causal, context, dtype, dropout : see `ProteinModel`.
    """
    if shape.architecture == "esm2":
        from plm_scaling.models.esm2 import Esm2

        return Esm2(shape, causal=causal, context=context, seed=seed, dtype=dtype, dropout=dropout)
    if shape.architecture == "progen2":
        from plm_scaling.models.progen2 import ProGen2

        return ProGen2(shape, causal=causal, context=context, seed=seed, dtype=dtype, dropout=dropout)
    from plm_scaling.models.plm import Transformer

    return Transformer(shape, causal=causal, context=context, seed=seed, dtype=dtype, dropout=dropout)
