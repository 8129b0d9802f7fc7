"""The laws sizing starts from: the released runs of Cheng et al. 2024 as fitted by this package, shipped thinned."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np

from plm_scaling.core.errors import ConfigError
from plm_scaling.laws.law_fit import FormScore, LawFit, SurfaceFit
from plm_scaling.sizing.law_ensemble import LawEnsemble, ensemble_of_fit

__all__ = ["SIZING_FORMS", "published_ensemble", "published_fit", "published_source", "shipped"]

SIZING_FORMS: Final = ("bounded", "saturating", "gamma", "kaplan")
"""Forms whose losses are asked for beyond the runs; the additive law counts only where its weight earns it a fit."""
_FOLDER: Final = Path(__file__).with_name("published_fits")
_DRAWS: Final = 100
_DIGITS: Final = 5


def published_source(objective: str) -> str:
    """Where the default law of an objective comes from, and the commands that make it."""
    return (
        "released logs of Cheng et al. 2024, fitted by this package: plm-scaling import cheng2024 LOGS -o runs.csv; "
        f"plm-scaling fit runs.csv --objective {objective} --form auto; thinned to {_DRAWS} draws a form"
    )


def published_fit(objective: str) -> LawFit:
    """The shipped fit of an objective.

    Raises
    ------
    ConfigError : there is none for this objective.
    """
    path = _FOLDER / f"{objective}.json"
    if not path.is_file():
        raise ConfigError(f"no fit is shipped for {objective!r}", hint="clm and mlm have one")
    return LawFit.read(path)


@lru_cache(maxsize=2)
def published_ensemble(objective: str) -> LawEnsemble:
    """The default laws of clm or mlm: forms weighted by how well they predicted larger budgets than they had seen.

    Raises
    ------
    ConfigError : there is no fit for this objective.

    **Source:** Cheng et al. 2024, released logs; forms and weights as in `plm_scaling.laws.select`.
    """
    return ensemble_of_fit(published_fit(objective), source=published_source(objective), status="measured")


def shipped(fit: LawFit) -> LawFit:
    """A fit as it is shipped: at most 100 draws of a form, five digits, only forms asked for beyond their runs."""
    surface = _thinned(fit.surface) if fit.surface else None
    return fit.model_copy(
        update={
            "surface": surface,
            "forms": tuple(_score(score) for score in fit.forms),
            "repeats": None,
        }
    )


def _score(score: FormScore) -> FormScore:
    wanted = score.form.partition("+")[0] in (*SIZING_FORMS, "chinchilla")
    return score.model_copy(update={"surface": _thinned(score.surface) if score.surface and wanted else None})


def _thinned(surface: SurfaceFit) -> SurfaceFit:
    kept = np.linspace(0, len(surface.draws) - 1, min(_DRAWS, len(surface.draws))).round().astype(np.intp)
    draws = tuple(tuple(float(f"{value:.{_DIGITS}g}") for value in surface.draws[k]) for k in kept)
    return surface.model_copy(update={"draws": draws, "covariance": ()})
