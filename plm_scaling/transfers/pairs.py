"""Scratch and transferred runs that may be held against each other."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from plm_scaling.core.files import canonical_json
from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.transfers.curves import SAME_LENGTH, by_length

__all__ = ["RunPair", "control_of", "find_pairs", "near_partner", "rewarmed_of", "scratch_curve"]

_NEAR: Final = math.log(2.0)


@dataclass(frozen=True)
class RunPair:
    """A transferred run, the scratch run of equal N, D, batch and data, and the source if the table holds it."""

    target: RunRow
    scratch: RunRow | None
    source: RunRow | None
    flags: tuple[str, ...] = ()


def _same_data(a: RunRow, b: RunRow) -> bool:
    """Equal streams but for where they start: a disjoint phase reads the same pool further on."""
    return _streams_without_start(a.streams) == _streams_without_start(b.streams)


def _streams_without_start(text: str | None) -> str:
    if not text:
        return ""
    try:
        streams = json.loads(text)
        return canonical_json([{k: v for k, v in stream.items() if k != "start_tokens"} for stream in streams])
    except (ValueError, AttributeError):
        return text


def _matches(target: RunRow, other: RunRow) -> bool:
    """Whether two runs of one objective differ by nothing but D, seed, batch, learning rate and where they started.

    A run of another schedule is of another law, and so no partner.
    """
    return (
        other.objective == target.objective
        and other.N == target.N
        and other.validation_id == target.validation_id
        and other.corpus_id == target.corpus_id
        and other.mask_refresh == target.mask_refresh
        and other.schedule_complete
        and not other.excluded
        and not other.is_experiment
        and other.recipe_key == target.recipe_key
        and _same_data(target, other)
    )


def _partner(table: RunTable, target: RunRow) -> RunRow | None:
    """The scratch run of equal settings, D and batch; of several the one with the target's seed, else the first."""
    partners = [
        row
        for row in table
        if row.source_run_id is None
        and _matches(target, row)
        and abs(row.D / target.D - 1.0) <= SAME_LENGTH
        and row.batch_tokens == target.batch_tokens
    ]
    return next((row for row in partners if row.seed == target.seed), partners[0] if partners else None)


def find_pairs(table: RunTable) -> tuple[RunPair, ...]:
    """Every complete transferred run with its scratch partner, in the order of the table.

    The partner trains on the same data with equal N, D (within 1 %) and batch; one with another seed than the target's
    is flagged SEED_DIFFERS. Without any: `scratch` is None with NO_SCRATCH_PARTNER.
    """
    by_id = {row.run_id: row for row in table}
    pairs = []
    for target in table:
        if target.source_run_id is None or not target.schedule_complete or target.excluded or target.is_experiment:
            continue
        source = by_id.get(target.source_run_id)
        # A source of the same objective makes a control, not a transfer between two.
        if target.objective in (target.source_objective, source.objective if source else None):
            continue
        partner = _partner(table, target)
        if partner is None:
            flags: tuple[str, ...] = ("NO_SCRATCH_PARTNER",)
        else:
            flags = () if partner.seed == target.seed else ("SEED_DIFFERS",)
        pairs.append(RunPair(target, partner, source, flags))
    return tuple(pairs)


def near_partner(table: RunTable, target: RunRow) -> RunRow | None:
    """The scratch run of equal settings whose D is closest, within a factor of two."""
    runs = [
        row
        for row in table
        if row.source_run_id is None
        and _matches(target, row)
        and row.batch_tokens == target.batch_tokens
        and abs(math.log(row.D / target.D)) <= _NEAR
    ]
    return min(runs, key=lambda row: abs(math.log(row.D / target.D)), default=None)


def control_of(target: RunRow, controls: Sequence[RunRow]) -> RunRow | None:
    """The transferred run of equal settings whose source learnt from shuffled residues; of several, of equal seed."""
    return _alike(target, [row for row in controls if row.source_objective == target.source_objective])


def rewarmed_of(table: RunTable, target: RunRow) -> RunRow | None:
    """The run of equal settings whose source had as many tokens of the target's own objective; as `control_of`."""
    return _alike(
        target, [row for row in table if row.source_run_id is not None and row.source_objective == target.objective]
    )


def _alike(target: RunRow, controls: Sequence[RunRow]) -> RunRow | None:
    alike = [
        row
        for row in controls
        if _matches(target, row)
        and abs(row.D / target.D - 1.0) <= SAME_LENGTH
        and row.batch_tokens == target.batch_tokens
        and abs((row.D_source or 0.0) - (target.D_source or 0.0)) <= SAME_LENGTH * (target.D_source or 0.0)
    ]
    return next((row for row in alike if row.seed == target.seed), alike[0] if alike else None)


def scratch_curve(table: RunTable, target: RunRow) -> RunTable:
    """The scratch runs that a transferred loss is read against: those of its scratch partner's recipe, at any D.

    Equal objective, size, data, masks, batch and peak learning rate. Only where those are of one length, the other
    lengths are of any batch and learning rate: these columns then hold several values (MIXED_BATCH).
    """
    partner = _partner(table, target) or target
    runs = table.where(lambda row: row.source_run_id is None and _matches(partner, row))
    same = runs.where(lambda row: (row.batch_tokens, row.peak_lr) == (partner.batch_tokens, partner.peak_lr))
    if len(by_length(same)) > 1:
        return same
    return RunTable((*same, *runs.where(lambda row: abs(row.D / partner.D - 1.0) > SAME_LENGTH)))
