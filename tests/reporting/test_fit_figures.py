from __future__ import annotations

import dataclasses
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from plm_scaling.core.errors import RecordError
from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws import ensemble
from plm_scaling.laws.combine import fit_laws
from plm_scaling.laws.forms import find_form
from plm_scaling.laws.law_fit import Interval, IsoflopFit, IsoflopRow, LawFit
from plm_scaling.reporting import choice_figures, fit_figures, isoflop_rows
from plm_scaling.reporting.drawing import write_picture
from plm_scaling.reporting.fit_view import group_levels, view_fit
from plm_scaling.reporting.profile_figures import draw_parameter, profile_parameters

ALL = ("data", "residuals", "isoflop", "surface", "optimum", "extrapolation", "forms", "profiles")


def bounded_loss(N: float, D: float, batch: float) -> float:
    """L0 = 2.9, E = 1.4, D_eff = D / (1 + b / 2M)."""
    R = 0.8 * (N / 1e8) ** -0.35 + 0.5 * (D / (1 + batch / 2e6) / 2e10) ** -0.5
    return 1.4 + 1.5 * R / (1.5 + R)


def simulate(sd: float = 0.001) -> RunTable:
    """Five budgets of six sizes with batches that grow with the size."""
    rng = np.random.default_rng(7)
    rows = []
    for C in (1e18, 3e18, 1e19, 3e19, 1e20):
        for j in range(6):
            N = 2e7 * (C / 1e18) ** 0.6 * 1.9 ** (j - 2.5)
            D = C / 6 / N
            batch = 262_144.0 * 2 ** (j // 2)
            loss = bounded_loss(N, D, batch) * math.exp(sd * rng.standard_normal())
            values = {"N": N, "D": D, "loss": loss, "batch_tokens": batch, "validation_id": "v", "C_6nd": C}
            rows.append(RunRow.model_validate({"run_id": f"run-{C:g}-{j}", "objective": "mlm", **values}))
    return RunTable(tuple(rows))


@pytest.fixture(scope="module")
def table() -> RunTable:
    return simulate()


@pytest.fixture(scope="module")
def batch_law(table: RunTable) -> LawFit:
    return fit_laws(table, "mlm", form="bounded+batch", currency="C_6nd", draws=60)


@pytest.fixture(scope="module")
def auto_law(table: RunTable) -> LawFit:
    """Chosen among few forms: what is drawn is the same."""
    forms = [find_form(name) for name in ("bounded", "no_floor", "multiplicative", "tied", "chinchilla")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ensemble, "candidate_forms", lambda *_: tuple(forms))
        return fit_laws(table, "mlm", currency="C_6nd", draws=60)


@pytest.fixture
def only_pictures(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Draw some pictures only."""

    def only(*names: str) -> None:
        kept = {name: fit_figures.PICTURES[name] for name in names}
        monkeypatch.setattr(fit_figures, "PICTURES", kept)

    return only


def words(path: Path) -> str:
    return " | ".join(t for element in ET.parse(path).iter() if (t := (element.text or "").strip()))


@pytest.fixture(scope="module")
def drawn(auto_law: LawFit, table: RunTable, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pictures")
    paths = fit_figures.write_fit_figures(auto_law, table, folder)
    return {path.stem.removeprefix("mlm-"): path for path in paths}


def test_every_picture_is_a_file_with_words_and_a_title(drawn: dict[str, Path]) -> None:
    assert tuple(drawn) == (*ALL, "mlm")
    for name in ALL:
        text = words(drawn[name])
        assert f"MLM: {fit_figures.PICTURES[name].label}" in text
        assert "FLOPs" in text or "Parameters" in text or "%" in text, f"{name} has no unit"
        assert drawn[name].stat().st_size < 400_000
    assert "Loss against compute, one line per model size" in words(drawn["data"])
    assert "batch 262k tokens | batch 524k tokens | batch 1.05M tokens" in words(drawn["residuals"])
    assert "5 budgets, compute counted as 6 N D" in words(drawn["isoflop"])
    assert "beyond the runs" in words(drawn["optimum"])
    assert "chinchilla" in words(drawn["extrapolation"])
    assert "exponent of the best size" in words(drawn["profiles"])


def test_the_page_shows_every_picture_and_says_how_to_read_it(drawn: dict[str, Path], auto_law: LawFit) -> None:
    page = drawn["mlm"].read_text()
    assert re.findall(r'<img src="([^"]+)"', page) == [f"mlm-{name}.svg" for name in ALL]
    assert page.count("<figcaption>") == len(ALL)
    assert page.count("<li>") == len(auto_law.notes)
    assert "chosen by its error on larger budgets" in page
    assert "http" not in page


def test_pictures_are_the_same_every_time(
    drawn: dict[str, Path], auto_law: LawFit, table: RunTable, tmp_path: Path, only_pictures: Callable[..., None]
) -> None:
    only_pictures("isoflop", "forms")
    again = fit_figures.write_fit_figures(auto_law, table, tmp_path)
    assert [path.read_bytes() for path in again[:-1]] == [drawn[n].read_bytes() for n in ("isoflop", "forms")]


def test_one_form_asked_for_has_no_contest(
    batch_law: LawFit, table: RunTable, tmp_path: Path, only_pictures: Callable[..., None]
) -> None:
    view = view_fit(batch_law, table)
    assert [name for name in ALL[:-1] if not fit_figures.PICTURES[name].maker(view)] == ["extrapolation", "forms"]
    only_pictures("isoflop", "forms")
    stale, other = tmp_path / "mlm-forms.png", tmp_path / "mine.png"
    stale.write_bytes(b"of an earlier fit")
    other.write_bytes(b"not ours")
    paths = fit_figures.write_fit_figures(batch_law, table, tmp_path, suffix=".png")
    assert [path.name for path in paths] == ["mlm-isoflop.png", "mlm.html"]
    assert not stale.exists()
    assert other.exists()
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert "as asked for" in paths[-1].read_text()


def test_pdf_comes_without_a_page(
    batch_law: LawFit, table: RunTable, tmp_path: Path, only_pictures: Callable[..., None]
) -> None:
    only_pictures("isoflop")
    (path,) = fit_figures.write_fit_figures(batch_law, table, tmp_path, suffix=".pdf")
    assert path.read_bytes().startswith(b"%PDF")


def test_a_refused_surface_leaves_the_runs_and_the_minima(table: RunTable, tmp_path: Path) -> None:
    one = table.where(lambda row: abs(6 * row.N * row.D / 1e19 - 1) < 0.01)
    law = fit_laws(one, "mlm", currency="C_6nd", draws=60)
    assert law.surface is None
    paths = fit_figures.write_fit_figures(law, one, tmp_path)
    assert [path.name for path in paths] == ["mlm-data.svg", "mlm-isoflop.svg", "mlm.html"]
    assert "no loss surface could be fitted; 6 runs" in words(paths[0])
    assert "Fitted against measured loss" not in words(paths[0])
    assert "1 budget, compute" in words(paths[1])
    assert "REFUSED: loss surface L(N, D)" in paths[2].read_text()


def with_surface(law: LawFit, **update: Any) -> LawFit:
    assert law.surface
    return law.model_copy(update={"surface": law.surface.model_copy(update=update)})


def test_a_form_without_an_optimum_has_contours_but_no_best_size(
    batch_law: LawFit, table: RunTable, tmp_path: Path, only_pictures: Callable[..., None]
) -> None:
    parameters = {name: Interval(value=v, low=v, high=v) for name, v in (("K0", 2.3), ("alpha", 0.04), ("beta", 0.05))}
    law = with_surface(batch_law, form="multiplicative", parameters=parameters, draws=(), a_N=None)
    only_pictures("surface", "optimum")
    surface, _ = fit_figures.write_fit_figures(law, table, tmp_path)
    assert surface.name == "mlm-surface.svg"
    assert "best size" not in words(surface)


def test_runs_left_out_are_shown_as_such(
    batch_law: LawFit, table: RunTable, tmp_path: Path, only_pictures: Callable[..., None]
) -> None:
    smaller = table.where(lambda row: 6 * row.N * row.D < 5e19)
    law = with_surface(batch_law, range_C_6nd=(1e18, 3e19)).model_copy(update={"data_hash": smaller.content_hash()})
    view = view_fit(law, table)
    assert (len(view.runs), len(view.held), len(view.samples)) == (24, 6, 2)
    only_pictures("data")
    data, _ = fit_figures.write_fit_figures(law, table, tmp_path)
    assert "24 runs, 6 larger ones left out of the fit" in words(data)
    assert "left out of the fit" in words(data).split(" | ")


@pytest.mark.parametrize("currency", ["C_6nd", "C_exact"])
def test_runs_left_out_are_found_without_a_surface(table: RunTable, currency: str) -> None:
    rows = tuple(row.model_copy(update={"C_exact": 1.1 * (row.C_6nd or 0.0)}) for row in table)
    law = fit_laws(RunTable(rows), "mlm", currency=currency, draws=60, max_compute=1.01e18)  # type: ignore[arg-type]
    assert law.surface is None
    assert (len(view_fit(law, RunTable(rows)).runs), law.currency) == (6, currency)


def test_another_table_is_refused(batch_law: LawFit, table: RunTable, tmp_path: Path) -> None:
    first, *rest = table.rows
    other = RunTable((first.model_copy(update={"loss": first.loss + 0.01}), *rest))
    with pytest.raises(RecordError, match="not the one the law was fitted to"):
        fit_figures.write_fit_figures(batch_law, other, tmp_path)
    assert not list(tmp_path.iterdir())


def test_deviations_are_fitted_minus_measured(batch_law: LawFit, table: RunTable) -> None:
    view = view_fit(batch_law, table)
    deviation = view.deviation(view.sample)
    assert deviation is not None
    assert batch_law.surface
    rms = float(np.sqrt(np.mean((deviation / 100) ** 2)))
    assert rms == pytest.approx(batch_law.surface.rms_relative_error, rel=0.02)
    high = dataclasses.replace(view.sample, loss=view.sample.loss * 1.1)
    lower = view.deviation(high)
    assert lower is not None
    assert (lower < -5).all(), "a measured loss above the law means that the law is too low"


def test_runs_are_grouped_by_batch(batch_law: LawFit, table: RunTable) -> None:
    view = view_fit(batch_law, table)
    groups = view.batches()
    assert [(group.label, len(group.members)) for group in groups] == [("262k", 10), ("524k", 10), ("1.05M", 10)]
    many = RunTable(tuple(r.model_copy(update={"batch_tokens": 1000.0 * (i + 1)}) for i, r in enumerate(table)))
    bare = RunTable(tuple(r.model_copy(update={"batch_tokens": None}) for r in table))
    some = RunTable((*many.rows[:20], *bare.rows[20:]))
    wide = dataclasses.replace(view, runs=many).batches()
    assert [len(group.members) for group in wide] == [6] * 5
    assert wide[0].label == "1k to 6k"
    assert [group.label for group in dataclasses.replace(view, runs=bare).batches()] == [""]
    assert dataclasses.replace(view, runs=some).batches()[-1].label == "not stated"
    assert sum(len(group.members) for group in dataclasses.replace(view, runs=some).batches()) == 30


@given(st.lists(st.floats(1e3, 1e12), min_size=1, max_size=40), st.floats(0.001, 1.0))
@settings(max_examples=60, deadline=None)
def test_levels_part_all_values_and_are_narrow(values: list[float], width: float) -> None:
    array = np.array(values)
    groups = group_levels(array, width)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(values)))
    for group in groups:
        assert array[group].max() <= array[group].min() * (1 + width) * (1 + 1e-9)
    for one, after in pairwise(groups):
        assert array[after].min() > array[one].max()


def test_extrapolation_draws_what_the_score_counts(auto_law: LawFit, table: RunTable) -> None:
    view = view_fit(auto_law, table)
    shown = choice_figures.forms_shown(auto_law)
    assert shown[:4] == auto_law.forms[:4]
    assert "chinchilla" in {score.form for score in shown}
    assert len(shown) <= 5
    score = shown[0]
    found = choice_figures.fold_errors(view.sample, score, huber_delta=1e-3)
    for fold in score.folds:
        errors = found[fold.fitted_to_C]
        assert int(errors.counted.sum()) == fold.n_tested
        assert (fold.fitted_to_C < errors.C).all()
        counted = errors.error[errors.counted]
        assert float(np.abs(counted).mean()) == pytest.approx(100 * fold.error, rel=0.1, abs=0.02)
        assert float(counted.mean()) == pytest.approx(100 * fold.bias, rel=0.1, abs=0.03)


def test_profiles_cross_one_where_their_intervals_end(batch_law: LawFit, table: RunTable) -> None:
    assert batch_law.surface
    found = profile_parameters(view_fit(batch_law, table))
    assert [one.name for one in found] == [*batch_law.surface.parameters, "a_N"]
    crossed = 0
    for one in found:
        if not one.values.size:
            continue
        assert (np.diff(one.values) >= 0).all()
        assert one.rise.min() == 0.0
        assert one.percentile.low <= one.percentile.value <= one.percentile.high
        for end in (one.profile.low, one.profile.high) if one.profile else ():
            if one.values[0] < end < one.values[-1]:
                x = np.log(one.values) if one.is_log else one.values
                at = np.interp(math.log(end) if one.is_log else end, x, np.sqrt(one.rise)) ** 2
                assert at == pytest.approx(1.0, abs=0.25)
                crossed += 1
    assert crossed >= 6


def test_least_absolute_deviations_have_no_profile(batch_law: LawFit, table: RunTable) -> None:
    assert profile_parameters(view_fit(with_surface(batch_law, huber_delta=0.0), table)) == ()


def test_a_parameter_at_its_bound_says_so(batch_law: LawFit, table: RunTable, tmp_path: Path) -> None:
    values = {"E": 1e-6, "A0": 1.4, "B0": 0.8, "alpha": 0.1, "beta": 0.1}
    parameters = {name: Interval(value=v, low=v, high=v) for name, v in values.items()}
    law = with_surface(batch_law, form="chinchilla", parameters=parameters, profiles={}, draws=())
    found = profile_parameters(view_fit(law, table))
    assert [one.name for one in found if not one.values.size] == ["E"]
    path = tmp_path / "one.svg"
    write_picture(path, lambda figure: draw_parameter(figure.subplots(), found[0]), size=(3, 3), label="E")
    assert "stands at its bound" in words(path)


def valley(third: float, far: float, curve: str) -> IsoflopRow:
    """Losses 2 + .03 x^2 + third x^3 about N_opt = 1e8, those beyond |x| = 1.2 raised by `far`."""
    x = np.linspace(-1.0, 2.6, 10)
    N, loss = 1e8 * np.exp(x), 2.0 + 0.03 * x**2 + third * x**3 + far * (np.abs(x) > 1.1)
    return IsoflopRow.model_validate({
        "C": 1e20, "N": tuple(N), "D": tuple(1e20 / 6 / N), "loss": tuple(loss), "n_seeds": (1,) * 10, "curve": curve,
        "curvature": 0.03, "N_opt": {"value": 1e8, "low": 9e7, "high": 1.1e8}, "D_opt": 1e20 / 6e8, "L_opt": 2.0,
    })  # fmt: skip


@pytest.mark.parametrize(("third", "curve"), [(0.0, "parabola"), (0.004, "cubic")])
def test_the_curve_of_a_row_is_that_of_the_sizes_it_was_fitted_to(third: float, curve: str) -> None:
    near, all_sizes = valley(third, 0.05, curve), valley(third, 0.0, curve)
    assert 5 <= isoflop_rows.fitted_sizes(near).sum() <= 7
    assert isoflop_rows.fitted_sizes(all_sizes).sum() in (6, 7, 10), "both reproduce the minimum"
    for row in (near, all_sizes):
        used = isoflop_rows.fitted_sizes(row)
        drawn = isoflop_rows.curve_loss(row, np.array(row.N))
        assert drawn[used] == pytest.approx(np.array(row.loss)[used], abs=1e-9)
    # A minimum that only all sizes together explain is of an older fit.
    x, loss = np.log(np.array(near.N) / 1e8), np.array(near.loss)
    b2, b1, b0 = np.polyfit(x, loss, 2)
    old = near.model_copy(
        update={
            "curve": "parabola",
            "N_opt": Interval(value=1e8 * math.exp(-b1 / (2 * b2)), low=1.0, high=1e12),
            "curvature": float(b2),
            "L_opt": float(b0 - b1**2 / (4 * b2)),
        }
    )
    assert isoflop_rows.fitted_sizes(old).all()
    assert isoflop_rows.fitted_sizes(old.model_copy(update={"N_opt": None})).all()


def test_a_curve_is_dotted_beyond_its_sizes_and_stays_in_sight(tmp_path: Path) -> None:
    row = valley(0.0, -0.05, "parabola")
    lines: list[Any] = []

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        isoflop_rows.draw_row(axes, row, "#000000", None)
        lines.extend(line for line in axes.get_lines() if len(line.get_xdata()) > 2 and line.get_marker() == "None")

    write_picture(tmp_path / "row.svg", draw, size=(4, 3), label="a row")
    (solid,) = [line for line in lines if line.get_linestyle() == "-"]
    used = np.array(row.N)[isoflop_rows.fitted_sizes(row)]
    assert (solid.get_xdata().min(), solid.get_xdata().max()) == pytest.approx((used.min(), used.max()))
    assert max(line.get_ydata().max() for line in lines) <= max(row.loss) * 1.01


def test_the_best_size_is_shown_at_its_own_6nd(
    batch_law: LawFit, table: RunTable, tmp_path: Path, only_pictures: Callable[..., None]
) -> None:
    only_pictures("optimum")
    assert batch_law.isoflop
    exact = IsoflopFit(currency="C_exact", rows=batch_law.isoflop.rows)
    law = batch_law.model_copy(update={"isoflop": exact, "isoflop_other_currency": batch_law.isoflop})
    with_both, _ = fit_figures.write_fit_figures(law, table, tmp_path)
    first = with_both.read_bytes()
    only, _ = fit_figures.write_fit_figures(batch_law, table, tmp_path)
    assert only.read_bytes() == first
    none = batch_law.model_copy(update={"isoflop": None})
    without, _ = fit_figures.write_fit_figures(none, table, tmp_path)
    assert "isoFLOP minimum" not in words(without)
