"""Exact de-duplication out of core: rows with equal 128-bit hashes, found range by range of the hash's top byte."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from data_prep.keys import KeyReader, bucket_groups

__all__ = ["Duplicates", "count_shared_names", "find_copies", "write_pairs"]

Words = npt.NDArray[np.uint64]
Int = npt.NDArray[np.int64]

_ROW_BITS: Final = np.uint64(40)
"""Rows below 10^12; the rows looked at together have fewer than 2^24 keys in common."""


def find_copies(readers: Sequence[KeyReader], first_rows: Int, first: int, last: int) -> Iterator[Int]:
    """Rows that repeat an earlier row's hash, with the earliest such row: int64[k, 2] per group of buckets.

    Parameters
    ----------
    readers : keys of each part: high word, low word, row within the part.
    first_rows : int64[parts], row of each part's first record; rows count up in the order of priority.
    first, last : the buckets looked at.
    """
    counts = np.sum([reader.counts() for reader in readers], axis=0)
    for group in bucket_groups(counts, first, last):
        high, low, row = _joined(readers, group, first_rows)
        order, new = _grouped(high, low, row)
        copies = np.flatnonzero(~new)
        if copies.size:
            firsts = np.flatnonzero(new)
            owner = firsts[np.searchsorted(firsts, copies) - 1]
            yield np.stack([row[order[copies]], row[order[owner]]], axis=1).astype(np.int64)


def _joined(readers: Sequence[KeyReader], group: tuple[int, int], first_rows: Int) -> list[Words]:
    """Columns of some buckets over all parts; the last one becomes the row over all parts."""
    columns = [reader.read(*group) for reader in readers]
    for part, base in zip(columns, first_rows.tolist(), strict=True):
        part[-1] += np.uint64(base)
    return [np.concatenate(parts) for parts in zip(*columns, strict=True)]


def _grouped(high: Words, low: Words, row: Words) -> tuple[Int, npt.NDArray[np.bool_]]:
    """An order in which equal (high, low) follow each other by row, of the keys that share their high word.

    Only those are looked at again: the first sort is on one word, unstable and fast. Returns the order int64[k] and
    whether each begins a group, bool[k].
    """
    order = np.argsort(high)
    keys = high[order]
    same = keys[1:] == keys[:-1]
    places = np.flatnonzero(np.append(same, False) | np.append(False, same))
    tied, keys = order[places], keys[places]
    new = np.ones(len(tied), dtype=np.bool_)
    new[1:] = keys[1:] != keys[:-1]
    # The number of the group above, the row below: one word to sort instead of three.
    group = np.cumsum(new).astype(np.uint64)
    tied = tied[np.argsort((group << _ROW_BITS) | row[tied])]
    lows = low[tied]
    new[1:] |= lows[1:] != lows[:-1]
    if np.count_nonzero(new) > (int(group[-1]) if len(group) else 0):
        # Two hashes that share 64 of their 128 bits: never seen but in tests.
        tied = tied[np.lexsort((row[tied], low[tied], high[tied]))]
        new[1:] = (high[tied[1:]] != high[tied[:-1]]) | (low[tied[1:]] != low[tied[:-1]])
    return tied, new


def write_pairs(pairs: Iterator[Int], path: Path) -> int:
    """Write (row, first row) pairs sorted by row as flat int64; returns how many."""
    found = list(pairs)
    table = np.concatenate(found) if found else np.empty((0, 2), dtype=np.int64)
    table[np.argsort(table[:, 0])].tofile(path)
    return len(table)


@dataclass(frozen=True)
class Duplicates:
    """All copies, in files of (row, first row) pairs that are each sorted by row."""

    paths: tuple[Path, ...]

    def between(self, start: int, stop: int) -> tuple[Int, Int]:
        """The copies among rows start..stop-1 in row order, and the first occurrence of each, both int64[k]."""
        parts = [_between(path, start, stop) for path in self.paths]
        pairs = np.concatenate([np.empty((0, 2), dtype=np.int64), *parts])
        pairs = pairs[np.argsort(pairs[:, 0])]
        return pairs[:, 0], pairs[:, 1]

    def first_rows(self, start: int, stop: int) -> Int:
        """int64[stop - start]: the first occurrence of each row's sequence, the row itself where it is that."""
        rows = np.arange(start, stop)
        copies, firsts = self.between(start, stop)
        rows[copies - start] = firsts
        return rows


def _between(path: Path, start: int, stop: int) -> Int:
    """Pairs with start <= row < stop. The map is dropped at once: mapped pages count as memory."""
    if not path.stat().st_size:
        return np.empty((0, 2), dtype=np.int64)
    pairs = np.memmap(path, dtype=np.int64, mode="r").reshape(-1, 2)
    begin, end = np.searchsorted(pairs[:, 0], [start, stop])
    return np.array(pairs[begin:end])


def count_shared_names(readers: Sequence[KeyReader], first: int, last: int) -> int:
    """How many sequences of a source go by a name that another of its sequences already has.

    A name with k different sequences counts k - 1; exact copies under one name count nothing.

    Parameters
    ----------
    readers : keys of the source's parts: name hash, low word of the sequence's hash, row.
    first, last : the buckets looked at.
    """
    counts = np.sum([reader.counts() for reader in readers], axis=0)
    shared = 0
    for group in bucket_groups(counts, first, last):
        name, low, row = _joined(readers, group, np.zeros(len(readers), dtype=np.int64))
        order, new = _grouped(name, low, row)
        name = name[order]
        shared += int(np.count_nonzero((name[1:] == name[:-1]) & new[1:]))
    return shared
