"""A part of the input on disk: the records of one stretch of one source, tokenised, hashed and described.

parts/00007/tokens.bin    uint8 token ids, `<eos>` after each record
parts/00007/records.bin   RECORD per record
parts/00007/names.arrow   accession and rep_id, in batches of MARK_ROWS records
parts/00007/hashes/       keys of the sequences, partitioned (keys.py); names/ those of the accessions
parts/00007/part.json     counts, written last
"""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from data_prep.fasta import RecordBlock
from data_prep.hashing import hash_names, hash_words
from data_prep.headers import Fields
from data_prep.keys import KeyWriter
from plm_scaling.core.records import Record
from plm_scaling.corpus.format import FileEntry, RecordCount

__all__ = ["MARK_ROWS", "RECORD", "PartCounts", "PartReader", "PartWriter", "part_folder", "stretches"]

RECORD: Final = np.dtype(
    [
        ("length", "<u4"),
        ("digest", "V16"),
        ("taxon", "<u4"),
        ("members", "<u4"),
        ("flags", "<u4"),
        ("evidence", "u1"),
    ]
)
MARK_ROWS: Final = 1 << 16
"""Records between two marks: the address of every so many-th record is kept."""
_NAMES: Final = pa.schema([("accession", pa.string()), ("rep_id", pa.string())])


class PartCounts(Record):
    """What one part holds."""

    source: int
    """Position of its source."""
    rows: int = 0
    residues: int = 0
    policy: dict[str, int] = Field(default_factory=dict)
    flagged: dict[str, RecordCount] = Field(default_factory=dict)
    dropped: dict[str, RecordCount] = Field(default_factory=dict)
    marks: tuple[int, ...] = ()
    """Address in `tokens.bin` of every MARK_ROWS-th record."""
    files: tuple[FileEntry, ...] = ()
    """The files it read whole; the stretches of a file are hashed by a task of their own."""

    @property
    def tokens(self) -> int:
        """Residues and one `<eos>` per record."""
        return self.residues + self.rows


def part_folder(work: Path, number: int) -> Path:
    """Where a part lives."""
    return work / "parts" / f"{number:05d}"


class PartWriter(ExitStack):
    """Appends blocks of records to the files of a part; a context manager."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.n_rows = 0
        self.n_tokens = 0
        self.marks: list[int] = []
        self._tokens = self.enter_context((folder / "tokens.bin").open("wb"))
        self._records = self.enter_context((folder / "records.bin").open("wb"))
        self._names = self.enter_context(pa.ipc.new_file(str(folder / "names.arrow"), _NAMES))
        self._held: list[pa.RecordBatch] = []
        self._n_held = 0
        self._hashes = self.enter_context(KeyWriter(folder / "hashes", 2))
        self._accessions = self.enter_context(KeyWriter(folder / "names", 2))

    def add(
        self, block: RecordBlock, fields: Fields, digests: npt.NDArray[np.void], flags: npt.NDArray[np.uint32]
    ) -> None:
        """Append the records of a block with their header fields, hashes (void16[n]) and flags (uint32[n])."""
        if not len(block):
            return
        starts = self.n_tokens + np.cumsum(block.lengths + 1) - (block.lengths + 1)
        first_mark = -self.n_rows % MARK_ROWS
        self.marks.extend(starts[first_mark::MARK_ROWS].tolist())
        records = np.empty(len(block), dtype=RECORD)
        records["length"], records["digest"], records["flags"] = block.lengths, digests, flags
        records["taxon"], records["members"], records["evidence"] = fields.taxon, fields.members, fields.evidence
        self._tokens.write(block.tokens.data)
        self._records.write(records.data)
        words = hash_words(digests)
        rows = np.arange(self.n_rows, self.n_rows + len(block), dtype=np.uint64)
        self._hashes.add(words[:, 0], words[:, 1], rows)
        self._accessions.add(hash_names(fields.accession), words[:, 1], rows)
        self._hold(fields)
        self.n_rows += len(block)
        self.n_tokens += len(block.tokens)

    def finish(self) -> None:
        """Write what is still held back."""
        self._write_names(self._n_held)
        self._hashes.finish()
        self._accessions.finish()

    def _hold(self, fields: Fields) -> None:
        self._held.append(pa.RecordBatch.from_arrays([fields.accession, fields.rep_id], schema=_NAMES))
        self._n_held += len(fields.accession)
        if self._n_held >= MARK_ROWS:
            self._write_names(self._n_held - self._n_held % MARK_ROWS)

    def _write_names(self, n: int) -> None:
        """Write the first `n` of the names held, in batches of MARK_ROWS so that a row's batch is known."""
        table = pa.Table.from_batches(self._held, schema=_NAMES).combine_chunks()
        for begin in range(0, n, MARK_ROWS):
            self._names.write_table(table.slice(begin, min(MARK_ROWS, n - begin)), max_chunksize=MARK_ROWS)
        self._held = table.slice(n).to_batches()
        self._n_held -= n


class PartReader:
    """Reads any stretch of a part's records. Rows count from 0 within the part."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts = PartCounts.read(folder / "part.json")

    def records(self, start: int, stop: int) -> npt.NDArray[np.void]:
        """RECORD[stop - start]."""
        return np.fromfile(
            self.folder / "records.bin", dtype=RECORD, count=stop - start, offset=start * RECORD.itemsize
        )

    def address(self, row: int) -> int:
        """Address of a record's first token in `tokens.bin`."""
        mark = row // MARK_ROWS
        if mark == len(self.counts.marks):
            return self.counts.tokens
        before = self.records(mark * MARK_ROWS, row)["length"]
        return self.counts.marks[mark] + int(before.sum(dtype=np.int64)) + len(before)

    def tokens(self, begin: int, count: int) -> npt.NDArray[np.uint8]:
        """uint8[count]: tokens from an address on."""
        return np.fromfile(self.folder / "tokens.bin", dtype=np.uint8, count=count, offset=begin)

    def names(self, start: int, stop: int) -> pa.Table:
        """Columns accession and rep_id of a stretch of records."""
        first, last = start // MARK_ROWS, -(-stop // MARK_ROWS)
        batches = [self._names.get_batch(number) for number in range(first, last)]
        return pa.Table.from_batches(batches, schema=_NAMES).slice(start - first * MARK_ROWS, stop - start)

    @cached_property
    def _names(self) -> Any:
        # Read, not mapped: mapped pages would count as memory of this process.
        return pa.ipc.open_file(pa.OSFile(str(self.folder / "names.arrow")))


def stretches(rows: npt.NDArray[np.int64], start: int, stop: int) -> list[tuple[int, int, int]]:
    """(part, start, stop) within each part that holds some of the rows start..stop-1; `rows` are the parts' first rows.

    Parameters
    ----------
    rows : int64[parts + 1], the first row of each part, and the number of rows.
    """
    first = int(np.searchsorted(rows, start, side="right")) - 1
    found: list[tuple[int, int, int]] = []
    for part in itertools.count(first):
        if part >= len(rows) - 1 or rows[part] >= stop:
            return found
        begin, end = max(start, int(rows[part])), min(stop, int(rows[part + 1]))
        if begin < end:
            found.append((part, begin - int(rows[part]), end - int(rows[part])))
    return found
