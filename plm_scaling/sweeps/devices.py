"""Where the runs of a plan train and how many at a time; how many do best on one GPU is measured, not guessed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Final, Literal

from plm_scaling.core.errors import ConfigError, RunError
from plm_scaling.core.gpus import count_gpus
from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_order import Device
from plm_scaling.execution.slurm import SlurmExecutor
from plm_scaling.execution.slurm_options import SlurmOptions
from plm_scaling.execution.tasks import Executor
from plm_scaling.sweeps.plan_records import SweepPlan

__all__ = ["Placement", "placement"]

_MEASURE: Final = "plm_scaling.training.sharing"


@dataclass(frozen=True)
class Placement:
    """How a sweep uses this machine."""

    device: Device
    workers: int | None
    """Processes at a time; None for one per core."""
    runs_per_device: int = 1
    """Runs that share a GPU, which is how their seconds on it are counted."""
    threads: int = 1
    """CPU threads of a run."""


def placement(
    plan: SweepPlan,
    *,
    device: Device = "auto",
    workers: int | None = None,
    per_device: int | Literal["auto"] | None = None,
    dry_run: bool = False,
    executor: Executor | None = None,
) -> Placement:
    """What was asked for, completed: one run to a GPU where there are GPUs, else one to a core.

    Parameters
    ----------
    executor : where the runs train, instead of here; what a job of a cluster has is in its options.
    per_device : runs to one GPU; "auto" measures it with steps of the plan's largest run, unless `dry_run`.

    Raises
    ------
    ConfigError : two answers to the same question.
    RunError : no GPU, or no number of processes works on it.
    """
    if executor is not None:
        if per_device is not None or workers is not None:
            raise ConfigError(
                "workers and per_device are about this machine, and the runs train elsewhere",
                hint="say tasks_per_job=8 and workers_per_job=2 of the jobs",
            )
        options = executor.options if isinstance(executor, SlurmExecutor) else SlurmOptions()
        shared = -(-options.workers_per_job // options.gpus) if options.gpus else 1
        return Placement(device, None, shared, options.task_threads)
    if per_device is not None and workers is not None:
        raise ConfigError("both workers and per_device say how many runs train at a time", hint="give one")
    if per_device is not None and device == "cpu":
        raise ConfigError("per_device is about GPUs", where='device = "cpu"', hint="give workers instead")
    gpus = 0 if device == "cpu" else count_gpus()
    if per_device is None:
        shared = -(-workers // gpus) if workers and gpus else 1
        return Placement(device, workers or gpus or None, shared)
    if not gpus:
        raise RunError("no GPU on this machine", why="nvidia-smi lists none", hint="leave --per-device out")
    if per_device == "auto":
        per_device = 1 if dry_run or not plan.runs else _measured(max(plan.runs, key=lambda r: r.memory_bytes).config)
    return Placement("cuda", gpus * per_device, per_device)


def _measured(config: RunConfig) -> int:
    """The choice of `training.sharing`, in a process of its own: planning needs no torch."""
    command = [sys.executable, "-m", _MEASURE, "--config", config.model_dump_json(), "--device", "cuda", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        report: dict[str, Any] = json.loads(done.stdout)
        choice = int(report["choice"])
    except (ValueError, KeyError):
        raise RunError("the GPU's sharing could not be measured", why=done.stderr.strip()[-400:]) from None
    if not choice:
        raise RunError(
            f"not even one run of {config.n_layers}x{config.d_model} works on this GPU",
            why=str(report["rows"][0].get("reason", "")),
            hint="lower micro_windows, or train on several GPUs with torchrun",
        )
    return choice
