"""Words on the pages can be read: every pair of colours that their style sheets put together, by day and by night."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from plm_scaling import reporting
from plm_scaling.reporting.drawing import COLORS, DARK

LEAST = 4.5
"""**Source:** WCAG 2.2, success criterion 1.4.3, level AA."""
TEMPLATES = Path(reporting.__file__).parent / "templates"
Colors = dict[str, str]


def luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def variables(css: str, scheme: str) -> Colors:
    """The colours by name: those the templates are given, then what the style sheet adds for the scheme."""
    blocks = re.findall(r"(prefers-color-scheme:dark\)\{)?:root\{([^}]*)\}", re.sub(r"\{\{.*?\}\}", "", css))
    found = dict(COLORS)
    for night, block in blocks[: 2 if scheme == "dark" else 1]:
        found |= DARK if night else {}
        found |= dict(re.findall(r"--([\w-]+):(#[0-9a-f]{6})", block))
    return found


def pairs(css: str) -> set[tuple[str, str]]:
    """(words, ground) by the names of the colours; what has no ground of its own stands on the page and on cards."""
    plain = re.sub(r"\{\{.*?\}\}", "", css)
    rules = [(name.strip(), body) for name, body in re.findall(r"([^{}]+)\{([^{}]*)\}", plain) if ":root" not in name]
    words = {name: found[1] for name, body in rules if (found := re.search(r"(?<![-\w])color:var\(--([\w-]+)\)", body))}
    grounds = {name: found[1] for name, body in rules if (found := re.search(r"background:var\(--([\w-]+)\)", body))}
    made = set()
    for name, color in words.items():
        on = [ground for other, ground in grounds.items() if other == name or re.match(re.escape(name) + r"\.", other)]
        made |= {(color, ground) for ground in on or ("page", "card")}
    return made | {
        ("ink", ground) for name, ground in grounds.items() if not any(name.startswith(one) for one in words)
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("sheet", ["report.css.j2", "sizing.css.j2"])
def test_words_stand_out_from_their_ground(sheet: str, scheme: str) -> None:
    css = (TEMPLATES / sheet).read_text()
    colors, found = variables(css, scheme), pairs(css)
    assert {("ink", "page"), ("muted", "page"), ("muted", "card")} <= found
    assert ({("card", "clm"), ("card", "mlm")} if sheet == "report.css.j2" else {("card", "clm")}) <= found
    assert colors["page"] == {"light": "#f5f6f8", "dark": "#0f141b"}[scheme]
    assert {pair: round(contrast(*(colors[name] for name in pair)), 2) for pair in found
            if contrast(*(colors[name] for name in pair)) < LEAST} == {}  # fmt: skip


@pytest.mark.parametrize("colors", [COLORS, DARK])
def test_words_in_pictures_do_too(colors: Colors) -> None:
    for name in ("ink", "muted", "clm", "mlm", "good", "warn"):
        assert contrast(colors[name], colors["card"]) >= LEAST, name


def test_black_on_white_is_the_most_there_is() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)
    assert contrast("#d55e00", COLORS["card"]) < 4  # what MLM's words were printed in once
