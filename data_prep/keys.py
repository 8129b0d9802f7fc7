"""Keys on disk, partitioned by their top byte: what equal keys have in common is found bucket by bucket.

FOLDER/keys.bin    runs of up to RUN_ROWS rows; a run holds its columns one after the other, each ordered by bucket
FOLDER/runs.npy    int64[runs, BUCKETS + 1], where each bucket begins within its run
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["BUCKETS", "KeyReader", "KeyWriter", "bucket_groups", "bucket_ranges"]

Words = npt.NDArray[np.uint64]

BUCKETS: Final = 256
RUN_ROWS: Final = 1 << 18
"""Rows collected before they are partitioned (8 bytes per column): few enough for the processor's cache."""
GROUP_ROWS: Final = 1 << 19
"""Rows looked at together; hashes are uniform, so neighbouring buckets are joined until they hold about so many."""
_TOP: Final = np.uint64(56)


class KeyWriter(ExitStack):
    """Collects rows of `columns` 64-bit words, the key first, and a row number; a context manager."""

    def __init__(self, folder: Path, columns: int, *, run_rows: int | None = None) -> None:
        super().__init__()
        self.folder, self.columns, self.run_rows = folder, columns + 1, run_rows or RUN_ROWS
        folder.mkdir(parents=True, exist_ok=True)
        self._handle = self.enter_context((folder / "keys.bin").open("wb"))
        self._pending: list[tuple[Words, ...]] = []
        self._n_pending = 0
        self._runs: list[npt.NDArray[np.int64]] = []

    def add(self, *columns: Words) -> None:
        """Add rows, one array uint64[n] per column, the key first."""
        self._pending.append(columns)
        self._n_pending += len(columns[0])
        if self._n_pending >= self.run_rows:
            self._flush()

    def finish(self) -> None:
        """Write the last run and the table of runs."""
        self._flush()
        self._handle.flush()
        table = np.array(self._runs, dtype=np.int64).reshape(-1, BUCKETS + 1)
        np.save(self.folder / "runs.npy", table)

    def _flush(self) -> None:
        if not self._n_pending:
            return
        columns = [np.concatenate(parts) for parts in zip(*self._pending, strict=True)]
        self._pending, self._n_pending = [], 0
        bucket = (columns[0] >> _TOP).astype(np.uint8)
        order = np.argsort(bucket, kind="stable")  # a radix sort for bytes
        begins = np.concatenate([[0], np.cumsum(np.bincount(bucket, minlength=BUCKETS))])
        for column in columns:
            self._handle.write(column.take(order).data)
        self._runs.append(begins.astype(np.int64))


class KeyReader:
    """Reads the rows of some buckets back, in the order they were added."""

    def __init__(self, folder: Path, columns: int) -> None:
        self.folder, self.columns = folder, columns + 1
        self.runs: npt.NDArray[np.int64] = np.load(folder / "runs.npy")
        self._begins = np.concatenate([[0], np.cumsum(self.runs[:, -1])]).astype(np.int64)

    def counts(self) -> npt.NDArray[np.int64]:
        """int64[BUCKETS]: rows of each bucket."""
        counts: npt.NDArray[np.int64] = np.diff(self.runs, axis=1).sum(axis=0)
        return counts

    def read(self, first: int, last: int) -> list[Words]:
        """The columns of buckets first..last-1, each uint64[n]."""
        parts: list[list[Words]] = [[] for _ in range(self.columns)]
        with (self.folder / "keys.bin").open("rb") as handle:
            for run, begin in zip(self.runs, self._begins, strict=False):
                n = int(run[-1])
                for number, part in enumerate(parts):
                    handle.seek(8 * (int(begin) * self.columns + number * n + int(run[first])))
                    part.append(np.fromfile(handle, dtype=np.uint64, count=int(run[last] - run[first])))
        empty = np.empty(0, dtype=np.uint64)
        return [np.concatenate([empty, *part]) for part in parts]


def bucket_groups(
    counts: npt.NDArray[np.int64], first: int, last: int, rows: int | None = None
) -> Iterator[tuple[int, int]]:
    """Ranges [begin, end) of the buckets first..last-1, each of about `rows` rows or one bucket.

    Parameters
    ----------
    counts : int64[BUCKETS], rows of each bucket.
    """
    wanted = rows or GROUP_ROWS
    begin, held = first, 0
    for bucket in range(first, last):
        held += int(counts[bucket])
        if held >= wanted or bucket == last - 1:
            yield begin, bucket + 1
            begin, held = bucket + 1, 0


def bucket_ranges(n_rows: int, rows_per_task: int) -> Sequence[tuple[int, int]]:
    """All buckets cut into even ranges, one per task of about `rows_per_task` rows."""
    tasks = max(1, min(BUCKETS, -(-n_rows // rows_per_task)))
    edges = np.linspace(0, BUCKETS, tasks + 1).round().astype(int).tolist()
    return list(itertools.pairwise(edges))
