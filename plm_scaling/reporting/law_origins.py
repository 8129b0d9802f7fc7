"""Which laws the files of a decision were made from, by their content hash."""

from __future__ import annotations

from dataclasses import dataclass

from plm_scaling.core.objective import Objective
from plm_scaling.reporting.study import OBJECTIVES, Study
from plm_scaling.sizing.chosen_laws import published_sha256
from plm_scaling.sizing.law_identity import law_sha256

__all__ = ["LawOrigin", "law_origins"]


@dataclass(frozen=True)
class LawOrigin:
    """The law that a file was made from, by its content hash."""

    file: str
    objective: Objective
    sha256: str
    law: str
    """In words; empty where it is neither in the study's folder nor shipped."""


def law_origins(study: Study) -> tuple[LawOrigin, ...]:
    """Of size.json, spend.json and allocation.json; a file that is older than the hash says nothing."""
    said: list[tuple[str, str, str]] = []
    if study.sizing is not None:
        said.append(("size.json", study.sizing.objective, study.sizing.laws_sha256))
    if study.spending is not None:
        said += [("spend.json", objective, sha256) for objective, sha256 in study.spending.laws_sha256.items()]
    if study.allocation is not None:
        said.append(("allocation.json", study.allocation.objective, study.allocation.laws_sha256))
    own = {law_sha256(study.laws[objective]): f"fit-{objective}.json" for objective in study.laws}
    known = {published_sha256(objective): "the shipped fit" for objective in OBJECTIVES} | own
    return tuple(
        LawOrigin(file, "clm" if objective == "clm" else "mlm", sha256, known.get(sha256, ""))
        for file, objective, sha256 in said
        if sha256
    )
