"""What is known of a residue without looking at the others: the composition of training sequences, or of each site.

The least a language model must beat. L sites.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from plm_scaling.core.alphabet import FIRST_RESIDUE, STANDARD
from plm_scaling.core.errors import ConfigError
from plm_scaling.corpus.floors import count_symbols
from plm_scaling.corpus.reader import Corpus
from plm_scaling.evals.adapters.asking import check_query
from plm_scaling.evals.adapters.base import (
    Ability,
    Direction,
    FloatArray,
    Letters,
    ModelInfo,
    Query,
)
from plm_scaling.evals.adapters.doubles import Double
from plm_scaling.evals.letters import Int, amino_ids

__all__ = ["Composition", "corpus_composition", "fit_composition", "fit_site_profile"]

_A: Final = len(STANDARD)
_ABILITIES: Final[tuple[Ability, ...]] = ("masked", "causal", "reverse", "profile")


class Composition(Double):
    """Frequencies of the 20 amino acids, the same everywhere or of each site: an `Adapter` that embeds nothing.

    Parameters
    ----------
    logprobs : ln p, float64[20], or [L, 20] for sequences of L residues.
    name, origin : what tables say of it. sha256 : of the file it was counted in.
    """

    def __init__(self, logprobs: FloatArray, *, name: str, origin: str, sha256: str = "") -> None:
        super().__init__(
            ModelInfo(
                name=name,
                family="double",
                objective="none",
                origin=origin,
                abilities=_ABILITIES,
                sha256=sha256,
                dtype="float64",
                symbols=tuple(STANDARD),
            )
        )
        self.logprobs = logprobs

    def masked_logprobs(self, queries: Sequence[Query], *, letters: Letters = "20") -> list[FloatArray]:
        """The frequencies at the sites that are read."""
        for query in queries:
            check_query(query)
        return [self._rows(query.sequence)[list(query.read)] for query in queries]

    def residue_logprobs(
        self, sequences: Sequence[str], *, direction: Direction = "forward", letters: Letters = "20"
    ) -> list[FloatArray]:
        """Ln p of each residue, NaN for X, B, U, Z and O; the length is given, so the end costs nothing."""
        answers = []
        for sequence in sequences:
            ids = amino_ids(sequence)
            logp = np.where(ids < 0, np.nan, self._rows(sequence)[np.arange(len(ids)), ids])
            answers.append(logp if letters == "20" else np.append(logp, 0.0))
        return answers

    def _rows(self, sequence: str) -> FloatArray:
        if self.logprobs.ndim == 1:
            return np.broadcast_to(self.logprobs, (len(sequence), _A))
        if len(sequence) != len(self.logprobs):
            raise ConfigError(
                f"a sequence of {len(sequence)} residues",
                why=f"{self.info.name} was counted on {len(self.logprobs)} sites",
                hint="compare it on sequences of one family and length, or use the composition of all sites",
            )
        return self.logprobs


def fit_composition(sequences: Sequence[str], *, name: str = "composition") -> Composition:
    """Frequencies of the amino acids in training sequences, one occurrence of each added.

    Raises
    ------
    ConfigError : no sequence.
    CorpusError : a character that is no residue letter.
    """
    if not sequences:
        raise ConfigError("no training sequences to count residues in", hint="give at least one")
    ids = np.concatenate([amino_ids(sequence) for sequence in sequences])
    counts = np.bincount(ids[ids >= 0], minlength=_A) + 1.0
    return Composition(np.log(counts / counts.sum()), name=name, origin=f"counted in {len(sequences)} sequences")


def corpus_composition(corpus: Corpus, rows: Int, *, name: str = "composition") -> Composition:
    """The same of records of a corpus, int64[n], such as those a run was trained on."""
    counts = count_symbols(corpus, rows)[FIRST_RESIDUE : FIRST_RESIDUE + _A] + 1.0
    return Composition(np.log(counts / counts.sum()), name=name, origin=f"counted in {len(rows)} sequences")


def fit_site_profile(
    sequences: Sequence[str], *, pseudocount: float = 1.0, name: str = "site profile", sha256: str = ""
) -> Composition:
    """Frequencies at every site of sequences of one length, with pseudocounts in the proportion of the composition.

    Parameters
    ----------
    sequences : of one length, such as a library's 28-mers, or the columns of an alignment without gaps.
    pseudocount : added to the counts of each site, times 20.
    sha256 : of the file they come from.

    Raises
    ------
    ConfigError : no sequence, or of different lengths.
    """
    background = np.exp(fit_composition(sequences).logprobs)
    lengths = {len(sequence) for sequence in sequences}
    if len(lengths) > 1:
        raise ConfigError(
            f"sequences of {min(lengths)} to {max(lengths)} residues",
            why="a profile has one distribution for every site",
            hint="give sequences of one length",
        )
    ids_nL: Int = np.array([amino_ids(sequence) for sequence in sequences])
    counts = np.stack([(ids_nL == letter).sum(0) for letter in range(_A)], axis=1) + pseudocount * _A * background
    logprobs = np.log(counts / counts.sum(1, keepdims=True))
    return Composition(logprobs, name=name, origin=f"counted at each site of {len(sequences)} sequences", sha256=sha256)
