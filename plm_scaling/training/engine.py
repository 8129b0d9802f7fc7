"""What holds a run's weights, changes them and keeps them: whole copies in every process here, shards in `sharded`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from plm_scaling.core.errors import CheckpointError
from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_order import RunOrder
from plm_scaling.models.base import ProteinModel
from plm_scaling.models.lora import merged_state
from plm_scaling.training.adamw import AdamW
from plm_scaling.training.checkpoint import LoopState, load_newest, save_checkpoint
from plm_scaling.training.flat import FlatParameters
from plm_scaling.training.objectives import PackedInput
from plm_scaling.training.recompute import recompute_blocks
from plm_scaling.training.steps import GradientStep, LossFunction, cross_entropy, gradient_step
from plm_scaling.training.world import World

__all__ = ["Engine", "ReplicatedEngine"]

OnDamage = Callable[[CheckpointError], None]


class Engine(Protocol):
    """A model in training."""

    model: ProteinModel
    device: torch.device

    def gradients(self, batch: PackedInput, n_targets: int, key: int) -> Tensor:
        """Compute the gradient of the global batch's mean loss; returns this process' summed loss, on its device.

        Parameters
        ----------
        batch : this process' share.
        n_targets : scored positions of all shares.
        key : decides what dropout drops; another one in every process and step.
        """

    def update(self, step: int, lr: float) -> Tensor:
        """Change the parameters; returns the gradient norm before clipping, a scalar tensor."""

    def scorer(self, windows: int, context: int) -> GradientStep:
        """What scores batches of this shape."""

    def skipped(self) -> int:
        """Updates left out after a spike so far."""

    def save(self, folder: Path, state: LoopState) -> None:
        """Keep the state of the run. All processes take part."""

    def load_newest(self, folder: Path, on_damage: OnDamage) -> LoopState | None:
        """Take up the newest state that is whole; None if there is none. All processes take part."""

    def settle(self) -> None:
        """Wait until what `save` began is on disk."""

    def weights(self) -> dict[str, Tensor]:
        """All parameters by name, whole, on the CPU; empty in all processes but the first."""


class ReplicatedEngine:
    """Every process holds the whole model, computes its share of the batch, and the gradients are summed.

    All gradients are one tensor, so one all-reduce after the backward pass adds them up. Torch's
    DistributedDataParallel hides that time behind the backward pass, but it averages over processes where a sum over
    unequal numbers of targets is needed, and works through autograd's hooks only, which the hand-written step has not.

    The batch need not divide by the processes: each has its own fixed number of windows (`World.share`), at least one,
    which is padding where there are more processes than windows.

    The weights, the moments and the step are one safetensors file, the same at any number of processes.
    """

    def __init__(
        self, model: ProteinModel, config: RunConfig, order: RunOrder, world: World, loss: LossFunction = cross_entropy
    ) -> None:
        self.model, self.world = model, world
        self.flat = FlatParameters.of(model)
        self.device = self.flat.value.device
        self.optimiser = AdamW(self.flat, config)
        recompute_blocks(model, order.recompute)
        self._step = gradient_step(
            model,
            max(1, world.share(config.windows_per_batch)),
            config.context,
            by_hand=order.recompute == "none",
            micro_windows=order.micro_windows,
            loss=loss,
        )

    def gradients(self, batch: PackedInput, n_targets: int, key: int) -> Tensor:
        """Compute the gradient of the global batch's mean loss; returns this process' summed loss."""
        loss = self._step.gradients(batch, n_targets, key)
        self.world.sum_(self.flat.grad)
        return loss

    def update(self, step: int, lr: float) -> Tensor:
        """Change the parameters; returns the gradient norm before clipping."""
        return self.optimiser.update(step, lr)

    def scorer(self, windows: int, context: int) -> GradientStep:
        """What scores batches of this shape."""
        return gradient_step(self.model, windows, context, backward=False)

    def skipped(self) -> int:
        """Updates left out after a spike so far."""
        return int(self.optimiser.spikes[1])

    def _state(self) -> dict[str, Tensor]:
        tensors = {f"model.{name}": p.detach() for name, p in self.model.trainable()}
        optimiser = self.optimiser
        tensors |= {"exp_avg": optimiser.exp_avg, "exp_avg_sq": optimiser.exp_avg_sq}
        return tensors | ({"spikes": optimiser.spikes} if optimiser.config.spike_factor else {})

    def save(self, folder: Path, state: LoopState) -> None:
        """Write a checkpoint; the other processes go on."""
        if self.world.first:
            save_checkpoint(folder, state, self._state())

    def load_newest(self, folder: Path, on_damage: OnDamage) -> LoopState | None:
        """Take up the newest checkpoint that is whole.

        Raises
        ------
        CheckpointError : there are only checkpoints of a sharded run, or it does not fit this model.
        """
        found = load_newest(folder, on_damage)
        if found is None:
            if any(folder.glob("step-*.dcp")):
                raise CheckpointError(
                    "the checkpoints here are of a run whose parameters were cut among its processes",
                    where=str(folder),
                    hint='set parallel = "sharded" in the order; any number of processes will do',
                )
            return None
        state, tensors = found
        take(self._state(), tensors, "the checkpoint")
        return state

    def settle(self) -> None:
        """Nothing is left to wait for."""

    def weights(self) -> dict[str, Tensor]:
        """All parameters by name, on the CPU."""
        return {name: t.cpu() for name, t in merged_state(self.model).items()} if self.world.first else {}


@torch.no_grad()
def take(own: dict[str, Tensor], found: dict[str, Tensor], origin: str) -> None:
    """Copy tensors by name.

    Raises
    ------
    CheckpointError : other names or shapes.
    """
    if {n: p.shape for n, p in own.items()} != {n: w.shape for n, w in found.items()}:
        raise CheckpointError(
            f"the weights of {origin} do not fit this model", why="another number of layers or another width"
        )
    for name, tensor in own.items():
        tensor.copy_(found[name])
