from __future__ import annotations

import pytest

from plm_scaling.core.errors import ConfigError
from plm_scaling.laws.law_fit import Interval, IsoflopFit, IsoflopRow, LawFit
from plm_scaling.laws.zoo import all_laws, find_law
from plm_scaling.sizing.law_table import LawComparison, LawPoint, LawSheet, compare_laws, law_sheet, law_summaries


def own_fit(a: float | None = 0.5, objective: str = "mlm") -> LawFit:
    """A frontier N = 1e-3 C^a on 6 N D between 1e16 and 1e18, or a fit that identified nothing."""
    rows = tuple(
        IsoflopRow(
            C=C,
            N=(1e6,),
            D=(1e8,),
            loss=(2.5,),
            n_seeds=(1,),
            N_opt=Interval(value=1e-3 * C**0.5, low=0.8e-3 * C**0.5, high=1.25e-3 * C**0.5),
        )
        for C in (1e16, 1e18)
    )
    values = {"a_N": Interval(value=a, low=a - 0.05, high=a + 0.05), "k_N": 1e-3} if a else {}
    isoflop = IsoflopFit.model_validate({"currency": "C_6nd", "rows": rows, **values})
    return LawFit.model_validate(
        {
            "objective": objective,
            "currency": "C_6nd",
            "n_runs": 12,
            "isoflop": isoflop,
            "surface": None,
            "range_C": (1e16, 1e18),
            "notes": ("too few interior minima",),
            "data_hash": "0",
        }
    )


def by_law(found: LawComparison) -> dict[str, LawPoint]:
    return {point.law_id: point for point in found.points}


# ---- list ----------------------------------------------------------------------------------------------------------


def test_the_list_keeps_recalled_laws_back() -> None:
    assert {law.id for law in law_summaries(unverified=True)} == {law.id for law in all_laws()}
    hidden = {law.id for law in law_summaries(unverified=True)} - {law.id for law in law_summaries()}
    assert hidden == {law.id for law in all_laws() if law.status == "unverified"}


def test_the_list_of_one_objective() -> None:
    found = law_summaries(objective="mlm")
    assert [law.id for law in found] == ["cheng-mlm", "cheng-a9-mlm", "serrano2024"]
    assert (found[0].a_N, found[0].a_D, found[0].range_C) == (0.776, 0.230, (1e18, 3e20))
    with pytest.raises(ConfigError, match="did you mean mlm"):
        law_summaries(objective="mlmm")


# ---- show ----------------------------------------------------------------------------------------------------------


def test_a_sheet_covers_the_range_of_its_law() -> None:
    sheet = law_sheet("cheng-clm")
    assert (sheet.points[0].C, sheet.points[-1].C) == (1e18, 3e20)
    assert len(sheet.points) == 5
    assert all(point.flags == () for point in sheet.points)
    assert sheet.points[0].tokens_per_parameter == pytest.approx(147, rel=0.01)
    assert all(0.89 < (point.six_ND_over_C or 0.0) < 0.9 for point in sheet.points)
    assert (sheet.a_N, sheet.a_D) == (0.578, 0.421)


@pytest.mark.parametrize(
    ("name", "C", "flags", "decades"),
    [
        ("cheng-mlm", 3e20, (), 0.0),
        ("cheng-mlm", 3e21, ("EXTRAPOLATION",), 1.0),
        ("cheng-mlm", 1e16, ("EXTRAPOLATION", "FAR_OUTSIDE_RANGE"), 2.0),
        ("besiroglu2024", 1e21, ("TEXT_LAW",), 0.0),
        ("deepseek2024", 1e21, ("RANGE_UNKNOWN", "TEXT_LAW"), 0.0),
        # No range of compute, but of N and D: 4.3e6 parameters are 0.2 decades below the smallest model.
        ("muennighoff2023", 1e20, ("TEXT_LAW",), 0.0),
        ("muennighoff2023", 2.197e15, ("EXTRAPOLATION", "TEXT_LAW"), 0.2158),
        ("kaplan2020-compute", 1e20, ("RANGE_UNKNOWN", "TEXT_LAW", "UNVERIFIED"), 0.0),
    ],
)
def test_what_a_point_must_say_of_itself(name: str, C: float, flags: tuple[str, ...], decades: float) -> None:
    (point,) = law_sheet(name, [C]).points
    assert point.flags == flags
    assert point.decades_outside == pytest.approx(decades, abs=1e-3)


def test_a_sheet_states_what_the_law_states() -> None:
    point = law_sheet("besiroglu2024", [1e21]).points[0]
    assert pytest.approx(2.782e9, rel=2e-4) == point.N
    assert pytest.approx(59.91e9, rel=2e-4) == point.D
    assert point.loss == pytest.approx(2.3048, abs=5e-5)
    of_compute = law_sheet("kaplan2020-compute", [1e20]).points[0]
    assert of_compute.N is None
    assert of_compute.loss is not None


@pytest.mark.parametrize("name", ["serrano2024", "hernandez2021-python", "step-law2025", "busbridge2025-distillation"])
def test_laws_of_something_else_have_no_points(name: str) -> None:
    assert law_sheet(name).points == ()
    with pytest.raises(ConfigError, match="says nothing about a budget"):
        law_sheet(name, [1e20])
    with pytest.raises(ConfigError, match="says nothing about a budget"):
        compare_laws(1e20, [name])


def test_a_sheet_survives_json() -> None:
    for law in all_laws():
        sheet = law_sheet(law.id)
        assert LawSheet.model_validate_json(sheet.model_dump_json()) == sheet


# ---- compare -------------------------------------------------------------------------------------------------------


def test_all_laws_of_an_objective_side_by_side() -> None:
    found = compare_laws(1e20, objective="mlm")
    assert list(by_law(found)) == ["cheng-mlm", "cheng-a9-mlm"]
    assert pytest.approx(find_law("cheng-mlm").optimum(1e20)[0]) == by_law(found)["cheng-mlm"].N
    assert by_law(found)["cheng-a9-mlm"].loss is not None
    assert "published exponents of N in C span 0.27 (serrano2024) to 0.78 (cheng-mlm)" in found.notes
    every = compare_laws(1e20, objective="mlm", unverified=True)
    assert "cheng-loss-mlm" in by_law(every)
    assert any(note.startswith("UNVERIFIED") and "cheng-loss-mlm" in note for note in every.notes)


def test_named_laws_only_and_in_their_order() -> None:
    found = compare_laws(1e21, ["zoo:hoffmann2022", "besiroglu2024"])
    assert list(by_law(found)) == ["hoffmann2022", "besiroglu2024"]
    assert any("losses of different corpora" in note for note in found.notes)
    assert not any("disagree" in note or "exponents" in note for note in found.notes)


def test_disagreement_and_extrapolation_are_said() -> None:
    notes = " ".join(compare_laws(1e23, ["cheng-clm", "porian2024-kaplan"]).notes)
    assert "disagree on N by a factor 27.8: cheng-clm 25B, porian2024-kaplan 690B" in notes
    assert "EXTRAPOLATION" in notes
    assert "losses" not in notes


def test_fits_of_ones_own_bring_their_objective_and_their_band() -> None:
    found = compare_laws(1e19, fits=[own_fit()])
    assert list(by_law(found)) == ["cheng-mlm", "cheng-a9-mlm", "own-mlm-isoflop"]
    own = by_law(found)["own-mlm-isoflop"]
    assert pytest.approx(1e-3 * 1e19**0.5) == own.N
    assert own.six_ND_over_C == pytest.approx(1.0)
    assert own.N_low is not None
    assert own.N_high is not None
    assert own.N_low < (own.N or 0.0) < own.N_high
    assert own.status == "own fit"
    assert own.flags[0] == "EXTRAPOLATION"
    assert own.decades_outside == pytest.approx(1.0)


def test_a_fit_without_a_law_is_a_note() -> None:
    found = compare_laws(1e19, ["cheng-mlm"], [own_fit(None)])
    assert list(by_law(found)) == ["cheng-mlm"]
    assert any("does not say which size" in note and "too few interior minima" in note for note in found.notes)


def test_fits_of_two_objectives_need_a_choice() -> None:
    fits = [own_fit(), own_fit(objective="clm")]
    with pytest.raises(ConfigError, match="compare which laws") as caught:
        compare_laws(1e19, fits=fits)
    assert "clm, mlm, text" in str(caught.value)
    assert "own-clm-isoflop" in by_law(compare_laws(1e19, fits=fits, objective="clm"))


@pytest.mark.parametrize("C", [0.0, -1.0, float("nan"), float("inf")])
def test_a_comparison_needs_a_budget(C: float) -> None:
    with pytest.raises(ConfigError, match="positive"):
        compare_laws(C, objective="mlm")
