"""The two stages that need near-duplicates: clusters of all unique sequences, and splits that respect them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from data_prep.clusters import cluster_draft
from data_prep.draft import Draft
from data_prep.leakage import HoldOut, split_draft
from data_prep.membership import membership_clusters
from plm_scaling.core.files import sha256_file, writing_atomic
from plm_scaling.core.records import Record
from plm_scaling.corpus.format import ClusterStats, FileEntry, Leakage
from plm_scaling.corpus.homology import find_mmseqs

__all__ = ["ClusterMark", "SplitMark", "cluster_stage", "split_stage"]

_IDENTITY: Final = "identity.parquet"


class ClusterMark(Record):
    """What the clustering stage found."""

    stats: ClusterStats


class SplitMark(Record):
    """What the splitting stage found."""

    leakage: tuple[Leakage, ...] = ()
    identity_file: FileEntry | None = None


def cluster_stage(draft: Draft) -> None:
    """Write the clusters of all first rows, and the mark `cluster.json`.

    Raises
    ------
    CorpusError : MMseqs2 is not there or failed, or a table of members that cannot be read.
    """
    asked = draft.plan.spec.cluster
    if asked == "mmseqs":
        stats = cluster_draft(draft, mmseqs=find_mmseqs())
    else:
        (draft.folder / "cluster").mkdir(exist_ok=True)
        stats = membership_clusters(draft, [Path(asked)])
    ClusterMark(stats=stats).write(draft.folder / "cluster.json")


def split_stage(draft: Draft) -> None:
    """Write the splits of all first rows, the identities found, and the mark `split.json`.

    Raises
    ------
    CorpusError : MMseqs2 is not there or failed.
    """
    spec = draft.plan.spec
    if not spec.val_cluster_share:
        SplitMark().write(draft.folder / "split.json")
        return
    leakage = split_draft(
        draft,
        draft.column("split/base.u8"),
        draft.plan.rule.names,
        HoldOut(share=spec.val_cluster_share, seed=spec.split_seed),
        mmseqs=find_mmseqs(),
    )
    target = draft.folder / "corpus" / _IDENTITY
    with writing_atomic(target) as handle, (draft.folder / "split" / _IDENTITY).open("rb") as source:
        shutil.copyfileobj(source, handle)
    entry = FileEntry(name=_IDENTITY, bytes=target.stat().st_size, sha256=sha256_file(target))
    SplitMark(leakage=leakage, identity_file=entry).write(draft.folder / "split.json")
