from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from plm_scaling.core.errors import ConfigError, FitError
from plm_scaling.laws.ensemble import Surfaces, design_refusals, fit_surfaces
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.laws.problem import Sample, make_sample

MakeWorld = Callable[..., Any]


def sample_of(N: np.ndarray, D: np.ndarray) -> Sample:
    return make_sample(N, D, 1.5 + N**-0.2 + D**-0.2)


class TestDesign:
    def test_nothing_against_six_budgets_of_seven_sizes(self, world: MakeWorld) -> None:
        assert design_refusals(world("chinchilla").sample(), "auto") == ()

    @pytest.mark.parametrize(
        ("form", "needed"), [("auto", 7), ("chinchilla", 7), ("bounded", 8), ("multiplicative", 5)]
    )
    def test_too_few_runs(self, world: MakeWorld, form: str, needed: int) -> None:
        sample = world("chinchilla").sample()
        spread = np.linspace(0, 41, needed).astype(int)
        assert design_refusals(sample.take(spread), form) == ()
        (refusal,) = design_refusals(sample.take(spread[:-1]), form)
        assert refusal.code == "TOO_FEW_RUNS"
        assert refusal.reason == f"{needed - 1} runs; a surface takes at least {needed}"

    def test_two_sizes_do_not_tell_an_exponent(self) -> None:
        N, D = (g.ravel() for g in np.meshgrid([1e7, 2e7], np.geomspace(1e8, 1e10, 6)))
        (refusal,) = design_refusals(sample_of(N, D), "chinchilla")
        assert refusal.code == "TOO_FEW_LEVELS"
        assert refusal.reason.startswith("2 different N and 6 different D")

    def test_tokens_in_proportion_to_size(self) -> None:
        N = np.geomspace(1e7, 1e10, 12)
        (refusal,) = design_refusals(sample_of(N, 20 * N), "auto")
        assert refusal.code == "COLLINEAR_DESIGN"
        assert "D grows in proportion to N" in refusal.reason
        assert "correlation 1.000" in refusal.reason

    def test_one_budget_alone(self) -> None:
        N = np.geomspace(1e7, 1e10, 12)
        (refusal,) = design_refusals(sample_of(N, 1e20 / 6 / N), "auto")
        assert refusal.code == "COLLINEAR_DESIGN"
        assert "one budget" in refusal.reason

    def test_one_size_is_no_crash(self) -> None:
        (refusal,) = design_refusals(sample_of(np.full(9, 1e8), np.geomspace(1e8, 1e10, 9)), "auto")
        assert refusal.code == "TOO_FEW_LEVELS"

    def test_a_refused_design_has_no_surface(self) -> None:
        N = np.geomspace(1e7, 1e10, 12)
        found = fit_surfaces(sample_of(N, 20 * N), [str(i) for i in range(12)], draws=10)
        assert found == Surfaces(None, (), found.refusals)
        assert found.refusals


class TestForms:
    def test_the_form_asked_for_stands_alone(self, world: MakeWorld) -> None:
        made = world("bounded", sd=0.002)
        found = fit_surfaces(made.sample(), ["r"] * 42, form="bounded", plateau=2.9, draws=30)
        assert found.forms == ()
        assert found.surface is not None
        assert (found.surface.form, found.surface.plateau) == ("bounded", 2.9)
        assert len(found.surface.draws) == 30

    def test_the_best_extrapolator_is_the_surface(self, bounded_law: LawFit) -> None:
        assert bounded_law.surface is not None
        assert bounded_law.chosen == "extrapolation"
        assert (bounded_law.surface.form, bounded_law.surface.plateau) == (
            bounded_law.forms[0].form,
            bounded_law.forms[0].plateau,
        )
        assert bounded_law.surface.form == "bounded"
        weights = [score.weight for score in bounded_law.forms]
        assert weights == sorted(weights, reverse=True)
        assert sum(weights) == pytest.approx(1)
        assert {score.plateau for score in bounded_law.forms if score.form == "bounded"} >= {None}

    def test_a_form_of_weight_keeps_its_fit(self, bounded_law: LawFit) -> None:
        for score in bounded_law.forms:
            assert (score.surface is not None) == (score.weight >= 0.02)
            if score.surface is not None:
                assert score.surface.form == score.form
                assert score.flags == score.surface.flags
                # A score's fit stops earlier than the surface's, in a flat valley well above it.
                assert 0.75 < score.surface.objective_value / score.objective_value < 1 + 1e-6

    def test_a_form_nobody_knows(self, world: MakeWorld) -> None:
        with pytest.raises(ConfigError, match="no form"):
            fit_surfaces(world("chinchilla").sample(), ["r"] * 42, form="chinchila")

    def test_a_plateau_below_a_loss(self, world: MakeWorld) -> None:
        with pytest.raises(FitError, match="below a loss"):
            fit_surfaces(world("bounded").sample(), ["r"] * 42, form="bounded", plateau=1.0)


class TestProfiles:
    def test_each_parameter_has_one_in_its_own_unit(self, bounded_law: LawFit) -> None:
        fit = bounded_law.surface
        assert fit is not None
        assert set(fit.profiles) == {*fit.parameters, "a_N"}
        for name, interval in fit.parameters.items():
            profile = fit.profiles[name]
            assert profile.value == pytest.approx(interval.value, rel=1e-9)
            assert profile.low <= profile.value <= profile.high
            assert profile.low >= 0
        assert fit.a_N is not None
        assert fit.profiles["a_N"].value == pytest.approx(fit.a_N.value, rel=1e-9)

    def test_absolute_deviations_have_none(self, world: MakeWorld) -> None:
        made = world("chinchilla", sd=0.003)
        found = fit_surfaces(made.sample(), ["r"] * 42, form="chinchilla", huber_delta=0.0, draws=10)
        assert found.surface is not None
        assert found.surface.profiles == {}

    def test_without_an_optimum_there_is_no_profile_of_its_exponent(self, world: MakeWorld) -> None:
        made = world("chinchilla", sd=0.003)
        found = fit_surfaces(made.sample(), ["r"] * 42, form="multiplicative", draws=10)
        assert found.surface is not None
        assert "a_N" not in found.surface.profiles
