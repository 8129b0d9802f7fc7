"""The pieces of documents that a run visits, in the order of training, chunk by chunk, in bounded memory.

The order is that of the global batches: steps; within a batch the streams, within a stream its draws, within a
window its documents. The ranks of a world share each global batch, so the order does not depend on their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from plm_scaling.corpus.batches import Batches
from plm_scaling.corpus.order import BatchOrder, feistel
from plm_scaling.corpus.placement import place
from plm_scaling.corpus.windows import cut

__all__ = ["CHUNK_WINDOWS", "DocTable", "PackedDocs", "Schedule", "VisitChunk", "pack_docs", "ranges", "visit_chunks"]

Int = npt.NDArray[np.int64]

CHUNK_WINDOWS: Final = 1 << 16
"""Windows of a chunk, about 2^18 pieces: large enough for numpy, small enough for the processor's cache."""


class DocTable(Protocol):
    """What the ledger reads of packed windows; see `windows.Windows`."""

    @property
    def doc_ptr(self) -> Int:
        """int64[n_windows + 1]: the documents of window w are doc_ptr[w] to doc_ptr[w + 1]."""

    @property
    def doc_row(self) -> Int:
        """int64[n_docs]: record of each document (piece)."""

    @property
    def doc_begin(self) -> Int:
        """int64[n_docs]: position of its first residue in the sequence."""

    @property
    def doc_length(self) -> npt.NDArray[np.int32]:
        """int32[n_docs]: its positions, `<cls>` and `<eos>` included."""


@dataclass(frozen=True)
class PackedDocs:
    """The documents of packed windows alone; see `windows.Windows`."""

    doc_ptr: Int
    doc_row: Int
    doc_begin: Int
    doc_length: npt.NDArray[np.int32]


def pack_docs(rows: Int, length: Int, context: int) -> PackedDocs:
    """The documents of the windows that `packing.open_windows` would make of these rows.

    Parameters
    ----------
    rows : int64[n], the records.
    length : int64[n], their residues.
    context : positions of a window.
    """
    pieces = cut(rows, length, context)
    window = place(pieces.length, context)
    order = np.argsort(window, kind="stable")
    ptr = np.concatenate([[0], np.cumsum(np.bincount(window))]).astype(np.int64)
    return PackedDocs(ptr, pieces.row[order], pieces.begin[order], pieces.length[order].astype(np.int32))


@dataclass(frozen=True)
class Schedule:
    """Which windows a run draws, and the documents they hold.

    Attributes
    ----------
    order : which windows make which batch.
    docs : (stream, epoch) -> the documents of that epoch's windows.
    """

    order: BatchOrder
    docs: Callable[[int, int], DocTable]

    @classmethod
    def of(cls, batches: Batches) -> Schedule:
        """The schedule of a run. Epochs with windows of their own are laid out in memory, without their tokens."""
        latest: dict[int, tuple[int, DocTable]] = {}

        def docs(stream: int, epoch: int) -> DocTable:
            if batches.order.passes[stream].constant:
                return batches.windows_at(stream, 0)
            if stream not in latest or latest[stream][0] != epoch:
                rows = batches.corpus.epoch_rows(batches.config.streams[stream], epoch)
                latest[stream] = epoch, pack_docs(rows, batches.corpus.length[rows], batches.config.context)
            return latest[stream][1]

        return cls(batches.order, docs)

    @property
    def renewed(self) -> tuple[bool, ...]:
        """Per stream, whether every epoch has windows of its own (cluster sampling)."""
        return tuple(not passes.constant for passes in self.order.passes)

    def spans(self, stream: int, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Draws [begin, end) of a stream as (epoch, first position, number of positions)."""
        passes = self.order.passes[stream]
        while begin < end:
            epoch, position = passes.locate(begin)
            count = min(end - begin, passes.size(epoch) - position)
            yield epoch, position, count
            begin += count

    def windows(self, stream: int, epoch: int, position: int, count: int) -> Int:
        """int64[count]: the windows at positions [position, position + count) of an epoch."""
        size = self.order.passes[stream].size(epoch)
        return feistel(np.arange(position, position + count), size, self.order.key(stream, epoch))


@dataclass(frozen=True)
class VisitChunk:
    """Visits of pieces by consecutive batches, in the order of training; n pieces.

    Attributes
    ----------
    first_step, n_steps : the batches.
    step : int64[n], batch of each piece, less `first_step`.
    stream : int64[n].
    again : bool[n], whether the piece is in a later epoch of a stream whose epochs all hold the same windows.
    row, begin, tokens : int64[n], record, position of the first residue, residues and `<eos>`.
    """

    first_step: int
    n_steps: int
    step: Int
    stream: Int
    again: npt.NDArray[np.bool_]
    row: Int
    begin: Int
    tokens: Int


@dataclass(frozen=True)
class _Part:
    """Draws of one stream that share a table of documents, and their places among all draws of the chunk."""

    stream: int
    docs: DocTable
    windows: Int
    again: npt.NDArray[np.bool_]
    place: Int


def visit_chunks(schedule: Schedule, end: int, *, chunk_windows: int = CHUNK_WINDOWS) -> Iterator[VisitChunk]:
    """All pieces visited by the batches before step `end`."""
    size = schedule.order.windows_per_batch
    stride = max(1, chunk_windows // size)
    for first in range(0, end, stride):
        n_steps = min(stride, end - first)
        yield _chunk(schedule, first, n_steps)


def _chunk(schedule: Schedule, first: int, n_steps: int) -> VisitChunk:
    size = schedule.order.windows_per_batch
    parts = list(_parts(schedule, first, n_steps))
    heads = [part.docs.doc_ptr[part.windows] for part in parts]
    counts = [part.docs.doc_ptr[part.windows + 1] - head for part, head in zip(parts, heads, strict=True)]
    n_docs = np.zeros(n_steps * size, dtype=np.int64)
    for part, count in zip(parts, counts, strict=True):
        n_docs[part.place] = count
    starts = np.cumsum(n_docs) - n_docs
    n = int(n_docs.sum())
    row, begin, tokens, stream = (np.empty(n, dtype=np.int64) for _ in range(4))
    again = np.empty(n, dtype=np.bool_)
    for part, head, count in zip(parts, heads, counts, strict=True):
        at = slice(None) if len(parts) == 1 else ranges(starts[part.place], count)
        row[at], begin[at], tokens[at] = _documents(part.docs, ranges(head, count))
        stream[at], again[at] = part.stream, np.repeat(part.again, count)
    step = np.repeat(np.arange(n_steps), n_docs.reshape(n_steps, size).sum(axis=1))
    return VisitChunk(first, n_steps, step, stream, again, row, begin, tokens)


def _parts(schedule: Schedule, first: int, n_steps: int) -> Iterator[_Part]:
    table = schedule.order.draws_at(np.arange(first, first + n_steps + 1))
    per_step = np.diff(table, axis=0)
    ahead = np.cumsum(per_step, axis=1) - per_step
    size = schedule.order.windows_per_batch
    for stream, renewed in enumerate(schedule.renewed):
        place = ranges(np.arange(n_steps) * size + ahead[:, stream], per_step[:, stream])
        spans = list(schedule.spans(stream, int(table[0, stream]), int(table[-1, stream])))
        windows = [schedule.windows(stream, *span) for span in spans]
        if renewed:
            done = 0
            for (epoch, _, count), chosen in zip(spans, windows, strict=True):
                again = np.zeros(count, dtype=np.bool_)
                yield _Part(stream, schedule.docs(stream, epoch), chosen, again, place[done : done + count])
                done += count
        elif spans:
            again = np.repeat([epoch > 0 for epoch, _, _ in spans], [count for _, _, count in spans])
            yield _Part(stream, schedule.docs(stream, 0), np.concatenate(windows), again, place)


def _documents(table: DocTable, docs: Int) -> tuple[Int, Int, Int]:
    begin = table.doc_begin[docs]
    return table.doc_row[docs], begin, table.doc_length[docs] - (begin == 0).astype(np.int64)


def ranges(first: Int, count: Int) -> Int:
    """[first[0], first[0] + 1, ..., first[1], ...]: `count` consecutive integers from each `first`."""
    ends = np.cumsum(count)
    out = np.repeat(first - (ends - count), count)
    out += np.arange(len(out))
    return out
