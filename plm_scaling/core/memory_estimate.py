"""Memory that training takes: one estimate, for plans, for advice and for the choice of micro-batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.layout import Recompute

if TYPE_CHECKING:
    from plm_scaling.core.run import RunConfig

__all__ = ["GPU_MEMORY_SHARE", "STATE_BYTES", "shape_bytes", "training_bytes"]

GPU_MEMORY_SHARE: Final = 0.7
"""Of a GPU's memory that the estimate of a run may fill; what the allocator and compiled kernels take is not in it."""

STATE_BYTES: Final = 16
"""Per parameter: the weight, its gradient and two moments in float32; or with mixed precision a 16-bit weight and
gradient beside a 32-bit weight and two moments. **Source:** Rajbhandari et al. 2020 (ZeRO), section 3.1."""


def training_bytes(config: RunConfig, positions: int, recompute: Recompute = "none") -> tuple[int, int]:
    """Bytes of the parameters' state, and of the activations of one backward pass over `positions`, of a run."""
    return shape_bytes(config.shape, positions, recompute, value_bytes=2 if config.dtype == "bf16" else 4)


def shape_bytes(
    shape: ModelShape, positions: int, recompute: Recompute = "none", *, value_bytes: int = 2
) -> tuple[int, int]:
    """Bytes of the parameters' state, and of the activations of one backward pass over `positions`.

    A block keeps about 14 D + 3 F values per position (its input, two norms, queries, keys and values before and after
    they are turned, the mixed values, the feed-forward part before and after GELU, gradients of the widest of them);
    the head keeps 3 V in float32. Attention that writes its scores down (short documents on a CPU) comes on top.

    Parameters
    ----------
    value_bytes : of one activation, 2 in bf16.

    **Source:** a count over `models.plm`, its constants rounded up to what peaks of resident memory showed: 22 to 26 D
    at F = 4 D in float32 (benchmarks/RESULTS.md). Korthikanti et al. 2022, equation 1: 34 D bytes in bf16, here 52.
    """
    block = (14 * shape.d_model + 3 * shape.ffn) * value_bytes
    kept = {"none": shape.n_layers, "every_other": -(-shape.n_layers // 2), "all": 0}[recompute]
    inputs = (shape.n_layers - kept) * shape.d_model * value_bytes
    again = block if kept < shape.n_layers else 0
    return STATE_BYTES * shape.N_total, positions * (kept * block + inputs + again + 12 * shape.vocab)
