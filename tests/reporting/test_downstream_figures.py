from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from plm_scaling.reporting.downstream_figures import draw_downstream, floors_shown, write_downstream_figure
from plm_scaling.sizing.downstream import downstream_view
from plm_scaling.sizing.downstream_records import DownstreamView


@pytest.fixture(scope="module")
def views() -> list[DownstreamView]:
    return [downstream_view(group, draws=200) for group in ("virus", "capsid", "contacts")]


def test_a_panel_says_in_words_what_it_shows(views: list[DownstreamView]) -> None:
    for view in views:
        svg = str(draw_downstream(view))
        root = ElementTree.fromstring(svg)
        assert root.get("aria-label") == view.answer
        assert root.get("role") == "img"
        assert len(svg) < 60_000
        assert not re.findall(r"https?://(?!www\.w3\.org)", svg)
        text = " ".join(root.itertext())
        for word in (view.title, *{score.family for score in view.scores}, *(f.name for f in floors_shown(view))):
            assert word in text


def test_compute_of_the_models_that_state_it(views: list[DownstreamView]) -> None:
    text = " ".join(ElementTree.fromstring(str(draw_downstream(views[0], against="C"))).itertext())
    assert "Training compute" in text
    assert "ESM-2" in text
    assert "RITA" not in text  # no tokens known


def test_one_floor_of_each_kind_the_best(views: list[DownstreamView]) -> None:
    virus, capsid, contacts = views
    assert [floor.name for floor in floors_shown(virus)] == ["ESCOTT", "VenusREM", "PoET 200M", "site-independent"]
    assert not [floor for floor in floors_shown(capsid) if floor.split]
    assert floors_shown(contacts) == ()


def test_several_groups_in_a_file(views: list[DownstreamView], tmp_path: Path) -> None:
    path = write_downstream_figure(views[:2], tmp_path / "downstream.svg")
    text = path.read_text()
    assert text.count("Parameters N") == 2
    assert "no detectable gain from size" in text
