"""A law is known by its hash: any number in it counts, and writing and reading it does not."""

from __future__ import annotations

from pathlib import Path

from plm_scaling.laws.law_fit import LawFit
from plm_scaling.laws.zoo import find_law
from plm_scaling.sizing.default_laws import published_fit
from plm_scaling.sizing.law_identity import law_sha256


def test_every_part_of_a_fit_counts(tmp_path: Path) -> None:
    fit = published_fit("mlm")
    assert fit.surface is not None
    known = law_sha256(fit)
    assert law_sha256(LawFit.read(fit.write(tmp_path / "fit.json"))) == known
    draws = fit.surface.draws
    nudged = ((draws[0][0] * (1 + 1e-15), *draws[0][1:]), *draws[1:])
    others = [
        fit.model_copy(update={"surface": fit.surface.model_copy(update={"draws": nudged})}),
        fit.model_copy(update={"surface": fit.surface.model_copy(update={"draws": draws[:-1]})}),
        fit.model_copy(update={"forms": fit.forms[:-1]}),
        fit.model_copy(update={"data_hash": "other"}),
        published_fit("clm"),
    ]
    hashes = {known, *map(law_sha256, others), law_sha256(find_law("besiroglu2024"))}
    assert len(hashes) == 2 + len(others)
