"""Exact de-duplication in bounded memory: rows are sorted by their hash on disk, the first of each group stays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_128_digest

from data_prep.fasta import RecordBlock
from plm_scaling.core.alphabet import EOS

__all__ = [
    "Duplicates",
    "RowSorter",
    "count_shared_names",
    "find_duplicates",
    "hash_names",
    "hash_sequences",
    "hash_words",
]

Rows = npt.NDArray[np.uint64]

RUN_ROWS: Final = 1 << 19
"""Rows sorted in memory at a time (24 bytes each, times about four while sorting)."""
_SAMPLES_PER_RUN: Final = 256
_EOS: Final = bytes([EOS])


def hash_sequences(block: RecordBlock) -> npt.NDArray[np.bytes_]:
    """xxh3_128 of each record's token ids without `<eos>`, as void16[n] in big-endian byte order."""
    sequences = block.tokens.tobytes().split(_EOS)[:-1]
    return np.frombuffer(b"".join(map(xxh3_128_digest, sequences)), dtype="V16")


def hash_words(digests: npt.NDArray[np.bytes_]) -> Rows:
    """The two 64-bit words of 128-bit digests, uint64[n, 2]."""
    return digests.view(">u8").reshape(-1, 2).astype(np.uint64)


def hash_names(names: Sequence[str]) -> Rows:
    """64-bit hashes of names, uint64[n]; comparable within one process only."""
    return np.fromiter(map(hash, names), dtype=np.int64, count=len(names)).view(np.uint64)


class RowSorter:
    """External sort of rows of uint64 columns, on the columns from left to right.

    Rows are collected, sorted and written as runs; `ranges` then merges the runs one range of keys at a time. Memory
    is about one run, as long as no single key (first column) holds more rows than that.
    """

    def __init__(self, folder: Path, columns: int, *, run_rows: int | None = None) -> None:
        self.folder, self.columns, self.run_rows = folder, columns, run_rows or RUN_ROWS
        self._pending: list[Rows] = []
        self._n_pending = 0
        self._runs: list[Path] = []
        self._samples: list[Rows] = []

    def add(self, *columns: Rows) -> None:
        """Add rows, one array of uint64[n] per column."""
        self._pending.append(np.column_stack(columns).astype(np.uint64, copy=False))
        self._n_pending += len(columns[0])
        if self._n_pending >= self.run_rows:
            self._flush()

    def ranges(self) -> Iterator[Rows]:
        """All rows in order, as consecutive arrays uint64[n, columns]; equal keys are never parted."""
        if not self._runs:
            rows = self._take()
            if rows.size:
                yield rows
            return
        self._flush()
        samples = np.sort(np.concatenate(self._samples))
        # Each sample stands for the same number of rows, so a run's worth of samples borders a run's worth of rows.
        inner = np.unique(samples[_SAMPLES_PER_RUN::_SAMPLES_PER_RUN])
        low: int | None = None
        for high in (*map(int, inner), None):
            rows = np.concatenate([_between(run, self.columns, low, high) for run in self._runs])
            if rows.size:
                yield _sorted(rows)
            low = high

    def _take(self) -> Rows:
        rows = np.concatenate(self._pending) if self._pending else np.empty((0, self.columns), np.uint64)
        self._pending, self._n_pending = [], 0
        return _sorted(rows)

    def _flush(self) -> None:
        rows = self._take()
        if rows.size:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"run-{len(self._runs):06d}.u64"
            rows.tofile(path)
            self._runs.append(path)
            self._samples.append(rows[:: max(1, self.run_rows // _SAMPLES_PER_RUN), 0].copy())


def _between(path: Path, columns: int, low: int | None, high: int | None) -> Rows:
    """Rows of a sorted run with low <= key < high. The map is dropped at once: mapped pages count as memory."""
    rows = np.memmap(path, dtype=np.uint64, mode="r").reshape(-1, columns)
    keys = rows[:, 0]
    start = 0 if low is None else int(np.searchsorted(keys, np.uint64(low)))
    stop = len(rows) if high is None else int(np.searchsorted(keys, np.uint64(high)))
    return np.array(rows[start:stop])


def _sorted(rows: Rows) -> Rows:
    """Rows in lexicographic order: a fast unstable sort on the key, then rows with equal keys by all columns."""
    rows = rows.take(np.argsort(rows[:, 0]), axis=0)  # faster than rows[...] on whole rows
    same = rows[1:, 0] == rows[:-1, 0]
    if same.any():
        tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
        group = rows[tied]
        rows[tied] = group[np.lexsort(group.T[::-1])]
    return rows


@dataclass(frozen=True)
class Duplicates:
    """Rows that repeat an earlier row's sequence, in row order, in a file of (row, first row) pairs."""

    path: Path
    n: int

    def between(self, start: int, stop: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The duplicates among rows start..stop-1 and the first copy of each, both int64[k]."""
        if not self.n:
            empty = np.empty(0, dtype=np.int64)
            return empty, empty
        pairs = _between(self.path, 2, start, stop).astype(np.int64)
        return pairs[:, 0], pairs[:, 1]


def find_duplicates(hashes: RowSorter, folder: Path) -> Duplicates:
    """Every row whose 128-bit hash an earlier row has, with the earliest such row.

    Parameters
    ----------
    hashes : columns high word, low word, row; rows count up in the order of priority.
    folder : for the temporary files.
    """
    pairs = RowSorter(folder / "pairs", 2, run_rows=hashes.run_rows)
    for rows in hashes.ranges():
        is_first = np.append(True, (rows[1:, 0] != rows[:-1, 0]) | (rows[1:, 1] != rows[:-1, 1]))
        copies = np.flatnonzero(~is_first)
        if copies.size:
            firsts = np.flatnonzero(is_first)
            owner = firsts[np.searchsorted(firsts, copies) - 1]
            pairs.add(rows[copies, 2], rows[owner, 2])
    path = folder / "duplicates.u64"
    n = 0
    with path.open("wb") as handle:
        for rows in pairs.ranges():
            rows.tofile(handle)
            n += len(rows)
    return Duplicates(path, n)


def count_shared_names(names: RowSorter) -> int:
    """How many sequences go by a name that another sequence already has.

    A name with k different sequences counts k - 1; exact copies under one name count nothing.

    Parameters
    ----------
    names : columns name hash, a word of the sequence's hash.
    """
    shared = 0
    for rows in names.ranges():
        same_name = rows[1:, 0] == rows[:-1, 0]
        shared += int(np.count_nonzero(same_name & (rows[1:, 1] != rows[:-1, 1])))
    return shared
