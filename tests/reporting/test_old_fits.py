"""Fits of an earlier version, stored as a file, still answer and are still drawn."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.laws.surface import surface_loss
from plm_scaling.reporting import fit_figures
from plm_scaling.reporting.figures import all_sections
from plm_scaling.reporting.fit_view import view_fit
from plm_scaling.reporting.study import Study
from plm_scaling.reporting.verdict import answers
from plm_scaling.sizing.answers import laws_of_fit

STORED = Path(__file__).parent / "fit_schema_1.json"


@pytest.fixture(scope="module")
def law() -> LawFit:
    return LawFit.read(STORED)


def runs(law: LawFit) -> RunTable:
    assert law.isoflop
    rows = [
        {"run_id": f"{i}-{j}", "objective": "mlm", "N": N, "D": D, "loss": loss, "C_exact": row.C, "C_6nd": 6 * N * D}
        for i, row in enumerate(law.isoflop.rows)
        for j, (N, D, loss) in enumerate(zip(row.N, row.D, row.loss, strict=True))
    ]
    return RunTable(tuple(RunRow.model_validate(row) for row in rows))


def test_the_stored_file_is_of_the_first_version(law: LawFit) -> None:
    stored = json.loads(STORED.read_text())
    assert stored["schema_version"] == 1
    assert not {"forms", "optima", "refusals"} & set(stored)
    assert (law.forms, law.optima, law.refusals, law.chosen) == ((), (), (), "default")
    assert law.surface
    assert law.surface.parameters["alpha"].value == stored["surface"]["parameters"]["alpha"]["value"]
    p = {name: interval.value for name, interval in law.surface.parameters.items()}
    assert surface_loss(law.surface, law.surface.N0, law.surface.D0) == pytest.approx(p["E"] + p["A0"] + p["B0"])


def test_it_is_written_again_as_the_present_version(law: LawFit, tmp_path: Path) -> None:
    path = law.write(tmp_path / "fit.json")
    assert json.loads(path.read_text())["schema_version"] == LawFit.SCHEMA_VERSION
    assert LawFit.read(path) == law


def test_it_sizes(law: LawFit) -> None:
    isoflop, surface = laws_of_fit(law)
    C = 6e11
    assert isoflop.optimum(C) < isoflop.optimum(2 * C)
    losses = [surface.loss(N, C / 6 / N) or math.inf for N in (surface.optimum(C) * factor for factor in (0.9, 1, 1.1))]
    assert min(losses) == losses[1]
    low, high = surface.band(C) or (0.0, 0.0)
    assert low < surface.optimum(C) < high
    assert surface.caveat == ""


def test_it_is_reported(law: LawFit) -> None:
    study = Study(name="old", laws={"mlm": law}, table=runs(law))
    sections = {section.key: section for section in all_sections(study)}
    surface = sections["surface"]
    assert len(surface.panels) == 1
    assert [table.title for table in surface.tables] == ["Fitted surfaces: A0 and B0 are the terms at N0 and D0"]
    assert surface.tables[0].rows[0][:2] == ("MLM", "chinchilla")
    assert "L = E + A N^-alpha + B D^-beta" in surface.reading
    assert "refused" not in str(answers(study)[0])


def test_it_is_drawn(law: LawFit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = runs(law)
    found = law.model_copy(update={"data_hash": table.content_hash()})
    view = view_fit(found, table)
    names = [name for name in fit_figures.PICTURES if name != "profiles"]
    shown = [name for name in names if fit_figures.PICTURES[name].maker(view)]
    assert shown == ["data", "residuals", "isoflop", "surface", "optimum"]
    few = {name: fit_figures.PICTURES[name] for name in ("residuals", "profiles", "forms")}
    monkeypatch.setattr(fit_figures, "PICTURES", few)
    names = [path.name for path in fit_figures.write_fit_figures(found, table, tmp_path)]
    assert names == ["mlm-residuals.svg", "mlm-profiles.svg", "mlm.html"]
