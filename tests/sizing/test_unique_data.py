from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.run import Objective
from plm_scaling.sizing.unique_data import (
    REPEAT_GAPS,
    Spend,
    alternatives_for,
    effective_tokens_of,
    repeat_findings,
    tokens_spent_at_optimum,
)


def spend(objective: Objective = "mlm", N: float = 1e9, D: float = 100e9) -> Spend:
    def cost_of(n: float, d: float) -> tuple[float, float]:
        return 6 * n * d / 1e17, 2 * 6 * n * d / 1e17

    return Spend(objective, N, 2 * N, D, 6 * N * D, "TESTGPU", cost_of, lambda flops: flops / 1e17, (1e18, 3e20))


def frontier(N: float, D: float) -> Callable[[float], float]:
    """A frontier of exponent 1/2 through (N, D)."""
    return lambda C: N * math.sqrt(C / (6 * N * D))


@pytest.mark.parametrize(
    ("epochs", "worth"), [(1, 1.0), (2, 1.9681992237887165), (4, 3.725673123061326), (16, 10.582456982670752)]
)
def test_repeats_are_worth_what_the_text_law_says(epochs: float, worth: float) -> None:
    assert effective_tokens_of(epochs * 5e9, 5e9) == pytest.approx(worth * 5e9, rel=1e-9)


@settings(max_examples=50, deadline=None)
@given(D=st.floats(1e6, 1e13), U=st.floats(1e6, 1e13))
def test_repeats_are_never_worth_more_than_fresh_tokens(D: float, U: float) -> None:
    worth = effective_tokens_of(D, U)
    assert worth <= D * (1 + 1e-12)
    assert worth <= U * 16.4 or D <= U
    assert effective_tokens_of(D, 2 * U) >= worth * (1 - 1e-12)


def test_fresh_tokens_raise_no_doubt() -> None:
    assert repeat_findings("mlm", 1e9, 10e9, 10e9) == ((), ())


def test_four_epochs_are_reported_but_not_exhausted() -> None:
    flags, warnings = repeat_findings("clm", 1e8, 60e9, 15.4e9)
    assert flags == ("DATA_REPEATED",)
    assert "the published study saw CLM lose returns when UniRef was repeated" in warnings[0]
    assert "0.030 at epoch 1, 0.031 at epoch 4, 0.037 at epoch 8, 0.039 at epoch 13" in warnings[1]
    assert "repeating 13 times cost about 0.009." in warnings[1]


def test_eleven_epochs_of_mlm_are_exhausted_and_the_evidence_is_quoted() -> None:
    flags, warnings = repeat_findings("mlm", 2.5e9, 165e9, 15e9)
    assert flags == ("DATA_REPEATED", "DATA_EXHAUSTED", "MORE_PARAMETERS_PER_UNIQUE_TOKEN")
    text = " ".join(warnings)
    assert "11.0 epochs over 15B unique tokens: the published study saw MLM overfit" in text
    assert "0.014-0.017 at epoch 1, 0.013-0.017 at epoch 4, 0.019-0.021 at epoch 8, 0.028 at epoch 13" in text
    assert "cost about 0.011-0.014" in text
    assert "repeats them 11.0 times, more than 4" in text
    assert "17 times as many parameters per unique token" in text


def test_the_users_own_limit_on_epochs_counts() -> None:
    assert "DATA_EXHAUSTED" in repeat_findings("mlm", 1e8, 30e9, 15e9, max_epochs=1.5)[0]
    assert "DATA_EXHAUSTED" not in repeat_findings("mlm", 1e8, 165e9, 15e9, max_epochs=12.0)[0]


def test_beyond_the_longest_measured_run_nobody_knows() -> None:
    flags, warnings = repeat_findings("mlm", 1e8, 14 * 15e9, 15e9)
    assert "EPOCHS_BEYOND_EVIDENCE" in flags
    assert any("more than 13 times" in w for w in warnings)


def test_the_measured_gaps_do_not_shrink_after_four_epochs() -> None:
    for rows in REPEAT_GAPS.values():
        later = [low for epochs, low, _ in rows if epochs >= 4]
        assert later == sorted(later)


def test_the_run_that_data_can_feed() -> None:
    # N = 1e9 (C/6e20)^.5 and D = C / 6N = 1e11 (C/6e20)^.5: 4e10 tokens at .16 of the compute.
    assert tokens_spent_at_optimum(frontier(1e9, 1e11), 4e10) == pytest.approx(0.16 * 6e20)
    assert tokens_spent_at_optimum(lambda C: 1.0, 1e40) is None


def test_while_data_lasts_only_the_null_action_is_offered() -> None:
    for unique in (None, 50e9):
        (only,) = alternatives_for(spend(), frontier(1e9, 1e11), unique)
        assert only.key == "reuse"
        assert only.gpu_hours == only.usd == 0.0


def test_exhausted_data_offers_every_way_out_with_its_numbers() -> None:
    found = {a.key: a for a in alternatives_for(spend(), frontier(1e9, 1e11), 10e9)}
    assert list(found) == ["stop_early", "smaller_run", "larger_model", "more_data", "clm_first", "reuse"]
    stop, small, large, more = (found[k] for k in ("stop_early", "smaller_run", "larger_model", "more_data"))
    assert (stop.N, stop.D, stop.epochs) == (1e9, 4e10, 4.0)
    assert pytest.approx(0.4 * 6e20) == stop.C
    assert stop.usd == pytest.approx(2 * stop.gpu_hours) == pytest.approx(2 * 0.4 * 6e3)
    assert "spends 40% of the compute" in stop.note
    assert pytest.approx((4e8, 4e10)) == (small.N, small.D)
    assert "16 % of the budget" in small.note
    assert pytest.approx(2.5e9) == large.N
    assert pytest.approx(6e20) == large.C
    assert large.flags == ("OUTSIDE_BAND",)
    assert more.unique_tokens == pytest.approx(25e9)
    assert more.title == "the same run with 15B more unique tokens"
    assert "repeats the data 8.0 times" in found["clm_first"].note


def test_a_run_below_the_law_says_so() -> None:
    found = {a.key: a for a in alternatives_for(spend(), frontier(1e9, 1e11), 5e8)}
    assert found["smaller_run"].flags == ("BELOW_RANGE",)
    assert "below the range of the law" in found["smaller_run"].note


def test_a_larger_model_inside_the_band_is_not_flagged() -> None:
    found = {a.key: a for a in alternatives_for(spend(), frontier(1e9, 1e11), 20e9)}
    assert found["larger_model"].flags == ()


def test_no_smaller_run_where_the_law_has_none() -> None:
    keys = [a.key for a in alternatives_for(spend("clm"), lambda C: C, 10e9)]
    assert keys == ["stop_early", "larger_model", "more_data", "reuse"]


def test_each_objective_has_its_public_model() -> None:
    (mlm,) = alternatives_for(spend("mlm"), frontier(1e9, 1e11), None)
    (clm,) = alternatives_for(spend("clm"), frontier(1e9, 1e11), None)
    assert "ESM-2 650M" in mlm.title
    assert "ProGen2-xlarge" in clm.title
    assert f"{6e20 / 4.42e21:.2g} times its training compute (about 44,200 TESTGPU hours)" in mlm.note
