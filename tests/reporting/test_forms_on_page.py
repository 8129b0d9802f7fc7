"""The report of laws whose form is not E + A N^-alpha + B D^-beta, or whose surface the fit refused."""

from __future__ import annotations

import dataclasses
import re

import pytest

from plm_scaling.laws.law_fit import FormScore, Interval, LawFit, Refusal, SurfaceFit
from plm_scaling.reporting import law_figures
from plm_scaling.reporting.doubts import named_doubts
from plm_scaling.reporting.figures import Section, all_sections
from plm_scaling.reporting.page import render_page
from plm_scaling.reporting.study import Study
from plm_scaling.reporting.tables import tabulate_exponents, tabulate_forms, tabulate_surfaces

REASON = "ln N and ln D move together (correlation 0.999): vary D at fixed N"


def bounded(fit: SurfaceFit) -> SurfaceFit:
    """The fixture's surface as a bounded law with a batch term."""
    more = {"L0": 2.6, "B_c": 40_000.0}
    parameters = {name: Interval(value=v, low=0.8 * v, high=1.3 * v) for name, v in more.items()}
    update = {"form": "bounded+batch", "parameters": {**fit.parameters, **parameters}, "batch_typical": 1024.0}
    return fit.model_copy(update=update)


@pytest.fixture(scope="module")
def study(full_study: Study) -> Study:
    """CLM with a bounded law chosen among two forms, MLM with a refused surface."""
    clm, mlm = full_study.laws["clm"], full_study.laws["mlm"]
    assert clm.surface
    scores = tuple(
        FormScore(
            form=form, n_parameters=n, objective_value=1e-3, rms_relative_error=0.004, aic=0.0, leave_one_out=0.005,
            extrapolation=error, coverage=0.9, weight=weight,
        )
        for form, n, error, weight in (("bounded+batch", 7, 0.0062, 0.8), ("chinchilla", 5, None, 0.2))
    )  # fmt: skip
    fits = {
        "clm": clm.model_copy(update={"surface": bounded(clm.surface), "chosen": "extrapolation", "forms": scores}),
        "mlm": mlm.model_copy(
            update={
                "surface": None,
                "notes": (f"REFUSED: loss surface L(N, D): {REASON}.",),
                "refusals": (Refusal(quantity="loss surface L(N, D)", code="COLLINEAR_DESIGN", reason=REASON),),
            }
        ),
    }
    runs = full_study.table.where(lambda row: row.has_role("isoflop"))
    return Study(name="forms", laws=fits, table=runs)


def section(study: Study) -> Section:
    return next(one for one in all_sections(study) if one.key == "surface")


@pytest.fixture(scope="module")
def page(study: Study) -> str:
    return render_page(study)


def test_the_section_states_the_form_that_was_fitted(study: Study) -> None:
    surface = section(study)
    assert len(surface.panels) == 1
    assert "CLM, L = E + h R / (h + R), h = L0 - E, R = A N^-alpha + B D^-beta, D -> D / (1 + b/B_c)" in surface.reading
    assert "(lines at a batch of 1,024 tokens)" in surface.reading
    assert "MLM, L" not in surface.reading
    assert [table.title for table in surface.tables] == [
        "Fitted surfaces: A0 and B0 are the terms at N0 and D0",
        "Forms that were tried",
    ]


def test_parameters_of_every_form_have_their_column(study: Study, full_study: Study) -> None:
    table = tabulate_surfaces(study)
    assert table
    row = dict(zip(table.header, table.rows[0], strict=True))
    assert row["Form"] == "bounded with a batch term"
    assert row["B_c"].replace("\u00a0", " ") == "40k (32k to 52k)"
    assert row["L0"].startswith("2.6")
    mixed = dataclasses.replace(full_study, laws={"clm": study.laws["clm"], "mlm": full_study.laws["mlm"]})
    table = tabulate_surfaces(mixed)
    assert table
    plain = dict(zip(table.header, table.rows[1], strict=True))
    assert (plain["Form"], plain["L0"], plain["B_c"]) == ("chinchilla", "\u2013", "\u2013")


def test_forms_stand_in_the_order_of_their_errors(study: Study, full_study: Study) -> None:
    table = tabulate_forms(study)
    assert table
    rows = [tuple(cell.replace("\u00a0", " ") for cell in row) for row in table.rows]
    assert rows[0] == ("CLM", "bounded with a batch term", "7", "0.62 %", "90 %", "0.50 %", "0.40 %", "80 %")
    assert rows[1][3] == "\u2013"
    assert tabulate_forms(full_study) is None


def test_a_surface_without_an_optimum_has_no_exponent(study: Study) -> None:
    clm = study.laws["clm"]
    assert clm.surface
    parameters = {"K0": 1.4, "alpha": 0.05, "beta": 0.06}
    power = clm.surface.model_copy(
        update={
            "form": "multiplicative",
            "parameters": {name: Interval(value=v, low=v, high=v) for name, v in parameters.items()},
            "a_N": None,
        }
    )
    alone = dataclasses.replace(study, laws={"clm": clm.model_copy(update={"surface": power})})
    table = tabulate_exponents(alone)
    assert table
    assert table.rows[-1][1:4] == ("fitted surface (multiplicative), 6ND", "refused", "\u2013")
    N, D = law_figures.optimal_path(power)
    assert not N.size
    assert not D.size
    assert law_figures.draw_surface(alone, "clm") is not None
    N, D = law_figures.optimal_path(bounded(power.model_copy(update={"parameters": clm.surface.parameters})))
    assert N.size
    assert (N[1:] > N[:-1]).all()


def test_the_page_says_why_there_is_no_surface(study: Study, page: str) -> None:
    only = dataclasses.replace(study, laws={"mlm": study.laws["mlm"]})
    assert REASON in section(only).absent
    assert any(REASON in doubt for doubt in named_doubts(study))
    assert "bounded with a batch term" in page
    assert "L<sub>0</sub>" in page
    assert re.search(r"REFUSED", page)


def test_notes_are_made_up_for_where_a_fit_has_none(full_study: Study) -> None:
    law: LawFit = full_study.laws["clm"]
    assert law.surface
    silent = law.model_copy(
        update={
            "notes": (),
            "flags": ("MIXED_BATCH",),
            "surface": law.surface.model_copy(update={"batch_tokens": (512.0, 1024.0)}),
        }
    )
    doubts = named_doubts(dataclasses.replace(full_study, laws={"clm": silent}))
    assert any("batches of 512 to 1,024 tokens" in doubt for doubt in doubts)
