"""An engine for models too large for one device: parameters, gradients and moments are cut among the processes.

Every process computes the gradient of its own windows, as in `ReplicatedEngine`; only for the time that a block is at
work are its parameters gathered. The arithmetic is that of the replicated engine but for the order of sums.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn

from plm_scaling.core.alphabet import PAD
from plm_scaling.core.errors import CheckpointError, RunError
from plm_scaling.core.memory_estimate import STATE_BYTES
from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_order import RunOrder
from plm_scaling.models.base import ProteinModel
from plm_scaling.training.checkpoint import LoopState
from plm_scaling.training.engine import OnDamage
from plm_scaling.training.objectives import PackedInput
from plm_scaling.training.recompute import recompute_blocks
from plm_scaling.training.sharded_checkpoint import ShardedCheckpoints
from plm_scaling.training.steps import AutogradStep, GradientStep, LossFunction, cross_entropy
from plm_scaling.training.world import World

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule

__all__ = ["ShardedEngine", "is_sharded"]

_MEMORY_SHARE: Final = 0.5
"""Share of the device that a whole copy may take; the rest is left to activations."""


def is_sharded(order: RunOrder, world: World, device: torch.device, checkpoints: Path) -> bool:
    """Whether a run's parameters are cut among its processes; the same answer in all of them.

    `auto`: as the checkpoints are that it continues from. Without any: if there are several processes and a whole copy
    (16 bytes per parameter) would take more than half of the memory of a GPU, or of a process' part of the machine's.

    Parameters
    ----------
    checkpoints : folder of the run's checkpoints.
    """
    if order.parallel != "auto":
        return order.parallel == "sharded"
    cut, whole = world.totals(
        [world.first and any(checkpoints.glob(f"step-*{end}")) for end in (".dcp", ".safetensors")]
    )
    if cut or whole:
        return bool(cut) and not whole
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    else:
        memory = psutil.virtual_memory().total // world.local_size
    too_large = STATE_BYTES * order.config.N_total > _MEMORY_SHARE * memory
    return world.size > 1 and world.any(too_large)


class ShardedEngine:
    """A model cut among processes by FSDP2, block by block.

    With bf16 the parameters are gathered and gradients computed in bf16; gradients are summed, and everything is kept,
    in float32.

    Parameters
    ----------
    model : on the CPU; it is moved to `device` block by block, so that no device ever holds it whole.
    config, order, world : of the run.
    loss : what is minimised.

    Raises
    ------
    RunError : the run skips updates after spikes, or trains low-rank additions; neither is written for cut parameters.

    **Source:** Zhao et al. 2023 (FSDP); Rajbhandari et al. 2020 (ZeRO), stage 3.
    """

    def __init__(
        self,
        model: ProteinModel,
        config: RunConfig,
        order: RunOrder,
        world: World,
        device: torch.device,
        loss: LossFunction = cross_entropy,
    ) -> None:
        for field in ("spike_factor", "lora_rank"):
            if getattr(config, field) is not None:
                raise RunError(
                    f"{field} is not supported when parameters are cut among processes",
                    hint='set parallel = "replicated" in the order',
                )
        self.model, self.config, self.world, self.device = model, config, world, device
        recompute_blocks(model, order.recompute)
        self._modules = _shard(model, _mesh(world, device))
        self._parameters = dict(model.trainable())
        self._optimiser = self._adamw()
        self._checkpoints = ShardedCheckpoints(world, order.keep_steps)
        largest = -(-config.windows_per_batch // world.size)
        self._step = _ShardedStep(model, largest, order.micro_windows or largest, loss)

    def _adamw(self) -> torch.optim.AdamW:
        """Weight decay on matrices only; the moments are made here, so that a checkpoint has a place to go to."""
        parameters, config = list(self._parameters.values()), self.config
        matrices, others = ([p for p in parameters if (p.dim() >= 2) == is_matrix] for is_matrix in (True, False))
        groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        optimiser = torch.optim.AdamW(groups, lr=0.0, betas=(config.beta1, config.beta2), eps=1e-8, fused=True)
        for parameter in parameters:
            moments = {name: torch.zeros_like(parameter.detach()) for name in ("exp_avg", "exp_avg_sq")}
            optimiser.state[parameter] = {"step": torch.zeros((), device=self.device), **moments}
        return optimiser

    def gradients(self, batch: PackedInput, n_targets: int, key: int) -> Tensor:
        """Compute the gradient of the global batch's mean loss; returns this process' summed loss."""
        return self._step.gradients(batch, n_targets, key)

    @torch.no_grad()
    def update(self, step: int, lr: float) -> Tensor:
        """Change the parameters; returns the gradient norm before clipping."""
        grads = [_local(p.grad) for p in self._parameters.values() if p.grad is not None]
        norms = torch.stack(torch._foreach_norm(grads))
        norm = self.world.sum_(norms.square().sum()).sqrt()
        torch._foreach_div_(grads, (norm / self.config.grad_clip).clamp_(min=1.0))
        for group in self._optimiser.param_groups:
            group["lr"] = lr
        for state in self._optimiser.state.values():
            state["step"].fill_(step)
        self._optimiser.step()
        return norm

    def scorer(self, windows: int, context: int) -> GradientStep:
        """What scores batches; all processes have to call it equally often."""
        return self._step

    def skipped(self) -> int:
        """No update is left out."""
        return 0

    def _state(self) -> dict[str, Tensor]:
        state = {f"model.{name}": p.detach() for name, p in self._parameters.items()}
        for name, parameter in self._parameters.items():
            state |= {
                f"{moment}.{name}": self._optimiser.state[parameter][moment] for moment in ("exp_avg", "exp_avg_sq")
            }
        return state

    def save(self, folder: Path, state: LoopState) -> None:
        """Begin to write a checkpoint; training goes on meanwhile."""
        self._checkpoints.save(folder, state, self._state())

    def load_newest(self, folder: Path, on_damage: OnDamage) -> LoopState | None:
        """Take up the newest checkpoint that is whole, written by any number of processes.

        Raises
        ------
        CheckpointError : there are only checkpoints of whole copies.
        """
        state = self._checkpoints.load_newest(folder, self._state(), on_damage)
        if state is None and self.world.any(any(folder.glob("step-*.safetensors"))):
            raise CheckpointError(
                "the checkpoints here are of a run whose processes held whole copies",
                where=str(folder),
                hint='set parallel = "replicated" in the order',
            )
        return state

    def settle(self) -> None:
        """Wait until the checkpoint that was begun is whole."""
        self._checkpoints.settle()

    def weights(self) -> dict[str, Tensor]:
        """All parameters by name, on the CPU of the first process; gathered one after the other."""
        whole = {}
        for name, parameter in self.model.named_parameters():
            tensor = _whole(parameter.detach())
            if self.world.first:
                whole[name] = tensor.cpu()
        return whole


class _ShardedStep(AutogradStep):
    """Gradients in pieces: they are added up where they are computed, and cut and summed over processes once.

    Parameters
    ----------
    largest : windows of the largest share of a batch.
    micro_windows : windows of a piece.
    """

    def __init__(self, model: ProteinModel, largest: int, micro_windows: int, loss: LossFunction) -> None:
        super().__init__(model, micro_windows=micro_windows, loss=loss)
        self._width, self._n_pieces = micro_windows, -(-largest // micro_windows)

    def gradients(self, batch: PackedInput, n_targets: int, key: int = 0) -> Tensor:
        """Write the gradient of (loss summed over all processes / `n_targets`); returns this process' summed loss."""
        for _, parameter in self.model.trainable():
            parameter.grad = None
        if self.model.dropout:
            torch.manual_seed(key)
        pieces = list(batch.pieces(self._width))
        # Gathering takes all processes: one with fewer windows than others is shown padding, which teaches nothing.
        pieces += [_padding(batch.tokens_BT.shape[1])] * (self._n_pieces - len(pieces))
        total = torch.zeros((), device=self.device)
        for number, piece in enumerate(pieces, start=1):
            self.model.set_requires_gradient_sync(number == self._n_pieces)  # type: ignore[operator]
            loss = self._losses(piece, self.loss).sum()
            (loss / max(1, n_targets)).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total


def _mesh(world: World, device: torch.device) -> DeviceMesh:
    from torch.distributed.device_mesh import init_device_mesh

    if not dist.is_initialized():  # a process alone: the parameters are cut in one
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    return init_device_mesh(device.type, (world.size,))


def _shard(model: ProteinModel, mesh: DeviceMesh) -> list[FSDPModule]:
    """Cut the parameters of each block, then those around the blocks."""
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    half = model.dtype == torch.bfloat16
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if half else None
    # Outside a pass every parameter is in pieces, those around the blocks too: an evaluation leaves no stale copy.
    options: dict[str, Any] = {"mesh": mesh, "reshard_after_forward": True} | ({"mp_policy": policy} if policy else {})
    modules: list[nn.Module] = [*model.blocks, model]
    sharded = [fully_shard(module, **options) for module in modules]
    for module in sharded:
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)  # a sum: the loss is divided by the targets of all processes already
        module.set_force_sum_reduction_for_comms(True)  # gloo multiplies no sums
    return sharded


def _local(tensor: Tensor) -> Tensor:
    """The part of this process."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _whole(tensor: Tensor) -> Tensor:
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _padding(context: int) -> PackedInput:
    """A window of padding: nothing in it is scored."""
    blank, places = torch.zeros(1, context, dtype=torch.int64), torch.arange(context)
    none = torch.zeros(0, dtype=torch.int64)
    return PackedInput(
        torch.full_like(blank, PAD), (blank - 1).int(), blank, places, places.clone(), none, none.clone()
    )
