"""How one training fits its GPUs: whole copies, then shards, then recomputed activations, and the micro-batch."""

from __future__ import annotations

from typing import Final, Literal

from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import ConfigError
from plm_scaling.core.layout import Parallel, Recompute
from plm_scaling.core.memory_estimate import GPU_MEMORY_SHARE, shape_bytes
from plm_scaling.core.records import Record

__all__ = ["MemoryPlan", "plan_memory"]

_BUSY_POSITIONS: Final = 8192
"""Positions of a pass below which the next rung is tried: smaller passes leave an accelerator waiting."""
_GATHERED_BLOCKS: Final = 2
"""Blocks that a sharded run holds whole at a time: the one at work and the one fetched ahead of it."""

_LADDER: Final[tuple[tuple[Parallel, Recompute], ...]] = (
    ("replicated", "none"),
    ("sharded", "none"),
    ("sharded", "every_other"),
    ("sharded", "all"),
)
_LADDER_ALONE: Final[tuple[tuple[Parallel, Recompute], ...]] = (
    ("replicated", "none"),
    ("replicated", "every_other"),
    ("replicated", "all"),
)
_LayoutWord = Literal["one GPU", "replicas (DDP)", "shards (FSDP)"]


class MemoryPlan(Record):
    """The first rung of the ladder that fits, and what it takes of each GPU."""

    parallel: Parallel
    recompute: Recompute
    rung: int
    """0 is the plainest: whole copies, activations kept."""
    n_gpus: int
    micro_windows: int
    """Windows that one GPU computes at once."""
    passes_per_step: int
    """Micro-batches whose gradients are added up in a step."""
    state_gb: float
    """Weights, gradients and moments on one GPU, 1e9 bytes; of shards with the blocks that are gathered."""
    activations_gb: float
    memory_gb: float
    """Of one GPU."""
    fits: bool
    least_gpus: int
    """GPUs of this kind over which the last rung would fit."""

    @property
    def total_gb(self) -> float:
        """Estimate of one GPU's memory, 1e9 bytes."""
        return self.state_gb + self.activations_gb

    @property
    def layout(self) -> _LayoutWord:
        """How the GPUs share the model, in words."""
        if self.n_gpus == 1:
            return "one GPU"
        return "replicas (DDP)" if self.parallel == "replicated" else "shards (FSDP)"


def plan_memory(
    shape: ModelShape,
    memory_gb: float,
    *,
    n_gpus: int,
    batch_tokens: int,
    context: int = 1024,
    value_bytes: int = 2,
    share: float = GPU_MEMORY_SHARE,
) -> MemoryPlan:
    """The plainest way in which a training fits: DDP, FSDP, FSDP with some and with all activations recomputed.

    A rung is taken if 8,192 positions per pass (or the GPU's whole share of the batch) fit; the last one with whatever
    fits. One GPU has no shards. The micro-batch is the share of the batch, halved until it fits.

    Parameters
    ----------
    memory_gb : of one GPU, 1e9 bytes.
    batch_tokens : window positions of a step, over all GPUs.
    context : positions of a window.
    value_bytes : of an activation, 2 in bf16.
    share : of the memory that the estimate may fill.

    Raises
    ------
    ConfigError : a count or a memory that is not positive.

    **Source:** Rajbhandari et al. 2020 (ZeRO) for what shards divide; activations: `core.memory_estimate`.
    """
    if min(n_gpus, batch_tokens, context) < 1 or not memory_gb > 0 or not 0 < share <= 1:
        raise ConfigError(
            "a memory plan needs positive counts, memory, and a share of at most 1",
            why=f"n_gpus {n_gpus}, batch_tokens {batch_tokens}, context {context}, {memory_gb} GB, share {share}",
        )
    room = share * memory_gb * 1e9
    whole = max(1, -(-(batch_tokens // context) // n_gpus))
    least = min(whole, max(1, _BUSY_POSITIONS // context))
    ladder = _LADDER_ALONE if n_gpus == 1 else _LADDER
    for rung, (parallel, recompute) in enumerate(ladder):
        last = rung == len(ladder) - 1
        state = _state_bytes(shape, n_gpus if parallel == "sharded" else 1, value_bytes)
        windows = _windows(shape, room - state, whole, 1 if last else least, context, recompute, value_bytes)
        if windows or last:
            break
    made = max(windows, 1)
    activations = shape_bytes(shape, made * context, recompute, value_bytes=value_bytes)[1]
    return MemoryPlan(
        parallel=parallel,
        recompute=recompute,
        rung=rung,
        n_gpus=n_gpus,
        micro_windows=made,
        passes_per_step=-(-whole // made),
        state_gb=state / 1e9,
        activations_gb=activations / 1e9,
        memory_gb=memory_gb,
        fits=windows > 0,
        least_gpus=_least_gpus(shape, room, context, value_bytes),
    )


def _state_bytes(shape: ModelShape, shards: int, value_bytes: int) -> float:
    """Of one GPU; shards also hold the blocks that are gathered."""
    state = shape_bytes(shape, 0)[0]
    if shards == 1:
        return float(state)
    return state / shards + _GATHERED_BLOCKS * value_bytes * shape.N / shape.n_layers


def _windows(
    shape: ModelShape, room: float, whole: int, least: int, context: int, recompute: Recompute, value_bytes: int
) -> int:
    """The share of the batch, halved until its activations fit; 0 if fewer than `least` windows do."""
    windows = whole
    while shape_bytes(shape, windows * context, recompute, value_bytes=value_bytes)[1] > room:
        if windows == 1:
            return 0
        windows = -(-windows // 2)
    return windows if windows >= least else 0


def _least_gpus(shape: ModelShape, room: float, context: int, value_bytes: int) -> int:
    """Over which one window fits with everything recomputed; 0 if no number of them helps."""
    activations = shape_bytes(shape, context, "all", value_bytes=value_bytes)[1]
    state = shape_bytes(shape, 0)[0]
    if state + activations <= room:
        return 1
    left = room - activations - (_state_bytes(shape, 2, value_bytes) - state / 2)
    return 0 if left <= 0 else max(2, -int(-state // left))
