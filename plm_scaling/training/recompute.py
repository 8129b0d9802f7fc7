"""Activation checkpointing: blocks whose activations are computed again in the backward pass instead of kept."""

from __future__ import annotations

from functools import partial
from typing import Final

from torch.utils.checkpoint import checkpoint

from plm_scaling.core.run_order import Recompute
from plm_scaling.models.base import ProteinModel

__all__ = ["recompute_blocks"]

_EVERY: Final[dict[Recompute, int]] = {"every_other": 2, "all": 1}


def recompute_blocks(model: ProteinModel, policy: Recompute) -> None:
    """Keep only the inputs of the chosen blocks; what dropout dropped is dropped again, so gradients keep their bits.

    `every_other` gives up half of the memory saved for half of the extra forward pass. Names of parameters stay as
    they are. Call it before the blocks are sharded: the whole parameters are then gathered once for both passes.

    Parameters
    ----------
    policy : `none`, `every_other` (the first block, the third, ...) or `all`.

    **Source:** Chen et al. 2016, "Training deep nets with sublinear memory cost".
    """
    if policy == "none":
        return
    for block in list(model.blocks)[:: _EVERY[policy]]:
        # The block's own `forward`, not a wrapping module, which would rename every parameter.
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
