"""The second pass: decide per record what is first and in which split; write shards and index; count."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.dedup import Duplicates, hash_words
from data_prep.reading import CorpusRead, Progress
from data_prep.shards import BATCH_ROWS, IndexWriter, ShardWriter
from data_prep.spill import SpilledBatch, SpillReader
from data_prep.split import SplitRule
from data_prep.workplace import Workplace
from plm_scaling.corpus.format import FileEntry, SourceStats, SplitStats

__all__ = ["SecondPass"]


class SecondPass:
    """Writes a corpus from the spilled records and counts as it goes.

    Parameters
    ----------
    read : result of the first pass.
    duplicates : which rows repeat which.
    rule : the split of each sequence.
    """

    def __init__(self, read: CorpusRead, duplicates: Duplicates, rule: SplitRule) -> None:
        self.read, self.duplicates, self.rule = read, duplicates, rule
        self.unique = np.zeros((len(read.sources), 2), dtype=np.int64)
        self.split = np.zeros((len(rule.names), 2), dtype=np.int64)

    def write(
        self, place: Workplace, max_shard_bytes: int, told: Callable[[Progress], None]
    ) -> tuple[tuple[FileEntry, ...], tuple[FileEntry, ...]]:
        """Write everything; returns the shards and the index files."""
        total = sum(source.residues + source.sequences for source in self.read.sources)
        done = 0
        with (
            SpillReader(place.spill) as spill,
            ShardWriter(place.corpus, max_shard_bytes) as shards,
            IndexWriter(place.corpus) as index,
            _Offsets(place.spill / "offsets.u64") as offsets,
        ):
            for batch in spill.batches(BATCH_ROWS):
                sizes = batch.lengths + 1
                first = self._write_rows(batch, sizes, offsets, index)
                for tokens, kept_sizes in spill.tokens(sizes, first):
                    shards.write(tokens, kept_sizes)
                done += int(sizes.sum())
                told(Progress(done, total, batch.stop, "writing"))
            return shards.close(), index.close()

    def _write_rows(
        self, batch: SpilledBatch, sizes: npt.NDArray[np.int64], offsets: _Offsets, index: IndexWriter
    ) -> npt.NDArray[np.bool_]:
        """Write a batch's index rows; returns which rows are first occurrences."""
        rows = np.arange(batch.start, batch.stop)
        copies, originals = self.duplicates.between(batch.start, batch.stop)
        first_copy = rows.copy()
        first_copy[copies - batch.start] = originals
        first: npt.NDArray[np.bool_] = first_copy == rows
        source = self._source_of(rows)
        split = self.rule.assign(hash_words(batch.digests), self._source_of(first_copy))
        index.write(
            accession=batch.accessions,
            source=source,
            length=batch.lengths,
            digest=batch.digests,
            offset=offsets.extend(np.where(first, sizes, 0), first_copy),
            first=first,
            split=split,
        )
        for table, group in ((self.unique, source), (self.split, split)):
            np.add.at(table[:, 0], group[first], 1)
            np.add.at(table[:, 1], group[first], sizes[first])
        return first

    def _source_of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.searchsorted(self.read.first_rows, rows, side="right") - 1

    def source_stats(self) -> tuple[SourceStats, ...]:
        """Counts per source, in order."""
        return tuple(
            SourceStats(
                name=source.name,
                files=source.files,
                sequences=source.sequences,
                residues=source.residues,
                tokens=source.residues + source.sequences,
                unique_sequences=int(sequences),
                unique_tokens=int(tokens),
                duplicate_sequences=source.sequences - int(sequences),
                duplicate_tokens=source.residues + source.sequences - int(tokens),
                policy_counts={name: count for name, count in sorted(source.counts.items()) if count},
            )
            for source, (sequences, tokens) in zip(self.read.sources, self.unique, strict=True)
        )

    def split_stats(self) -> tuple[SplitStats, ...]:
        """Counts per split, in order."""
        return tuple(
            SplitStats(name=name, sequences=int(sequences), tokens=int(tokens))
            for name, (sequences, tokens) in zip(self.rule.names, self.split, strict=True)
        )


class _Offsets(ExitStack):
    """Where each row's tokens are stored, kept on disk so that later copies can look it up; a context manager."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._handle = self.enter_context(path.open("wb"))
        self._end = 0

    def extend(self, stored: npt.NDArray[np.int64], first_copy: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """Offsets of the next rows, given their stored sizes (0 for copies) and the row of each one's first copy."""
        ends = self._end + np.cumsum(stored)
        self._handle.write((ends - stored).astype(np.uint64).tobytes())
        self._handle.flush()
        self._end = int(ends[-1])
        return np.array(np.memmap(self.path, dtype=np.uint64, mode="r")[first_copy])
