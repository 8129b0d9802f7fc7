"""From the marks of all stages to the manifest, written last."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import platform
from collections import Counter
from pathlib import Path
from typing import Final

import numpy as np

from data_prep.containment import Containment
from data_prep.draft import Draft
from data_prep.homologs import ClusterMark, SplitMark
from data_prep.parts import PartCounts
from data_prep.stages import STAGES, DedupCounts
from data_prep.writing import ShardCounts
from plm_scaling.corpus.format import FileEntry, Manifest, RecordCount, SourceStats, SplitStats

__all__ = ["make_manifest"]

_VERSIONED: Final = ("plm-scaling", "numpy", "pyarrow", "xxhash")


def make_manifest(draft: Draft, name: str) -> Manifest:
    """The manifest of the finished corpus in the work folder."""
    plan = draft.plan
    written = [ShardCounts.read(mark) for mark in _marks(draft, "writing")]
    found = [DedupCounts.read(mark) for mark in _marks(draft, "comparing")]
    per_source = np.sum([shard.per_source for shard in written], axis=0)
    per_split = np.sum([shard.per_split for shard in written], axis=0)
    shared_names = np.sum([counts.shared_names for counts in found], axis=0)
    clusters = ClusterMark.read(draft.folder / "cluster.json").stats if plan.spec.cluster != "none" else None
    split = SplitMark.read(draft.folder / "split.json") if plan.spec.cluster != "none" else SplitMark()
    return Manifest(
        name=name,
        sources=tuple(
            _source_stats(draft, number, tuple(map(int, per_source[number])), int(shared_names[number]))
            for number in range(len(plan.sources))
        ),
        splits=tuple(
            SplitStats(name=split_name, sequences=int(sequences), tokens=int(tokens))
            for split_name, (sequences, tokens) in zip(plan.rule.names, per_split, strict=True)
        ),
        val_share=plan.spec.val_share,
        split_seed=plan.spec.split_seed,
        shards=tuple(shard.shard for shard in written),
        index=tuple(shard.index for shard in written),
        clusters=clusters,
        filters=plan.spec.filters.identity(),
        containment=_contained(draft),
        leakage=split.leakage,
        identity_file=split.identity_file,
        versions=_versions(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _contained(draft: Draft) -> dict[str, RecordCount]:
    return {
        name: getattr(found, name)
        for mark in _marks(draft, "containing")
        for found in (Containment.read(mark),)
        for name in ("fragments", "reversed", "palindromes")
    }


def _marks(draft: Draft, stage: str) -> list[Path]:
    return [STAGES[stage].mark(draft.folder, number) for number in range(STAGES[stage].count(draft))]


def _source_stats(draft: Draft, number: int, unique: tuple[int, ...], shared_names: int) -> SourceStats:
    plan = draft.plan
    own = [part.counts for part in draft.parts if part.counts.source == number]
    sequences, residues = sum(part.rows for part in own), sum(part.residues for part in own)
    policy = sum((Counter(part.policy) for part in own), Counter(duplicate_accessions=shared_names))
    unique_sequences, unique_tokens = unique
    return SourceStats(
        name=plan.sources[number].name,
        files=_files(draft, number, own),
        sequences=sequences,
        residues=residues,
        tokens=residues + sequences,
        unique_sequences=unique_sequences,
        unique_tokens=unique_tokens,
        duplicate_sequences=sequences - unique_sequences,
        duplicate_tokens=residues + sequences - unique_tokens,
        policy_counts={name: count for name, count in sorted(policy.items()) if count},
        flagged=_added([part.flagged for part in own]),
        dropped=_added([part.dropped for part in own]),
        origin=plan.sources[number].origin,
        licence=plan.sources[number].licence,
    )


def _files(draft: Draft, number: int, own: list[PartCounts]) -> tuple[FileEntry, ...]:
    """Files read whole come from their parts, the others from the tasks that hashed them; in the plan's order."""
    entries = {
        file: FileEntry.read(draft.folder / "checksums" / f"{position:05d}.json")
        for position, (source, file) in enumerate(draft.plan.stretched)
        if source == number
    }
    whole = (entry for part in own for entry in part.files)
    streamed = (FileEntry(name=file.item, bytes=0, sha256="") for file in draft.plan.sources[number].files)
    return tuple(entries[file] if file in entries else next(whole, entry) for file, entry in enumerate(streamed))


def _added(counts: list[dict[str, RecordCount]]) -> dict[str, RecordCount]:
    names = sorted({name for part in counts for name in part})
    return {
        name: RecordCount(
            sequences=sum(part[name].sequences for part in counts if name in part),
            tokens=sum(part[name].tokens for part in counts if name in part),
        )
        for name in names
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _VERSIONED:
        # A source tree that was not installed has no version.
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
