"""The values of packing: pieces of documents, packed windows, and their exact totals."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import CorpusError, RecordError
from plm_scaling.core.records import Record
from plm_scaling.corpus.reader import Corpus

__all__ = ["Pieces", "WindowStats", "Windows", "cut"]

Int = npt.NDArray[np.int64]

_ARRAYS: Final = (
    *("tokens", "doc_ptr", "doc_row", "doc_begin", "doc_length", "window_tokens"),
    *("slots", "slot_row"),
)
_BLOCK: Final = 1 << 20


class WindowStats(Record):
    """Exact totals over a set of windows."""

    SCHEMA_VERSION: ClassVar[int] = 1

    context: int
    n_windows: int
    tokens: int
    """Residues and `<eos>`."""
    residues: int
    positions: int
    """Tokens and `<cls>`; padding is never counted."""
    sum_length_squared: int
    """Sum over documents (pieces) of their squared length in positions."""

    @property
    def fill(self) -> float:
        """Share of the windows' positions that hold a document."""
        return self.positions / (self.n_windows * self.context)

    @property
    def tokens_per_window(self) -> float:
        """Mean tokens of a window."""
        return self.tokens / self.n_windows


@dataclass(frozen=True)
class Pieces:
    """Documents cut at the context length, in the order of their rows.

    Attributes
    ----------
    row : int64[n], the record a piece belongs to.
    begin : int64[n], position of its first residue in the sequence; 0 means that it starts with `<cls>`.
    length : int64[n], positions, `<cls>` and `<eos>` included.
    last : bool[n], whether it ends with `<eos>`.
    """

    row: Int
    begin: Int
    length: Int
    last: npt.NDArray[np.bool_]

    @property
    def tokens(self) -> Int:
        """int64[n]: residues and `<eos>`."""
        tokens: Int = self.length - (self.begin == 0)
        return tokens

    @property
    def residues(self) -> Int:
        """int64[n]: residues."""
        return self.tokens - self.last

    def stats(self, context: int, n_windows: int) -> WindowStats:
        """Totals of these pieces, packed into `n_windows` windows."""
        return WindowStats(
            context=context,
            n_windows=n_windows,
            tokens=int(self.tokens.sum()),
            residues=int(self.residues.sum()),
            positions=int(self.length.sum()),
            sum_length_squared=int((self.length**2).sum()),
        )


@dataclass(frozen=True)
class Windows:
    """Packed windows, memory-mapped.

    Attributes
    ----------
    tokens : uint8[n_windows, context], `<pad>` at the end.
    doc_ptr : int64[n_windows + 1], the documents of window w are doc_ptr[w] to doc_ptr[w + 1].
    doc_row : int64[n_docs], record of each document (piece).
    doc_begin : int64[n_docs], position of its first residue in the sequence; 0 means that it starts with `<cls>`.
    doc_length : int32[n_docs], its positions, `<cls>` and `<eos>` included.
    window_tokens : int32[n_windows], tokens (residues and `<eos>`) of each window.
    slots : int32[n_docs + n_windows, 3], the documents of each window and one more for its padding, ready to be
        repeated into a batch: positions, number within the window (-1 for padding), residue of its first position
        (-1 for `<cls>` and padding). The slots of window w begin at doc_ptr[w] + w.
    slot_row : int64[n_docs + n_windows], their records, -1 for padding.
    """

    path: Path
    context: int
    tokens: npt.NDArray[np.uint8]
    doc_ptr: Int
    doc_row: Int
    doc_begin: Int
    doc_length: npt.NDArray[np.int32]
    window_tokens: npt.NDArray[np.int32]
    slots: npt.NDArray[np.int32]
    slot_row: Int
    stats: WindowStats

    @property
    def n_windows(self) -> int:
        """Number of windows."""
        return self.stats.n_windows

    @cached_property
    def doc_window(self) -> Int:
        """int64[n_docs]: the window of each document."""
        return np.repeat(np.arange(self.n_windows), np.diff(self.doc_ptr))

    def pieces(self, corpus: Corpus) -> Pieces:
        """The documents with their token and residue counts."""
        length = self.doc_length.astype(np.int64)
        ends = self.doc_begin + length - (self.doc_begin == 0)
        return Pieces(self.doc_row, self.doc_begin, length, ends > corpus.length[self.doc_row])

    @classmethod
    def load(cls, path: Path) -> Windows:
        """Open packed windows.

        Raises
        ------
        CorpusError : damaged files.
        """
        try:
            stats = WindowStats.read(path / "stats.json")
            arrays = {name: np.asarray(np.load(path / f"{name}.npy", mmap_mode="r")) for name in _ARRAYS}
            complete = arrays["tokens"].shape == (stats.n_windows, stats.context)
        except (OSError, EOFError, ValueError, RecordError) as error:
            raise _damaged(path, str(error)) from None
        if not complete or len(arrays["doc_ptr"]) != stats.n_windows + 1:
            raise _damaged(path, "the arrays do not have the sizes of stats.json")
        return cls(path=path, context=stats.context, stats=stats, **arrays)


def _damaged(path: Path, why: str) -> CorpusError:
    return CorpusError("packed windows that cannot be read", where=str(path), why=why, hint="delete this folder")


def cut(row: Int, residues: Int, context: int) -> Pieces:
    """Cut documents into pieces of at most `context` positions.

    Parameters
    ----------
    row : int64[n], the records.
    residues : int64[n], their lengths in residues.
    context : positions of a window, at least 3.
    """
    positions = residues + 2
    n_pieces = -(-positions // context)
    ends = np.cumsum(n_pieces)
    n = int(ends[-1]) if len(ends) else 0
    numbers = np.empty((3, n), dtype=np.int64)
    out = Pieces(numbers[0], numbers[1], numbers[2], np.zeros(n, dtype=np.bool_))
    out.last[ends - 1] = True
    for first in range(0, len(row), _BLOCK):  # block by block: the temporaries would take more than the pieces
        here = slice(first, first + _BLOCK)
        count = n_pieces[here]
        to = slice(int(ends[first] - count[0]), int(ends[here][-1]))
        place = np.arange(to.start, to.stop) - np.repeat(ends[here] - count, count)
        out.row[to] = np.repeat(row[here], count)
        out.length[to] = np.minimum(context, np.repeat(positions[here], count) - place * context)
        # Position 0 of a document is its <cls>, so position p >= 1 holds residue p - 1.
        out.begin[to] = np.maximum(place * context - 1, 0)
    return out
