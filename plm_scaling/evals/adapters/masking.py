"""Queries as the distinct documents they show: whatever asks for more sites of one document costs nothing more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from plm_scaling.evals.adapters.asking import check_query
from plm_scaling.evals.adapters.base import FloatArray, Query

__all__ = ["MaskedDocuments"]

Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class MaskedDocuments:
    """What a model is shown for some queries.

    Attributes
    ----------
    documents : token ids of each distinct document, int64[T].
    sites : of each document the residues that any query reads, int64[S], ascending.
    of_query : document of each query.
    """

    documents: tuple[Int, ...]
    sites: tuple[Int, ...]
    of_query: tuple[int, ...]

    @classmethod
    def of(cls, queries: Sequence[Query], document: Callable[[str], Int], *, mask: int, before: int) -> MaskedDocuments:
        """The documents of queries.

        Parameters
        ----------
        document : token ids of a sequence, terminals included.
        mask : id of the mask. before : tokens ahead of the first residue.

        Raises
        ------
        CorpusError : a site that is not there; and what `document` raises.
        """
        documents: dict[bytes, Int] = {}
        read: list[set[int]] = []
        number: dict[bytes, int] = {}
        of_query = []
        for query in queries:
            check_query(query)
            ids = document(query.sequence)
            ids[before + np.array(query.masked, dtype=np.int64)] = mask
            key = ids.tobytes()
            if key not in number:
                number[key], documents[key] = len(number), ids
                read.append(set())
            read[number[key]].update(query.read)
            of_query.append(number[key])
        sites = tuple(np.array(sorted(places), dtype=np.int64) for places in read)
        return cls(tuple(documents.values()), sites, tuple(of_query))

    def answers(self, queries: Sequence[Query], found: Mapping[int, FloatArray]) -> list[FloatArray]:
        """What each query reads, in its order, float64[S, A].

        Parameters
        ----------
        found : of each document the log-probabilities at its `sites`.
        """
        return [
            found[number][np.searchsorted(self.sites[number], np.array(query.read, dtype=np.int64))]
            for number, query in zip(self.of_query, queries, strict=True)
        ]
