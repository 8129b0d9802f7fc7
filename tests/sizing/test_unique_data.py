from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.sizing.unique_data import REPEAT_GAPS, effective_tokens_of, repeat_findings


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
    assert "26B more unique tokens would bring this run down to 4 epochs" in text, "165B / 4 - 15B"
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
