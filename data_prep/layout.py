"""Decides where everything will be: addresses of all rows, the cuts between shards, and the split before clusters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from data_prep.draft import Draft, Layout
from data_prep.hashing import hash_words
from data_prep.split import FIRST_HELD_OUT
from data_prep.taxonomy import Taxonomy
from plm_scaling.core.files import writing_atomic

__all__ = ["decide_layout"]

Int = npt.NDArray[np.int64]

_ROWS: Final = 1 << 18


def decide_layout(draft: Draft) -> Layout:
    """Write `layout/offset.u64` and `split/base.u8`, both one value per row, and `layout.json`.

    The offset is that of a row's first copy. The split of a row that is no first occurrence means nothing.
    """
    shards = _Shards(draft.plan.spec.max_shard_bytes)
    n_unique = 0
    with (
        writing_atomic(draft.folder / "layout" / "offset.u64") as offsets,
        writing_atomic(draft.folder / "split" / "base.u8") as splits,
    ):
        for start, stop in _ranges(draft.n_rows):
            records = draft.records(start, stop)
            sizes = records["length"].astype(np.int64) + 1
            first_rows = draft.duplicates.first_rows(start, stop)
            rows = np.arange(start, stop)
            first = first_rows == rows
            n_unique += int(np.count_nonzero(first))
            stored = np.where(first, sizes, 0)
            ends = shards.end + np.cumsum(stored)
            shards.add(rows, stored, ends)
            offsets.write((ends - stored).astype(np.uint64).data)
            splits.write(draft.plan.rule.assign(hash_words(records["digest"].copy()), draft.source_of(rows)).data)
    _point_copies(draft)
    _hold_out_clades(draft)
    layout = Layout(
        shard_rows=(*shards.rows, draft.n_rows), shard_starts=(*shards.starts, shards.end), n_unique=n_unique
    )
    layout.write(draft.folder / "layout.json")
    return layout


def _ranges(n_rows: int) -> Iterator[tuple[int, int]]:
    for start in range(0, n_rows, _ROWS):
        yield start, min(n_rows, start + _ROWS)


class _Shards:
    """Cuts rows into shards of at most `max_bytes` stored tokens."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.end = max_bytes, 0
        self.rows, self.starts = [0], [0]

    def add(self, rows: Int, stored: Int, ends: Int) -> None:
        """The next rows, the tokens stored for each, and where these end."""
        begins = ends - stored
        while ends[-1] > self.starts[-1] + self.max_bytes:
            over = int(np.searchsorted(ends, self.starts[-1] + self.max_bytes, side="right"))
            self.rows.append(int(rows[over]))
            self.starts.append(int(begins[over]))
        self.end = int(ends[-1])


def _point_copies(draft: Draft) -> None:
    """Give every copy the offset of its first occurrence, which comes before it."""
    offsets = np.memmap(draft.folder / "layout" / "offset.u64", dtype=np.uint64, mode="r+")
    for start, stop in _ranges(draft.n_rows):
        copies, firsts = draft.duplicates.between(start, stop)
        if copies.size:
            offsets[copies] = offsets[firsts]
    offsets.flush()


def _hold_out_clades(draft: Draft) -> None:
    """A sequence that any organism of a held-out clade has is held out, with all its copies; files come first."""
    held_out = draft.plan.spec.hold_out_taxa
    if not held_out:
        return
    taxonomy = Taxonomy.read(draft.plan.spec.taxonomy)
    clades = [taxonomy.clade(*ids) for ids in held_out.values()]
    split = np.memmap(draft.folder / "split" / "base.u8", dtype=np.uint8, mode="r+")
    first_number = FIRST_HELD_OUT + draft.plan.n_held_out_files
    for start, stop in _ranges(draft.n_rows):
        taxon = draft.records(start, stop)["taxon"]
        first_rows = draft.duplicates.first_rows(start, stop)
        for number, clade in enumerate(clades, start=first_number):
            found = first_rows[clade.contains(taxon)]
            split[found[split[found] < FIRST_HELD_OUT]] = number
    split.flush()
