"""How many runs of a plan train at a time where they share GPUs: asked of the device itself, not guessed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import Any, Final

from plm_scaling.core.errors import RunError
from plm_scaling.core.run import RunConfig
from plm_scaling.sweeps.plan_records import SweepPlan

__all__ = ["count_gpus", "gpu_workers"]

_MEASURE: Final = "plm_scaling.training.sharing"


def count_gpus() -> int:
    """GPUs that the driver's own tool lists on this machine."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    listed = subprocess.run([tool, "--list-gpus"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0


def gpu_workers(plan: SweepPlan, per_device: int | None) -> int:
    """Processes that share the GPUs of this machine.

    Parameters
    ----------
    per_device : runs to one GPU; None measures it with steps of the plan's middle run by cost.

    Raises
    ------
    RunError : no GPU, or no number of processes works on it.
    """
    gpus = count_gpus()
    if not gpus:
        raise RunError("no GPU on this machine", why="nvidia-smi lists none", hint="leave --per-device out")
    if per_device is None:
        by_cost = sorted(plan.runs, key=lambda run: run.C_exact)
        per_device = _measured(by_cost[len(by_cost) // 2].config)
    return gpus * per_device


def _measured(config: RunConfig) -> int:
    """The choice of `training.sharing`, in a process of its own: planning needs no torch."""
    fields = ("architecture", "context", "batch_tokens", "objective", "dtype")
    options = [word for name in fields for word in (f"--{name.replace('_', '-')}", str(getattr(config, name)))]
    shape = f"{config.n_layers}x{config.d_model}"
    command = [sys.executable, "-m", _MEASURE, "--shape", shape, *options, "--device", "cuda", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        report: dict[str, Any] = json.loads(done.stdout)
        choice = int(report["choice"])
    except (ValueError, KeyError):
        raise RunError("the GPU's sharing could not be measured", why=done.stderr.strip()[-400:]) from None
    if not choice:
        raise RunError(
            f"not even one run of {shape} works on this GPU", why=str(report["rows"][0].get("reason", "")),
            hint="lower micro_windows, or train on several GPUs with torchrun",
        )  # fmt: skip
    return choice
