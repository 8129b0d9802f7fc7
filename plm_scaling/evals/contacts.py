"""How many of the contacts that a model is surest of are there: precision at L, L/2 and L/5, by separation.

L: residues of a chain, K: pairs of a range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.core.records import Record
from plm_scaling.evals.bootstrap import Bootstrapped, bootstrap_mean
from plm_scaling.evals.structures import CONTACT_DISTANCE, Structure

__all__ = [
    "CUTS",
    "RANGES",
    "ChainPrecision",
    "ContactRange",
    "ContactReport",
    "Cut",
    "contact_precision",
    "evaluate_contacts",
    "random_contacts",
    "separation_floor",
]

FloatArray = npt.NDArray[np.float64]
ContactRange = Literal["short", "medium", "long"]
Cut = Literal["L", "L/2", "L/5"]
ContactScorer = Callable[[Structure], npt.NDArray[np.floating]]
"""A structure's sequence to scores of its pairs, float[L, L]; only the pairs i < j are read."""

RANGES: Final[Mapping[ContactRange, tuple[float, float]]] = MappingProxyType(
    {"short": (6, 11), "medium": (12, 23), "long": (24, math.inf)}
)
"""Separations along the chain, both ends included. **Source:** Rao et al. 2021, section 4."""
CUTS: Final[Mapping[Cut, int]] = MappingProxyType({"L": 1, "L/2": 2, "L/5": 5})


class ChainPrecision(Record):
    """Precision on one chain."""

    chain: str
    family: str
    residues: int
    """With coordinates: the L of the cuts."""
    precision: dict[str, float]
    """By `range P@cut`; without the ranges that the chain is too short for."""
    contacts: dict[str, int]
    """How many there are, by range: fewer than the cut bound the precision from above."""


class ContactReport(Record):
    """Mean precision over chains, families drawn for the intervals."""

    name: str
    """What predicted."""
    distance: float = CONTACT_DISTANCE
    """Angstrom."""
    precision: dict[str, Bootstrapped]
    """By `range P@cut`; a range that fewer than two families have is left out."""
    chains: tuple[ChainPrecision, ...]


def contact_precision(
    scores: npt.NDArray[np.floating], structure: Structure, *, distance: float = CONTACT_DISTANCE
) -> ChainPrecision:
    """Share of contacts among the pairs of highest score, by range and cut.

    L counts the residues with coordinates; where a range has fewer pairs than a cut asks for, all of them are taken.
    Pairs of equal score count with the mean of them all, so that the order of pairs does not matter.

    Raises
    ------
    ConfigError : scores of another shape.
    RefusedError : a score of a pair that is read is no finite number.
    """
    length = len(structure)
    if scores.shape != (length, length):
        raise ConfigError(f"scores of {scores.shape} for {length} residues", where=structure.name)
    i_K, j_K = np.triu_indices(length, k=1)
    seen = structure.seen
    read = seen[i_K] & seen[j_K]
    i_K, j_K = i_K[read], j_K[read]
    score_K, true_K = scores[i_K, j_K].astype(np.float64), structure.contacts(distance)[i_K, j_K]
    precision: dict[str, float] = {}
    contacts: dict[str, int] = {}
    for name, (least, most) in RANGES.items():
        inside = (j_K - i_K >= least) & (j_K - i_K <= most)
        if not inside.any():
            continue
        if not np.isfinite(score_K[inside]).all():
            raise RefusedError("a score of a pair is no finite number", where=structure.name, why=f"{name} range")
        contacts[name] = int(true_K[inside].sum())
        share = _running_precision(score_K[inside], true_K[inside])
        for cut, part in CUTS.items():
            taken = min(max(1, int(seen.sum()) // part), len(share))
            precision[f"{name} P@{cut}"] = float(share[taken - 1])
    return ChainPrecision(
        chain=structure.name,
        family=structure.family or structure.name,
        residues=int(seen.sum()),
        precision=precision,
        contacts=contacts,
    )


def evaluate_contacts(
    name: str,
    scorer: ContactScorer,
    structures: Sequence[Structure],
    *,
    distance: float = CONTACT_DISTANCE,
    draws: int = 1000,
    seed: int = 0,
) -> ContactReport:
    """Precision of a scorer on chains it was not fitted to, each chain with the same weight.

    Raises
    ------
    RefusedError : no chain.
    ConfigError, RefusedError : as `contact_precision`.
    """
    if not structures:
        raise RefusedError("no structure to test contacts on", hint="give PDB or mmCIF files")
    chains = tuple(contact_precision(scorer(one), one, distance=distance) for one in structures)
    found: dict[str, Bootstrapped] = {}
    for key in (f"{kind} P@{cut}" for kind in RANGES for cut in CUTS):
        having = [chain for chain in chains if key in chain.precision]
        families = [chain.family for chain in having]
        if len(set(families)) >= 2:
            values = [chain.precision[key] for chain in having]
            found[key] = bootstrap_mean(values, clusters=families, draws=draws, seed=seed)
    return ContactReport(name=name, distance=distance, precision=found, chains=chains)


def separation_floor(structures: Sequence[Structure], *, distance: float = CONTACT_DISTANCE) -> ContactScorer:
    """What separation alone tells: a pair scores as often as training pairs of its separation touch.

    Separations are smoothed over a window of 5, and those that training chains do not reach score 0.
    """
    if not structures:
        raise RefusedError("no structure to learn from", hint="give chains that are not tested on")
    longest = max(len(one) for one in structures)
    touching, pairs = np.zeros(longest), np.zeros(longest)
    for one in structures:
        contact_LL, seen = one.contacts(distance), one.seen
        known_LL = seen[:, None] & seen[None]
        for apart in range(1, len(one)):
            touching[apart] += np.diagonal(contact_LL, apart).sum()
            pairs[apart] += np.diagonal(known_LL, apart).sum()
    window = np.ones(5)
    smooth = [np.convolve(column, window, "same") for column in (touching, pairs)]
    rate = np.divide(smooth[0], smooth[1], out=np.zeros(longest), where=smooth[1] > 0)

    def score(structure: Structure) -> FloatArray:
        place = np.arange(len(structure))
        apart_LL = np.abs(place[:, None] - place[None])
        return np.where(apart_LL < longest, rate[np.minimum(apart_LL, longest - 1)], 0.0)

    return score


def random_contacts(seed: int = 0) -> ContactScorer:
    """Scores by chance, the same for the same sequence: what a map without information reaches."""

    def score(structure: Structure) -> FloatArray:
        word = int.from_bytes(structure.sequence.encode()[:64], "big")
        return np.random.default_rng([seed, word % (1 << 63), len(structure)]).random((len(structure), len(structure)))

    return score


def _running_precision(score_K: FloatArray, true_K: npt.NDArray[np.bool_]) -> FloatArray:
    """Precision among the best 1, 2, ... K pairs, equal scores sharing their mean."""
    _, group_K, size = np.unique(-score_K, return_inverse=True, return_counts=True)
    expected_K = np.repeat(np.bincount(group_K, true_K) / size, size)
    return np.asarray(np.cumsum(expected_K) / np.arange(1, len(score_K) + 1))
