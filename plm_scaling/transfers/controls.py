"""What stands beside a transferred run: the same objective re-warmed, and other learning rates."""

from __future__ import annotations

import math
from typing import Any

from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.noise import LossNoise
from plm_scaling.transfers.gaps import GapOf, measure_gap
from plm_scaling.transfers.pairs import rewarmed_of

__all__ = ["over_rewarmed", "tuning_flags"]

_PROBE = "lr_probe"


def over_rewarmed(table: RunTable, target: RunRow, noise: LossNoise | None, gap_of: GapOf | None) -> dict[str, Any]:
    """Fields of a `TransferPair` about the run whose source had the target's own objective; none without one."""
    control = rewarmed_of(table, target)
    if control is None:
        return {}
    gap = measure_gap(target, control, noise, gap_of)
    error = gap.known_se if noise else gap.se
    return {"rewarmed_run_id": control.run_id, "gap_over_rewarmed": gap.value, "gap_over_rewarmed_se": error}


def tuning_flags(table: RunTable, target: RunRow, scratch: RunRow | None, noise: LossNoise | None) -> list[str]:
    """Whether a run of the pair ended lower at another learning rate, by more than twice the noise of a difference."""
    border = 2.0 * math.sqrt(2.0) * noise.sd if noise else 0.0
    named = (("TRANSFER_LR_UNTUNED", target), ("SCRATCH_LR_UNTUNED", scratch))
    return [name for name, row in named if row is not None and _best_probe(table, row) < row.loss - border]


def _best_probe(table: RunTable, row: RunRow) -> float:
    """Lowest loss of the runs that differ from this one in the peak learning rate alone, nats; inf without any."""
    same = ("objective", "N", "batch_tokens", "seed", "source_run_id", "streams", "validation_id", "mask_refresh")
    probes = (
        other.loss
        for other in table
        if other.has_role(_PROBE)
        and other.schedule_complete
        and not other.excluded
        and other.recipe_key == row.recipe_key
        and all(getattr(other, name) == getattr(row, name) for name in same)
        and other.D == row.D
    )
    return min(probes, default=math.inf)
