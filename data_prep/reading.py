"""The first pass: parse, tokenise and hash every file once, and spill what the second pass needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.dedup import RowSorter, count_shared_names, hash_names, hash_sequences, hash_words
from data_prep.fasta import RecordBlock, read_records
from data_prep.inputs import SourceInput
from data_prep.spill import SpillWriter
from data_prep.streams import Meter
from plm_scaling.core.errors import CorpusError
from plm_scaling.corpus.format import FileEntry

__all__ = ["CorpusRead", "FirstPass", "Progress", "SourceRead"]


@dataclass(frozen=True)
class Progress:
    """How far a preparation is: bytes of the stage done and in all, sequences done.

    `stage` is `reading` (bytes of the input files as stored), then `writing` (tokens).
    """

    bytes_done: int
    bytes_total: int
    sequences: int
    stage: str = "reading"


@dataclass(frozen=True)
class SourceRead:
    """What the first pass counted in a source."""

    name: str
    files: tuple[FileEntry, ...]
    sequences: int
    residues: int
    counts: Counter[str]


@dataclass(frozen=True)
class CorpusRead:
    """Result of the first pass: the sources, where each one's rows begin, and the hashes of all rows."""

    sources: tuple[SourceRead, ...]
    first_rows: npt.NDArray[np.int64]
    hashes: RowSorter


class FirstPass:
    """Reads sources in order of priority and spills their records.

    Parameters
    ----------
    spill : folder for the spilled files.
    max_length : longest sequence that fits into a shard, in residues.
    block_bytes : text read at a time, in bytes.
    bytes_total : size of all files as stored, for the progress.
    told : called after each block.
    """

    def __init__(
        self, spill: Path, max_length: int, block_bytes: int, bytes_total: int, told: Callable[[Progress], None]
    ) -> None:
        self.folder, self.max_length, self.block_bytes = spill, max_length, block_bytes
        self.bytes_total, self.told = bytes_total, told
        self.bytes_done = 0
        self.hashes = RowSorter(spill / "hashes", 3)

    def read(self, sources: Sequence[SourceInput]) -> CorpusRead:
        """Read the sources in order."""
        with SpillWriter(self.folder) as spill:
            done = tuple(self._source(number, source, spill) for number, source in enumerate(sources))
        if not spill.n_rows:
            raise CorpusError("no sequences in any of the files", where=str(sources[-1].paths[-1]))
        first_rows = np.cumsum([0, *(source.sequences for source in done)], dtype=np.int64)[:-1]
        return CorpusRead(done, first_rows, self.hashes)

    def _source(self, number: int, source: SourceInput, spill: SpillWriter) -> SourceRead:
        names = RowSorter(self.folder / f"names-{number}", 2)
        counts: Counter[str] = Counter()
        files: list[FileEntry] = []
        residues, first_row = 0, spill.n_rows
        for path in source.paths:
            meter = Meter()
            for block in read_records(path, block_bytes=self.block_bytes, meter=meter):
                self._take(block, path, names, spill)
                counts.update(block.counts)
                residues += int(block.lengths.sum())
                self.told(Progress(self.bytes_done + meter.bytes_read, self.bytes_total, spill.n_rows))
            self.bytes_done += meter.bytes_read
            files.append(FileEntry(name=path.name, bytes=meter.bytes_read, sha256=meter.sha256()))
        counts["duplicate_accessions"] = count_shared_names(names)
        return SourceRead(source.name, tuple(files), spill.n_rows - first_row, residues, counts)

    def _take(self, block: RecordBlock, path: Path, names: RowSorter, spill: SpillWriter) -> None:
        if not len(block):
            return
        longest = int(block.lengths.argmax())
        if block.lengths[longest] > self.max_length:
            raise CorpusError(
                f"{block.accessions[longest]} has {block.lengths[longest]} residues",
                where=str(path),
                why=f"a sequence and its <eos> must fit into a shard of {self.max_length + 1} bytes",
            )
        digests = hash_sequences(block)
        words = hash_words(digests)
        rows = np.arange(spill.n_rows, spill.n_rows + len(block), dtype=np.uint64)
        self.hashes.add(words[:, 0], words[:, 1], rows)
        names.add(hash_names(block.accessions), words[:, 1])
        spill.add(block, digests)
