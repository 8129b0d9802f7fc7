"""Zero-shot scores of public models on each of ProteinGym's 217 substitution assays, and their means by group.

A: assays, M: models, B: resampled sets of proteins.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError, did_you_mean

__all__ = ["ASSAY_SOURCE", "AssayScores", "group_weights", "load_assay_scores", "resampled_weights"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

ASSAY_SOURCE: Final = "ProteinGym (Notin et al. 2023), scores per assay, commit bb685245"
_TABLE: Final = Path(__file__).with_name("proteingym_spearman.csv")
_ABOUT: Final = ("assay", "protein", "function", "depth", "taxon")


@dataclass(frozen=True)
class AssayScores:
    """Spearman's rank correlation of every model on every assay."""

    assays: tuple[str, ...]
    proteins: tuple[str, ...]
    """UniProt entry of each assay: assays of one protein are no independent evidence."""
    functions: tuple[str, ...]
    """What is measured: Activity, Binding, Expression, OrganismalFitness, Stability."""
    depths: tuple[str, ...]
    """Depth of the protein's alignment: Low, Medium, High."""
    taxa: tuple[str, ...]
    """Human, Eukaryote (other), Prokaryote, Virus."""
    models: tuple[str, ...]
    scores_MA: FloatArray

    def of(self, models: Sequence[str]) -> FloatArray:
        """Rows of some models, float64[m, A].

        Raises
        ------
        ConfigError : a model without scores.
        """
        for model in models:
            if model not in self.models:
                raise ConfigError(f"{model!r} has no scores per assay", hint=did_you_mean(model, self.models))
        return self.scores_MA[[self.models.index(model) for model in models]]

    def where(self, *, taxon: str = "", depth: str = "", function: str = "", assay: str = "") -> npt.NDArray[np.bool_]:
        """Assays of a taxon, depth, function, or by name, bool[A]; what is empty is free."""
        wanted = ((taxon, self.taxa), (depth, self.depths), (function, self.functions), (assay, self.assays))
        return np.array(
            [all(not name or values[k] == name for name, values in wanted) for k in range(len(self.assays))]
        )


@lru_cache(maxsize=1)
def load_assay_scores() -> AssayScores:
    """The shipped table. **Source:** ProteinGym, benchmarks/DMS_zero_shot, commit bb685245, MIT licence."""
    with _TABLE.open(encoding="ascii", newline="") as handle:
        header, *rows = csv.reader(handle)
    about = {name: tuple(row[k] for row in rows) for k, name in enumerate(_ABOUT)}
    return AssayScores(
        assays=about["assay"],
        proteins=about["protein"],
        functions=about["function"],
        depths=about["depth"],
        taxa=about["taxon"],
        models=tuple(header[len(_ABOUT) :]),
        scores_MA=np.array([list(map(float, row[len(_ABOUT) :])) for row in rows], dtype=np.float64).T,
    )


def group_weights(table: AssayScores, chosen: npt.NDArray[np.bool_], *, by_function: bool) -> FloatArray:
    """Weights of the assays in the mean of a group, float64[A], summing to 1.

    Assays are averaged within a protein (and function) first, then proteins, then, `by_function`, functions.

    **Source:** ProteinGym's aggregation: the mean over all assays goes by function, those of taxa and depths do not.
    """
    once = np.ones((1, len(set(table.proteins))), dtype=np.int64)
    weights: FloatArray = _weights(table, chosen, once, by_function)[0]
    return weights


def resampled_weights(
    table: AssayScores, chosen: npt.NDArray[np.bool_], *, by_function: bool, draws: int, seed: int = 0
) -> FloatArray:
    """The same for sets of proteins drawn with replacement, float64[B, A]: all models meet the same sets.

    Proteins are drawn, not assays, since assays of one protein share most of what makes it easy or hard.
    """
    names = sorted(set(table.proteins))
    inside = sorted({protein for protein, use in zip(table.proteins, chosen, strict=True) if use})
    drawn = np.random.default_rng(seed).multinomial(len(inside), np.full(len(inside), 1.0 / len(inside)), size=draws)
    counts = np.zeros((draws, len(names)), dtype=np.int64)
    counts[:, [names.index(protein) for protein in inside]] = drawn
    return _weights(table, chosen, counts, by_function)


def _weights(table: AssayScores, chosen: npt.NDArray[np.bool_], counts_BU: IntArray, by_function: bool) -> FloatArray:
    """Weights for how often every protein (in the order of its name) is taken, float64[B, A]."""
    names = sorted(set(table.proteins))
    place = {name: k for k, name in enumerate(names)}
    protein_A = np.array([place[protein] for protein in table.proteins])
    total = np.zeros((len(counts_BU), len(table.assays)))
    kinds = sorted(set(table.functions)) if by_function else [""]
    present = np.zeros(len(counts_BU))
    for kind in kinds:
        rows = np.flatnonzero(chosen & np.array([not kind or name == kind for name in table.functions]))
        assays_of = np.bincount(protein_A[rows], minlength=len(names))
        taken = counts_BU * (assays_of > 0)
        proteins = taken.sum(axis=1)
        present += proteins > 0
        share = taken[:, protein_A[rows]] / assays_of[protein_A[rows]]
        total[:, rows] += np.divide(share, proteins[:, None], out=np.zeros_like(share), where=proteins[:, None] > 0)
    return total / present[:, None]
