"""The model of a run as it is before the first step, and what it minimises."""

from __future__ import annotations

import torch

from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import RunOrder
from plm_scaling.models.base import ProteinModel
from plm_scaling.models.build import DTYPES, build_model
from plm_scaling.training.checkpoint import load_weights
from plm_scaling.training.engine import take
from plm_scaling.training.lineage import lineage
from plm_scaling.training.steps import LossFunction, cross_entropy

__all__ = ["initial_model", "loss_function"]


def initial_model(folder: RunFolder, order: RunOrder, device: torch.device) -> ProteinModel:
    """The model at step 0, on its device.

    Raises
    ------
    RunError : the run it starts from is not complete.
    CheckpointError : the weights it starts from are damaged or have another shape.
    """
    config = order.config
    model = build_model(
        config.shape,
        causal=config.objective == "clm",
        context=config.context,
        seed=config.seed,
        dtype=DTYPES[config.dtype],
        dropout=config.dropout,
    )
    if config.init_from:
        lineage(folder, config)  # refuses an unfinished source
        own = {name: p.detach() for name, p in model.named_parameters()}
        take(own, load_weights(folder.sibling(config.init_from).weights_path), config.init_from)
    return model.to(device)


def loss_function(folder: RunFolder, order: RunOrder, device: torch.device) -> LossFunction:
    """What the run minimises."""
    del folder, order, device
    return cross_entropy
