"""Proteins of a FASTA file, plain or gzipped."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

from plm_scaling.core.errors import CorpusError
from plm_scaling.evals.adapters.asking import residue_ids

__all__ = ["Protein", "read_fasta"]


class Protein(NamedTuple):
    """A record."""

    name: str
    sequence: str


def _records(handle: TextIO) -> Iterator[tuple[str, str]]:
    from Bio.SeqIO.FastaIO import SimpleFastaParser  # here: the import takes longer than listing all tasks

    yield from SimpleFastaParser(handle)  # type: ignore[no-untyped-call]


def read_fasta(path: Path) -> list[Protein]:
    """All proteins, in their order; upper case.

    Raises
    ------
    CorpusError : missing or empty, no FASTA, or a letter that no protein has, by record.
    """
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as handle:
            found = [Protein(title.split(" ")[0], text.upper()) for title, text in _records(handle)]
    except (OSError, EOFError, ValueError) as error:
        raise CorpusError("not a FASTA file that can be read", where=str(path), why=str(error)) from None
    if not found:
        raise CorpusError("no protein in this file", where=str(path), why="no line begins with >")
    for number, protein in enumerate(found, 1):
        try:
            residue_ids(protein.sequence)
        except CorpusError as error:
            raise CorpusError(
                error.what, where=f"{path}, record {number} ({protein.name})", why=error.why, hint=error.hint
            ) from None
    return found
