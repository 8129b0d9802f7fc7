"""Faults of the machine under a run, by name and with what to do about them."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final

import torch

from plm_scaling.core.errors import PlmScalingError, RunError
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import RunOrder
from plm_scaling.training.memory import memory_advice

__all__ = ["SPIKE_NATS", "has_loss_spike", "named_fault", "reason_of"]

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_MEMORY: Final = ("can't allocate memory", "not enough memory", "out of memory")
"""What allocators of torch say in a plain RuntimeError."""
SPIKE_NATS: Final = 0.5
_SPIKE_LINES: Final = 3


def named_fault(error: BaseException, folder: RunFolder, order: RunOrder, world_size: int = 1) -> RunError | None:
    """The error to raise instead where disk, memory or another process failed; None for every other error."""
    where = str(folder.path)
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return RunError(
            "disk full",
            where=where,
            why=str(error),
            hint="free some space and start the run again: it goes on from its last checkpoint",
        )
    if isinstance(error, RuntimeError) and "gloo/transport" in str(error):
        return RunError(
            "the connection to another process was lost",
            where=where,
            why=str(error).splitlines()[0][:200],
            hint="look for the process that ended first; the run goes on from its last checkpoint",
        )
    plain = isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY)
    if plain or isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        why, hint = memory_advice(order, world_size)
        said = str(error).strip().splitlines()
        return RunError(f"out of memory: {said[0]:.200}" if said else "out of memory", where=where, why=why, hint=hint)
    return None


def reason_of(error: BaseException) -> str:
    """What a status says of an error."""
    return str(error) if isinstance(error, PlmScalingError) else f"{type(error).__name__}: {error}"


def has_loss_spike(losses: Sequence[float]) -> bool:
    """Whether the mean of three logged losses in a row rose by more than 0.5 nats over the least such mean before it.

    Three, because one logged loss of a small batch is noisy: the flag is for rises, not for noise.

    Parameters
    ----------
    losses : of the logged steps, in order, nats.
    """
    least = float("inf")
    for end in range(_SPIKE_LINES, len(losses) + 1):
        mean = sum(losses[end - _SPIKE_LINES : end]) / _SPIKE_LINES
        if mean > least + SPIKE_NATS:
            return True
        least = min(least, mean)
    return False
