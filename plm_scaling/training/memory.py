"""Memory of a run: the peak it really reached, and an estimate of what training takes, for advice."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Final

import torch

from plm_scaling.core.memory_estimate import GPU_MEMORY_SHARE, training_bytes
from plm_scaling.core.run_order import RunOrder
from plm_scaling.training.world import World

__all__ = ["fitted", "fitting_order", "memory_advice", "peak_memory_bytes", "window_bytes"]

_STATUS: Final = Path("/proc/self/status")


def peak_memory_bytes(device: torch.device) -> int | None:
    """Most memory used so far: allocated on a GPU, else resident in this process. Waits for nothing.

    Parameters
    ----------
    device : where the run computes.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:  # unlike getrusage's, this peak does not begin with that of the process this one was forked from
        lines = _STATUS.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def window_bytes(order: RunOrder, world_size: int = 1) -> tuple[int, int]:
    """`training_bytes` of one process of a run: parameters' state, activations of the windows it computes at once.

    Parameters
    ----------
    order : its `micro_windows` and `recompute` are what one can change.
    world_size : processes that share a batch, each with a whole copy of the model.
    """
    share = -(-order.config.windows_per_batch // world_size)
    windows = min(order.micro_windows or share, share)
    return training_bytes(order.config, windows * order.config.context, order.recompute)


def fitted(order: RunOrder, world: World, device: torch.device) -> RunOrder:
    """The order as it fits this device; a CPU has to take it as it is."""
    if device.type != "cuda":
        return order
    memory = torch.cuda.get_device_properties(device).total_memory
    return fitting_order(order, world.size, GPU_MEMORY_SHARE * memory / order.runs_per_device)


def fitting_order(order: RunOrder, world_size: int, room: float) -> RunOrder:
    """The order with as many windows at once as fit: halved until the estimate does. One that names a number keeps it.

    Parameters
    ----------
    room : bytes of the device that this run may fill.
    """
    fitting = order
    while order.micro_windows is None and sum(window_bytes(fitting, world_size)) > room:
        share = -(-order.config.windows_per_batch // world_size)
        windows = min(fitting.micro_windows or share, share)
        if windows == 1:
            break
        fitting = order.model_copy(update={"micro_windows": -(-windows // 2)})
    return fitting


def memory_advice(order: RunOrder, world_size: int = 1) -> tuple[str, str]:
    """What a run that ran out of memory should have taken, and what to try, each as a sentence with numbers."""
    state, activations = window_bytes(order, world_size)
    share = -(-order.config.windows_per_batch // world_size)
    windows = min(order.micro_windows or share, share)
    why = (
        f"parameters, gradients and moments take about {_size(state)}, "
        f"the activations of {windows:,} windows of {order.config.context:,} about {_size(activations)}"
    )
    tries = []
    if windows > 1:
        fewer = order.model_copy(update={"micro_windows": max(1, windows // 4)})
        tries.append(f"--micro-windows {fewer.micro_windows} ({_size(window_bytes(fewer, world_size)[1])})")
    if order.recompute != "all":
        whole = order.model_copy(update={"recompute": "all"})
        tries.append(f"--recompute all ({_size(window_bytes(whole, world_size)[1])} of activations)")
    tries.append("a smaller model or context, or a machine with more memory")
    return why, ", or ".join(tries)


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2g} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.2g} MB"
