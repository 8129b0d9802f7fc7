"""The page's decision beside the engine's, on the same draws."""

from __future__ import annotations

from pathlib import Path

import pytest

from plm_scaling.reporting.page_examples import answer_under_node
from plm_scaling.reporting.page_laws import page_laws
from plm_scaling.reporting.sizing_page import write_sizing_page
from plm_scaling.sizing.decision import decide
from plm_scaling.sizing.law_ensemble import text_decay
from tests.reporting.page_kit import ensemble, needs_node, purse_of, questions, repeat_fit


@needs_node
def test_decisions_are_those_of_the_engine(tmp_path: Path) -> None:
    decay_laws, asked = ensemble(repeats=text_decay(), draws=20), questions(8)
    page = write_sizing_page(tmp_path / "page.html", [page_laws(decay_laws)])
    for question, answered in zip(asked, answer_under_node([{"question": q} for q in asked], page), strict=True):
        found = answered["answer"]
        made = decide(decay_laws, purse_of(question), unique_tokens=question["unique_tokens"], force=True)
        # The engine reads sizes off an interpolation; what it costs to be off by that is far below a nat's millionth.
        wanted = {"N": made.N, "N_minimax": made.N_minimax, "D": made.D, "C": made.C}
        assert {key: found[key] for key in wanted} == pytest.approx(wanted, rel=2e-4)
        assert found["loss"] == pytest.approx(made.loss, rel=1e-5)
        exact = decay_laws.draw_weights @ decay_laws.losses(found["N"], found["D"], question["unique_tokens"])
        assert found["loss"] == pytest.approx(float(exact[0]), rel=1e-9)
        wanted = {"loss_low": made.loss_low, "loss_high": made.loss_high}
        assert {key: found[key] for key in wanted} == pytest.approx(wanted, rel=5e-5)
        sizes = [found[key] for key in ("N_low", "N_median", "N_high", "band_low", "band_high")]
        assert sizes == pytest.approx([*made.N_quantiles, *made.N_band], rel=2e-3)
        assert found["regret"] == pytest.approx(made.regrets[0].mean, abs=3e-5)
        assert found["regret_minimax"] == pytest.approx(made.regrets[-1].worst, abs=5e-5)
        assert found["probability"] == pytest.approx(made.probability, abs=1e-9)
        assert found["decades"] == pytest.approx(made.extrapolation_decades, abs=1e-4)
        for form, member in zip(made.forms, found["members"], strict=True):
            assert member["N_median"] == pytest.approx(form.N_mid, rel=2e-3)


@needs_node
def test_a_budget_is_not_spent_where_repeats_turn_the_loss(tmp_path: Path) -> None:
    """Stops before the money is gone, and sizes that are not claimed, as the engine has them."""
    laws = ensemble((("bounded", 2.9), ("gamma", None)), repeats=repeat_fit("penalty", P0=0.006), draws=15)
    page = write_sizing_page(tmp_path / "page.html", [page_laws(laws)])
    budgets = [(1e20, 1e9), (1e22, 1e10), (3e20, 1e11), (1e22, 2e9)]
    asked = [{"unit": "flops", "budget": C, "unique_tokens": U, "force": True} for C, U in budgets]
    fresh = {**asked[1], "repeats": "new"}
    *found, new = (one["answer"] for one in answer_under_node([{"question": q} for q in (*asked, fresh)], page))
    named = {"BUDGET_NOT_ALL_USEFUL", "SIZE_CAPPED"}
    for (C, U), one in zip(budgets, found, strict=True):
        made = decide(laws, C, unique_tokens=U, force=True)
        assert set(one["flags"]) & named == set(made.flags) & named
        assert one["loss"] == pytest.approx(made.loss, abs=3e-4)
        assert one["N"] == pytest.approx(made.N, rel=0.02)
        assert one["C"] == pytest.approx(made.C, rel=0.06)
    assert [one["C"] < 0.9 * C for (C, _), one in zip(budgets, found, strict=True)] == [True, True, False, True]
    assert new["C"] == pytest.approx(1e22)
    assert new["loss"] < found[1]["loss"]
