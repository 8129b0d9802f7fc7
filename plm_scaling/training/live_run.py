"""A run that is alive: its data, model and optimiser, how it starts, resumes and is saved."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from plm_scaling.core.errors import CheckpointError, Diverged, RunError, TakenOver
from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import RunOrder
from plm_scaling.core.schedule import Schedule
from plm_scaling.corpus.batches import Batches
from plm_scaling.corpus.reader import Corpus
from plm_scaling.corpus.validation import ValidationSet, validation_sets
from plm_scaling.training.attempt_log import AttemptLog
from plm_scaling.training.checkpoint import LoopState
from plm_scaling.training.engine import Engine, ReplicatedEngine
from plm_scaling.training.initial import initial_model, loss_function
from plm_scaling.training.memory import fitted
from plm_scaling.training.sharded import ShardedEngine, is_sharded
from plm_scaling.training.slots import take_device
from plm_scaling.training.steps import LossFunction, cross_entropy
from plm_scaling.training.world import World

__all__ = ["LiveRun", "check_finite", "check_owner", "prepare_run", "resume_run", "save_run"]


@dataclass
class _Sums:
    """Sums since the last logged step. They stay on the device until then."""

    loss: Tensor
    norm: Tensor
    n_targets: int = 0
    n_steps: int = 0


@dataclass
class LiveRun:
    """Everything of a run that is alive."""

    folder: RunFolder
    order: RunOrder
    batches: Batches
    schedule: Schedule
    engine: Engine
    sets: list[ValidationSet]
    world: World
    conditions: LoopState
    loss: LossFunction = cross_entropy
    step: int = 0
    sums: _Sums = field(init=False)

    def __post_init__(self) -> None:
        self.reset_sums()

    @property
    def config(self) -> RunConfig:
        """The order's config."""
        return self.order.config

    def reset_sums(self) -> None:
        """Begin new sums, after a logged step."""
        zero = torch.zeros((), dtype=torch.float64, device=self.engine.device)
        self.sums = _Sums(zero, zero.clone())


def prepare_run(folder: RunFolder, order: RunOrder, world: World) -> LiveRun:
    """Open the data, build the model as it is at step 0.

    Raises
    ------
    RunError : no such device, or the run it starts from is not complete.
    CheckpointError : the weights it starts from are damaged or have another shape.
    """
    config = order.config
    corpus = Corpus.open(order.corpus_path(folder.path))
    batches = Batches(corpus, config)
    device = _device(order, world)
    order = fitted(order, world, device)
    loss = loss_function(folder, order, device)
    engine: Engine
    if is_sharded(order, world, device, folder.checkpoint_path):
        engine = ShardedEngine(initial_model(folder, order, torch.device("cpu")), config, order, world, device, loss)
    else:
        engine = ReplicatedEngine(initial_model(folder, order, device), config, order, world, loss)
    per_step = batches.mean_tokens_per_window * config.windows_per_batch
    conditions = LoopState(
        run_id=config.run_id,
        step=0,
        threads=torch.get_num_threads(),
        device=device.type,
        dtype=config.dtype,
        torch=torch.__version__.partition("+")[0],
        world=world.size,
    )
    return LiveRun(
        folder,
        order,
        batches,
        Schedule.of(config, batches.n_steps, per_step),
        engine,
        validation_sets(corpus, config.context, config.validation_tokens, config.objective, config.mask_rate),
        world,
        conditions,
        loss,
    )


def _device(order: RunOrder, world: World) -> torch.device:
    wanted = order.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RunError("the order asks for a CUDA device, torch sees none", hint='set device = "auto" or "cpu"')
    if wanted != "cuda":
        return torch.device(wanted)
    if world.local_rank >= torch.cuda.device_count():
        raise RunError(
            f"process {world.local_rank} of this machine has no GPU of its own",
            why=f"torch sees {torch.cuda.device_count()}",
            hint="start as many processes on a machine as it has GPUs",
        )
    number, count = world.local_rank, torch.cuda.device_count()
    if world.size == 1 and count > 1:  # runs started side by side spread over the GPUs
        number = take_device([str(torch.cuda.get_device_properties(i).uuid) for i in range(count)])
    device = torch.device(wanted, number)
    torch.cuda.set_device(device)  # collectives of objects go by way of the current device
    return device


def resume_run(run: LiveRun, log: AttemptLog, *, force: bool) -> tuple[str, ...]:
    """Continue from the newest good checkpoint, if there is one; returns flags for the record.

    Another number of processes continues the same sequence of batches, with sums added up in another order: that is
    flagged, not refused.

    Raises
    ------
    CheckpointError : it belongs to another run, or was made under other conditions and `force` is off.
    """
    log.status = log.status.model_copy(update={"n_steps": run.batches.n_steps})
    if run.world.first:
        for stray in run.folder.checkpoint_path.glob(".*.tmp"):  # left by a process that was killed while it wrote
            stray.unlink(missing_ok=True)
    flags: list[str] = []

    def on_damage(error: CheckpointError) -> None:
        flags.append("DAMAGED_CHECKPOINT")
        log.warn(str(error))

    state = run.engine.load_newest(run.folder.checkpoint_path, on_damage)
    step = state.step if state else 0
    if run.world.any(run.world.totals([step])[0] != step * run.world.size):
        raise CheckpointError(
            "the processes do not see the same checkpoints",
            where=str(run.folder.checkpoint_path),
            why=f"process {run.world.rank} would continue from step {step}, others would not",
            hint="the run's folder has to be one that all machines share",
        )
    if state is None:
        return tuple(flags)
    where = str(run.folder.checkpoint_path)
    if state.run_id != run.config.run_id:
        raise CheckpointError(f"a checkpoint of run {state.run_id}, not of {run.config.run_id}", where=where)
    old, new = state.conditions(), run.conditions.conditions()
    if old != new:
        changed = ", ".join(f"{key} {old[key]} -> {new[key]}" for key in old if old[key] != new[key])
        if not force:
            raise CheckpointError(
                "the checkpoint was made under other conditions, so the result would differ",
                where=where,
                why=changed,
                hint="resume under the same conditions, force it, or delete the run's folder",
            )
        flags.append("FORCED_RESUME")
    if state.world != run.world.size:
        flags.append("WORLD_CHANGED")
    if run.world.first:  # the sums are those of all processes
        run.sums.loss += state.loss_sum
        run.sums.norm += state.norm_sum
    run.sums.n_targets, run.sums.n_steps, run.step = state.n_targets, state.n_summed, state.step
    return tuple(flags)


def check_finite(run: LiveRun) -> None:
    """Look whether the sums of all processes are finite; all of them take part, so that they end together.

    A NaN stays in the sums and in the weights, so that a look now and then finds it.

    Raises
    ------
    Diverged : they are not.
    """
    if run.world.any(not (math.isfinite(run.sums.loss.item()) and math.isfinite(run.sums.norm.item()))):
        raise Diverged(
            f"loss or gradient is not finite at step {run.step} of {run.batches.n_steps}",
            where=str(run.folder.path),
            hint="lower the learning rate (lr_factor)",
        )


def check_owner(run: LiveRun, log: AttemptLog) -> None:
    """Make sure that no later attempt has the run by now; all processes take part, so that they end together.

    The lock says so at the start of an attempt. It says nothing to one that hung or was cut off while a node or a file
    system came and went, and that was replaced meanwhile. In between a look and the write that follows, a later
    attempt may begin: what is then written is whole, and the same bits that the later one would write.

    Raises
    ------
    TakenOver : a later attempt has begun, or the run's folder was deleted.
    """
    taken: TakenOver | None = None
    try:
        if log.attempt:
            run.folder.check_owner(log.attempt)
    except TakenOver as error:
        taken = error
    if run.world.any(taken is not None):
        raise taken or TakenOver("this run was overtaken and has stopped", where=str(run.folder.path))


def save_run(run: LiveRun, log: AttemptLog) -> None:
    """Write a checkpoint, and make the metrics as durable as it is."""
    check_finite(run)  # never keep a state that is already lost
    check_owner(run, log)
    log.sync()
    sums = run.sums
    state = run.conditions.model_copy(
        update={
            "step": run.step,
            "loss_sum": run.world.sum_(sums.loss.clone()).item(),
            "norm_sum": sums.norm.item(),
            "n_targets": sums.n_targets,
            "n_summed": sums.n_steps,
        }
    )
    run.engine.save(run.folder.checkpoint_path, state)
