"""Audits an evaluation set against a corpus: exact copies, and how near each sequence is to its nearest relative."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.alphabet import DROPPED, RENAMED, encode
from plm_scaling.core.errors import CorpusError
from plm_scaling.core.records import Record
from plm_scaling.corpus.format import TRAIN
from plm_scaling.corpus.hits import identity_bins
from plm_scaling.corpus.nearest import Nearest, find_nearest
from plm_scaling.corpus.reader import Corpus

__all__ = ["OverlapReport", "QueryOverlap", "check_overlap"]

Tokens = npt.NDArray[np.uint8]

_CLEANED: Final = str.maketrans({**RENAMED, **dict.fromkeys(DROPPED, "")})


class QueryOverlap(Record):
    """One sequence of the evaluation set and what the corpus holds of it."""

    name: str
    length: int
    """Residues, after normalisation."""
    copy_of: str | None = None
    """Accession of an exact copy."""
    nearest: str | None = None
    """Accession of the most identical sequence found; None where there is none, or where nothing was searched."""
    nearest_identity: float = 0.0
    """To the nearest: share of identical residues among the columns of the alignment, 0 where none was found."""
    nearest_coverage: float = 0.0
    """Of the shorter-covered of the two by that alignment."""


class OverlapReport(Record):
    """An evaluation set against one split of a corpus."""

    corpus_id: str
    split: str
    least_identity: float
    least_coverage: float
    tool: str
    """Program and version, empty if only exact copies were looked for."""
    queries: tuple[QueryOverlap, ...]
    empty: int = 0
    """Records without a residue, left out."""

    @property
    def copies(self) -> int:
        """Sequences with an exact copy in the split."""
        return sum(query.copy_of is not None for query in self.queries)

    @property
    def near(self) -> int:
        """Sequences with a relative at `least_identity` or more; exact copies are among them."""
        return int(np.count_nonzero(self._identities() >= np.float32(self.least_identity)))

    @property
    def bins(self) -> tuple[int, int, int, int] | None:
        """Sequences by identity to the nearest (`IDENTITY_EDGES`), None if only copies were looked for."""
        return identity_bins(self._identities()) if self.tool else None

    def _identities(self) -> npt.NDArray[np.float32]:
        return np.array([query.nearest_identity for query in self.queries], dtype=np.float32)


def check_overlap(
    corpus: Corpus,
    fasta: Path | str,
    *,
    identity: float = 0.5,
    coverage: float = 0.8,
    split: str = TRAIN,
    threads: int | None = None,
    scratch: Path | None = None,
) -> OverlapReport:
    """Compare every sequence of a FASTA file with the unique sequences of a split.

    Exact copies are found by hash after the normalisation every corpus goes through. Relatives are found by MMseqs2;
    without that program the report holds the copies alone, and says so by an empty `tool`.

    Parameters
    ----------
    corpus : a prepared corpus.
    fasta : the evaluation set, plain or gzip; it is held in memory.
    identity : from which on a relative counts as near, in [0, 1].
    coverage : least share of both sequences that an alignment covers, in [0, 1].
    split : name of the split, usually training.
    threads : cores MMseqs2 may use; all by default.
    scratch : folder for temporary files, several times the split's size; the system's by default.

    Raises
    ------
    CorpusError : the file cannot be read, or MMseqs2 failed.
    PlanError : the corpus has no such split.
    """
    rows = corpus.rows(split)
    names, sequences, empty = _read(Path(fasta))
    nearest = find_nearest(corpus, rows, sequences, coverage=coverage, threads=threads, scratch=scratch)
    return OverlapReport(
        corpus_id=corpus.corpus_id,
        split=split,
        least_identity=identity,
        least_coverage=coverage,
        tool=nearest.tool,
        queries=_judged(corpus, names, sequences, nearest),
        empty=empty,
    )


def _judged(corpus: Corpus, names: list[str], sequences: list[Tokens], nearest: Nearest) -> tuple[QueryOverlap, ...]:
    accession = iter(corpus.accessions(nearest.row[nearest.row >= 0]))
    found = [next(accession) if row >= 0 else None for row in nearest.row.tolist()]
    return tuple(
        QueryOverlap(
            name=names[i],
            length=len(sequences[i]),
            copy_of=found[i] if nearest.is_copy[i] else None,
            nearest=found[i],
            nearest_identity=round(float(nearest.identity[i]), 4),
            nearest_coverage=round(float(nearest.coverage[i]), 4),
        )
        for i in range(len(names))
    )


def _read(path: Path) -> tuple[list[str], list[Tokens], int]:
    """Names and token ids (without `<eos>`) of a FASTA file's records, and how many were empty."""
    import gzip

    from Bio.SeqIO.FastaIO import SimpleFastaParser

    names: list[str] = []
    sequences: list[Tokens] = []
    empty = 0
    try:
        with gzip.open(path, "rt", encoding="latin-1") if _is_gzip(path) else path.open(encoding="latin-1") as handle:
            for header, text in SimpleFastaParser(handle):  # type: ignore[no-untyped-call]
                tokens = encode(text.upper().translate(_CLEANED))
                if not len(tokens):
                    empty += 1
                    continue
                names.append((header.split() or [""])[0])
                sequences.append(tokens)
    except (OSError, EOFError) as error:
        raise CorpusError("cannot read the file", where=str(path), why=str(error)) from None
    except ValueError as error:
        record = f"record {len(names) + empty + 1}"
        raise CorpusError(
            f"not protein FASTA: {error}", where=f"{path}, {record}", hint="give protein sequences, plain or gzip"
        ) from None
    if not names:
        raise CorpusError("no sequence in the file", where=str(path), hint="give protein FASTA, plain or gzip")
    return names, sequences, empty


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(2) == b"\x1f\x8b"
