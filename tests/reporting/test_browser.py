"""The report in a real browser: it is drawn, it prints, and the browser has nothing to complain about."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from plm_scaling.reporting.page import render_page
from plm_scaling.reporting.study import Study
from plm_scaling.sizing.recommend import Budget, recommend

pytestmark = pytest.mark.slow

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)
CONSOLE = re.compile(r"CONSOLE[:(].*")


@dataclass(frozen=True)
class Seen:
    """What the browser printed."""

    out: str
    complaints: list[str]


Browse = Callable[..., Seen]


@pytest.fixture
def browse(tmp_path: Path) -> Browse:
    """Open a file in a headless browser with further flags."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no chromium on PATH: the report is not looked at in a browser")

    def call(page: Path, *flags: str) -> Seen:
        words = [program, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *flags, page.resolve().as_uri()]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return Seen(done.stdout, CONSOLE.findall(done.stderr))

    return call


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


@pytest.mark.parametrize(("scheme", "dark"), [("1", False), ("0", True)])
def test_the_page_is_drawn_in_light_and_dark(
    browse: Browse, page: Path, tmp_path: Path, scheme: str, dark: bool
) -> None:
    out = tmp_path / "page.png"
    flags = (f"--screenshot={out}", "--window-size=1200,4000", f"--blink-settings=preferredColorScheme={scheme}")
    assert browse(page, *flags).complaints == []
    pixels = picture(out)
    assert pixels.shape == (4000, 1200, 3)
    assert is_drawn(pixels)
    background = np.median(pixels.reshape(-1, 3), axis=0).mean()
    assert (background < 80) if dark else (background > 200)


def test_the_page_prints(browse: Browse, page: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.pdf"
    assert browse(page, f"--print-to-pdf={out}", "--no-pdf-header-footer").complaints == []
    pdf = out.read_bytes()
    assert pdf.startswith(b"%PDF-")
    assert 2 <= n_pages(pdf) <= 40


MEASURE = """<script>
const root = document.documentElement;
const drawings = [...document.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect());
root.dataset.over = root.scrollWidth - root.clientWidth;
root.dataset.drawn = drawings.filter(box => box.width > 50 && box.height > 50).length;
root.dataset.loaded = performance.getEntriesByType("resource").length;
</script></body>"""


@pytest.mark.parametrize(("name", "width"), [("page", 600), ("page", 1400), ("decided", 500)])
def test_nothing_sticks_out_and_nothing_is_loaded(
    browse: Browse, tmp_path: Path, request: pytest.FixtureRequest, name: str, width: int
) -> None:
    page: Path = request.getfixturevalue(name)
    measured = tmp_path / "measured.html"
    measured.write_text(page.read_text().replace("</body>", MEASURE))
    seen = browse(measured, f"--window-size={width},1000", "--dump-dom")
    assert seen.complaints == []
    dom = seen.out
    found = {name: int(value) for name, value in re.findall(r'data-(over|drawn|loaded)="(-?\d+)"', dom)}
    assert found == {"over": 0, "drawn": page.read_text().count("<svg"), "loaded": 0}


def test_a_bad_page_would_be_noticed(browse: Browse, tmp_path: Path) -> None:
    """A blank page is not drawn, and what a page complains about is seen."""
    blank, loud = tmp_path / "blank.html", tmp_path / "loud.html"
    blank.write_text("<!DOCTYPE html><title>x</title>")
    loud.write_text("<!DOCTYPE html><title>x</title><script>no_such_function()</script>")
    out = tmp_path / "page.png"
    assert browse(blank, f"--screenshot={out}", "--window-size=1200,1000").complaints == []
    assert not is_drawn(picture(out))
    (complaint,) = browse(loud, "--dump-dom").complaints
    assert "no_such_function" in complaint
