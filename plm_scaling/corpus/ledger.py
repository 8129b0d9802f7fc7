"""The ledger: which training tokens were new, repeated, copies, or seen by an earlier run of the lineage. Exact.

Everything follows from the order: how often each window was visited, and when first. Nothing is replayed. A token is
known by its address, which exact copies share. All streams of a run have one context, so copies are cut at the same
places and pieces can be compared whole; runs of a lineage may differ in context and are compared by address ranges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import PlanError
from plm_scaling.core.run import LedgerRow, Objective, RunConfig
from plm_scaling.corpus.batches import Batches
from plm_scaling.corpus.reader import Corpus

__all__ = ["Visits", "ledger", "visits_until"]

Int = npt.NDArray[np.int64]

_COUNTS: Final = (
    *("tokens", "residues", "unique", "repeated_epoch", "repeated_duplicate"),
    *("seen_earlier", "seen_earlier_clm", "seen_earlier_mlm"),
)


@dataclass(frozen=True)
class Visits:
    """The pieces of documents a run has visited at least once.

    Attributes
    ----------
    address : int64[n], of each piece's first token; equal for copies.
    tokens, residues : int64[n], in the piece.
    source : int64[n], position of its record's source.
    count : int64[n], visits so far.
    time : int64[n], when its window was first visited, in windows of the run.
    """

    address: Int
    tokens: Int
    residues: Int
    source: Int
    count: Int
    time: Int


def visits_until(corpus: Corpus, config: RunConfig, step: int) -> Visits:
    """The pieces visited by the batches before `step`, over all streams."""
    batches = Batches(corpus, config)
    draws = batches.order.draws(step)
    columns: list[list[Int]] = [[] for _ in range(6)]
    for number, windows in enumerate(batches.windows):
        count = batches.order.visits(number, draws[number])[windows.doc_window]
        time = batches.order.first_times(number, step)[windows.doc_window]
        pieces = windows.pieces(corpus)
        address = corpus.offset[pieces.row] + pieces.begin
        source = corpus.source[pieces.row].astype(np.int64)
        seen = count > 0
        values = (address, pieces.tokens, pieces.residues, source, count, time)
        for column, value in zip(columns, values, strict=True):
            column.append(value[seen])
    return Visits(*(np.concatenate(column) for column in columns))


@dataclass(frozen=True)
class _Cover:
    """A union of address ranges: sorted, disjoint [begin, end), with the covered length before each."""

    begin: Int
    end: Int
    before: Int

    @classmethod
    def of(cls, address: Int, size: Int) -> _Cover:
        order = np.argsort(address, kind="stable")
        begin = address[order]
        reach = np.maximum.accumulate(begin + size[order]) if len(begin) else begin
        opens = np.concatenate([np.ones(len(begin[:1]), dtype=np.bool_), begin[1:] > reach[:-1]])
        starts = np.flatnonzero(opens)
        ends = reach[np.append(starts[1:] - 1, len(begin) - 1)] if len(starts) else begin
        lengths = ends - begin[starts]
        return cls(begin[starts], ends, np.cumsum(lengths) - lengths)

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


def ledger(corpus: Corpus, phases: Sequence[tuple[RunConfig, int]]) -> tuple[LedgerRow, ...]:
    """The ledger of a run at a step, given the runs it descends from.

    A visit of a token is its first in this run or a later one. A first visit is `unique`, or `seen_earlier` if an
    earlier phase visited the token. A later one is `repeated_epoch` if this stream has visited this record's token
    before, else `repeated_duplicate`: another record (an exact copy) or another stream brought the token first.
    Each visit counts for the source of its record.

    Parameters
    ----------
    phases : (config, step) of each run of the lineage, oldest first; the last is the run itself. `step` is the
        number of batches trained on.

    Returns
    -------
    rows : one per source that gave tokens, in the manifest's order, then "*" for all.

    Raises
    ------
    PlanError : no phase, or a negative step.
    CorpusError : a phase was trained on another corpus.
    """
    if not phases or min(step for _, step in phases) < 0:
        raise PlanError("a ledger needs at least one run, and steps that are not negative")
    (config, step), earlier = phases[-1], phases[:-1]
    seen = visits_until(corpus, config, step)
    fresh = _first_of_address(seen)
    past = [(old.objective, visits_until(corpus, old, at)) for old, at in earlier]
    before_any = _overlap_with(past, ("clm", "mlm"), seen) * fresh
    values: dict[str, Int] = {
        "tokens": seen.count * seen.tokens,
        "residues": seen.count * seen.residues,
        "unique": fresh * seen.tokens - before_any,
        "repeated_epoch": (seen.count - 1) * seen.tokens,
        "repeated_duplicate": ~fresh * seen.tokens,
        "seen_earlier": before_any,
        "seen_earlier_clm": _overlap_with(past, ("clm",), seen) * fresh,
        "seen_earlier_mlm": _overlap_with(past, ("mlm",), seen) * fresh,
    }
    return _rows(corpus, seen.source, values)


def _first_of_address(seen: Visits) -> npt.NDArray[np.bool_]:
    """bool[n]: whether a piece was the first of its address in this run.

    Copies packed into one window are visited in the window's order, which the stable sort keeps.
    """
    order = np.lexsort((seen.time, seen.address))
    address = seen.address[order]
    first = np.ones(len(order), dtype=np.bool_)
    first[1:] = address[1:] != address[:-1]
    out = np.empty(len(order), dtype=np.bool_)
    out[order] = first
    return out


def _overlap_with(past: Sequence[tuple[Objective, Visits]], objectives: Sequence[str], seen: Visits) -> Int:
    """int64[n]: tokens of each piece that earlier phases of these objectives visited."""
    chosen = [visits for objective, visits in past if objective in objectives]
    empty = np.zeros(0, dtype=np.int64)
    cover = _Cover.of(
        np.concatenate([empty, *(visits.address for visits in chosen)]),
        np.concatenate([empty, *(visits.tokens for visits in chosen)]),
    )
    return cover.overlap(seen.address, seen.tokens)


def _rows(corpus: Corpus, source: Int, values: dict[str, Int]) -> tuple[LedgerRow, ...]:
    rows = []
    for number, entry in enumerate(corpus.manifest.sources):
        here = source == number
        if here.any():
            rows.append(LedgerRow(source=entry.name, **{name: int(values[name][here].sum()) for name in _COUNTS}))
    rows.append(LedgerRow(source="*", **{name: int(values[name].sum()) for name in _COUNTS}))
    return tuple(rows)
