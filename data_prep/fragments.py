"""Which sequences are an exact part of a longer one.

A fragment is looked for by the hash of its beginning at every position of every sequence; what has the same beginning
is compared by the hash of the whole fragment, and what is equal there token by token. All hashes come from one prefix
sum: with P[i] = sum over j < i of v(t_j) B^j modulo 2^64, (P[i + p] - P[i]) B^-i belongs to the p tokens from i on
wherever they stand.

**Source:** Karp and Rabin 1987 (substring hashes by a polynomial, candidates compared afterwards).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from plm_scaling.core.alphabet import VOCAB_SIZE

__all__ = ["QUERY_TOKENS", "Piece", "Sequences", "find_fragments"]

Tokens = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

QUERY_TOKENS: Final = 1 << 26
"""Tokens looked for at a time, held in memory; more take further passes over the sequences."""
RUN_TOKENS: Final = 1 << 16
"""Tokens looked at together: arrays of 8 bytes for each fit into the cache."""
_MAX_PAIRS: Final = 1 << 20
_BEGINNINGS: Final = (1, 2, 4, 8, 16, 32, 64)
"""A fragment is indexed by its first so many tokens, the most that it has."""
_TABLE_BITS: Final = (10, 32)
_SLOTS_PER_KEY: Final = 16
# Any odd base can be inverted; an arbitrary value per token keeps all bits of a hash busy.
_BASE: Final = 0x9E3779B97F4A7C15
_VALUES: Final = np.random.default_rng(2024).integers(0, 2**64, VOCAB_SIZE, dtype=np.uint64)


class Piece(Protocol):
    """Some sequences laid end to end."""

    @property
    def rows(self) -> Int:
        """int64[k]: their rows, increasing."""

    @property
    def tokens(self) -> Tokens:
        """uint8[sum(sizes)]: token ids, `<eos>` after each sequence."""

    @property
    def sizes(self) -> Int:
        """int64[k]: tokens of each, `<eos>` included."""


Sequences = Callable[[], Iterable[Piece]]
"""All sequences, each once and no two equal; called again for every pass."""


def find_fragments(sequences: Sequences, *, query_tokens: int = QUERY_TOKENS) -> Iterator[tuple[Int, Int]]:
    """The sequences that are an exact part of a longer one.

    Parameters
    ----------
    query_tokens : tokens of the sequences looked for in one pass. Memory is about 2 bytes for each, 120 bytes per
        sequence, and 50 bytes per token of the longest sequence; passes are all tokens / `query_tokens`.

    Returns
    -------
    per pass, the rows of the fragments in order and their sizes in tokens, both int64[k].
    """
    hasher = _Hasher()
    for queries in _slices(sequences, query_tokens):
        search = _Search(queries, hasher)
        for piece in sequences():
            for run in _runs(piece):
                search.look_in(run)
        yield queries.rows[search.found], queries.sizes[search.found]


@dataclass(frozen=True)
class _Run:
    """Whole sequences laid end to end, as a `Piece`, with the end of each (int64[k], one past its `<eos>`)."""

    rows: Int
    tokens: Tokens
    sizes: Int
    ends: Int

    @classmethod
    def of(cls, rows: Int, tokens: Tokens, sizes: Int) -> _Run:
        return cls(rows, tokens, sizes, np.cumsum(sizes))


def _runs(piece: Piece) -> Iterator[_Run]:
    """A piece cut into runs of about RUN_TOKENS tokens (one longer sequence is a run)."""
    ends = np.cumsum(piece.sizes)
    cuts = np.flatnonzero(np.diff(ends // RUN_TOKENS)) + 1
    for low, high in zip([0, *cuts.tolist()], [*cuts.tolist(), len(ends)], strict=True):
        if high > low:
            begin = int(ends[low] - piece.sizes[low])
            yield _Run.of(piece.rows[low:high], piece.tokens[begin : int(ends[high - 1])], piece.sizes[low:high])


def _slices(sequences: Sequences, query_tokens: int) -> Iterator[_Run]:
    """The sequences in slices of about `query_tokens` tokens."""
    held: list[_Run] = []
    n_held = 0
    for piece in sequences():
        for run in _runs(piece):
            held.append(run)
            n_held += len(run.tokens)
            if n_held >= query_tokens:
                yield _joined(held)
                held, n_held = [], 0
    if held:
        yield _joined(held)


def _joined(runs: list[_Run]) -> _Run:
    return _Run.of(
        np.concatenate([run.rows for run in runs]),
        np.concatenate([run.tokens for run in runs]),
        np.concatenate([run.sizes for run in runs]),
    )


class _Hasher:
    """Hashes of stretches of tokens, wherever they stand."""

    def __init__(self) -> None:
        self._power = self._inverse = np.ones(1, dtype=np.uint64)

    def sums(self, tokens: Tokens) -> Words:
        """P, uint64[n + 1], of tokens uint8[n]."""
        self._grow(len(tokens) + 1)
        out = np.zeros(len(tokens) + 1, dtype=np.uint64)
        np.cumsum(_VALUES[tokens] * self._power[: len(tokens)], out=out[1:])
        return out

    def windows(self, sums: Words, length: int) -> Words:
        """Hash of the `length` tokens from every position on, uint64[n + 1 - length] (none if there are fewer)."""
        out: Words = sums[length:] - sums[: max(0, len(sums) - length)]
        out *= self._inverse[: len(out)]
        return out

    def spans(self, sums: Words, start: Int, length: Int | int) -> Words:
        """Hashes of the given stretches, uint64[k]."""
        out: Words = (sums[start + length] - sums[start]) * self._inverse[start]
        return out

    def _grow(self, n: int) -> None:
        if n > len(self._power):
            self._power = _powers(_BASE, n)
            self._inverse = _powers(pow(_BASE, -1, 2**64), n)


def _powers(base: int, n: int) -> Words:
    """base^0 .. base^(n - 1) modulo 2^64."""
    factors = np.full(n, base, dtype=np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)


class _Search:
    """The sequences looked for (`queries`), which of them were found (bool[k]), and how to find the others."""

    def __init__(self, queries: _Run, hasher: _Hasher) -> None:
        self.queries, self.hasher = queries, hasher
        self.starts = queries.ends - queries.sizes
        self.found: Bool = np.zeros(len(queries.rows), dtype=np.bool_)
        self.beginning, self.whole = np.empty((2, len(queries.rows)), dtype=np.uint64)
        lengths = queries.sizes - 1
        level = np.maximum(0, np.searchsorted(_BEGINNINGS, lengths, side="right") - 1)
        self._hash_queries(lengths, np.asarray(_BEGINNINGS)[level])
        members = (np.flatnonzero((level == number) & (lengths > 0)) for number in range(len(_BEGINNINGS)))
        self.levels = {
            length: _Level.of(self, rows) for length, rows in zip(_BEGINNINGS, members, strict=True) if len(rows)
        }

    def _hash_queries(self, lengths: Int, beginnings: Int) -> None:
        at = 0
        for run in _runs(self.queries):
            here = slice(at, at + len(run.rows))
            at = here.stop
            sums, start = self.hasher.sums(run.tokens), run.ends - run.sizes
            self.beginning[here] = self.hasher.spans(sums, start, beginnings[here])
            self.whole[here] = self.hasher.spans(sums, start, lengths[here])

    def look_in(self, run: _Run) -> None:
        """Find queries that are a proper part of one of the sequences of a run."""
        sums = self.hasher.sums(run.tokens)
        for length, level in list(self.levels.items()):
            positions, keys = level.candidates(self.hasher.windows(sums, length))
            hits = 0
            for at, entry in _matches(level.beginnings, keys):
                hits += self._compare(run, sums, level, positions[at], level.lengths[entry])
            level.n_found += hits
            if level.n_found * 8 > len(level.members):
                self._thin_out(length)

    def _thin_out(self, length: int) -> None:
        """Leave out what was found: it need not be found again."""
        members = self.levels[length].members
        left = members[~self.found[members]]
        if len(left):
            self.levels[length] = _Level.of(self, left)
        else:
            del self.levels[length]

    def _compare(self, run: _Run, sums: Words, level: _Level, start: Int, length: Int) -> int:
        """Look up the stretches (start, length) of a run among the queries of a level; returns how many are new."""
        sequence = np.searchsorted(run.ends, start, side="right")
        # A stretch as long as its sequence is that sequence, and one that runs over its end is nothing.
        inside = (start + length < run.ends[sequence]) & (length < run.sizes[sequence] - 1)
        start, length = start[inside], length[inside]
        new = 0
        for at, entry in _matches(level.wholes, self.hasher.spans(sums, start, length)):
            query = level.order[entry]
            fits = ~self.found[query] & (self.queries.sizes[query] - 1 == length[at])
            new += self._verify(run, start[at[fits]], query[fits])
        return new

    def _verify(self, run: _Run, start: Int, query: Int) -> int:
        """Compare stretches of a run with queries token by token; returns how many queries are found now."""
        new = 0
        while len(query):
            chosen, first = np.unique(query, return_index=True)  # one place for each is enough
            size = self.queries.sizes[chosen] - 1
            same = run.tokens[_ranges(start[first], size)] == self.queries.tokens[_ranges(self.starts[chosen], size)]
            equal = np.logical_and.reduceat(same, np.cumsum(size) - size)
            self.found[chosen[equal]] = True
            new += int(np.count_nonzero(equal))
            rest = np.ones(len(query), dtype=np.bool_)
            rest[first] = False
            rest &= ~self.found[query]
            start, query = start[rest], query[rest]
        return new


@dataclass
class _Level:
    """Queries indexed by the hash of their first tokens, of the same number for all.

    Attributes
    ----------
    members : int64[k], the queries.
    beginnings, lengths : uint64[m], int64[m]: the distinct pairs of a beginning's hash and a query's length, sorted.
    wholes, order : uint64[k], int64[k]: hashes of the queries, sorted, and the query of each.
    table : bool[slots], whether a beginning's hash has these top bits; most positions end there.
    shift : which bits those are.
    n_found : members found since the level was made.
    """

    members: Int
    beginnings: Words
    lengths: Int
    wholes: Words
    order: Int
    table: Bool
    shift: np.uint64
    n_found: int = 0

    @classmethod
    def of(cls, search: _Search, members: Int) -> _Level:
        beginning, length = search.beginning[members], search.queries.sizes[members] - 1
        order = np.lexsort((length, beginning))
        beginning, length = beginning[order], length[order]
        new = np.ones(len(order), dtype=np.bool_)
        new[1:] = (beginning[1:] != beginning[:-1]) | (length[1:] != length[:-1])
        by_whole = members[np.argsort(search.whole[members])]
        bits = int(np.clip((len(members) * _SLOTS_PER_KEY).bit_length(), *_TABLE_BITS))
        shift = np.uint64(64 - bits)
        table = np.zeros(1 << bits, dtype=np.bool_)
        table[beginning >> shift] = True
        return cls(members, beginning[new], length[new], search.whole[by_whole], by_whole, table, shift)

    def candidates(self, windows: Words) -> tuple[Int, Words]:
        """Positions whose hash may be that of a beginning, int64[k], and their hashes."""
        positions = np.flatnonzero(self.table.take((windows >> self.shift).view(np.int64)))
        return positions, windows[positions]


def _matches(ordered: Words, probes: Words) -> Iterator[tuple[Int, Int]]:
    """All pairs (probe, place in `ordered`) of equal values, in bounded pieces, both int64[n]."""
    first = np.searchsorted(ordered, probes)
    some = np.flatnonzero(ordered[np.minimum(first, len(ordered) - 1)] == probes)
    first = first[some]
    count = np.searchsorted(ordered, probes[some], side="right") - first
    cuts = np.flatnonzero(np.diff(np.cumsum(count) // _MAX_PAIRS)) + 1
    for low, high in zip([0, *cuts.tolist()], [*cuts.tolist(), len(some)], strict=True):
        if high > low:
            here = slice(low, high)
            yield np.repeat(some[here], count[here]), _ranges(first[here], count[here])


def _ranges(first: Int, count: Int) -> Int:
    """[first[0], first[0] + 1, ..., first[1], ...]: `count` consecutive integers from each `first`."""
    ends = np.cumsum(count)
    out = np.repeat(first - (ends - count), count)
    out += np.arange(len(out))
    return out
