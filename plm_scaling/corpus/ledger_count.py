"""What each batch adds to the ledger: every visit of a piece classified at its time, in one pass over the run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from plm_scaling.core.run import Objective, Stream
from plm_scaling.corpus.ledger_seen import Cover, PieceNumbers, SeenClusters, SeenPieces
from plm_scaling.corpus.ledger_visits import CHUNK_WINDOWS, Schedule, VisitChunk, visit_chunks
from plm_scaling.corpus.reader import Corpus

__all__ = ["CAUSES", "COUNTS", "Cause", "Earlier", "RecordFacts", "StepCounter"]

Int = npt.NDArray[np.int64]

Cause = Literal["repeated_epoch", "repeated_duplicate", "mates_50", "mates_90"]

COUNTS: Final = (
    *("residues", "unique", "repeated_epoch", "repeated_duplicate"),
    *("seen_earlier", "seen_earlier_clm", "seen_earlier_mlm", "mates_50", "mates_90"),
)
"""Columns of the table of steps; `tokens` is the sum of unique, repeated_* and seen_earlier."""

CAUSES: Final[tuple[Cause, ...]] = ("repeated_epoch", "repeated_duplicate", "mates_50", "mates_90")
"""Causes whose first occurrence is noted."""

_EPOCH, _DUPLICATE, _NEW, _MATE50, _MATE90 = range(5)
_N_KINDS: Final = 5
_KINDS_OF: Final[dict[Cause, tuple[int, int]]] = {
    "repeated_epoch": (_EPOCH, _EPOCH),
    "repeated_duplicate": (_DUPLICATE, _DUPLICATE),
    "mates_50": (_MATE50, _MATE90),
    "mates_90": (_MATE90, _MATE90),
}


@dataclass(frozen=True)
class RecordFacts:
    """What the ledger reads of the records.

    Attributes
    ----------
    length : int64[n], residues.
    source : int[n], position of each record's source.
    offset : int64[n], address of the first copy's first token.
    first : bool[n], first occurrences.
    cluster50, cluster90 : int[n], or None without clusters.
    """

    length: Int
    source: npt.NDArray[np.integer]
    offset: Int
    first: npt.NDArray[np.bool_]
    cluster50: npt.NDArray[np.integer] | None = None
    cluster90: npt.NDArray[np.integer] | None = None

    @classmethod
    def of(cls, corpus: Corpus) -> RecordFacts:
        """The facts of a corpus."""
        clusters = (corpus.cluster(50), corpus.cluster(90)) if corpus.manifest.clusters is not None else (None, None)
        return cls(corpus.length, corpus.source, corpus.offset, corpus.first, *clusters)

    def sequence(self, row: Int) -> Int:
        """int64[n]: the record that holds the first copy of each record's sequence."""
        owners, address = self._owners
        out = row.copy()
        copies = np.flatnonzero(~self.first[row])
        out[copies] = owners[np.searchsorted(address, self.offset[row[copies]])]
        return out

    @cached_property
    def _owners(self) -> tuple[Int, Int]:
        """The first occurrences that have copies, and their addresses, by address."""
        copied = np.unique(self.offset[~self.first])
        owners = np.flatnonzero(self.first)
        address = self.offset[owners]
        if not (address[1:] > address[:-1]).all():
            order = np.argsort(address)
            owners, address = owners[order], address[order]
        return owners[np.searchsorted(address, copied)], copied


@dataclass(frozen=True)
class Earlier:
    """The addresses that an earlier run of the lineage visited."""

    objective: Objective
    cover: Cover

    @classmethod
    def of(cls, schedule: Schedule, objective: Objective, facts: RecordFacts, step: int) -> Earlier:
        """What the batches before `step` visited."""
        covers = []
        for chunk in visit_chunks(schedule, step):
            once = ~chunk.again
            covers.append(Cover.of(facts.offset[chunk.row[once]] + chunk.begin[once], chunk.tokens[once]))
        return cls(objective, Cover.union(covers))


@dataclass
class StepCounter:
    """Classifies the visits of a run in their order and adds them up per step and source.

    A visit is new if no stream of the run has visited this piece of this sequence before. One that is not is a
    repeat by epoch if the same stream has visited it through the same record, else by duplicate. All streams of a
    run have one context, so copies are cut at the same places and whole pieces are compared; earlier runs may have
    another context and are compared by address ranges.

    Attributes
    ----------
    columns : of `COUNTS`, those that may differ from zero.
    first_tokens : tokens drawn before the first visit of each cause, for those that occurred.
    tokens : tokens counted so far.
    pieces : visits counted so far.
    """

    schedule: Schedule
    facts: RecordFacts
    streams: Sequence[Stream]
    context: int
    n_sources: int
    earlier: Sequence[Earlier] = ()
    chunk_windows: int = CHUNK_WINDOWS
    first_tokens: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    pieces: int = 0

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Columns of the table of steps."""
        absent: set[str] = set()
        if not self._repeats:
            absent.add("repeated_duplicate")
        if not self.earlier:
            absent |= {"seen_earlier", "seen_earlier_clm", "seen_earlier_mlm"}
        if self.facts.cluster50 is None:
            absent |= {"mates_50", "mates_90"}
        return tuple(name for name in COUNTS if name not in absent)

    @cached_property
    def _copies(self) -> bool:
        return any(stream.duplicates for stream in self.streams)

    @cached_property
    def _repeats(self) -> bool:
        """Whether a piece may come again other than in a later epoch of unchanged windows."""
        return len(self.streams) > 1 or self._copies or any(self.schedule.renewed)

    @cached_property
    def _numbers(self) -> PieceNumbers:
        return PieceNumbers(self.facts.length, self.context)

    @cached_property
    def _seen(self) -> SeenPieces:
        return SeenPieces(self._numbers.size)

    @cached_property
    def _seen_by(self) -> dict[int, SeenPieces]:
        """Per renewed stream what it has seen itself; a lone stream sees all there is."""
        if len(self.streams) == 1:
            return {}
        return {s: SeenPieces(self._numbers.size) for s, renewed in enumerate(self.schedule.renewed) if renewed}

    @cached_property
    def _clusters(self) -> tuple[tuple[int, npt.NDArray[np.integer], SeenClusters], ...]:
        found = []
        for kind, cluster in ((_MATE50, self.facts.cluster50), (_MATE90, self.facts.cluster90)):
            if cluster is not None:
                found.append((kind, cluster, SeenClusters(int(cluster.max()) + 1 if len(cluster) else 0)))
        return tuple(found)

    @cached_property
    def _covers(self) -> dict[str, Cover]:
        """Covers of the earlier runs: of any objective, and of each."""
        covers = {"seen_earlier": Cover.union([run.cover for run in self.earlier])}
        for objective in sorted({run.objective for run in self.earlier}):
            chosen = [run.cover for run in self.earlier if run.objective == objective]
            covers[f"seen_earlier_{objective}"] = Cover.union(chosen)
        return covers

    def count(self, end: int) -> Iterator[npt.NDArray[np.uint32]]:
        """Tables of consecutive steps up to `end`: uint32[steps, sources, len(columns)]. To be consumed once."""
        for chunk in visit_chunks(self.schedule, end, chunk_windows=self.chunk_windows):
            kind = self._classify(chunk)
            known = self._known(chunk, kind)
            self._note_firsts(chunk, kind, known)
            table = self._add_up(chunk, kind, known)
            self.tokens += int(chunk.tokens.sum())
            self.pieces += len(chunk.row)
            yield np.stack([table[name] for name in self.columns], axis=-1).astype(np.uint32)

    def _classify(self, chunk: VisitChunk) -> npt.NDArray[np.uint8]:
        """uint8[n]: the kind of each visit."""
        kind = np.where(chunk.again, np.uint8(_EPOCH), np.uint8(_NEW))
        asked = np.flatnonzero(~chunk.again)
        if not len(asked):
            return kind
        row = chunk.row[asked]
        sequence = self.facts.sequence(row) if self._copies else row
        if self._repeats:
            piece = self._numbers.of(sequence, chunk.begin[asked])
            kind[asked] = self._repeat_kinds(piece, chunk.stream[asked])
            fresh = kind[asked] == _NEW
            asked, row, sequence = asked[fresh], row[fresh], sequence[fresh]
        for mate, cluster, met in self._clusters:
            found = met.visit(cluster[row].astype(np.int64), sequence)
            kind[asked[found]] = mate  # the 90 % clusters, which are parts of the others, come last
        return kind

    def _repeat_kinds(self, piece: Int, stream: Int) -> npt.NDArray[np.uint8]:
        """uint8[n]: new, or seen before in this run, and how. Visits in later epochs of the same windows are not asked.

        Parameters
        ----------
        piece, stream : int64[n], number of each piece, and the stream that brings it.
        """
        known = ~self._seen.visit(piece)
        alone = len(self.streams) == 1 and self.schedule.renewed[0]
        kind = np.where(known, np.uint8(_EPOCH if alone else _DUPLICATE), np.uint8(_NEW))
        for number, seen in self._seen_by.items():
            own = np.flatnonzero(stream == number)
            kind[own[~seen.visit(piece[own])]] = _EPOCH
        return kind

    def _known(self, chunk: VisitChunk, kind: npt.NDArray[np.uint8]) -> dict[str, Int]:
        """int64[n]: tokens of each first visit that earlier runs had seen, by the name of the count."""
        if not self.earlier:
            return {}
        address = self.facts.offset[chunk.row] + chunk.begin
        tokens = chunk.tokens * (kind >= _NEW)
        return {name: cover.overlap(address, tokens) for name, cover in self._covers.items()}

    def _note_firsts(self, chunk: VisitChunk, kind: npt.NDArray[np.uint8], known: dict[str, Int]) -> None:
        """Only unique tokens have mates: of a piece that an earlier run saw in part, the first one it did not see."""
        for cause in set(CAUSES) - set(self.first_tokens):
            low, high = _KINDS_OF[cause]
            here = (kind >= low) & (kind <= high)
            if low > _NEW and known:
                here &= known["seen_earlier"] < chunk.tokens
            if here.any():
                at = int(here.argmax())
                before = self.tokens + int(chunk.tokens[:at].sum())
                if low > _NEW and known:
                    address = int(self.facts.offset[chunk.row[at]] + chunk.begin[at])
                    before += self._covers["seen_earlier"].gap(address)
                self.first_tokens[cause] = before

    def _add_up(self, chunk: VisitChunk, kind: npt.NDArray[np.uint8], known: dict[str, Int]) -> dict[str, Int]:
        """int64[steps, sources] of each count."""
        shape = (chunk.n_steps, self.n_sources)
        cell = chunk.step * self.n_sources + self.facts.source[chunk.row]
        kind_cell = cell * _N_KINDS + kind

        def sums(values: Int) -> Int:
            return _sums(cell, values, shape)

        def sums_by_kind(values: Int) -> Int:
            return _sums(kind_cell, values, (*shape, _N_KINDS))

        has_end = (chunk.begin + chunk.tokens > self.facts.length[chunk.row]).astype(np.int64)
        tokens = sums_by_kind(chunk.tokens)
        out = {
            "residues": tokens.sum(axis=-1) - sums(has_end),
            "repeated_epoch": tokens[..., _EPOCH],
            "repeated_duplicate": tokens[..., _DUPLICATE],
            **dict.fromkeys(("seen_earlier_clm", "seen_earlier_mlm"), np.zeros(shape, dtype=np.int64)),
            **{name: sums(values) for name, values in known.items()},
        }
        if known:
            tokens = tokens - sums_by_kind(known["seen_earlier"])
        out["unique"] = tokens[..., _NEW:].sum(axis=-1)
        out["mates_50"] = tokens[..., _MATE50:].sum(axis=-1)
        out["mates_90"] = tokens[..., _MATE90]
        return out


def _sums(cell: npt.NDArray[np.integer], values: Int, shape: tuple[int, ...]) -> Int:
    """Values added up by cell. Sums of whole numbers below 2^53 are exact in float64."""
    added = np.bincount(cell, weights=values, minlength=math.prod(shape))
    return added.astype(np.int64).reshape(shape)
