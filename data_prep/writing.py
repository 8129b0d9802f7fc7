"""The last stage: one shard of tokens and its index rows, counted as they are written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.draft import Draft
from data_prep.progress import Ticker
from data_prep.shards import BATCH_ROWS, IndexWriter, ShardWriter
from plm_scaling.core.records import Record
from plm_scaling.corpus.format import FileEntry

__all__ = ["ShardCounts", "write_shard"]

Counts = tuple[tuple[int, int], ...]


class ShardCounts(Record):
    """A shard, its index file, and (sequences, tokens) of the first occurrences among its rows."""

    shard: FileEntry
    index: FileEntry
    per_source: Counts
    per_split: Counts


def write_shard(draft: Draft, number: int, ticker: Ticker) -> ShardCounts:
    """Write shard `number` and index file `number` to `corpus/` in the work folder."""
    start, stop = draft.layout.shard_rows[number : number + 2]
    tally = _Tally(len(draft.plan.sources), len(draft.plan.rule.names))
    corpus = draft.folder / "corpus"
    with ShardWriter(corpus / "shards" / f"{number:06d}.bin") as shard:
        for piece in draft.first_sequences(start, stop):
            shard.write(piece.tokens)
            ticker.tell(shard.n_bytes, 0)
        with IndexWriter(corpus / "index" / f"{number:06d}.parquet") as index:
            for begin in range(start, stop, BATCH_ROWS):
                end = min(stop, begin + BATCH_ROWS)
                _write_rows(draft, begin, end, index, tally)
                ticker.tell(shard.n_bytes, end - start)
            return ShardCounts(
                shard=shard.close(), index=index.close(), per_source=tally.sources, per_split=tally.splits
            )


def _write_rows(draft: Draft, start: int, stop: int, index: IndexWriter, tally: _Tally) -> None:
    records, names = draft.records(start, stop), draft.names(start, stop)
    first_rows = draft.duplicates.first_rows(start, stop)
    rows = np.arange(start, stop)
    first: npt.NDArray[np.bool_] = first_rows == rows
    source, split = draft.source_of(rows), draft.column(split_file(draft.folder))[first_rows]
    has_clusters = (draft.folder / "cluster" / "c50.u32").is_file()
    index.write(
        accession=names["accession"],
        source=source,
        length=records["length"],
        hash=records["digest"],
        offset=draft.column("layout/offset.u64")[start:stop],
        first=first,
        split=split,
        cluster50=draft.column("cluster/c50.u32")[first_rows] if has_clusters else None,
        cluster90=draft.column("cluster/c90.u32")[first_rows] if has_clusters else None,
        taxon=records["taxon"],
        members=records["members"],
        rep_id=names["rep_id"],
        evidence=records["evidence"],
        flags=records["flags"],
    )
    tally.add(source[first], split[first], records["length"][first].astype(np.int64) + 1)


def split_file(folder: Path) -> str:
    """Where the splits are: those made with clusters, else those made without."""
    return "split/split.u8" if (folder / "split" / "split.u8").is_file() else "split/base.u8"


class _Tally:
    """Unique sequences and tokens per source and per split."""

    def __init__(self, n_sources: int, n_splits: int) -> None:
        self._sources = np.zeros((n_sources, 2), dtype=np.int64)
        self._splits = np.zeros((n_splits, 2), dtype=np.int64)

    def add(
        self, source: npt.NDArray[np.integer], split: npt.NDArray[np.integer], sizes: npt.NDArray[np.int64]
    ) -> None:
        """Count first occurrences of these sizes in tokens."""
        for table, group in ((self._sources, source), (self._splits, split)):
            np.add.at(table[:, 0], group, 1)
            np.add.at(table[:, 1], group, sizes)

    @property
    def sources(self) -> Counts:
        return _pairs(self._sources)

    @property
    def splits(self) -> Counts:
        return _pairs(self._splits)


def _pairs(table: npt.NDArray[np.int64]) -> Counts:
    return tuple((int(sequences), int(tokens)) for sequences, tokens in table)
