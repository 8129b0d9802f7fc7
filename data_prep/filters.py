"""Flags of records (fragments, low complexity, ...), and which records a preparation leaves out.

Flags cost a few array passes per block and nothing per record; by default all are computed and nothing is dropped, so
that a study can still choose: `Stream.exclude` leaves flagged sequences out of a run, and a sweep can vary it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Final

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field

from data_prep.taxonomy import LARGEST_ID, VIRUSES, Clade, Taxonomy
from plm_scaling.core.alphabet import SYMBOLS
from plm_scaling.core.errors import did_you_mean
from plm_scaling.core.records import Record
from plm_scaling.corpus.format import FLAGS, RecordCount

if TYPE_CHECKING:
    from data_prep.fasta import RecordBlock
    from data_prep.headers import Fields

__all__ = [
    "EXCLUDED_TAXON",
    "LAGS",
    "NOT_INCLUDED_TAXON",
    "BlockFilter",
    "FilterSpec",
    "flag_block",
    "repeated_residues",
]

Bools = npt.NDArray[np.bool_]
Int = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.uint8]

EXCLUDED_TAXON: Final = "excluded_taxon"
NOT_INCLUDED_TAXON: Final = "not_included_taxon"

LAGS: Final = 3
"""A residue counts as repeated if it equals one of so many residues before it."""
_USUAL_SHARE: Final = 0.19
"""Share of repeated residues in the median protein of 117,659 of 30 proteomes and curated sets."""
_PIECE: Final = 1 << 17
"""Tokens compared at a time: few calls, and what they compare stays in the cache."""
_X: Final = SYMBOLS.index("X")


def _in_order(names: tuple[str, ...]) -> tuple[str, ...]:
    """The flags in the order of FLAGS, so that equal choices are equal values."""
    for name in names:
        if name not in FLAGS:
            raise ValueError(f"no flag is called {name!r}; {did_you_mean(name, FLAGS)}")
    return tuple(name for name in FLAGS if name in names)


def _sorted_ids(ids: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(set(ids)))


_Flags = Annotated[tuple[str, ...], AfterValidator(_in_order)]
_Taxa = Annotated[tuple[Annotated[int, Field(gt=0, le=LARGEST_ID)], ...], AfterValidator(_sorted_ids)]


class FilterSpec(Record):
    """What is flagged, from which thresholds on, and what is dropped."""

    flags: _Flags = FLAGS
    """Flags to compute; a flag of `drop` is computed anyhow."""
    drop: _Flags = ()
    """Flags whose records are left out of the corpus."""
    min_length: int = Field(default=30, ge=0)
    """Residues; what has fewer is `short`."""
    max_length: int = Field(default=2048, gt=0)
    """Residues; what has more is `long`."""
    max_x_share: float = Field(default=0.05, ge=0, le=1)
    """A record with a larger share of X (unknown) is `many_x`."""
    max_repeated_share: float = Field(default=1 / 3, ge=0, le=1)
    """A record with a larger share of repeated residues is `low_complexity` (see `repeated_residues`)."""
    weak_evidence: int = Field(default=4, ge=1, le=5)
    """UniProt's protein existence level from which on a record is `weak_evidence`: 4 predicted, 5 uncertain."""
    include_taxa: _Taxa = ()
    """If any, only records of these clades stay; without a taxonomy an id stands for itself only."""
    exclude_taxa: _Taxa = ()
    """Records of these clades are dropped."""

    @property
    def computed(self) -> frozenset[str]:
        """The flags that are computed."""
        return frozenset((*self.flags, *self.drop))


def flag_block(
    block: RecordBlock, fields: Fields, spec: FilterSpec, viruses: Clade | None = None
) -> npt.NDArray[np.uint32]:
    """uint32[n]: bit i says that the record has flag FLAGS[i].

    Parameters
    ----------
    block : the records.
    fields : what their headers say.
    viruses : clade of the viruses; a record whose header names no taxon, or all of them without it, is judged by the
        name of its organism.
    """
    lengths, wanted = block.lengths, spec.computed
    tests: dict[str, Callable[[], Bools]] = {
        "fragment": lambda: fields.fragment,
        "low_complexity": lambda: _is_simple(block.tokens, lengths, spec.max_repeated_share),
        "many_x": lambda: _count_x(block.tokens, lengths) > spec.max_x_share * lengths,
        "short": lambda: lengths < spec.min_length,
        "long": lambda: lengths > spec.max_length,
        "weak_evidence": lambda: fields.evidence >= spec.weak_evidence,
        "viral": lambda: _is_viral(fields, viruses),
    }
    flags = np.zeros(len(lengths), dtype=np.uint32)
    for bit, name in enumerate(FLAGS):
        if name in wanted:
            flags |= tests[name]().astype(np.uint32) << np.uint32(bit)
    return flags


def _is_viral(fields: Fields, viruses: Clade | None) -> Bools:
    named: Bools = fields.viral
    return named if viruses is None else np.where(fields.taxon > 0, viruses.contains(fields.taxon), named)


def _is_simple(tokens: Tokens, lengths: Int, max_share: float) -> Bools:
    """Whether more residues repeat than the share allows, and than chance explains in so short a sequence (3 s.d.)."""
    n = np.maximum(lengths - LAGS, 1)
    noise = 3.0 * np.sqrt(_USUAL_SHARE * (1 - _USUAL_SHARE) / n)
    return repeated_residues(tokens, lengths) > n * np.maximum(max_share, _USUAL_SHARE + noise)


def repeated_residues(tokens: Tokens, lengths: Int) -> Int:
    """int64[n]: residues that equal one of the three before them; the first three of a record are not asked.

    A cheap stand-in for low complexity: two residues within a stretch of four are equal with the probability
    sum p^2, so the share rises as the local entropy falls. It is .19 in the median protein, .33 or more in 1 %, and
    about 1 in a run of one or two letters. Of 973 real proteins whose share exceeds a third, 96 % have at least 30 %
    of their residues in SEG's segments and 71 % at least half (8 % of all residues lie in such segments). Tandem
    repeats of longer units, which tantan masks, it does not see.

    **Source:** compared with segments after Wootton & Federhen 1993 (windows of 12, 2.2 and 2.5 bits).

    Parameters
    ----------
    tokens : uint8[sum(lengths) + n], token ids with `<eos>` after each record.
    lengths : int64[n], residues of each record.
    """
    words = _repeat_bits(tokens)
    before = np.zeros(len(words) + 1, dtype=np.int64)
    np.cumsum(np.bitwise_count(words), out=before[1:])
    stops = np.cumsum(lengths + 1) - 1
    places = np.concatenate([np.minimum(stops - lengths + LAGS, stops), stops])
    word, bit = places >> 6, (places & 63).astype(np.uint64)
    below = words[word] & ((np.uint64(1) << bit) - np.uint64(1))
    first, last = np.split(before[word] + np.bitwise_count(below), 2)
    return np.asarray(last - first)


def _repeat_bits(tokens: Tokens) -> npt.NDArray[np.uint64]:
    """A bit per token: whether it equals one of the three before. Bits are counted 64 at a time, bytes are not."""
    packed = np.zeros((len(tokens) // 64 + 1) * 8, dtype=np.uint8)
    equal, other = np.empty(_PIECE, dtype=np.bool_), np.empty(_PIECE, dtype=np.bool_)
    padded = np.concatenate([np.zeros(LAGS, dtype=np.uint8), tokens[:_PIECE]])
    for begin in range(0, len(tokens), _PIECE):
        size = min(_PIECE, len(tokens) - begin)
        source, at = (tokens, begin) if begin else (padded, LAGS)
        here = source[at : at + size]
        np.equal(here, source[at - 1 : at - 1 + size], out=equal[:size])
        for lag in range(2, LAGS + 1):
            np.equal(here, source[at - lag : at - lag + size], out=other[:size])
            np.logical_or(equal[:size], other[:size], out=equal[:size])
        bits = np.packbits(equal[:size], bitorder="little")
        packed[begin // 8 : begin // 8 + len(bits)] = bits
    return packed.view("<u8")


def _count_x(tokens: Tokens, lengths: Int) -> Int:
    """int64[n]: residues X of each record; they are rare."""
    is_x, found = np.empty(_PIECE, dtype=np.bool_), []
    for begin in range(0, len(tokens), _PIECE):
        piece = tokens[begin : begin + _PIECE]
        here = np.equal(piece, _X, out=is_x[: len(piece)])
        if here.any():
            found.append(begin + np.flatnonzero(here))
    if not found:
        return np.zeros(len(lengths), dtype=np.int64)
    record = np.searchsorted(np.cumsum(lengths + 1), np.concatenate(found), side="right")
    return np.bincount(record, minlength=len(lengths))


@dataclass
class BlockFilter:
    """Judges one block after another, and counts.

    Parameters
    ----------
    spec : the filters.
    taxonomy : path of NCBI's taxonomy (`Taxonomy.read`); empty: a taxon id stands for itself only.

    Attributes
    ----------
    flagged : int64[len(FLAGS), 2], records kept and their tokens, by flag.
    dropped : records dropped, by the first reason that applied: taxa first, then the flags in their order.

    Raises
    ------
    CorpusError : a taxonomy that cannot be read.
    ConfigError : a taxon that it does not have.
    """

    spec: FilterSpec
    taxonomy: str = ""
    flagged: Int = field(default_factory=lambda: np.zeros((len(FLAGS), 2), dtype=np.int64), init=False)
    dropped: dict[str, RecordCount] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        tree = _open_taxonomy(self.taxonomy) if self.taxonomy else None
        self._viruses = tree.clade(VIRUSES) if tree and "viral" in self.spec.computed else None
        self._included, self._excluded = (
            _clade_of(ids, tree) if ids else None for ids in (self.spec.include_taxa, self.spec.exclude_taxa)
        )

    def judge(self, block: RecordBlock, fields: Fields) -> tuple[npt.NDArray[np.uint32], Bools]:
        """uint32[n] flags, and bool[n]: which records stay."""
        flags = flag_block(block, fields, self.spec, self._viruses)
        tokens = block.lengths + 1
        keep = np.ones(len(flags), dtype=np.bool_)
        for reason, applies in self._reasons(flags, fields):
            gone = keep & applies
            if gone.any():
                self._count_dropped(reason, int(np.count_nonzero(gone)), int(tokens[gone].sum()))
                keep &= ~gone
        kept = np.where(keep, flags, np.uint32(0))
        for bit in np.flatnonzero([np.bitwise_or.reduce(kept) >> i & 1 for i in range(len(FLAGS))]):
            chosen = _has(kept, int(bit))
            self.flagged[bit] += np.count_nonzero(chosen), tokens[chosen].sum()
        return flags, keep

    def _reasons(self, flags: npt.NDArray[np.uint32], fields: Fields) -> list[tuple[str, Bools]]:
        """Why records may go, in the order in which the reasons count."""
        found = []
        if self._excluded is not None:
            found.append((EXCLUDED_TAXON, self._excluded.contains(fields.taxon)))
        if self._included is not None:
            found.append((NOT_INCLUDED_TAXON, ~self._included.contains(fields.taxon)))
        return found + [(name, _has(flags, FLAGS.index(name))) for name in self.spec.drop]

    def _count_dropped(self, reason: str, sequences: int, tokens: int) -> None:
        so_far = self.dropped.get(reason, RecordCount(sequences=0, tokens=0))
        self.dropped[reason] = RecordCount(sequences=so_far.sequences + sequences, tokens=so_far.tokens + tokens)


def _has(flags: npt.NDArray[np.uint32], bit: int) -> Bools:
    chosen: Bools = (flags >> np.uint32(bit)) & np.uint32(1) > 0
    return chosen


def _clade_of(ids: tuple[int, ...], tree: Taxonomy | None) -> Clade:
    """The clades of some ids, or without a taxonomy the ids themselves."""
    if tree is not None:
        return tree.clade(*ids)
    member = np.zeros(max(ids) + 2, dtype=np.bool_)
    member[list(ids)] = True
    return Clade(member)


@lru_cache(maxsize=2)
def _open_taxonomy(path: str) -> Taxonomy:
    """A task judges many parts in one process; the tree is read once."""
    return Taxonomy.read(path)
