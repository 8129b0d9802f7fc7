"""What needs no model at all: scores of variants by substitution matrix, by how much they change, and by chance."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from plm_scaling.core.alphabet import STANDARD
from plm_scaling.evals.variants import Variant

__all__ = ["zero_shot_floors"]

FloatArray = npt.NDArray[np.float64]


@lru_cache(maxsize=1)
def _blosum62() -> FloatArray:
    """Log-odds float64[20, 20] in the order of `STANDARD`. **Source:** Henikoff and Henikoff 1992."""
    from Bio.Align import substitution_matrices

    matrix = substitution_matrices.load("BLOSUM62")  # type: ignore[no-untyped-call]
    return np.array([[float(matrix[a, b]) for b in STANDARD] for a in STANDARD])


def zero_shot_floors(wild_type: str, variants: Sequence[Variant], *, seed: int = 0) -> dict[str, FloatArray]:
    """Scores float64[n] of every floor, higher for what it expects to work better.

    BLOSUM62: sum over changed sites of s(old, new) - s(old, old); of a variant with insertions or deletions nothing
    but the residues gained or lost counts. Mutation count: minus the residues that differ. Random: by a seed.
    """
    matrix, at = _blosum62(), {letter: k for k, letter in enumerate(STANDARD)}
    blosum, changed = np.zeros(len(variants)), np.zeros(len(variants))
    for k, variant in enumerate(variants):
        if variant.indel:
            changed[k] = -max(abs(len(variant.sequence) - len(wild_type)), 1)
            continue
        pairs = [(at[c.old], at[c.new]) for c in variant.substitutions if c.old in at and c.new in at]
        blosum[k] = sum(matrix[old, new] - matrix[old, old] for old, new in pairs)
        changed[k] = -len(variant.substitutions)
    return {
        "BLOSUM62": blosum,
        "mutation count": changed,
        "random": np.random.default_rng(seed).random(len(variants)),
    }
