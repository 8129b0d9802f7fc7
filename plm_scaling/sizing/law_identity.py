"""The hash of a law: what a decision was made from, found again without writing thousands of draws as text."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

import numpy as np

from plm_scaling.laws.law_fit import LawFit, SurfaceFit
from plm_scaling.laws.zoo import PublishedLaw

__all__ = ["law_sha256"]

_MANY: Final = {"draws": (), "covariance": ()}


def law_sha256(law: PublishedLaw | LawFit) -> str:
    """Hex SHA-256 of a law's content; of a fit: of its record without draws, and of the draws as float64."""
    if isinstance(law, PublishedLaw):
        return law.content_hash()
    surfaces = [law.surface, *(score.surface for score in law.forms)]
    forms = tuple(score.model_copy(update={"surface": _lean(score.surface)}) for score in law.forms)
    update: dict[str, object] = {"surface": _lean(law.surface), "forms": forms}
    digest = sha256()
    for surface in surfaces:
        digest.update(np.asarray(surface.draws if surface else (), dtype="<f8").tobytes())
    if law.repeats is not None:
        digest.update(np.asarray(law.repeats.draws, dtype="<f8").tobytes())
        update["repeats"] = law.repeats.model_copy(update={"draws": ()})
    digest.update(law.model_copy(update=update).content_hash().encode())
    return digest.hexdigest()


def _lean(surface: SurfaceFit | None) -> SurfaceFit | None:
    return surface and surface.model_copy(update=_MANY)
