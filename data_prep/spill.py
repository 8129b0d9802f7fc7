"""What the first pass leaves for the second: every record's tokens, hash, length and accession, in order, on disk."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from data_prep.fasta import RecordBlock

__all__ = ["SpillReader", "SpillWriter", "SpilledBatch"]

_RECORD: Final = np.dtype([("length", "<u4"), ("digest", "V16")])
_PIECE_TOKENS: Final = 1 << 22
_TOKENS, _RECORDS, _ACCESSIONS = "tokens.bin", "records.bin", "accessions.txt"


@dataclass(frozen=True)
class SpilledBatch:
    """Consecutive records; `start` is the row of the first, `lengths` int64[n] residues, `digests` void16[n]."""

    start: int
    accessions: list[str]
    lengths: npt.NDArray[np.int64]
    digests: npt.NDArray[np.bytes_]

    @property
    def stop(self) -> int:
        """The row after the last one."""
        return self.start + len(self.lengths)


class SpillWriter(ExitStack):
    """Appends blocks of records to three files of a folder; a context manager."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.n_rows = 0
        self._tokens = self.enter_context((folder / _TOKENS).open("wb"))
        self._records = self.enter_context((folder / _RECORDS).open("wb"))
        self._accessions = self.enter_context((folder / _ACCESSIONS).open("wb"))

    def add(self, block: RecordBlock, digests: npt.NDArray[np.bytes_]) -> None:
        """Append the records of a block; `digests` void16[n] are the hashes of their tokens."""
        if not len(block):
            return
        records = np.empty(len(block), dtype=_RECORD)
        records["length"], records["digest"] = block.lengths, digests
        self._tokens.write(block.tokens.data)
        self._records.write(records.tobytes())
        # An accession holds no line end, so a line each is enough.
        self._accessions.write("\n".join(block.accessions).encode() + b"\n")
        self.n_rows += len(block)


class SpillReader(ExitStack):
    """Reads the three files back, once, in order; a context manager."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._tokens = self.enter_context((folder / _TOKENS).open("rb"))
        self._records = self.enter_context((folder / _RECORDS).open("rb"))
        self._accessions = self.enter_context((folder / _ACCESSIONS).open(encoding="utf-8", newline="\n"))

    def batches(self, n_rows: int) -> Iterator[SpilledBatch]:
        """The records, `n_rows` at a time, without their tokens."""
        start = 0
        while (records := np.fromfile(self._records, dtype=_RECORD, count=n_rows)).size:
            accessions = "".join(itertools.islice(self._accessions, len(records))).split("\n")[:-1]
            digests = np.ascontiguousarray(records["digest"])
            yield SpilledBatch(start, accessions, records["length"].astype(np.int64), digests)
            start += len(records)

    def tokens(
        self, sizes: npt.NDArray[np.int64], kept: npt.NDArray[np.bool_]
    ) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]]:
        """Tokens of the next len(sizes) records, the kept ones only, in pieces of a few MB (or one longer sequence).

        Parameters
        ----------
        sizes : int64[n], tokens of each record, `<eos>` included.
        kept : bool[n], records to return.

        Returns
        -------
        pairs of tokens uint8[sum(s)] and their sizes s int64[k].
        """
        pieces = np.flatnonzero(np.diff(np.cumsum(sizes) // _PIECE_TOKENS)) + 1
        for these, keep in zip(np.split(sizes, pieces), np.split(kept, pieces), strict=True):
            tokens = np.fromfile(self._tokens, dtype=np.uint8, count=int(these.sum()))
            yield (tokens, these) if keep.all() else (tokens[np.repeat(keep, these)], these[keep])
