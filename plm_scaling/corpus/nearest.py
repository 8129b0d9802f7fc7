"""`Nearest`: the most identical record of a corpus to each of a few sequences, as one search by MMseqs2 finds it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_128_digest

from plm_scaling.core.alphabet import EOS
from plm_scaling.core.errors import CorpusError
from plm_scaling.corpus.hits import Hits, no_hits
from plm_scaling.corpus.homology import Alike, Batch, Mmseqs, find_mmseqs, mmseqs_work, write_numbered
from plm_scaling.corpus.reader import Corpus

__all__ = ["EVALUE", "SENSITIVITY", "Nearest", "find_nearest", "installed", "nearest_of", "search_records"]

Int = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.uint8]

EVALUE: Final = 0.01
SENSITIVITY: Final = 7.5
_MOST_HITS: Final = 50
_ROWS: Final = 1 << 14


@dataclass(frozen=True)
class Nearest:
    """The most identical record of each of n sequences.

    Attributes
    ----------
    row : int64[n], record of the corpus; -1 where there is none.
    identity : float64[n], share of identical residues among the columns of the alignment; 0 where none was found.
    coverage : float64[n], of the shorter-covered of the two by that alignment; of the sequence where it may lie within
        a record.
    is_copy : bool[n].
    tool : program and version, empty if only copies were looked for.
    crowded : bool[n], it has so many relatives that not all were aligned: one nearer still may have been missed.
    """

    row: Int
    identity: npt.NDArray[np.float64]
    coverage: npt.NDArray[np.float64]
    is_copy: npt.NDArray[np.bool_]
    tool: str
    crowded: npt.NDArray[np.bool_]


def find_nearest(
    corpus: Corpus,
    rows: Int,
    sequences: Sequence[Tokens],
    *,
    coverage: float = 0.8,
    contained: bool = False,
    threads: int | None = None,
    scratch: Path | None = None,
) -> Nearest:
    """The most identical of some records of a corpus to each of a few sequences; a copy is a copy at any length.

    Parameters
    ----------
    rows : int64[n], the records to look among.
    sequences : token ids, uint8[L] each, without `<eos>`.
    coverage : least share of both sequences that an alignment covers, in [0, 1].
    contained : also count what lies within a longer record: then only the sequence itself must be covered.
    threads : cores MMseqs2 may use; all by default.
    scratch : folder for temporary files, several times the records' size; the system's by default.

    Raises
    ------
    CorpusError : MMseqs2 failed. Where it is not installed only copies are found, and `tool` is empty.
    """
    rows, program = np.sort(rows), installed()
    hits = no_hits()
    if program is not None:
        alike = Alike(identity=0.0, coverage=0.0 if contained else coverage, evalue=EVALUE)
        hits = search_records(
            corpus, rows, sequences, alike, program, most=_MOST_HITS, threads=threads, scratch=scratch
        )
    found = nearest_of(corpus, rows, sequences, hits, coverage=coverage, contained=contained)
    return replace(
        found, tool=str(program or ""), crowded=np.bincount(hits.query, minlength=len(sequences)) >= _MOST_HITS
    )


def search_records(
    corpus: Corpus,
    rows: Int,
    sequences: Sequence[Tokens],
    alike: Alike,
    program: Mmseqs,
    *,
    most: int,
    threads: int | None = None,
    scratch: Path | None = None,
) -> Hits:
    """All hits of some sequences, numbered by position, among records, numbered by row.

    Parameters
    ----------
    rows : int64[n] rising. most : candidates aligned per sequence. Others as in `find_nearest`.

    Raises
    ------
    CorpusError : MMseqs2 failed.
    """
    if not len(sequences) or not len(rows):
        return no_hits()
    with mmseqs_work(program, threads=threads, parent=scratch) as work:
        targets, queries = work.folder / "targets.fasta", work.folder / "queries.fasta"
        write_numbered(targets, _corpus_batches(corpus, rows))
        write_numbered(queries, _query_batches(sequences))
        return work.search(
            work.database(queries), work.database(targets), alike, sensitivity=SENSITIVITY, max_hits=most
        )


def nearest_of(
    corpus: Corpus, rows: Int, sequences: Sequence[Tokens], hits: Hits, *, coverage: float, contained: bool
) -> Nearest:
    """The best of hits that are already known; a copy is a copy, also where it is too short or simple to be aligned.

    Parameters
    ----------
    rows : int64[n] rising, for copies. Others as in `find_nearest`, whose `tool` and `crowded` are for the caller.
    """
    covered = hits.query_coverage if contained else np.minimum(hits.query_coverage, hits.target_coverage)
    best = hits.where(covered >= np.float32(coverage)).best()
    row = np.full(len(sequences), -1, dtype=np.int64)
    identity, share = np.zeros((2, len(sequences)))
    row[best.query], identity[best.query] = best.target, best.identity
    both = np.minimum(best.query_coverage, best.target_coverage)
    share[best.query] = best.query_coverage if contained else both
    copies = _copies(corpus, rows, sequences)
    is_copy = copies >= 0
    row[is_copy], identity[is_copy], share[is_copy] = copies[is_copy], 1.0, 1.0
    return Nearest(row, identity, share, is_copy, "", np.zeros(len(sequences), dtype=np.bool_))


def installed() -> Mmseqs | None:
    """MMseqs2, None where it is not installed or does not start."""
    try:
        return find_mmseqs()
    except CorpusError:
        return None


def _copies(corpus: Corpus, rows: Int, sequences: Sequence[Tokens]) -> Int:
    """int64[n]: row of an exact copy of each sequence, -1 where there is none."""
    digests = [xxh3_128_digest(tokens.tobytes()) for tokens in sequences]
    words = np.frombuffer(b"".join(digests), dtype=">u8").reshape(-1, 2).astype(np.uint64)
    near = rows[np.isin(corpus.hash[rows, 0], words[:, 0])]
    place = {(int(high), int(low)): int(row) for row, (high, low) in zip(near, corpus.hash[near], strict=True)}
    return np.array([place.get((int(high), int(low)), -1) for high, low in words], dtype=np.int64)


def _corpus_batches(corpus: Corpus, rows: Int) -> Iterator[Batch]:
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        sizes = corpus.length[part] + 1
        yield part, corpus.gather(corpus.offset[part], sizes), sizes


def _query_batches(sequences: Sequence[Tokens]) -> Iterator[Batch]:
    for start in range(0, len(sequences), _ROWS):
        part: list[Any] = list(sequences[start : start + _ROWS])
        tokens = np.concatenate([np.append(one, np.uint8(EOS)) for one in part])
        yield np.arange(start, start + len(part)), tokens, np.array([len(one) + 1 for one in part], dtype=np.int64)
