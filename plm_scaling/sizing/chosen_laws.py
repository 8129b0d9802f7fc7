"""Which laws answer a sizing question: the one that gives N, those that widen its band, and those shown beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.core.objective import Objective
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.laws.zoo import PublishedLaw, find_law, load_zoo
from plm_scaling.sizing.answers import SizingLaw, laws_of_fit, published_sizing_law
from plm_scaling.sizing.default_laws import published_ensemble, published_fit
from plm_scaling.sizing.interpolation import lowest_point
from plm_scaling.sizing.law_ensemble import LawEnsemble, ensemble_of_fit, ensemble_of_published
from plm_scaling.sizing.law_identity import law_sha256

__all__ = [
    "ChosenLaws",
    "choose_laws",
    "default_sizing_law",
    "ensemble_sizing_law",
    "laws_sha256",
    "published_sha256",
    "read_laws",
]

_BUDGETS = np.linspace(math.log(1e12), math.log(1e30), 37)
_SIZES = np.linspace(math.log(1e2), math.log(1e17), 121)


@dataclass(frozen=True)
class ChosenLaws:
    """The first of `counted` gives N; with an `ensemble` behind it the decision weighs its draws."""

    counted: tuple[SizingLaw, ...]
    comparison: tuple[SizingLaw, ...]
    ensemble: LawEnsemble | None
    default: SizingLaw
    """The fits of the released logs, and the frontier published with them."""
    frontier: SizingLaw | None
    sha256: str = ""
    """Of the law that gives N, as `laws_sha256` has it."""


def read_laws(named: Sequence[Path | str]) -> list[PublishedLaw | LawFit]:
    """Laws by name: `zoo:NAME` of a published one, anything else the fit.json of an own one.

    Raises
    ------
    ConfigError : no published law of this name. RecordError : no readable fit.
    """
    return [find_law(str(name)) if str(name).startswith("zoo:") else LawFit.read(Path(name)) for name in named]


def choose_laws(
    objective: Objective, laws: Sequence[PublishedLaw | LawFit] | None, unique_tokens: float | None
) -> ChosenLaws:
    """The laws asked for, or the released logs' own fits and after them the published laws of the objective.

    Raises
    ------
    ConfigError : no law, or one of the other objective.
    RefusedError : an own fit that says nothing about sizes.
    """
    zoo = load_zoo()
    text = [law for law in zoo if law.objective == "text" and law.default]
    own = sorted((law for law in zoo if law.objective == objective), key=lambda law: not law.default)
    default, default_law = published_ensemble(objective), default_sizing_law(objective)
    published = [published_sizing_law(law) for law in own]
    frontier = next((made for law, made in zip(own, published, strict=True) if law.form == "power_frontier"), None)
    if laws is None:
        beside = tuple(published_sizing_law(law, unique_tokens) for law in text)
        sha256 = laws_sha256(objective)
        return ChosenLaws((default_law, *published), beside, default, default_law, frontier, sha256)
    if not laws:
        raise ConfigError("no law to answer from", hint="leave laws out to use the published ones")
    counted: list[SizingLaw] = []
    by_id, own_ensembles = {made.law_id: made for made in published}, list[LawEnsemble]()
    for law in laws:
        if law.objective not in (objective, "text"):
            what = law.id if isinstance(law, PublishedLaw) else "this fit"
            raise ConfigError(f"{what} is a law of {law.objective.upper()}, not of {objective.upper()}")
        if isinstance(law, PublishedLaw):
            counted.append(by_id.get(law.id) or published_sizing_law(law, unique_tokens))
        else:
            counted += _laws_of_own(law, own_ensembles)
    named = {law.law_id for law in counted}
    others = [law for law in (*own, *text) if law.default and law.id not in named]
    comparison = (default_law, *(published_sizing_law(law, unique_tokens) for law in others))
    behind, sha256 = _ensemble_behind(laws[0], own_ensembles), law_sha256(laws[0])
    return ChosenLaws(tuple(counted), comparison, behind, default_law, frontier, sha256)


def laws_sha256(objective: str, laws: Sequence[PublishedLaw | LawFit] = ()) -> str:
    """Hash of the law that answers for an objective: the first of its own or of text, or the shipped fit.

    Raises
    ------
    ConfigError : no law of this objective is shipped.
    """
    own = next((law for law in laws if law.objective in (objective, "text")), None)
    return published_sha256(objective) if own is None else law_sha256(own)


@lru_cache(maxsize=2)
def published_sha256(objective: str) -> str:
    """Hash of the shipped fit of an objective.

    Raises
    ------
    ConfigError : none is shipped.
    """
    return law_sha256(published_fit(objective))


@lru_cache(maxsize=2)
def default_sizing_law(objective: str) -> SizingLaw:
    """The fits of the released logs as one law: what a budget is sized by where no law is named.

    Raises
    ------
    ConfigError : an objective that no logs are of.
    """
    return ensemble_sizing_law(published_ensemble(objective), f"cheng2024-fits-{objective}")


def _ensemble_behind(law: PublishedLaw | LawFit, own: Sequence[LawEnsemble]) -> LawEnsemble | None:
    """The draws of a law, those of a fit being the first of `own`; None where it says which N, but no loss."""
    if isinstance(law, PublishedLaw):
        return ensemble_of_published([law]) if law.loss(1e8, 1e10) is not None else None
    return own[0] if _sizes(law) else None


def _sizes(fit: LawFit) -> bool:
    """Whether a fit's surface has an optimum."""
    return fit.surface is not None and fit.surface.a_N is not None


def _laws_of_own(fit: LawFit, ensembles: list[LawEnsemble]) -> list[SizingLaw]:
    """A fit's ensemble first, where its surface has an optimum, then its single laws; the ensemble is kept too."""
    single = laws_of_fit(fit)
    if not _sizes(fit):
        return list(single)
    ensembles.append(ensemble_of_fit(fit))
    return [ensemble_sizing_law(ensembles[-1], f"own-{fit.objective}-forms"), *single]


def ensemble_sizing_law(ensemble: LawEnsemble, law_id: str) -> SizingLaw:
    """The estimates of an ensemble as one law: the size of the lowest weighted loss on fresh data.

    Its optimum is read from a table over C, straight in logarithms between budgets half a decade apart.

    Raises
    ------
    RefusedError : the ensemble has no lowest loss within its range of compute.
    """
    C, N = (axis.ravel() for axis in np.meshgrid(np.exp(_BUDGETS), np.exp(_SIZES), indexing="ij"))
    logs = ensemble.member_weights @ np.log(ensemble.estimates(N, C / (6.0 * N)))
    offset, _, index = lowest_point(logs.reshape(len(_BUDGETS), len(_SIZES)), float(_SIZES[1] - _SIZES[0]))
    low, high = ensemble.range_C or (1e18, 1e22)
    within = (math.log(low) - 0.5 < _BUDGETS) & (math.log(high) + 0.5 > _BUDGETS)
    if np.any((index[within] == 0) | (index[within] == len(_SIZES) - 1)):
        raise RefusedError(f"{law_id} has no lowest loss at its own budgets", why="N ends at a bound of the search")
    table = _SIZES[0] + offset

    def optimum(C: float) -> float:
        return math.exp(float(np.interp(math.log(C), _BUDGETS, table)))

    return SizingLaw(
        law_id=law_id,
        objective=ensemble.objective,
        source=ensemble.source,
        status=ensemble.status,
        optimum=optimum,
        band=lambda C: None,
        loss=ensemble.loss,
        range_C=ensemble.range_C,
    )
