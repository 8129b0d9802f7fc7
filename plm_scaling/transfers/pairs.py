"""Scratch and transferred runs that may be held against each other."""

from __future__ import annotations

import json
from dataclasses import dataclass

from plm_scaling.core.files import canonical_json
from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.noise import unlimited_streams

__all__ = ["RunPair", "find_pairs", "scratch_curve"]


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
    """Whether two runs of one objective differ by nothing but D, seed, learning rate and where they started from."""
    return (
        other.objective == target.objective
        and other.N == target.N
        and other.validation_id == target.validation_id
        and other.corpus_id == target.corpus_id
        and other.schedule_complete
        and _same_data(target, other)
    )


def find_pairs(table: RunTable) -> tuple[RunPair, ...]:
    """Every complete transferred run with its scratch partner, in the order of the table.

    The partner trains on the same data with equal N, D (within 1 %) and batch; of several, the one with the target's
    seed, else the first with the flag SEED_DIFFERS. Without any: `scratch` is None with NO_SCRATCH_PARTNER.
    """
    by_id = {row.run_id: row for row in table}
    pairs = []
    for target in table:
        if target.source_run_id is None or not target.schedule_complete:
            continue
        source = by_id.get(target.source_run_id)
        if source is not None and source.objective == target.objective:
            continue
        partners = [
            row
            for row in table
            if row.source_run_id is None
            and _matches(target, row)
            and abs(row.D / target.D - 1.0) <= 0.01
            and row.batch_tokens == target.batch_tokens
        ]
        same_seed = [row for row in partners if row.seed == target.seed]
        if same_seed:
            pairs.append(RunPair(target, same_seed[0], source))
        elif partners:
            pairs.append(RunPair(target, partners[0], source, ("SEED_DIFFERS",)))
        else:
            pairs.append(RunPair(target, None, source, ("NO_SCRATCH_PARTNER",)))
    return tuple(pairs)


def scratch_curve(table: RunTable, target: RunRow) -> RunTable:
    """All scratch runs of the target's objective, size and data, at any D: what its loss is read against."""
    return table.where(lambda row: row.source_run_id is None and _matches(target, row) and unlimited_streams(row))
