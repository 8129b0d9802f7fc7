"""Which planned runs will not do what their arm wants, said before anything is spent."""

from __future__ import annotations

import os
from typing import Final

from plm_scaling.core.memory_estimate import training_bytes
from plm_scaling.core.recipe import MIN_STEPS
from plm_scaling.core.run import RunConfig
from plm_scaling.sweeps.pools import PoolCost

__all__ = ["feasibility_notes", "machine_memory", "memory_estimate"]

_MEMORY_SHARE: Final = 0.8
_PROCESS_BYTES: Final = 350_000_000
"""A process that has imported torch and mapped a small corpus."""


def memory_estimate(config: RunConfig) -> int:
    """Estimated peak memory of a run's process that computes the whole batch at once, bytes; no bound."""
    return _PROCESS_BYTES + sum(training_bytes(config, config.batch_tokens))


def feasibility_notes(
    config: RunConfig, cost: PoolCost, *, repeats_wanted: bool, max_epochs: float, memory_bytes: float
) -> tuple[str, ...]:
    """Names of what is doubtful about a run.

    DATA_EXHAUSTED: more than `max_epochs` passes over a pool that was not meant to be repeated.
    FEW_WINDOWS: a stream holds fewer windows than one batch draws. FEW_STEPS: fewer than 200 optimiser steps.
    MEMORY: the estimated peak exceeds 80 % of `memory_bytes`.

    Parameters
    ----------
    repeats_wanted : the run exists to repeat data (repeats, diversity).
    memory_bytes : memory of the machine or device, inf to leave it unchecked.
    """
    windows = config.windows_per_batch
    weights = [stream.weight for stream in config.streams]
    drawn = [windows * weight / sum(weights) for weight in weights]
    found = {
        "DATA_EXHAUSTED": not repeats_wanted and cost.most_epochs(config.D) > max_epochs,
        "FEW_WINDOWS": any(have < need for have, need in zip(cost.stream_windows, drawn, strict=True)),
        "FEW_STEPS": cost.steps(config) < MIN_STEPS,
        "MEMORY": memory_estimate(config) > _MEMORY_SHARE * memory_bytes,
    }
    return tuple(name for name, true in found.items() if true)


def machine_memory() -> float:
    """Bytes of memory of this machine; inf where the system does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError, AttributeError):
        return float("inf")
