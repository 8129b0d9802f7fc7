"""What a run has seen so far: pieces, clusters, and address ranges of earlier runs. All updates are by chunk, exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["Cover", "PieceNumbers", "SeenClusters", "SeenPieces"]

Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

_PLACE_BITS: Final = 24
_MANY: Final = np.uint32(0xFFFFFFFF)


def _by_value(values: Int) -> tuple[Int, Int, Bool]:
    """Stable sort of non-negative integers: places, sorted values, and where a new value begins.

    Value and place share one 64-bit key, which sorts several times faster than an argsort.
    """
    if len(values) >= 1 << _PLACE_BITS or int(values.max(initial=0)) >= 1 << (63 - _PLACE_BITS):
        place = np.argsort(values, kind="stable")
        ordered = values[place]
    else:
        key = values << _PLACE_BITS
        key |= np.arange(len(values))
        key.sort()
        place = key & ((1 << _PLACE_BITS) - 1)
        ordered = key >> _PLACE_BITS
    new = np.ones(len(ordered), dtype=np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return place, ordered, new


class SeenPieces:
    """A set of pieces by number, one byte each (pages never touched cost nothing).

    Parameters
    ----------
    size : numbers are in [0, size).
    """

    def __init__(self, size: int) -> None:
        self._seen = np.zeros(size, dtype=np.bool_)

    def visit(self, pieces: Int) -> Bool:
        """bool[n]: whether each visit, in this order, is the first of its piece; the pieces are seen from now on."""
        place, ordered, new = _by_value(pieces)
        first = np.zeros(len(pieces), dtype=np.bool_)
        first[place[new]] = ~self._seen[ordered[new]]
        self._seen[ordered[new]] = True
        return first


class SeenClusters:
    """The clusters met so far, and of each whether one sequence or more was met: four bytes per cluster.

    Parameters
    ----------
    size : clusters are numbered [0, size).
    """

    def __init__(self, size: int) -> None:
        self._met = np.zeros(size, dtype=np.uint32)  # 0 nobody, _MANY several sequences, else one sequence + 1

    def visit(self, cluster: Int, sequence: Int) -> Bool:
        """bool[n]: whether another sequence of the same cluster came before each visit, in this order.

        Parameters
        ----------
        cluster, sequence : int64[n], sequences numbered below 2^32 - 2.
        """
        place, ordered, new = _by_value(cluster)
        group = np.cumsum(new) - 1
        heads = np.flatnonzero(new)
        name = (sequence[place] + 1).astype(np.uint32)
        before = self._met[ordered[heads]]
        earliest = np.where(before == 0, name[heads], before)
        # A visit has a mate before it if it differs from the earliest sequence, or if an earlier visit did.
        other = name != earliest[group]
        others = np.cumsum(other)
        others -= (others[heads] - other[heads])[group]
        mates = np.empty(len(cluster), dtype=np.bool_)
        mates[place] = others > 0
        several = others[np.append(heads[1:], len(group)) - 1] > 0 if len(heads) else heads > 0
        self._met[ordered[heads]] = np.where(several, _MANY, earliest)
        return mates


class PieceNumbers:
    """A number for every piece of every sequence: the sequence's for its first piece, further ones after those.

    Parameters
    ----------
    length : int64[n], residues of each sequence.
    context : positions of a window.
    """

    def __init__(self, length: Int, context: int) -> None:
        self._context = context
        self._long = np.flatnonzero(length > context - 2)
        extra = -(-(length[self._long] + 2) // context) - 1
        ends = np.cumsum(extra)
        self._base = len(length) + ends - extra - 1
        self.size = len(length) + int(ends[-1] if len(ends) else 0)

    def of(self, sequence: Int, begin: Int) -> Int:
        """int64[n]: numbers of the pieces of `sequence` that begin at residue `begin`."""
        out = sequence.copy()
        later = np.flatnonzero(begin)
        if len(later):
            # A later piece begins at position number x context, which holds the residue before.
            number = (begin[later] + 1) // self._context
            out[later] = self._base[np.searchsorted(self._long, sequence[later])] + number
        return out


@dataclass(frozen=True)
class Cover:
    """A union of address ranges: sorted, disjoint [begin, end), with the covered length before each."""

    begin: Int
    end: Int
    before: Int

    @classmethod
    def of(cls, address: Int, size: Int) -> Cover:
        """The union of [address, address + size), each int64[n]."""
        order = np.argsort(address, kind="stable")
        begin = address[order]
        reach = np.maximum.accumulate(begin + size[order]) if len(begin) else begin
        opens = np.ones(len(begin), dtype=np.bool_)
        np.greater(begin[1:], reach[:-1], out=opens[1:])
        starts = np.flatnonzero(opens)
        ends = reach[np.append(starts[1:] - 1, len(begin) - 1)] if len(starts) else begin
        lengths = ends - begin[starts]
        return cls(begin[starts], ends, np.cumsum(lengths) - lengths)

    @classmethod
    def union(cls, covers: list[Cover]) -> Cover:
        """The union of several covers."""
        empty = np.zeros(0, dtype=np.int64)
        begin = np.concatenate([empty, *(cover.begin for cover in covers)])
        end = np.concatenate([empty, *(cover.end for cover in covers)])
        return cls.of(begin, end - begin)

    def until(self, x: Int) -> Int:
        """Covered addresses below each of `x`."""
        if not len(self.begin):
            return np.zeros(len(x), dtype=np.int64)
        at = np.searchsorted(self.begin, x, side="right") - 1
        inside = np.minimum(x, self.end[at]) - self.begin[at]
        return np.where(at < 0, 0, self.before[at] + inside)

    def overlap(self, address: Int, size: Int) -> Int:
        """Covered addresses within each span."""
        return self.until(address + size) - self.until(address)

    def gap(self, address: int) -> int:
        """Covered addresses from `address` on, up to the first that is not."""
        at = int(np.searchsorted(self.begin, address, side="right")) - 1
        return max(0, int(self.end[at]) - address) if at >= 0 else 0
