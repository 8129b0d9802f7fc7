"""How new sequences are: words of eight residues that a corpus holds, the nearest record; and how unlike each other.

n sequences, W words, T tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.alphabet import FIRST_RESIDUE, STANDARD, decode, encode
from plm_scaling.corpus.format import TRAIN
from plm_scaling.corpus.nearest import find_nearest
from plm_scaling.corpus.reader import Corpus
from plm_scaling.evals.edits import edit_identity

__all__ = ["Novelty", "WORD", "measure_novelty", "sequence_clusters"]

FloatArray = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

WORD: Final = 8
"""Residues of a word: by chance a word of a random sequence is in 40 M residues with a probability of 0.2 %."""
_ROWS: Final = 1 << 13
_CANDIDATES: Final = 5
_SHARED: Final = 3
_LETTERS: Final = len(STANDARD)


@dataclass(frozen=True)
class Novelty:
    """Of n sequences against a corpus.

    Attributes
    ----------
    known_words : float64[n], share of a sequence's words that the corpus holds; nan where it is shorter than a word.
    identity : float64[n], to the nearest record found; 0 where none was found.
    copy : bool[n], the corpus holds the whole sequence as it is.
    tool : what found the nearest: MMseqs2 and its version, or shared words and edit distance.
    """

    known_words: FloatArray
    identity: FloatArray
    copy: npt.NDArray[np.bool_]
    tool: str


def measure_novelty(
    corpus: Corpus, sequences: Sequence[str], *, split: str = TRAIN, search: bool = True, threads: int | None = None
) -> Novelty:
    """Look for sequences and their words in a split of a corpus.

    Identity is that of MMseqs2's best alignment that covers 80 % of the sequence; without the program (or `search`)
    that by edit distance to the five records that share most words, which finds near copies and no distant relatives.

    Raises
    ------
    CorpusError : MMseqs2 failed.
    PlanError : the corpus has no such split.
    """
    rows = np.sort(corpus.rows(split))
    tokens = [encode(sequence) for sequence in sequences]
    words = [np.unique(_words(one)[1]) for one in tokens]
    asked = np.unique(np.concatenate([*words, np.zeros(0, dtype=np.int64)]))
    found = find_nearest(corpus, rows, tokens, contained=True, threads=threads) if search else None
    searched = found is not None and bool(found.tool)
    there, shared = _scan(corpus, rows, asked, words, by_record=not searched)
    known = np.array([float(there[np.searchsorted(asked, one)].mean()) if len(one) else np.nan for one in words])
    if found is not None and searched:
        return Novelty(known, found.identity, found.is_copy, found.tool)
    identity = np.zeros(len(tokens))
    for k, sequence in enumerate(sequences):
        for row, _ in shared[k].most_common(_CANDIDATES):
            record = decode(corpus.gather(corpus.offset[[row]], corpus.length[[row]]))
            identity[k] = max(identity[k], edit_identity(sequence, record))
    return Novelty(known, identity, identity == 1.0, "shared words and edit distance")


def sequence_clusters(sequences: Sequence[str], *, identity: float = 0.5) -> list[int]:
    """Number of the cluster of each sequence, by greedy clustering from the longest down.

    A sequence joins the first representative it has the identity with (by edit distance, so length counts), and is one
    otherwise. Pairs that share fewer than three words of three residues are taken for unlike.
    """
    order = sorted(range(len(sequences)), key=lambda k: (-len(sequences[k]), k))
    words = [{one[i : i + 3] for i in range(len(one) - 2)} for one in sequences]
    representatives: list[int] = []
    cluster = [0] * len(sequences)
    for k in order:
        for number, other in enumerate(representatives):
            if sequences[k] == sequences[other] or (
                len(sequences[k]) >= identity * len(sequences[other])
                and (len(words[k] & words[other]) >= _SHARED or len(sequences[k]) < 2 * WORD)
                and edit_identity(sequences[k], sequences[other]) >= identity
            ):
                cluster[k] = number
                break
        else:
            cluster[k] = len(representatives)
            representatives.append(k)
    return cluster


def _scan(
    corpus: Corpus, rows: Int, asked: Int, words: Sequence[Int], *, by_record: bool
) -> tuple[npt.NDArray[np.bool_], list[Counter[int]]]:
    """Which of the words asked for occur, bool[W]; `by_record`, how many words each sequence shares with a record."""
    there = np.zeros(len(asked), dtype=bool)
    owners: list[list[int]] = [[] for _ in asked]
    for k, own in enumerate(words):
        for place in np.searchsorted(asked, own).tolist():
            owners[place].append(k)
    shared: list[Counter[int]] = [Counter() for _ in words]
    if not len(asked):
        return there, shared
    for part, tokens, sizes in _batches(corpus, rows):
        begin, found = _words(tokens)
        place = np.searchsorted(asked, found)
        place[place == len(asked)] = 0
        hit = asked[place] == found
        there[place[hit]] = True
        if not by_record:
            continue
        of_record = part[np.searchsorted(np.cumsum(sizes), begin[hit], side="right")]
        for record, word in set(zip(of_record.tolist(), place[hit].tolist(), strict=True)):
            for k in owners[word]:
                shared[k][record] += 1
    return there, shared


def _batches(corpus: Corpus, rows: Int) -> Iterator[tuple[Int, npt.NDArray[np.uint8], Int]]:
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        sizes = corpus.length[part] + 1
        yield part, corpus.gather(corpus.offset[part], sizes), sizes.astype(np.int64)


def _words(tokens: npt.NDArray[np.uint8]) -> tuple[Int, Int]:
    """Begin and number of every word of the 20 amino acids, int64[W] each; none goes over the end of a sequence."""
    letter = tokens.astype(np.int64) - FIRST_RESIDUE
    count = len(letter) - WORD + 1
    if count <= 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    number = np.zeros(count, dtype=np.int64)
    for k in range(WORD):
        number = number * _LETTERS + letter[k : k + count]
    odd = np.concatenate([[0], np.cumsum((letter < 0) | (letter >= _LETTERS))])
    whole = np.flatnonzero(odd[WORD:] == odd[:-WORD])
    return whole, number[whole]
