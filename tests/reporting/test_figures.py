from __future__ import annotations

import dataclasses
import math
import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from plm_scaling.core.run_table import RunTable
from plm_scaling.laws.law_fit import Interval, IsoflopRow
from plm_scaling.reporting import arms, drawing, law_figures
from plm_scaling.reporting.arm_figures import (
    draw_diversity,
    draw_repeat_curves,
    draw_repeats,
    draw_transfer,
    scratch_points,
)
from plm_scaling.reporting.doubts import named_doubts
from plm_scaling.reporting.figures import all_sections
from plm_scaling.reporting.mixtures import diversity_views
from plm_scaling.reporting.study import Study, on_set
from plm_scaling.reporting.verdict import answers
from plm_scaling.reporting.wording import signed


def words(svg: Any) -> list[str]:
    return [text for element in ET.fromstring(str(svg)).iter() if (text := (element.text or "").strip())]


@pytest.fixture(scope="module")
def sections(full_study: Study) -> dict[str, Any]:
    return {section.key: section for section in all_sections(full_study)}


def test_every_section_has_its_pictures(sections: dict[str, Any]) -> None:
    counts = {key: len(section.panels) for key, section in sections.items()}
    assert counts == {"isoflop": 2, "optimum": 2, "surface": 2, "repeats": 4, "diversity": 2, "transfer": 1}
    assert not any(section.absent for section in sections.values())


def test_svgs_are_well_formed_follow_the_page_and_share_no_ids(sections: dict[str, Any]) -> None:
    seen: set[str] = set()
    for section in sections.values():
        for panel in section.panels:
            root = ET.fromstring(str(panel))
            ids = {value for element in root.iter() if (value := element.get("id"))}
            assert not ids & seen
            seen |= ids
            used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", str(panel)))
            assert used <= ids
            assert root.get("aria-label")
            assert "var(--" in panel
            assert not re.search(r"(stroke|fill): #(?!0{6}|f{6})", str(panel)), "a colour that no theme knows"
            assert "DejaVu" not in panel
            assert not re.search(r"\d\.\d{4,}", re.sub(r">[^<]*<", "><", str(panel)))


def test_isoflop_marks_weak_rows_open(full_study: Study) -> None:
    svg = str(law_figures.draw_isoflop(full_study, "clm"))
    budgets = [word for word in words(svg) if "10\u00b9" in word]
    assert len(budgets) == 3
    assert "\u2191 residue frequencies alone: 2.921" in words(svg)
    # One of three minima is shallow: its diamond is filled with the card's colour.
    assert len(re.findall(r'style="fill: var\(--card\); stroke: var\(--b', svg)) == 1


def test_a_row_without_minimum_is_circled_not_extrapolated(full_study: Study) -> None:
    law = full_study.laws["clm"]
    assert law.isoflop
    row = law.isoflop.rows[0]
    edge = IsoflopRow(C=row.C, N=row.N, D=row.D, loss=(1.9, 1.8, 1.7, 1.6), n_seeds=row.n_seeds,
                      flags=("NO_INTERIOR_MINIMUM",))  # fmt: skip
    fit = law.isoflop.model_copy(update={"rows": (edge,), "a_N": None, "k_N": None, "a_D": None})
    study = dataclasses.replace(full_study, laws={"clm": law.model_copy(update={"isoflop": fit})})
    assert law_figures.draw_isoflop(study, "clm") is not None
    assert law_figures.draw_isoflop(study, "mlm") is None
    assert law_figures.draw_sizes(study) is None
    assert law_figures.draw_data(study) is None


def test_floor_within_sight_is_a_line(full_study: Study) -> None:
    near = dataclasses.replace(full_study, floors={"clm": 1.75})
    assert "residue frequencies alone: 1.750" in words(law_figures.draw_isoflop(near, "clm"))
    below = dataclasses.replace(full_study, floors={"clm": 0.5})
    assert "\u2193 residue frequencies alone: 0.500" in words(law_figures.draw_isoflop(below, "clm"))


def test_budgets_are_shared_by_both_objectives(full_study: Study) -> None:
    assert law_figures.budgets_of(full_study) == pytest.approx([1.475e11, 5.9e11, 2.36e12])
    colors = {drawing.budget_color(i, 3) for i in range(3)}
    assert len(colors) == 3
    assert drawing.budget_color(0, 1) in drawing.COLORS.values()
    assert set(drawing.DARK) == set(drawing.COLORS)


def test_runs_of_a_row_hold_all_seeds(full_study: Study) -> None:
    law = full_study.laws["clm"]
    assert law.isoflop
    runs = law_figures.runs_at(full_study, law, law.isoflop.rows[1])
    assert len(runs) == 6
    assert {run.objective for run in runs} == {"clm"}


def test_labels_keep_their_digits(full_study: Study) -> None:
    view = diversity_views(full_study)[0]
    assert "\u22120.057\u00a0\u00b1\u00a00.018" in words(draw_diversity(full_study, view, "d"))


def test_diversity_bars_are_grouped_by_source_of_the_sequences(full_study: Study) -> None:
    view = diversity_views(full_study)[0]
    shown = words(draw_diversity(full_study, view, "d"))
    for label in ("val_iid", "uniref_like", "metagenome_like"):
        assert shown.count(label) == len(view.pooled.arms) == 2
    changes = [twin.change for _, group in view.parts for twin in group.arms if twin.change]
    assert len(changes) == 4
    assert {signed(change.value, change.se) for change in changes} <= set(shown)
    pooled = words(draw_diversity(full_study, dataclasses.replace(view, parts=()), "d"))
    assert "uniref_like" not in pooled
    assert pooled.count("val_iid") == 2


def test_diversity_without_errors_or_change_is_drawn(full_study: Study) -> None:
    view = diversity_views(full_study)[0]
    flat = dataclasses.replace(view.pooled.arms[0], change=arms.Estimate(0.0, None))
    assert "0.000" in words(
        draw_diversity(
            full_study, dataclasses.replace(view, pooled=dataclasses.replace(view.pooled, arms=(flat,)), parts=()), "d"
        )
    )


def test_repeats_without_reference_floor_or_noise_are_drawn(full_study: Study) -> None:
    only = full_study.table.where(lambda row: row.has_role("repeats"))
    bare = Study(name="bare", table=only)
    (series, *_) = arms.repeat_series(bare)
    assert "unlimited data" not in words(draw_repeats(bare, series, "r"))
    assert draw_repeat_curves(bare, series, "c") is None


def test_transfer_shows_gain_and_cost(full_study: Study) -> None:
    assert full_study.transfer
    pair = full_study.transfer.pairs[0]
    shown = words(draw_transfer(full_study, pair, "t"))
    assert {"worth 1.96M", "source cost 1.5M", "from CLM", "MLM from scratch"} <= set(shown)
    unknown = {"D_t": None, "D_t_low": None, "D_t_high": None, "net_tokens": None}
    alone = dataclasses.replace(full_study, table=RunTable(()))
    assert not any("worth" in word for word in words(draw_transfer(alone, pair.model_copy(update=unknown), "t")))


def test_transfer_that_is_bounded_or_hurts_is_drawn_as_such(full_study: Study) -> None:
    assert full_study.transfer
    pair = full_study.transfer.pairs[0]
    bounded = pair.model_copy(update={"D_t": None, "D_t_low": 2e6, "D_t_high": None, "net_tokens": None})
    assert "worth at least 2M" in words(draw_transfer(full_study, bounded, "t"))
    hurt = pair.model_copy(update={"D_t": -1e5, "D_t_low": -2e5, "D_t_high": -5e4, "net_tokens": -1.6e6})
    shown = words(draw_transfer(full_study, hurt, "t"))
    assert "costs 100k" in shown
    assert not any("worth" in word for word in shown)


def test_scratch_curve_averages_seeds_and_leaves_out_other_runs(full_study: Study) -> None:
    assert full_study.transfer
    D, loss = scratch_points(full_study, full_study.transfer.pairs[0])
    assert [round(tokens / 1e4) for tokens in D] == [38, 75, 150]  # the longer ones have another batch
    assert loss[2] == pytest.approx(1.862 - 0.004 / 3)
    assert not {1.579, 1.915} & set(loss)


def test_pictures_of_laws_of_another_set_show_that_set(full_study: Study) -> None:
    page = on_set(full_study, "heldout_enzymes")
    svg = law_figures.draw_isoflop(page, "clm")
    assert "CLM, fitted on val_iid" in words(svg)
    here = law_figures.draw_isoflop(full_study, "clm")
    dots = "<use href="
    assert str(svg).count(dots) == str(here).count(dots)  # the runs' dots are those of the fitted set
    assert page.transfer
    assert any("on val_iid" in word for word in words(draw_transfer(page, page.transfer.pairs[0], "t")))
    less = dataclasses.replace(page, laws={"clm": page.laws["clm"]}, curves={}, transfer=None)
    assert "not on this page's heldout_enzymes" in {s.key: s for s in all_sections(less)}["isoflop"].reading


def test_lines_on_weak_minima_are_dashed(full_study: Study) -> None:
    law = full_study.laws["clm"]
    only = dataclasses.replace(full_study, laws={"clm": law}, manifest=None)
    weak = dataclasses.replace(only, laws={"clm": law.model_copy(update={"flags": ("WEAK_MINIMA",)})})
    for draw in (law_figures.draw_sizes, law_figures.draw_data):
        assert "stroke-dasharray" not in str(draw(only))
        assert "stroke-dasharray" in str(draw(weak))


def test_unbounded_intervals_and_a_single_budget_are_drawn(full_study: Study) -> None:
    law = full_study.laws["clm"]
    assert law.isoflop
    wide = Interval(value=2e4, low=0.0, high=math.inf)
    rows = tuple(row.model_copy(update={"N_opt": wide}) for row in law.isoflop.rows)
    open_slope = Interval(value=0.6, low=-math.inf, high=math.inf)
    several = law.isoflop.model_copy(update={"rows": rows, "a_N": open_slope})
    single = law.isoflop.model_copy(update={"rows": rows[:1], "a_N": None})
    for fit in (several, single):
        study = dataclasses.replace(full_study, laws={"clm": law.model_copy(update={"isoflop": fit})}, manifest=None)
        for svg in (
            law_figures.draw_isoflop(study, "clm"),
            law_figures.draw_sizes(study),
            law_figures.draw_data(study),
        ):
            assert svg is not None
            assert "nan" not in svg
            assert "inf" not in svg
        assert named_doubts(study)
        assert answers(study)


def test_sections_without_data_say_why() -> None:
    for section in all_sections(Study(name="empty")):
        assert section.absent
        assert not section.panels
        assert not section.reading


@pytest.mark.parametrize(("low", "high"), [(5e3, 3e5), (1e3, 1e9), (1.0, 1.5), (7e4, 7e4), (1e3, 1e28)])
def test_log_axes_have_a_readable_number_of_ticks(low: float, high: float) -> None:
    svg = drawing.draw_panel("ticks", "x", lambda axes: drawing.count_axis(axes, "x", [low, high], "N"))
    ticks = [word for word in words(svg) if word != "N" and not re.fullmatch(r"0\.\d|1\.0", word)]
    assert 1 <= len(ticks) <= 8


def test_panels_are_deterministic(full_study: Study) -> None:
    assert law_figures.draw_isoflop(full_study, "mlm") == law_figures.draw_isoflop(full_study, "mlm")
