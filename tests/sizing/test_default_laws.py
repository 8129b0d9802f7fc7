"""The shipped laws are what the released logs give, small enough to load at every start, and sane beyond their runs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from plm_scaling import api
from plm_scaling.core.errors import ConfigError
from plm_scaling.laws.surface import surface_optimum
from plm_scaling.sizing.decision import decide
from plm_scaling.sizing.default_laws import (
    SIZING_FORMS,
    published_ensemble,
    published_fit,
    published_source,
    shipped,
)

OBJECTIVES = ("clm", "mlm")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_default_laws_are_several_forms_of_measured_runs(objective: str) -> None:
    ensemble = published_ensemble(objective)
    assert ensemble.status == "measured"
    assert f"--objective {objective} --form auto" in ensemble.source == published_source(objective)
    assert ensemble.draw_weights.sum() == pytest.approx(1.0)
    assert {member.form.name.partition("+")[0] for member in ensemble.members} <= {*SIZING_FORMS, "chinchilla"}
    assert len(ensemble.members) >= 4
    assert all(len(member.theta) == 101 for member in ensemble.members)
    folder = Path(api.__file__).parent / "sizing" / "published_fits"
    assert (folder / f"{objective}.json").stat().st_size <= 150_000
    assert shipped(published_fit(objective)) == published_fit(objective), "thinning what is thin changes nothing"


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_default_laws_stay_sane_up_to_where_answers_are_refused(objective: str) -> None:
    ensemble = published_ensemble(objective)
    budgets = np.geomspace(1e18, 3e20 * 10**1.5, 12)
    N = [decide(ensemble, float(C), force=True) for C in budgets]
    losses, sizes = [made.loss for made in N], np.array([made.N for made in N])
    assert np.all(np.diff(losses) < 0)
    exponents = np.diff(np.log(sizes)) / np.diff(np.log(budgets))
    assert np.all((exponents > 0.5) & (exponents < 0.75)), "no form runs away"
    assert all(made.form_factor < 2.5 for made in N)
    assert all("DRAWS_WITHOUT_OPTIMUM" not in made.flags for made in N)
    widths = [made.loss_high - made.loss_low for made in N]
    assert widths[-1] > 2.0 * widths[6], "an extrapolation is less certain"


def test_repeats_that_no_run_identifies_are_those_of_text() -> None:
    made, free = (decide(published_ensemble("mlm"), 1e20, unique_tokens=unique) for unique in (1e10, None))
    assert "TEXT_REPEATS" in made.flags
    assert "Muennighoff" in made.repeats
    assert made.loss > free.loss
    assert made.N == free.N, "a discount on tokens alone would make N larger"
    assert "SIZE_HELD" in made.flags
    assert any("of unlimited data" in said for said in made.warnings)


def test_an_objective_without_runs_has_no_default() -> None:
    with pytest.raises(ConfigError, match="no fit is shipped"):
        published_fit("text")


@pytest.mark.slow
def test_the_released_logs_give_the_shipped_laws(test_data: Path, tmp_path: Path) -> None:
    api.import_runs("cheng2024", test_data / "cheng2024_logs", out=tmp_path / "runs.csv")
    fit = api.fit(
        tmp_path / "runs.csv", objective="clm", form="auto", draws=10
    )  # neither weights nor optimum are drawn
    kept = published_fit("clm")
    assert fit.n_runs == kept.n_runs
    weights = {(score.form, score.plateau): score.weight for score in fit.forms}
    assert weights == pytest.approx({(score.form, score.plateau): score.weight for score in kept.forms}, abs=0.01)
    assert fit.surface is not None
    assert kept.surface is not None
    again, stored = (float(surface_optimum(surface, 1e21)[0][0]) for surface in (fit.surface, kept.surface))
    assert again == pytest.approx(stored, rel=1e-3)
    spread = [np.log(surface_optimum(surface, 1e21)[0][1:]).std() for surface in (fit.surface, kept.surface)]
    assert math.log(spread[0] / spread[1]) == pytest.approx(0.0, abs=0.7), "the draws are the fit's"
