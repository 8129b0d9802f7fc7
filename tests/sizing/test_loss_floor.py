"""A loss far beyond the runs is doubted where the laws know no floor, and only there."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from plm_scaling.laws.law_fit import SurfaceFit
from plm_scaling.sizing.decision import decide
from plm_scaling.sizing.default_laws import published_fit
from plm_scaling.sizing.law_ensemble import LawEnsemble
from plm_scaling.sizing.loss_floor import floor_doubt, floorless_share
from plm_scaling.sizing.recommend import Budget, recommend
from tests.reporting.page_kit import ensemble


def with_floors(laws: LawEnsemble, *floors: float) -> LawEnsemble:
    """The ensemble's first member with these irreducible losses, one for each draw, nats."""
    member = laws.members[0]
    theta = member.theta[np.zeros(1 + len(floors), dtype=np.intp)].copy()
    theta[1:, member.form.index("E")] = np.log(floors)
    return replace(laws, members=(replace(member, theta=theta), *laws.members[1:]))


@pytest.mark.parametrize(("floors", "share"), [((1.7, 1.7, 1.7, 1.7), 0.0), ((1e-4, 1.7, 1e-4, 1.7), 0.5)])
def test_the_share_without_a_floor_is_that_of_the_draws(floors: tuple[float, ...], share: float) -> None:
    laws = with_floors(ensemble((("chinchilla", None),)), *floors)
    assert floorless_share(laws) == share
    made = {C: decide(laws, C) for C in (1e21, 1e23)}
    assert floor_doubt(made[1e21], laws) == {}  # within the runs the slope is measured
    said = floor_doubt(made[1e23], laws)
    assert list(said) == (["LOSS_FLOOR_UNKNOWN"] if share else [])
    if share:
        assert f"in {share:.0%} of the laws" in said["LOSS_FLOOR_UNKNOWN"]
        assert f"the {made[1e23].loss:.2f} nats" in said["LOSS_FLOOR_UNKNOWN"]


def test_a_form_without_a_floor_has_none() -> None:
    laws = ensemble((("chinchilla", None), ("no_floor", None)))
    assert math.isclose(floorless_share(laws), laws.members[1].weight)


def test_size_says_it_of_a_fit_without_a_floor() -> None:
    fit = published_fit("mlm")

    def sunk(surface: SurfaceFit) -> SurfaceFit:
        if "E" not in surface.parameters:
            return surface
        at = list(surface.parameters).index("E")
        return surface.model_copy(update={"draws": tuple((*d[:at], 1e-4, *d[at + 1 :]) for d in surface.draws)})

    forms = tuple(s.model_copy(update={"surface": s.surface and sunk(s.surface)}) for s in fit.forms)
    flags = [
        recommend(Budget(flops=3e21), "mlm", laws=[law]).flags
        for law in (fit, fit.model_copy(update={"forms": forms, "surface": fit.surface and sunk(fit.surface)}))
    ]
    assert ["LOSS_FLOOR_UNKNOWN" in each for each in flags] == [False, True]
