"""A run that is alive: its data, model and optimiser, how it starts, resumes and is saved."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from plm_scaling.core.errors import CheckpointError, Diverged, RunError
from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import RunOrder
from plm_scaling.corpus.batches import Batches
from plm_scaling.corpus.reader import Corpus
from plm_scaling.corpus.validation import ValidationSet, validation_sets
from plm_scaling.training.attempt_log import AttemptLog
from plm_scaling.training.checkpoint import LoopState, load_newest, load_weights, save_checkpoint
from plm_scaling.training.finish import lineage
from plm_scaling.training.model import FlatParameters, Transformer
from plm_scaling.training.steps import AdamW

__all__ = ["LiveRun", "check_finite", "prepare_run", "resume_run", "save_run"]

_DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}


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
    model: Transformer
    flat: FlatParameters
    optimiser: AdamW
    sets: list[ValidationSet]
    conditions: LoopState
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
        zero = torch.zeros((), dtype=torch.float64, device=self.flat.value.device)
        self.sums = _Sums(zero, zero.clone())

    def tensors(self) -> dict[str, Tensor]:
        """The state beside the step."""
        moments = {"exp_avg": self.optimiser.exp_avg, "exp_avg_sq": self.optimiser.exp_avg_sq}
        return {**{f"model.{name}": p.detach() for name, p in self.model.named_parameters()}, **moments}


def prepare_run(folder: RunFolder, order: RunOrder) -> LiveRun:
    """Open the data, build the model as it is at step 0.

    Raises
    ------
    RunError : no such device, or the run it starts from is not complete.
    CheckpointError : the weights it starts from are damaged or have another shape.
    """
    config = order.config
    corpus = Corpus.open(order.corpus_path(folder.path))
    batches = Batches(corpus, config)
    device = _device(order)
    model = Transformer(
        config.n_layers,
        config.d_model,
        causal=config.objective == "clm",
        context=config.context,
        seed=config.seed,
        dtype=_DTYPES[config.dtype],
    ).to(device)
    if config.init_from:
        lineage(folder, config)  # refuses an unfinished source
        _load(model, load_weights(folder.sibling(config.init_from).weights_path), config.init_from)
    flat = FlatParameters.of(model)
    conditions = LoopState(
        run_id=config.run_id,
        step=0,
        threads=torch.get_num_threads(),
        device=device.type,
        dtype=config.dtype,
        torch=torch.__version__.partition("+")[0],
    )
    sets = validation_sets(corpus, config.context, config.validation_tokens, config.objective, config.mask_rate)
    return LiveRun(folder, order, batches, model, flat, AdamW(flat, config), sets, conditions)


def _device(order: RunOrder) -> torch.device:
    wanted = order.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RunError("the order asks for a CUDA device, torch sees none", hint='set device = "auto" or "cpu"')
    return torch.device(wanted)


@torch.no_grad()
def _load(model: Transformer, weights: dict[str, Tensor], origin: str) -> None:
    own = dict(model.named_parameters())
    if {n: p.shape for n, p in own.items()} != {n: w.shape for n, w in weights.items()}:
        raise CheckpointError(
            f"the weights of {origin} do not fit this model", why="another number of layers or another width"
        )
    for name, parameter in own.items():
        parameter.copy_(weights[name])


def resume_run(run: LiveRun, log: AttemptLog, *, force: bool) -> tuple[str, ...]:
    """Continue from the newest good checkpoint, if there is one; returns flags for the record.

    Raises
    ------
    CheckpointError : it belongs to another run, or was made under other conditions and `force` is off.
    """
    log.status = log.status.model_copy(update={"n_steps": run.batches.n_steps})
    for stray in run.folder.checkpoint_path.glob(".*.tmp"):  # left by a process that was killed while it wrote
        stray.unlink(missing_ok=True)
    flags: list[str] = []
    found = load_newest(run.folder.checkpoint_path, on_damage=lambda error: flags.append("DAMAGED_CHECKPOINT"))
    if found is None:
        return tuple(flags)
    state, tensors = found
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
    moments = {name: tensors.pop(name) for name in ("exp_avg", "exp_avg_sq")}
    _load(run.model, {name.removeprefix("model."): tensor for name, tensor in tensors.items()}, "the checkpoint")
    run.optimiser.exp_avg.copy_(moments["exp_avg"])
    run.optimiser.exp_avg_sq.copy_(moments["exp_avg_sq"])
    run.sums.loss += state.loss_sum
    run.sums.norm += state.norm_sum
    run.sums.n_targets, run.sums.n_steps, run.step = state.n_targets, state.n_summed, state.step
    return tuple(flags)


def check_finite(run: LiveRun) -> None:
    """Look whether the sums are finite. A NaN stays in them and in the weights, so that a look now and then finds it.

    Raises
    ------
    Diverged : they are not.
    """
    if not (math.isfinite(run.sums.loss.item()) and math.isfinite(run.sums.norm.item())):
        raise Diverged(
            f"loss or gradient is not finite at step {run.step} of {run.batches.n_steps}",
            where=str(run.folder.path),
            hint="lower the learning rate (lr_factor)",
        )


def save_run(run: LiveRun, log: AttemptLog) -> None:
    """Write a checkpoint, and make the metrics as durable as it is."""
    check_finite(run)  # never keep a state that is already lost
    log.sync()
    sums = run.sums
    state = run.conditions.model_copy(
        update={
            "step": run.step,
            "loss_sum": sums.loss.item(),
            "norm_sum": sums.norm.item(),
            "n_targets": sums.n_targets,
            "n_summed": sums.n_steps,
        }
    )
    save_checkpoint(run.folder.checkpoint_path, state, run.tensors())
