"""Which column of a model's log-probabilities is which letter. L residues, A columns."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.alphabet import FIRST_RESIDUE, STANDARD, UNUSUAL
from plm_scaling.core.errors import ConfigError
from plm_scaling.evals.adapters.asking import residue_ids
from plm_scaling.evals.adapters.base import Letters, ModelInfo

__all__ = ["amino_ids", "candidate_letters", "letter_columns", "scored_sites"]

Int = npt.NDArray[np.int64]

_N: Final = len(STANDARD)


def amino_ids(sequence: str) -> Int:
    """Place of every residue among the 20 amino acids (`core.alphabet.STANDARD`), int64[L]; -1 for X, B, U, Z, O.

    Raises
    ------
    CorpusError : empty, or a character that is no residue letter.
    """
    ids = residue_ids(sequence) - FIRST_RESIDUE
    return np.where(ids < _N, ids, -1)


def candidate_letters(info: ModelInfo, letters: Letters) -> str:
    """The letters a residue is compared with: the 20 amino acids, or all residue letters that the model knows."""
    return STANDARD if letters == "20" else "".join(x for x in STANDARD + UNUSUAL if x in info.symbols)


def letter_columns(info: ModelInfo, letters: Letters) -> Int:
    """Column of each of the 20 amino acids in a model's log-probabilities, int64[20].

    Raises
    ------
    ConfigError : the model's own alphabet lacks one of them.
    """
    return _columns(info.symbols) if letters == "raw" else np.arange(_N)


@lru_cache(maxsize=16)
def _columns(symbols: Sequence[str]) -> Int:
    if missing := [letter for letter in STANDARD if letter not in symbols]:
        raise ConfigError(f"the model's alphabet has no {missing[0]}", why=f"it is {' '.join(symbols)}")
    return np.array([symbols.index(letter) for letter in STANDARD])


def scored_sites(sequence: str) -> Int:
    """Positions from 0 with one of the 20 amino acids: X, B, U, Z and O have no probability among them."""
    return np.flatnonzero(amino_ids(sequence) >= 0)
