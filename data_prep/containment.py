"""Sequences held by other sequences: read backwards, or as a fragment. Exact de-duplication sees neither."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_128_digest

from data_prep.dedup import find_copies
from data_prep.fragments import QUERY_TOKENS, Sequences, find_fragments
from data_prep.keys import BUCKETS, KeyReader, KeyWriter
from plm_scaling.core.alphabet import EOS
from plm_scaling.core.files import writing_atomic
from plm_scaling.core.records import Record
from plm_scaling.corpus.format import RecordCount

__all__ = ["Containment", "containment", "count_reversed"]

Tokens = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
Int = npt.NDArray[np.int64]

_EOS_BYTE: Final = bytes([EOS])


class Containment(Record):
    """What unique sequences still have in common."""

    reversed: RecordCount
    """Sequences whose reverse is another sequence of the set."""
    palindromes: RecordCount
    """Sequences that are their own reverse; not among `reversed`."""
    fragments: RecordCount
    """Sequences that are a part of a longer one, letter by letter."""


def containment(
    sequences: Sequences, folder: Path, *, query_tokens: int = QUERY_TOKENS, fragments_file: Path | None = None
) -> Containment:
    """Count the unique sequences that another one holds, reversed or as a fragment.

    Parameters
    ----------
    sequences : gives all unique sequences, as often as it is called.
    folder : for temporary files.
    query_tokens : tokens looked for in one pass (see `find_fragments`).
    fragments_file : where to write the rows of the fragments, uint64[n] in order.
    """
    turned, palindromes = count_reversed(sequences, folder)
    found: list[Int] = []
    tokens = 0
    for rows, sizes in find_fragments(sequences, query_tokens=query_tokens):
        found.append(rows)
        tokens += int(sizes.sum())
    if fragments_file is not None:
        with writing_atomic(fragments_file) as handle:
            for rows in found:
                handle.write(rows.astype("<u8").data)
    fragments = RecordCount(sequences=sum(map(len, found)), tokens=tokens)
    return Containment(reversed=turned, palindromes=palindromes, fragments=fragments)


def count_reversed(sequences: Sequences, folder: Path) -> tuple[RecordCount, RecordCount]:
    """Sequences whose reverse is in the set, and palindromes (counted apart).

    A sequence and its reverse have the same smaller one of their two hashes, so they are copies under that key and
    are found as exact copies are, on disk.

    Parameters
    ----------
    folder : for temporary files: 24 bytes per sequence.
    """
    palindromes = np.zeros(2, dtype=np.int64)
    with KeyWriter(folder / "reversed", 2) as keys:
        for piece in sequences():
            forward, backward = _digests(piece.tokens)
            same = (forward == backward).all(axis=1)
            palindromes += [np.count_nonzero(same), piece.sizes[same].sum()]
            key = _smaller(forward, backward)[~same]
            keys.add(key[:, 0].copy(), key[:, 1].copy(), piece.rows[~same].astype(np.uint64))
        keys.finish()
    pairs = list(find_copies([KeyReader(folder / "reversed", 2)], np.zeros(1, dtype=np.int64), 0, BUCKETS))
    rows = np.sort(np.concatenate([np.empty(0, dtype=np.int64), *(pair.ravel() for pair in pairs)]))
    tokens = sum(int(piece.sizes[np.isin(piece.rows, rows)].sum()) for piece in sequences()) if len(rows) else 0
    return (
        RecordCount(sequences=len(rows), tokens=tokens),
        RecordCount(sequences=int(palindromes[0]), tokens=int(palindromes[1])),
    )


def _smaller(left: Words, right: Words) -> Words:
    """The smaller of two 128-bit hashes in each row, uint64[k, 2]."""
    tied = left[:, 0] == right[:, 0]
    swap = (right[:, 0] < left[:, 0]) | (tied & (right[:, 1] < left[:, 1]))
    return np.where(swap[:, None], right, left)


def _digests(tokens: Tokens) -> tuple[Words, Words]:
    """128-bit hashes of each sequence as it is and reversed, both uint64[k, 2]."""
    forward = map(xxh3_128_digest, tokens.tobytes().split(_EOS_BYTE)[:-1])
    # Backwards, the last sequence comes first and an `<eos>` before each.
    backward = map(xxh3_128_digest, reversed(tokens[::-1].tobytes().split(_EOS_BYTE)[1:]))
    return _words(b"".join(forward)), _words(b"".join(backward))


def _words(digests: bytes) -> Words:
    return np.frombuffer(digests, dtype=">u8").reshape(-1, 2).astype(np.uint64)
