from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from plm_scaling.laws.ensemble import fit_surfaces
from plm_scaling.laws.law_fit import FormScore, LawFit, SurfaceFit
from plm_scaling.laws.optima import budget_levels, disagreement, optimum_at, with_profile
from plm_scaling.laws.surface import surface_loss, surface_optimum

MakeWorld = Callable[..., Any]
Surface = Callable[..., SurfaceFit]


def score_of(surface: SurfaceFit, weight: float) -> FormScore:
    numbers = {"n_parameters": 5, "objective_value": 0.0, "rms_relative_error": 0.0, "aic": 0.0}
    return FormScore.model_validate({"form": surface.form, "surface": surface, "weight": weight} | numbers)


class TestLevels:
    def test_the_budgets_and_one_decade_beyond(self) -> None:
        C = np.concatenate([np.full(4, 1e18), np.full(4, 1e19) * [1, 1.01, 1.02, 1.03], [5e19]])
        np.testing.assert_allclose(budget_levels(C), [1e18, 1.015e19, 5e20], rtol=1e-3)

    def test_at_most_six_of_them(self) -> None:
        levels = budget_levels(np.repeat(np.geomspace(1e17, 1e20, 20), 3))
        assert len(levels) == 7
        np.testing.assert_allclose(levels[[0, 5, 6]], [1e17, 1e20, 1e21])

    def test_scattered_computes_have_their_middle(self) -> None:
        np.testing.assert_allclose(budget_levels(np.array([1e17, 1e18, 1e19])), [1e18, 1e20])


class TestOptimum:
    @pytest.mark.parametrize("name", ["chinchilla", "bounded", "kaplan", "gamma", "log_quadratic", "chinchilla+batch"])
    def test_the_lowest_loss_and_the_valley_around_it(self, name: str, surface: Surface) -> None:
        fit = surface(name)
        found = optimum_at(fit, 1e20)
        assert found is not None
        N, D = (column[0] for column in surface_optimum(fit, 1e20))
        assert (found.N.value, found.D.value) == (N, D)
        lowest = float(surface_loss(fit, N, D))
        assert found.loss.value == pytest.approx(lowest, rel=1e-12)
        for edge, outwards in ((found.N_valley[0], 1 / 1.02), (found.N_valley[1], 1.02)):
            assert float(surface_loss(fit, edge, 1e20 / 6 / edge)) <= lowest * 1.002 * (1 + 1e-9)
            beyond = edge * outwards
            assert float(surface_loss(fit, beyond, 1e20 / 6 / beyond)) > lowest * 1.002
        assert found.flags == ()

    def test_a_form_without_one(self, surface: Surface) -> None:
        assert optimum_at(surface("multiplicative"), 1e20) is None

    def test_beyond_the_runs_it_says_so(self, surface: Surface) -> None:
        fit = surface("chinchilla", range_N=(1e6, 1e11), range_D=(1e8, 1e12))
        assert optimum_at(fit, 1e21).flags == ("EXTRAPOLATED",)
        assert optimum_at(fit, 1e26).flags == ("OUT_OF_HULL", "EXTRAPOLATED")
        assert optimum_at(fit, 1e12).flags == ("OUT_OF_HULL",)

    def test_intervals_are_those_of_the_draws(self, world: MakeWorld) -> None:
        made = world("chinchilla", sd=0.003)
        fit = fit_surfaces(made.sample(), ["r"] * 42, form="chinchilla", draws=200).surface
        found = optimum_at(fit, 1e20)
        N, _ = surface_optimum(fit, 1e20)
        assert (found.N.low, found.N.high) == pytest.approx(tuple(np.quantile(N[1:], [0.025, 0.975])))
        assert found.N.low * found.D.high == pytest.approx(1e20 / 6, rel=1e-4)
        truth = surface_optimum_of("chinchilla", world)
        assert found.N.low < truth < found.N.high
        assert found.loss.low < found.loss.value < found.loss.high
        assert found.N_by_form is None

    def test_the_profile_is_about_as_wide_as_the_draws(self, world: MakeWorld) -> None:
        made = world("chinchilla", sd=0.003)
        fit = fit_surfaces(made.sample(), ["r"] * 42, form="chinchilla", draws=200).surface
        found = with_profile(optimum_at(fit, 1e20), fit, made.sample())
        assert found.N_profile is not None
        assert found.N_profile.low < found.N.value < found.N_profile.high
        ratio = np.log(found.N_profile.high / found.N_profile.low) / np.log(found.N.high / found.N.low)
        assert 0.5 < ratio < 2

    def test_absolute_deviations_have_no_profile(self, surface: Surface, world: MakeWorld) -> None:
        fit = surface("chinchilla", huber_delta=0.0)
        found = optimum_at(fit, 1e20)
        assert with_profile(found, fit, world("chinchilla").sample()) == found


def surface_optimum_of(name: str, world: MakeWorld) -> float:
    """N_opt at 1e20 FLOPs of the world itself, by a grid."""
    made = world(name)
    fit = fit_surfaces(made.sample(), ["r"] * 42, form=name, huber_delta=np.inf, draws=1).surface
    assert fit is not None
    grid = np.geomspace(1e7, 1e10, 60_001)
    return float(grid[int(np.argmin(surface_loss(fit, grid, 1e20 / 6 / grid)))])


class TestForms:
    def test_the_range_over_forms_of_weight(self, surface: Surface) -> None:
        fits = [surface("chinchilla"), surface("bounded"), surface("multiplicative"), surface("no_floor")]
        scores = [score_of(fit, weight) for fit, weight in zip(fits, (0.5, 0.3, 0.16, 0.04), strict=True)]
        found = optimum_at(fits[0], 1e20, scores)
        sizes = sorted(float(surface_optimum(fit, 1e20)[0][0]) for fit in fits[:2])
        assert found.N_by_form == pytest.approx(tuple(sizes))
        losses = sorted(float(surface_loss(fit, *(c[0] for c in surface_optimum(fit, 1e20)))) for fit in fits[:2])
        assert found.loss_by_form == pytest.approx(tuple(losses))
        assert disagreement(scores, 1e20) == pytest.approx(sizes[1] / sizes[0])
        assert disagreement(scores[:1], 1e20) is None

    def test_a_law_states_its_budgets_and_one_beyond(self, bounded_law: LawFit) -> None:
        C = [optimum.C for optimum in bounded_law.optima]
        np.testing.assert_allclose(C[:-1], np.geomspace(1e18, 3e20, 6)[:5], rtol=0.01)
        assert C[-1] == pytest.approx(10 * bounded_law.range_C[1])
        assert "EXTRAPOLATED" in bounded_law.optima[-1].flags
        assert sum(optimum.N_profile is not None for optimum in bounded_law.optima) == 1
        assert bounded_law.disagreement is not None
        assert bounded_law.disagreement >= 1
