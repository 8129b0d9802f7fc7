"""How much of the training data lies near families of interest, by a search of all of it with MMseqs2."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.alphabet import DROPPED, EOS, RENAMED, encode
from plm_scaling.core.errors import CorpusError
from plm_scaling.core.records import Record
from plm_scaling.corpus.format import TRAIN, RecordCount
from plm_scaling.corpus.homology import Alike, find_mmseqs, mmseqs_work, write_numbered
from plm_scaling.corpus.reader import Corpus

__all__ = ["NEAR", "FamilyShare", "near_families"]

Int = npt.NDArray[np.int64]
Batch = tuple[Int, npt.NDArray[np.uint8], Int]

NEAR: Final = Alike(identity=0.3, coverage=0.8)
_MAX_HITS: Final = 100_000
"""Training sequences aligned per member of a family, at most."""
_BLOCK_TOKENS: Final = 1 << 22
_TO_LETTER: Final = str.maketrans({**RENAMED, **dict.fromkeys(DROPPED)})


class FamilyShare(Record):
    """Unique training sequences near a family of interest."""

    name: str
    members: int
    """Sequences of the family that were given."""
    near: RecordCount
    """Training sequences with >= 30 % identity to one of them, over >= 80 % of both."""


def near_families(corpus: Corpus, families: Mapping[str, Path]) -> tuple[tuple[FamilyShare, ...], tuple[str, ...]]:
    """The shares of the families, and a note where they could not be found.

    All unique training sequences are written to a temporary folder, where all families are searched for at once.

    Parameters
    ----------
    families : name -> FASTA file, plain or gzip.

    Raises
    ------
    CorpusError : a family's file that cannot be read or holds no protein.
    """
    if not families:
        return (), ()
    members = [_members(path) for path in families.values()]
    try:
        program = find_mmseqs()
    except CorpusError as error:
        return (), (f"{error.what}, so nothing is said about the families of interest.",)
    rows = np.flatnonzero(corpus.first & (corpus.split == corpus.manifest.split_id(TRAIN)))
    with mmseqs_work(program) as work:
        train, wanted = work.folder / "train.fasta", work.folder / "families.fasta"
        write_numbered(train, _training(corpus, rows))
        write_numbered(wanted, [_batch([sequence for sequences in members for sequence in sequences])])
        # The few search the many: the other way round, similar words are looked up for all of the training data.
        hits = work.search(work.database(wanted), work.database(train), NEAR, max_hits=_MAX_HITS)
    first = np.cumsum([0, *(len(sequences) for sequences in members)])
    family = np.searchsorted(first, hits.query, side="right") - 1
    shares = []
    for number, (name, sequences) in enumerate(zip(families, members, strict=True)):
        found = np.unique(hits.target[family == number])
        count = RecordCount(sequences=len(found), tokens=int((corpus.length[found] + 1).sum()))
        shares.append(FamilyShare(name=name, members=len(sequences), near=count))
    return tuple(shares), ()


def _members(path: Path) -> list[str]:
    """Sequences of a family, normalised as the corpus' are."""
    from Bio.SeqIO.FastaIO import SimpleFastaParser

    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as handle:
            records = SimpleFastaParser(handle)  # type: ignore[no-untyped-call]
            found = [sequence.upper().translate(_TO_LETTER) for _, sequence in records]
        for sequence in found:
            encode(sequence)
    except (OSError, EOFError, ValueError) as error:
        raise CorpusError(f"cannot read the family: {error}", where=str(path), hint="give protein FASTA") from None
    if not any(found):
        raise CorpusError("the family has no sequence", where=str(path), hint="give protein FASTA")
    return [sequence for sequence in found if sequence]


def _batch(sequences: list[str]) -> Batch:
    tokens = [np.append(encode(sequence), np.uint8(EOS)) for sequence in sequences]
    sizes = np.array([len(one) for one in tokens], dtype=np.int64)
    return np.arange(len(tokens)), np.concatenate(tokens), sizes


def _training(corpus: Corpus, rows: Int) -> Iterator[Batch]:
    """The sequences of some rows, in batches."""
    size = corpus.length[rows] + 1
    for part in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(np.cumsum(size) // _BLOCK_TOKENS)) + 1):
        yield rows[part], corpus.gather(corpus.offset[rows[part]], size[part]), size[part]
