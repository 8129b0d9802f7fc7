"""Memory of one GPU that trains a transformer with AdamW in mixed precision: state, activations."""

from __future__ import annotations

from typing import Literal

from plm_scaling.core.architecture import block_parameters_of
from plm_scaling.core.memory_estimate import STATE_BYTES

__all__ = ["AttentionKernel", "Checkpointing", "activation_bytes", "state_bytes"]

Checkpointing = Literal["none", "full"]
AttentionKernel = Literal["standard", "flash"]


def state_bytes(n_layers: int, d_model: int, shards: float = 1) -> float:
    """Bytes of weights, gradients and moments on each of `shards` GPUs; parameters of ESM-2's blocks.

    **Source:** Rajbhandari et al. 2020, section 3.1.
    """
    return STATE_BYTES * n_layers * block_parameters_of("esm2", d_model, 4 * d_model) / shards


def activation_bytes(
    n_layers: int,
    d_model: int,
    n_heads: int,
    *,
    batch: float,
    seq_len: float,
    checkpointing: Checkpointing = "none",
    attention_kernel: AttentionKernel = "flash",
) -> float:
    """Bytes of the activations of one backward pass over `batch` sequences of `seq_len` tokens.

    A layer keeps s b d (34 + 5 h s / d) bytes, without the second term where the scores are never written down; with
    full checkpointing the 16-bit inputs of all layers and one layer.

    **Source:** Korthikanti et al. 2022, eq. 1.
    """
    scores = 5.0 * n_heads * seq_len / d_model if attention_kernel == "standard" else 0.0
    layer = seq_len * batch * d_model * (34.0 + scores)
    return n_layers * layer if checkpointing == "none" else 2.0 * seq_len * batch * d_model * n_layers + layer
