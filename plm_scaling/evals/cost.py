"""`Cost`: what a score took, counted rather than timed. n sequences."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Cost", "causal_cost", "shared_beginning"]


@dataclass(frozen=True)
class Cost:
    """Work of a score, without padding.

    Attributes
    ----------
    sites : positions whose log-probabilities were asked for.
    forwards : documents that the model was shown.
    tokens : positions to be computed, terminals included; beginnings that causal documents share count once.
    tokens_unshared : the same with every document by itself.
    """

    sites: int = 0
    forwards: int = 0
    tokens: int = 0
    tokens_unshared: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.sites + other.sites,
            self.forwards + other.forwards,
            self.tokens + other.tokens,
            self.tokens_unshared + other.tokens_unshared,
        )

    @property
    def saved(self) -> float:
        """How many times fewer tokens sharing leaves."""
        return self.tokens_unshared / self.tokens if self.tokens else 1.0


def causal_cost(ordered: Sequence[str]) -> Cost:
    """Cost of likelihoods of sequences in the order of their letters: `<cls>` and L residues each.

    In this order a neighbour shares the longest beginning, so that what is new in each adds up to the nodes of the
    tree of all beginnings.
    """
    shared = [shared_beginning(a, b) for a, b in itertools.pairwise(ordered)]
    residues = sum(map(len, ordered))
    return Cost(
        sites=residues,
        forwards=len(ordered),
        tokens=residues - sum(shared) + min(1, len(ordered)),
        tokens_unshared=residues + len(ordered),
    )


def shared_beginning(a: str, b: str) -> int:
    """Letters that two sequences have in common before the first difference."""
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    x, y = (np.frombuffer(text[:n].encode(), dtype=np.uint8) for text in (a, b))
    return int(np.argmax(x != y))
