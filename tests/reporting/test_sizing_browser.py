"""The sizing page in a real browser: moved by mouse and keys, it answers as the engine does, without complaint."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from plm_scaling.laws.zoo import find_law
from plm_scaling.reporting.page_laws import page_laws
from plm_scaling.reporting.sizing_page import PageQuestion, write_sizing_page
from plm_scaling.sizing.decision import decide
from plm_scaling.sizing.law_ensemble import LawEnsemble, text_decay
from tests.reporting.devtools import Tab
from tests.reporting.page_kit import FORMS, ensemble, purse_of

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]
OPENING = PageQuestion(objective="mlm", budget=2000, gpu="h100", mfu=0.4, unique_tokens=2e10)


@pytest.fixture(scope="module")
def laws() -> dict[str, LawEnsemble]:
    return {o: ensemble(FORMS[:4], repeats=text_decay(), draws=25, objective=o, seed=k) for k, o in
            enumerate(("clm", "mlm"))}  # fmt: skip


@pytest.fixture(scope="module")
def address(laws: dict[str, LawEnsemble], tmp_path_factory: pytest.TempPathFactory) -> str:
    entries = [page_laws(one, [find_law(f"cheng-{objective}")]) for objective, one in laws.items()]
    out = write_sizing_page(tmp_path_factory.mktemp("page") / "sizing.html", entries, question=OPENING)
    return out.resolve().as_uri()


@pytest.fixture
def tab(browser: Tab, address: str) -> Tab:
    browser.complaints.clear()
    browser.requests.clear()
    browser.screen(1280, 1000)
    opened(browser, address)
    return browser


def opened(tab: Tab, address: str) -> None:
    tab.open(address)
    tab.click("#all-details summary")
    tab.wait_for("document.getElementById('all').textContent")  # written once the browser tells of the opening


def shown(tab: Tab) -> tuple[dict[str, Any], dict[str, Any]]:
    """The question and the answer that the page states in full."""
    said = json.loads(tab.value("document.getElementById('all').textContent"))
    return said["question"], said["answer"]


def expect_engine(question: dict[str, Any], found: dict[str, Any], laws: LawEnsemble) -> None:
    made = decide(laws, purse_of(question), unique_tokens=question["unique_tokens"], force=True)
    wanted = {"N": made.N, "D": made.D, "N_minimax": made.N_minimax}
    assert {key: found[key] for key in wanted} == pytest.approx(wanted, rel=2e-4)
    assert found["loss"] == pytest.approx(made.loss, rel=1e-5)
    exact = laws.draw_weights @ laws.losses(found["N"], found["D"], question["unique_tokens"])
    assert found["loss"] == pytest.approx(float(exact[0]), rel=1e-9)
    wanted = {"loss_low": made.loss_low, "loss_high": made.loss_high}
    assert {key: found[key] for key in wanted} == pytest.approx(wanted, rel=5e-5)


def test_it_opens_with_the_engine_s_answer_and_asks_nobody(
    tab: Tab, laws: dict[str, LawEnsemble], address: str
) -> None:
    question, found = shown(tab)
    assert question == {**OPENING.model_dump(mode="json"), "objective": "mlm"}
    expect_engine(question, found, laws["mlm"])
    assert re.search(r"Train an MLM of about [\d.]+[MB] parameters", tab.value("verdict.textContent"))
    assert f"{found['loss']:.3f}" in tab.value("numbers.textContent")
    assert tab.value("document.querySelectorAll('#valley path, #regret path').length") >= 6
    assert [url for url in tab.requests if url != "about:blank"] == [address]
    assert tab.complaints == []


def test_sliders_move_by_mouse_and_by_keys(tab: Tab, laws: dict[str, LawEnsemble]) -> None:
    before, first = shown(tab)
    tab.drag("#budget", 0.47, 0.6)
    after, found = shown(tab)
    assert after["budget"] > 3 * before["budget"]
    assert found["N"] > first["N"]
    expect_engine(after, found, laws["mlm"])
    tab.key("ArrowRight", 4)
    assert shown(tab)[0]["budget"] > after["budget"]
    tab.drag("#unique", 0.6, 1.05)
    assert shown(tab)[0]["unique_tokens"] is None
    assert shown(tab)[1]["epochs"] is None
    tab.key("Home")
    assert shown(tab)[0]["unique_tokens"] == 1e6
    tab.drag("#unique", 0.02, 0.55)
    tab.drag("#price", 0.0, 0.35)
    bought, found = shown(tab)
    assert bought["data_usd_per_token"] > 0
    assert found["new_tokens"] > 0
    assert "Tokens to buy" in tab.value("numbers.textContent")
    tab.drag("#rent", 0.5, 0.9)
    assert shown(tab)[0]["usd_per_gpu_hour"] > 5
    tab.drag("#serve", 0.0, 0.75)
    assert shown(tab)[1]["lifetime"]["saving"] > 0
    assert "over its life" in tab.value("second.textContent")
    assert tab.complaints == []


def test_choices_by_click_and_keyboard(tab: Tab, laws: dict[str, LawEnsemble]) -> None:
    _, found = shown(tab)
    tab.click("input[name=unit][value=flops]")
    question, same = shown(tab)
    assert question["unit"] == "flops"
    assert question["budget"] == pytest.approx(found["C"], rel=6e-3)
    assert same["N"] == pytest.approx(found["N"], rel=0.04)  # hours pay for fewer FLOPs where models are narrow
    tab.click("input[name=objective][value=clm]")
    question, other = shown(tab)
    expect_engine(question, other, laws["clm"])
    assert "Train a CLM" in tab.value("verdict.textContent")
    tab.value("gpu.focus()")
    tab.key("Home")
    assert shown(tab)[0]["gpu"] == "v100"
    tab.type("#gpus", "64")
    assert shown(tab)[1]["wall_hours"] == pytest.approx(shown(tab)[1]["gpu_hours"] / 64)
    tab.click("#reset")
    assert shown(tab)[0]["objective"] == "mlm"
    assert tab.complaints == []


def test_numbers_can_be_typed_and_bad_ones_change_nothing(tab: Tab) -> None:
    tab.type("#unique-text", "7.5B")
    assert shown(tab)[0]["unique_tokens"] == 7.5e9
    tab.type("#unique-text", "unlimited")
    assert shown(tab)[0]["unique_tokens"] is None
    tab.type("#budget-text", "12,500")
    assert shown(tab)[0]["budget"] == 12_500
    tab.type("#budget-text", "a lot")
    assert tab.value("document.getElementById('budget-text').getAttribute('aria-invalid')") == "true"
    assert shown(tab)[0]["budget"] == 12_500
    assert tab.complaints == []


def test_far_budgets_are_refused_until_forced(tab: Tab) -> None:
    tab.type("#budget-text", "2e7")
    assert tab.value("verdict.textContent").startswith("Refused")
    assert tab.value("pictures.hidden") is True
    assert "N" not in shown(tab)[1]
    tab.click("#force")
    assert tab.value("verdict.textContent").startswith("Train")
    assert tab.value("pictures.hidden") is False
    assert "Far extrapolation" in tab.value("doubts.textContent")


def test_the_address_holds_the_question(tab: Tab, address: str) -> None:
    tab.drag("#budget", 0.47, 0.55)
    tab.click("input[name=objective][value=clm]")
    tab.type("#serve-text", "3T")
    tab.wait_for("location.hash.split('=').length > 3")
    kept, before = tab.value("location.hash"), shown(tab)
    opened(tab, address + kept)
    assert shown(tab) == before
    opened(tab, address + "#b=-3&u=soup&g=abacus&o=&x=1&n=0&f=2&%%%")
    assert shown(tab)[0] == {**OPENING.model_dump(mode="json"), "objective": "mlm"}
    assert tab.complaints == []


OUTSIDE = """[...document.querySelectorAll('body *')].filter(e => {
  const b = e.getBoundingClientRect();
  const inside = document.documentElement.clientWidth + 1;
  return b.width > 0 && b.right > inside && !e.closest('.scroll, .out, svg');
}).map(e => e.tagName + '#' + e.id)"""


@pytest.mark.parametrize("width", [320, 390, 768, 1920])
def test_no_width_needs_sideways_scrolling(tab: Tab, address: str, width: int) -> None:
    tab.screen(width, 800, mobile=width < 500)
    opened(tab, address + "#p=1e-7&t=1e12")
    assert tab.value("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    assert tab.value(OUTSIDE) == []
    tab.value("document.getElementById('verdict').style.minWidth = '3000px'")
    assert tab.value(OUTSIDE) != [], "what sticks out is noticed"
    sizes = "[...document.querySelectorAll('button, select, input:not([type=checkbox])')].map(e => e.offsetHeight)"
    assert min(tab.value(sizes)) >= 24


CONTRASTS = """(() => {
  const light = text => {
    const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$/.test(c) && c !== 'transparent') return c;
    }
    return 'rgb(255,255,255)';
  };
  return [...document.querySelectorAll('body *')].filter(e => e.offsetParent && !e.closest('.out') && !e.closest('svg')
    && [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())).map(e => {
      const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
      return [(a + 0.05) / (b + 0.05), e.tagName + '.' + e.className + ' ' + e.textContent.slice(0, 20)];
    }).filter(([ratio]) => ratio < 4.5);
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_words_can_be_read(tab: Tab, address: str, scheme: str) -> None:
    tab.screen(1280, 1000, prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
    opened(tab, address + "#t=1e12")
    assert tab.value(CONTRASTS) == []
    tab.value("document.getElementById('second').style.color = getComputedStyle(document.body).backgroundColor")
    assert len(tab.value(CONTRASTS)) == 1, "words that cannot be read are noticed"
    background = tab.value("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(background) < 120) is (scheme == "dark")
    moving = "[...document.querySelectorAll('*')].filter(e => getComputedStyle(e).transitionDuration !== '0s').length"
    assert tab.value(moving) == 0


def test_everything_has_a_name_and_keyboards_reach_it(tab: Tab) -> None:
    nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
    roles = ("slider", "textbox", "spinbutton", "combobox", "checkbox", "radio", "button", "image", "img")
    named = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n.get("ignored")]
    named = [(role, name) for role, name in named if role in roles]
    assert [role for role, name in named if not name.strip()] == []
    assert sum(role == "slider" for role, _ in named) == 5
    assert sum(role in ("image", "img") for role, _ in named) == 2
    assert all(
        tab.value("[...document.querySelectorAll('input[type=range]')].map(e => e.getAttribute('aria-valuetext'))")
    )
    reached = set()
    tab.value("document.activeElement.blur()")
    for _ in range(30):
        tab.key("Tab")
        reached.add(tab.value("document.activeElement.id || document.activeElement.name"))
    wanted = {"objective", "unit", "budget", "unique", "price", "gpu", "gpus", "rent", "serve", "force", "copy"}
    assert wanted <= reached


def test_it_prints_on_few_pages(tab: Tab) -> None:
    pdf = tab.printed()
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 4
    assert tab.complaints == []


def test_a_law_without_a_loss_says_so(tab: Tab, tmp_path: Path) -> None:
    page = write_sizing_page(tmp_path / "frontier.html", [page_laws(None, [find_law("cheng-clm")])])
    opened(tab, page.resolve().as_uri())
    assert tab.value("pictures.hidden") is True
    assert "not how much worse" in tab.value("second.textContent")
    assert shown(tab)[1]["loss"] is None
    assert tab.complaints == []
