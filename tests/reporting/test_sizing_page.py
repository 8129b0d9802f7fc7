"""The sizing page as a file: small, offline, whole; and what no page can be made of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from plm_scaling.core.errors import ConfigError, RecordError, RefusedError
from plm_scaling.laws.zoo import find_law
from plm_scaling.reporting import page_examples
from plm_scaling.reporting.page_examples import check_page
from plm_scaling.reporting.page_laws import laws_for_page, page_laws
from plm_scaling.reporting.sizing_page import PAGE_SCRIPTS, PageQuestion, page_question, render_sizing_page
from plm_scaling.sizing.default_laws import published_fit
from plm_scaling.sizing.law_ensemble import ensemble_of_fit
from tests.reporting.page_kit import EXAMPLES, FORMS, ensemble, needs_node, repeat_fit


def test_the_page_is_small_and_asks_for_nothing_from_elsewhere() -> None:
    """Two objectives of 2,000 draws, thinned; a source that would end a script; no address but that of SVG."""
    laws = [ensemble(FORMS[:4], repeats=repeat_fit("decay", draws=900), draws=500, objective=o) for o in ("clm", "mlm")]
    entries = [page_laws(one) for one in laws]
    assert all(sum(len(m["draws"]) - 1 for m in entry["members"]) <= 200 for entry in entries)
    html = render_sizing_page([{**entry, "source": "</script><b>&amp;"} for entry in entries])
    assert len(html.encode()) < 200_000
    assert set(re.findall(r"https?://[^\s\"'`]+", html)) == {"http://www.w3.org/2000/svg"}
    assert "</script><b>" not in html
    assert '"bounds":{"gpu_hours":[1e-06,1000000000000000.0],' in html  # numbers that no question is asked with
    assert len(re.findall(r"<script", html)) == len(re.findall(r"</script>", html)) == len(PAGE_SCRIPTS) + 1


def test_laws_by_default_of_an_own_fit_and_of_published_laws() -> None:
    for entry, objective in zip(laws_for_page(), ("clm", "mlm"), strict=True):
        assert entry["objective"] == objective
        assert sum(member["weight"] for member in entry["members"]) == pytest.approx(1.0)
        assert 100 <= sum(len(member["draws"]) - 1 for member in entry["members"]) <= 200
        assert [frontier["name"] for frontier in entry["frontiers"]] == [f"cheng-{objective}"]
    own = published_fit("mlm")
    entries = laws_for_page([find_law("cheng-clm"), own, find_law("besiroglu2024")])
    assert [(entry["objective"], len(entry["members"])) for entry in entries] == [
        ("clm", 0),
        ("mlm", len(ensemble_of_fit(own).members)),
        ("text", 1),
    ]
    assert own.surface is not None
    flat = own.model_copy(update={"surface": own.surface.model_copy(update={"a_N": None, "form": "multiplicative"})})
    with pytest.raises(RefusedError, match="compute-optimal"):
        laws_for_page([flat])


def test_a_page_opens_with_the_question_of_size() -> None:
    asked = page_question(objective="mlm", usd=300.0, unique_tokens=None, gpu="h100", mfu=None, gpus=4)
    assert (asked.unit, asked.budget, asked.unique_tokens, asked.mfu, asked.gpus) == ("usd", 300.0, None, None, 4)
    assert page_question() == PageQuestion()
    with pytest.raises(ConfigError, match="exactly one"):
        page_question(usd=3.0, flops=1e20)
    with pytest.raises(ConfigError, match="mfu"):
        page_question(flops=1e20, mfu=40)


def test_pages_that_cannot_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = page_laws(ensemble(FORMS[:1]))
    with pytest.raises(ConfigError, match="each objective once"):
        render_sizing_page([entry, entry])
    with pytest.raises(ConfigError, match="no law of 'clm'"):
        render_sizing_page([entry], question=PageQuestion(objective="clm"))
    with pytest.raises(ConfigError, match="unknown accelerator"):
        render_sizing_page([entry], question=PageQuestion(gpu="abacus"))
    with pytest.raises(ConfigError, match="which size"):
        page_laws(None, [find_law("rita2022")])
    monkeypatch.setattr(page_examples.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="no node on PATH"):
        check_page(EXAMPLES)


@needs_node
def test_another_page_is_not_asked(tmp_path: Path) -> None:
    (tmp_path / "other.html").write_text("<html></html>")
    with pytest.raises(RecordError, match="does not run"):
        check_page(EXAMPLES, tmp_path / "other.html")
