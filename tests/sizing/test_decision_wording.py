"""How sure a decision sounds: a share of draws is a chance only if a law holds, and never certainty."""

from __future__ import annotations

from itertools import product

import pytest

from plm_scaling.reporting.page_examples import answer_under_node
from plm_scaling.sizing.decision import decide
from plm_scaling.sizing.decision_wording import chance, chance_clause, chance_doubts, verdict_sentence
from plm_scaling.sizing.form_names import form_name
from plm_scaling.sizing.law_ensemble import text_decay
from tests.reporting.page_kit import ensemble, needs_node


def test_certainty_is_never_claimed() -> None:
    assert [chance(share) for share in (0.0, 0.009, 0.01, 0.125, 0.99, 0.991, 1.0)] == [
        "under 1 %", "under 1 %", "1 %", "13 %", "99 %", "over 99 %", "over 99 %",
    ]  # fmt: skip


def test_the_verdict_says_on_what_its_probability_rests() -> None:
    laws = ensemble(repeats=text_decay())
    inside, outside = decide(laws, 1e20), decide(laws, 1e23, unique_tokens=1e10)
    plain, doubted = verdict_sentence(inside), verdict_sentence(outside)
    assert "if one of these laws holds, this size is within 0.01 nats" in plain
    assert outside.extrapolation_decades > 0.5
    assert ("in doubt" in plain) == bool({"FORMS_DISAGREE"} & set(inside.flags))
    assert f"{outside.extrapolation_decades:.1f} decades outside their runs" in doubted
    assert "what repeats are worth is taken from text" not in plain  # nothing is repeated there
    without = inside.model_copy(update={"flags": ("NO_DRAWS",)})
    assert "probability" not in verdict_sentence(without)
    assert "cannot be said, for the laws state no uncertainty" in verdict_sentence(without)


@needs_node
def test_the_page_says_the_same_words() -> None:
    flags = ([], ["FORMS_DISAGREE"], ["TEXT_REPEATS", "FORMS_DISAGREE"], ["NO_DRAWS", "TEXT_REPEATS"])
    cases = list(product((0.0, 0.005, 0.125, 0.714, 0.99, 0.995, 1.0), (0.0, 0.5, 0.51, 1.27), (1.0, 2.94), flags))
    asked = [
        {"chance": {"share": share, "decades": decades, "form_factor": factor, "flags": flags}}
        for share, decades, factor, flags in cases
    ]
    said = [
        chance_clause(share, chance_doubts(decades, factor, flags), known="NO_DRAWS" not in flags)
        for share, decades, factor, flags in cases
    ]
    assert [one.get("answer") for one in answer_under_node(asked)] == said
    forms = ["bounded+batch, L0 = 2.713", "bounded, L0 = 2.8886", "log_quadratic", "kaplan+batch", "besiroglu2024"]
    assert [one.get("answer") for one in answer_under_node([{"form": f} for f in forms])] == list(map(form_name, forms))
    assert form_name(forms[0]) == "bounded with a batch term, at most 2.71 nats"
    assert len(set(said)) == pytest.approx(7 * 3 * 4, abs=35)
