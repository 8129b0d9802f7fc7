"""`Relatives`: what one search of sequences against a split found, which answers for every part of the split.

corpus/windows/search-HASH.npz   the hits, made on demand; safe to delete

The hash is that of the corpus, the split, the distinct sequences, the parameters and the version of MMseqs2.

A part of a split is what a run has really seen. To be its nearest records by a search against them alone, hits are kept
down to an E-value of `LOOSEST_EVALUE` and judged by what their E-value would be among that part, which is proportional
to its residues. Where this can differ from a search against the part alone:

* Of a sequence with more than `MOST_HITS` relatives those with the lower gapless scores are not aligned, and the part
  may hold one of them: `Nearest.crowded` says so, and the identity is a lower bound.
* A part below 4 MB is searched alone with k-mers of 5, a large split with longer ones, which find fewer of the remote
  relatives; one search is equally sensitive for every run.
* Below a share of `EVALUE / LOOSEST_EVALUE` of the split's residues, E-values are those of that share.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.files import canonical_json, sha256_text, writing_atomic
from plm_scaling.corpus.format import TRAIN
from plm_scaling.corpus.hits import Hits, no_hits
from plm_scaling.corpus.homes import made_homes
from plm_scaling.corpus.homology import Alike
from plm_scaling.corpus.nearest import EVALUE, SENSITIVITY, Nearest, installed, nearest_of, search_records
from plm_scaling.corpus.reader import Corpus

__all__ = ["LOOSEST_EVALUE", "MOST_HITS", "Relatives", "find_relatives"]

Int = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.uint8]

LOOSEST_EVALUE: Final = 10.0
MOST_HITS: Final = 1000
"""Records aligned with each sequence, those with the best gapless scores."""
_VERSION: Final = 1


@dataclass(frozen=True)
class Relatives:
    """Hits of n sequences in a split.

    Attributes
    ----------
    sequences : token ids, uint8[L] each, without `<eos>`.
    number : int64[n], which of the distinct sequences each is.
    hits : of the distinct sequences, to rows of the corpus.
    residues : of the split.
    tool : program and version, empty where it is not installed: then only copies are found.
    """

    corpus: Corpus
    sequences: tuple[Tokens, ...]
    number: Int
    hits: Hits
    residues: int
    tool: str

    def nearest(self, rows: Int, *, coverage: float = 0.8, contained: bool = False) -> Nearest:
        """The most identical of some records of the split to each sequence.

        Parameters
        ----------
        rows : int64[m], the records that count; a duplicate counts as its first copy.
        coverage : least share of both sequences that an alignment covers, in [0, 1].
        contained : also count what lies within a longer record: then only the sequence itself must be covered.
        """
        corpus, rows = self.corpus, np.sort(rows)
        _, first = np.unique(corpus.offset[rows], return_index=True)
        share = float(corpus.length[rows[first]].sum()) / max(1, self.residues)
        there = np.isin(corpus.offset[self.hits.target], corpus.offset[rows])
        hits = self.hits.where(there & (self.hits.evalue * share <= EVALUE))
        _, unique = np.unique(self.number, return_index=True)
        found = nearest_of(
            corpus, rows, [self.sequences[k] for k in unique], hits, coverage=coverage, contained=contained
        )
        crowded = np.bincount(self.hits.query, minlength=len(unique)) >= MOST_HITS
        of = self.number
        return Nearest(found.row[of], found.identity[of], found.coverage[of], found.is_copy[of], self.tool, crowded[of])


def find_relatives(
    corpus: Corpus,
    sequences: Sequence[Tokens],
    *,
    split: str = TRAIN,
    threads: int | None = None,
    scratch: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Relatives:
    """Search sequences against a split, or read what an earlier search of them has left in the corpus.

    Parameters
    ----------
    sequences : token ids, uint8[L] each, without `<eos>`; L > 0.
    threads : cores MMseqs2 may use; all by default.
    scratch : folder for temporary files, several times the split's size; the system's by default.
    tell : called with a line before a search, which takes minutes on a large corpus.

    Raises
    ------
    CorpusError : MMseqs2 failed. PlanError : the corpus has no such split.
    """
    rows, program = np.sort(corpus.rows(split)), installed()
    order, number = np.unique(np.array([one.tobytes() for one in sequences], dtype=object), return_inverse=True)
    distinct = [np.frombuffer(one, dtype=np.uint8) for one in order]
    whole = Relatives(
        corpus,
        tuple(sequences),
        np.asarray(number, dtype=np.int64),
        no_hits(),
        int(corpus.length[rows].sum()),
        str(program or ""),
    )
    if program is None or not distinct or not len(rows):
        return whole
    key = _key(corpus, split, distinct, whole.tool)
    hits = _kept(corpus, key)
    if hits is None:
        tell(f"{program} searches {len(distinct):,} sequences against the {len(rows):,} records of {split}, once")
        alike = Alike(identity=0.0, coverage=0.0, evalue=LOOSEST_EVALUE)
        hits = search_records(corpus, rows, distinct, alike, program, most=MOST_HITS, threads=threads, scratch=scratch)
        _keep(corpus, key, hits)
    return replace(whole, hits=hits)


def _key(corpus: Corpus, split: str, distinct: Sequence[Tokens], tool: str) -> str:
    how = {"sensitivity": SENSITIVITY, "evalue": LOOSEST_EVALUE, "most": MOST_HITS, "version": _VERSION}
    letters = sha256_text(" ".join(one.tobytes().hex() for one in distinct))
    return sha256_text(canonical_json({"corpus": corpus.corpus_id, "split": split, "of": letters, "tool": tool, **how}))


def _kept(corpus: Corpus, key: str) -> Hits | None:
    for home in made_homes(corpus.path):
        try:
            with (home / f"search-{key[:20]}.npz").open("rb") as handle, np.load(handle, allow_pickle=False) as kept:
                return Hits(*(kept[name] for name in Hits.__slots__))
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            continue  # absent, removed or damaged: searched anew
    return None


def _keep(corpus: Corpus, key: str, hits: Hits) -> None:
    """Leave hits for later calls; where nothing can be written they are searched for again."""
    for number, home in enumerate(made_homes(corpus.path)):
        try:
            home.mkdir(mode=0o700 if number else 0o777, exist_ok=True)
            with writing_atomic(home / f"search-{key[:20]}.npz") as handle:
                np.savez_compressed(handle, **{name: getattr(hits, name) for name in Hits.__slots__})
        except OSError:
            continue
        return
