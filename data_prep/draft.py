"""A corpus between its stages: what is on disk in the work folder, seen as rows counted over all parts in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_prep.dedup import Duplicates
from data_prep.parts import RECORD, PartReader, part_folder, stretches
from data_prep.plan import PrepPlan
from plm_scaling.core.records import Record

__all__ = ["PLAN_NAME", "Draft", "Layout", "Sequences"]

Int = npt.NDArray[np.int64]

PLAN_NAME: Final = "plan.json"
_PIECE_TOKENS: Final = 1 << 22
_ROWS: Final = 1 << 18


class Layout(Record):
    """Where everything will be in the corpus."""

    shard_rows: tuple[int, ...]
    """First row of each shard, and the number of rows: a shard holds the first occurrences among its rows."""
    shard_starts: tuple[int, ...]
    """Address of each shard's first token, and the number of tokens."""
    n_unique: int


@dataclass(frozen=True)
class Sequences:
    """Some sequences laid end to end.

    Attributes
    ----------
    rows : int64[k].
    tokens : uint8[sum(sizes)], `<eos>` after each.
    sizes : int64[k], tokens of each.
    """

    rows: Int
    tokens: npt.NDArray[np.uint8]
    sizes: Int


class Draft:
    """The work folder of a preparation.

    Attributes
    ----------
    folder : the work folder.
    plan : what is being done.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan = PrepPlan.read(folder / PLAN_NAME)

    @cached_property
    def parts(self) -> tuple[PartReader, ...]:
        """The parts, once all of them are there."""
        return tuple(PartReader(part_folder(self.folder, number)) for number in range(len(self.plan.parts)))

    @cached_property
    def first_rows(self) -> Int:
        """int64[parts + 1]: the first row of each part, and the number of rows."""
        return np.cumsum([0, *(part.counts.rows for part in self.parts)], dtype=np.int64)

    @property
    def n_rows(self) -> int:
        """Records, copies included."""
        return int(self.first_rows[-1])

    @cached_property
    def layout(self) -> Layout:
        """The layout, once it is decided."""
        return Layout.read(self.folder / "layout.json")

    @property
    def n_unique(self) -> int:
        """First occurrences."""
        return self.layout.n_unique

    @cached_property
    def duplicates(self) -> Duplicates:
        """Which rows repeat which, once they are found."""
        return Duplicates(tuple(sorted((self.folder / "dedup").glob("*.i64"))))

    def records(self, start: int, stop: int) -> npt.NDArray[np.void]:
        """RECORD[stop - start]."""
        parts = [self.parts[part].records(*span) for part, *span in stretches(self.first_rows, start, stop)]
        return np.concatenate([np.empty(0, dtype=RECORD), *parts])

    def names(self, start: int, stop: int) -> pa.Table:
        """Columns accession and rep_id of rows start..stop-1."""
        return pa.concat_tables(
            [self.parts[part].names(*span) for part, *span in stretches(self.first_rows, start, stop)]
        )

    def first(self, start: int, stop: int) -> npt.NDArray[np.bool_]:
        """bool[stop - start]: which rows are first occurrences."""
        first = np.ones(stop - start, dtype=np.bool_)
        first[self.duplicates.between(start, stop)[0] - start] = False
        return first

    def source_of(self, rows: Int) -> Int:
        """int64[n]: position of each row's source."""
        sources = np.array([part.source for part in self.plan.parts])
        found: Int = sources[np.searchsorted(self.first_rows, rows, side="right") - 1]
        return found

    def first_sequences(
        self, start: int = 0, stop: int | None = None, max_tokens: int = _PIECE_TOKENS
    ) -> Iterator[Sequences]:
        """The first occurrences among rows start..stop-1 in row order, in pieces of about `max_tokens` tokens."""
        end = self.n_rows if stop is None else stop
        for part, begin, last in stretches(self.first_rows, start, end):
            base = int(self.first_rows[part])
            reader = self.parts[part]
            address = reader.address(begin)
            for low in range(begin, last, _ROWS):
                high = min(low + _ROWS, last)
                sizes = reader.records(low, high)["length"].astype(np.int64) + 1
                rows, keep = np.arange(base + low, base + high), self.first(base + low, base + high)
                for piece in np.split(np.arange(high - low), _cuts(sizes, max_tokens)):
                    count = int(sizes[piece].sum())
                    yield _kept(rows[piece], reader.tokens(address, count), sizes[piece], keep[piece])
                    address += count

    def column(self, name: str) -> npt.NDArray[Any]:
        """A file of one value per row, mapped: `cluster/c50.u32`, `split/split.u8` and the like."""
        dtype = {"u8": np.uint8, "u32": np.uint32, "u64": np.uint64}[name.rpartition(".")[2]]
        return np.memmap(self.folder / name, dtype=dtype, mode="r")


def _cuts(sizes: Int, max_tokens: int) -> Int:
    """Where to cut so that no piece holds much more than `max_tokens` (one longer sequence is a piece)."""
    return np.flatnonzero(np.diff(np.cumsum(sizes) // max_tokens)) + 1


def _kept(rows: Int, tokens: npt.NDArray[np.uint8], sizes: Int, keep: npt.NDArray[np.bool_]) -> Sequences:
    if keep.all():
        return Sequences(rows, tokens, sizes)
    # Copies are few: whole stretches between them are taken, not single tokens.
    ends = np.cumsum(sizes)
    edges = np.flatnonzero(np.diff(keep.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    begins, stops = (ends - sizes)[edges[:, 0]].tolist(), ends[edges[:, 1] - 1].tolist()
    kept = [tokens[begin:stop] for begin, stop in zip(begins, stops, strict=True)]
    return Sequences(rows[keep], np.concatenate([tokens[:0], *kept]), sizes[keep])
