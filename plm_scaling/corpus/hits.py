"""What a search of sequences against sequences found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from plm_scaling.corpus.format import IDENTITY_EDGES

__all__ = ["Hits", "identity_bins", "no_hits", "sorted_hits"]

Int = npt.NDArray[np.int64]
Float = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Hits:
    """Alignments found by a search, sorted by query, then from the most to the least identical, then by target.

    Parameters
    ----------
    query, target : int64[n], numbers of the sequences.
    identity : float32[n], share of identical residues among the columns of the alignment.
    query_coverage, target_coverage : float32[n], share of each sequence within the alignment.
    evalue : float64[n].
    """

    query: Int
    target: Int
    identity: Float
    query_coverage: Float
    target_coverage: Float
    evalue: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.query)

    def best(self) -> Hits:
        """The most identical hit of each query."""
        keep = np.ones(len(self), dtype=bool)
        keep[1:] = self.query[1:] != self.query[:-1]
        return self.where(keep)

    def where(self, keep: npt.NDArray[np.bool_]) -> Hits:
        """The hits under a mask."""
        return Hits(*(getattr(self, name)[keep] for name in self.__slots__))

    def __add__(self, other: Hits) -> Hits:
        """The hits of two searches of the same sequences; a pair found by both stays twice."""
        return sorted_hits([np.concatenate([getattr(self, name), getattr(other, name)]) for name in self.__slots__])


def no_hits() -> Hits:
    """A search that found nothing."""
    return sorted_hits([np.zeros(0)] * len(Hits.__slots__))


def identity_bins(identity: npt.NDArray[np.float32]) -> tuple[int, int, int, int]:
    """How many identities fall into each of the four bins of `IDENTITY_EDGES`; an edge belongs to the bin above it."""
    # Identities are 32-bit numbers: an edge must round as they do.
    bins = np.digitize(identity, np.array(IDENTITY_EDGES, dtype=np.float32))
    a, b, c, d = np.bincount(bins, minlength=len(IDENTITY_EDGES) + 1).tolist()
    return a, b, c, d


def sorted_hits(columns: Sequence[npt.NDArray[Any]]) -> Hits:
    """MMseqs2 writes hits in the order in which its threads finish."""
    query, target, identity, query_coverage, target_coverage, evalue = columns
    order = np.lexsort((target, -identity, query))
    return Hits(
        query[order].astype(np.int64),
        target[order].astype(np.int64),
        identity[order].astype(np.float32),
        query_coverage[order].astype(np.float32),
        target_coverage[order].astype(np.float32),
        evalue[order].astype(np.float64),
    )
