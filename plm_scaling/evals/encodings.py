"""Sequences as numbers without a language model: what every floor is fitted to.

n: sequences, S: sites, A: the 20 amino acids in the order of `core.alphabet.STANDARD`, p: columns.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy  # its parts load when they are used

from plm_scaling.core.alphabet import FIRST_RESIDUE, STANDARD, TO_ID
from plm_scaling.core.errors import ConfigError

__all__ = [
    "blosum62_scores",
    "composition",
    "kmer_counts",
    "letter_counts",
    "letter_matrix",
    "mutation_counts",
    "one_hot",
    "pairwise_one_hot",
    "tf_idf",
    "varied_sites",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
LetterArray = npt.NDArray[np.int8]

_A: Final = len(STANDARD)
_MOST_ENTRIES: Final = 100_000_000


def letter_matrix(sequences: Sequence[str]) -> LetterArray:
    """Amino acids as numbers from 0, int8[n, longest]; -1 for unusual letters and beyond the end of a sequence.

    Raises
    ------
    ConfigError : a character that is no residue letter.
    """
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    ids = TO_ID[np.frombuffer("".join(sequences).encode("latin-1", "replace"), dtype=np.uint8)]
    if ids.size and ids.max() == 255:
        owner = int(np.searchsorted(np.cumsum(lengths), np.argmax(ids == 255), side="right"))
        raise ConfigError(f"sequence {owner + 1} holds a character that is no residue letter", why=sequences[owner])
    letters = ids.astype(np.int8) - FIRST_RESIDUE
    letters[letters >= _A] = -1
    matrix = np.full((len(sequences), int(lengths.max(initial=0))), -1, dtype=np.int8)
    matrix[np.arange(matrix.shape[1]) < lengths[:, None]] = letters
    return matrix


def varied_sites(letters_nS: LetterArray) -> IntArray:
    """Sites at which not all sequences are alike; the others tell nothing apart."""
    return np.flatnonzero((letters_nS != letters_nS[:1]).any(axis=0))


def one_hot(letters_nS: LetterArray) -> scipy.sparse.csr_array:
    """1 where site s holds amino acid a, float64[n, S A] in column s A + a; nothing where it holds neither."""
    column = np.arange(letters_nS.shape[1], dtype=np.int32) * _A + letters_nS.astype(np.int32)
    return _ones(column, letters_nS >= 0, letters_nS.shape[1] * _A)


def pairwise_one_hot(letters_nS: LetterArray) -> scipy.sparse.csr_array:
    """`one_hot`, and after it 1 where sites s < t hold a and b, float64[n, S A + S (S - 1) / 2 A A].

    Raises
    ------
    ConfigError : more than 10^8 entries: too many sites for their pairs to be listed.
    """
    n, S = letters_nS.shape
    pairs = np.array(list(itertools.combinations(range(S), 2)), dtype=np.int64).reshape(-1, 2)
    entries = n * len(pairs)
    if entries > _MOST_ENTRIES:
        raise ConfigError(
            f"{len(pairs):,} pairs of {S} sites in {n:,} sequences",
            why=f"that are {entries:,} entries, and {_MOST_ENTRIES:,} are the most",
            hint="ask for fewer sequences, or only for sites that are known to act together",
        )
    first, second = letters_nS[:, pairs[:, 0]], letters_nS[:, pairs[:, 1]]
    column = np.arange(len(pairs), dtype=np.int32) * (_A * _A) + first.astype(np.int32) * _A + second.astype(np.int32)
    both = _ones(column, (first >= 0) & (second >= 0), len(pairs) * _A * _A)
    return scipy.sparse.csr_array(scipy.sparse.hstack([one_hot(letters_nS), both], format="csr"))


def letter_counts(letters_nS: LetterArray) -> FloatArray:
    """How often each amino acid occurs, float64[n, A]."""
    return np.stack([(letters_nS == letter).sum(axis=1) for letter in range(_A)], axis=1).astype(np.float64)


def composition(letters_nS: LetterArray) -> FloatArray:
    """Share of each amino acid, float64[n, A]; of a sequence without any, zeros."""
    counts = letter_counts(letters_nS)
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def kmer_counts(letters_nS: LetterArray, k: int = 3) -> scipy.sparse.csr_array:
    """How often each word of k amino acids occurs, float64[n, A^k]; words with unusual letters are left out."""
    windows = letters_nS.shape[1] - k + 1
    if windows < 1:
        return scipy.sparse.csr_array((len(letters_nS), _A**k))
    parts = [letters_nS[:, i : i + windows] for i in range(k)]
    column = np.zeros(parts[0].shape, dtype=np.int32)
    for part in parts:
        column = column * _A + part.astype(np.int32)
    words = _ones(column, np.logical_and.reduce([part >= 0 for part in parts]), _A**k)
    words.sum_duplicates()
    return words


def tf_idf(
    train: scipy.sparse.csr_array, other: scipy.sparse.csr_array
) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array]:
    """Counts with rare columns weighted up, by how many rows of `train` hold each.

    **Source:** Sparck Jones 1972; smoothed as ln((1 + n) / (1 + n_with)) + 1.
    """
    holding = np.bincount(train.indices, minlength=train.shape[1])
    weight = scipy.sparse.diags_array(np.log((1.0 + train.shape[0]) / (1.0 + holding)) + 1.0)
    return scipy.sparse.csr_array(train @ weight), scipy.sparse.csr_array(other @ weight)


def mutation_counts(letters_nS: LetterArray, wild_type: str) -> IntArray:
    """Sites that differ from the wild type, int64[n].

    Raises
    ------
    ConfigError : a wild type of another length.
    """
    return np.asarray((letters_nS != _wild_letters(letters_nS, wild_type)).sum(axis=1), dtype=np.int64)


def blosum62_scores(letters_nS: LetterArray, wild_type: str) -> FloatArray:
    """BLOSUM62 of each sequence against the wild type, site by site, less that of the wild type with itself.

    Never above 0: every substitution costs what the wild-type letter scores with itself and the new one does not.

    **Source:** Henikoff & Henikoff 1992, matrix as in biopython.

    Raises
    ------
    ConfigError : a wild type of another length.
    """
    wild = _wild_letters(letters_nS, wild_type)
    matrix = _blosum62()
    return np.asarray((matrix[wild, letters_nS] - matrix[wild, wild]).sum(axis=1))


@lru_cache(maxsize=1)
def _blosum62() -> FloatArray:
    """float64[A + 1, A + 1]; the last row and column, also reached as -1, are those of X."""
    from Bio.Align import substitution_matrices

    matrix = substitution_matrices.load("BLOSUM62")  # type: ignore[no-untyped-call]
    letters = STANDARD + "X"
    return np.array([[float(matrix[a, b]) for b in letters] for a in letters])


def _wild_letters(letters_nS: LetterArray, wild_type: str) -> LetterArray:
    if len(wild_type) != letters_nS.shape[1]:
        raise ConfigError(
            f"a wild type of {len(wild_type)} residues for sequences of up to {letters_nS.shape[1]}",
            why="sites are compared one by one",
            hint="give the wild type of exactly the region that the table's sequences cover",
        )
    return np.asarray(letter_matrix([wild_type])[0])


def _ones(column: npt.NDArray[np.int32], there: npt.NDArray[np.bool_], columns: int) -> scipy.sparse.csr_array:
    ends = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
    total = int(ends[-1])
    index = np.int32 if max(total, columns) < 2**31 else np.int64
    return scipy.sparse.csr_array(
        (np.ones(total), column[there].astype(index), ends.astype(index)), shape=(len(there), columns)
    )
