"""`TransferFit`: effectively transferred tokens of every scratch/transferred pair, as a value."""

from __future__ import annotations

from typing import ClassVar, Literal

from plm_scaling.core.records import Record
from plm_scaling.core.run import Objective

__all__ = ["Overlap", "TransferFit", "TransferPair"]

Overlap = Literal["shared", "disjoint", "unknown"]


class TransferPair(Record):
    """One transferred run against the scratch run of equal N, D and schedule."""

    source_run_id: str
    target_run_id: str
    scratch_run_id: str
    source_objective: Objective
    objective: Objective
    N: float
    D: float
    """Tokens of the target run, D_f."""
    D_source: float
    loss_scratch: float
    loss_transfer: float
    gap: float
    """loss_transfer - loss_scratch, nats; negative is a gain."""
    gap_se: float | None = None
    """Paired standard error of the gap over validation sequences, seeds not included."""
    gap_total_se: float | None = None
    """Standard error of the gap with the noise of both runs' seeds; None where that noise is unknown."""
    overlap: Overlap = "unknown"
    """Whether the target was trained on tokens that its source had seen."""
    replayed_share: float | None = None
    """Share of the target's distinct tokens that its source had seen."""
    D_t: float | None = None
    """Extra target tokens a scratch run would need to reach the transferred loss; 0 at a gap of 0."""
    D_t_low: float | None = None
    D_t_high: float | None = None
    D_t_per_source_token: float | None = None
    net_tokens: float | None = None
    """D_t minus the target tokens that the source's compute would have paid for."""
    net_loss_gain: float | None = None
    """Loss of a scratch run given the source's compute as well, minus the transferred loss; positive: transfer pays."""
    method: str = ""
    flags: tuple[str, ...] = ()


class TransferFit(Record):
    """All pairs of a table (`transfer.json`)."""

    SCHEMA_VERSION: ClassVar[int] = 1

    pairs: tuple[TransferPair, ...]
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    data_hash: str
