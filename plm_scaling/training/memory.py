"""Memory of a run: the peak it really reached, and an estimate of what training takes, for advice."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Final

import torch

from plm_scaling.core.run_order import RunOrder

__all__ = ["memory_advice", "peak_memory_bytes", "training_bytes"]

_STATUS: Final = Path("/proc/self/status")
_STATE_BYTES: Final = 16
"""Per parameter: the weight, its gradient and two moments, float32."""


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


def training_bytes(order: RunOrder, world_size: int = 1) -> tuple[int, int]:
    """Bytes of the parameters' state, and of the activations of one backward pass, in each process. A rough estimate.

    A block keeps about 10 D + 2 F values per position (its input, two norms, queries, keys and values before and after
    they are turned, the mixed values, the feed-forward part before and after GELU); the head keeps 3 V in float32.

    Parameters
    ----------
    order : its `micro_windows` and `recompute` are what one can change.
    world_size : processes that share a batch, each with a whole copy of the model.

    **Source:** a count over `models.plm`. Korthikanti et al. 2022, equation 1: 34 D bytes in bf16, here 36.
    """
    config, shape = order.config, order.config.shape
    share = -(-config.windows_per_batch // world_size)
    positions = min(order.micro_windows or share, share) * config.context
    width = 2 if config.dtype == "bf16" else 4
    block = (10 * shape.d_model + 2 * shape.ffn) * width
    kept = {"none": shape.n_layers, "every_other": -(-shape.n_layers // 2), "all": 0}[order.recompute]
    inputs = (shape.n_layers - kept) * shape.d_model * width
    again = block if kept < shape.n_layers else 0
    return _STATE_BYTES * shape.N_total, positions * (kept * block + inputs + again + 12 * shape.vocab)


def memory_advice(order: RunOrder, world_size: int = 1) -> tuple[str, str]:
    """What a run that ran out of memory should have taken, and what to try, each as a sentence with numbers."""
    state, activations = training_bytes(order, world_size)
    share = -(-order.config.windows_per_batch // world_size)
    windows = min(order.micro_windows or share, share)
    why = (
        f"parameters, gradients and moments take about {_size(state)}, "
        f"the activations of {windows:,} windows of {order.config.context:,} about {_size(activations)}"
    )
    tries = []
    if windows > 1:
        fewer = order.model_copy(update={"micro_windows": max(1, windows // 4)})
        tries.append(f"--micro-windows {fewer.micro_windows} ({_size(training_bytes(fewer, world_size)[1])})")
    if order.recompute != "all":
        whole = order.model_copy(update={"recompute": "all"})
        tries.append(f"--recompute all ({_size(training_bytes(whole, world_size)[1])} of activations)")
    tries.append("a smaller model or context, or a machine with more memory")
    return why, ", or ".join(tries)


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2g} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.2g} MB"
