"""Groups of assays (all, by taxon, function, depth, one capsid) and what every public model scores on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError, did_you_mean
from plm_scaling.evals.assays import ASSAY_SOURCE, group_weights, load_assay_scores, resampled_weights

__all__ = ["GROUPS", "Group", "GroupScores", "find_group", "group_scores"]

FloatArray = npt.NDArray[np.float64]

_CAPSID: Final = "CAPSD_AAV2S_Sinai_2021"


@dataclass(frozen=True)
class Group:
    """A set of assays, or a metric published as one number per model."""

    key: str
    title: str
    kind: Literal["all", "taxon", "depth", "function", "assay", "metric"]
    name: str = ""
    """Of the taxon, depth, function, assay, or the metric's key."""


_LISTED: Final = (
    Group("fitness", "Fitness of substitutions, all assays", "all"),
    Group("virus", "Viral proteins", "taxon", "Virus"),
    Group("capsid", "AAV2 capsid, residues 561-588", "assay", _CAPSID),
    Group("human", "Human proteins", "taxon", "Human"),
    Group("eukaryote", "Eukaryotic proteins, human ones left out", "taxon", "Eukaryote"),
    Group("prokaryote", "Prokaryotic proteins", "taxon", "Prokaryote"),
    Group("activity", "Enzyme and other activity", "function", "Activity"),
    Group("binding", "Binding", "function", "Binding"),
    Group("expression", "Expression", "function", "Expression"),
    Group("organismal", "Fitness of the organism", "function", "OrganismalFitness"),
    Group("stability", "Stability", "function", "Stability"),
    Group("shallow", "Proteins with a shallow alignment", "depth", "Low"),
    Group("medium", "Proteins with a medium alignment", "depth", "Medium"),
    Group("deep", "Proteins with a deep alignment", "depth", "High"),
    Group("contacts", "Long-range contacts, precision of the top L", "metric", "contact.large_valid.P@L.LR"),
    Group("far-proteins", "Perplexity of proteins below 50 % identity", "metric", "ood.ppl.id<0.5"),
)
GROUPS: Final = {group.key: group for group in _LISTED}
"""The groups by key."""


def find_group(key: str) -> Group:
    """The group of this key.

    Raises
    ------
    ConfigError : there is none.
    """
    if key not in GROUPS:
        raise ConfigError(f"no group of assays is called {key!r}", hint=did_you_mean(key, GROUPS))
    return GROUPS[key]


@dataclass(frozen=True)
class GroupScores:
    """Means of a group: of every model with a score, and over proteins drawn anew where there are several."""

    values: dict[str, float]
    draws: dict[str, FloatArray]
    """float64[B] each; empty where proteins cannot be drawn, or no draws were asked for."""
    higher_is_better: bool
    n_assays: int
    n_proteins: int
    source: str

    def interval(self, model: str) -> tuple[float | None, float | None]:
        """95 % over proteins."""
        from plm_scaling.sizing.size_trends import quantiles_of  # means alone do without

        return quantiles_of(self.draws.get(model))


def group_scores(group: Group, *, draws: int, seed: int = 0) -> GroupScores:
    """What every public model scores on a group, and on `draws` sets of its proteins drawn anew."""
    if group.kind == "metric":
        from plm_scaling.evals.baselines import find_baselines  # its classes: the means of assays do without

        rows = find_baselines(metric=group.name, unverified=False)
        scores = {row.model: row.value for row in rows}
        return GroupScores(scores, {}, rows[0].parts.higher_is_better, 0, 0, rows[0].source)
    table = load_assay_scores()
    wanted = {} if group.kind == "all" else {group.kind: group.name}
    chosen = table.where(**wanted)
    by_function = group.kind == "all"
    means = table.scores_MA @ group_weights(table, chosen, by_function=by_function)
    n_proteins = len({p for p, use in zip(table.proteins, chosen, strict=True) if use})
    resampled: dict[str, FloatArray] = {}
    if draws and n_proteins > 1:
        drawn = resampled_weights(table, chosen, by_function=by_function, draws=draws, seed=seed) @ table.scores_MA.T
        resampled = dict(zip(table.models, drawn.T, strict=True))
    values = {model: float(mean) for model, mean in zip(table.models, means, strict=True)}
    return GroupScores(values, resampled, True, int(chosen.sum()), n_proteins, ASSAY_SOURCE)
