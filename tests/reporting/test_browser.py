"""The report in a real browser: it is drawn, it prints, and the browser has nothing to complain about."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from plm_scaling.reporting.page import render_page
from plm_scaling.reporting.study import Study
from plm_scaling.sizing.recommend import Budget, recommend
from tests.reporting.devtools import Tab

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]


@pytest.fixture
def tab(browser: Tab) -> Tab:
    browser.complaints.clear()
    browser.requests.clear()
    return browser


@pytest.fixture(scope="module")
def page(full_study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_page(full_study))
    return path


@pytest.fixture(scope="module")
def decided(full_study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same page with a budget that somebody has named."""
    path = tmp_path_factory.mktemp("decided") / "report.html"
    sizing = recommend(Budget(usd=5000), "mlm", unique_tokens=15e9)
    path.write_text(render_page(dataclasses.replace(full_study, laws={}, sizing=sizing)))
    return path


def picture(path: Path) -> npt.NDArray[np.uint8]:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def is_drawn(pixels: npt.NDArray[np.uint8]) -> bool:
    """More than one colour, and in most of the picture's tenths from top to bottom."""
    bands = [band.reshape(-1, 3).astype(int) for band in np.array_split(pixels, 10)]
    return sum(int(np.ptp(band, axis=0).max()) > 100 for band in bands) >= 8


def n_pages(pdf: bytes) -> int:
    return len(re.findall(rb"/Type\s*/Page\b", pdf))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_drawn_in_light_and_dark(tab: Tab, page: Path, tmp_path: Path, scheme: str) -> None:
    tab.screen(1200, 4000, prefers_color_scheme=scheme)
    tab.open(page.as_uri())
    assert tab.complaints == []
    pixels = picture(tab.picture(tmp_path / "page.png"))
    assert pixels.shape == (4000, 1200, 3)
    assert is_drawn(pixels)
    background = np.median(pixels.reshape(-1, 3), axis=0).mean()
    assert (background < 80) if scheme == "dark" else (background > 200)


def test_the_page_prints(tab: Tab, page: Path) -> None:
    tab.screen(1280, 1000)
    tab.open(page.as_uri())
    pdf = tab.printed()
    assert tab.complaints == []
    assert pdf.startswith(b"%PDF-")
    assert 2 <= n_pages(pdf) <= 40


MEASURE = """(() => {
  const root = document.documentElement;
  const drawings = [...document.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect());
  return {
    over: root.scrollWidth - root.clientWidth,
    drawn: drawings.filter(box => box.width > 50 && box.height > 50).length,
    loaded: performance.getEntriesByType("resource").length,
  };
})()"""


@pytest.mark.parametrize(("name", "width"), [("page", 600), ("page", 1400), ("decided", 500)])
def test_nothing_sticks_out_and_nothing_is_loaded(
    tab: Tab, request: pytest.FixtureRequest, name: str, width: int
) -> None:
    page: Path = request.getfixturevalue(name)
    tab.screen(width, 1000)
    tab.open(page.as_uri())
    assert tab.value(MEASURE) == {"over": 0, "drawn": page.read_text().count("<svg"), "loaded": 0}
    assert [url for url in tab.requests if url != "about:blank"] == [page.as_uri()]
    assert tab.complaints == []
    tab.value("document.querySelector('h2').style.width = '3000px'")
    assert tab.value(MEASURE)["over"] > 0, "what sticks out is noticed"


def test_a_bad_page_would_be_noticed(tab: Tab, tmp_path: Path) -> None:
    """A blank page is not drawn, and what a page complains about is seen."""
    blank, loud = tmp_path / "blank.html", tmp_path / "loud.html"
    blank.write_text("<!DOCTYPE html><title>x</title>")
    loud.write_text("<!DOCTYPE html><title>x</title><script>console.info('hear'); no_such_function()</script>")
    tab.screen(1200, 1000)
    tab.open(blank.as_uri())
    assert tab.complaints == []
    assert not is_drawn(picture(tab.picture(tmp_path / "page.png")))
    tab.open(loud.as_uri())
    said, complaint = tab.complaints
    assert "hear" in said
    assert "no_such_function" in complaint
