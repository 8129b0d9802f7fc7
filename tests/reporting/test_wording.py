from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.laws.law_fit import FormScore, Interval
from plm_scaling.reporting import wording
from plm_scaling.reporting.study import Study


def plain(text: str) -> str:
    return text.replace("\u00a0", " ").replace(wording.MINUS, "-").replace(wording.PLUS_MINUS, "+/-")


def test_numbers_are_rounded_by_their_errors() -> None:
    assert plain(wording.measured(1.345678, 0.0123)) == "1.346 +/- 0.012"
    assert plain(wording.measured(1.345678, None)) == "1.346"
    assert plain(wording.signed(0.5, 0.1)) == "+0.50 +/- 0.10"
    assert plain(wording.signed(-0.283, 0.009)) == "-0.2830 +/- 0.0090"


def test_interval_is_rounded_by_its_width() -> None:
    assert plain(wording.number_interval(Interval(value=0.6758, low=0.5358, high=0.8358))) == "0.68 (0.54 to 0.84)"
    assert plain(wording.number_interval(Interval(value=0.6758, low=0.6558, high=0.6958))) == "0.676 (0.656 to 0.696)"
    assert plain(wording.number_interval(Interval(value=0.5, low=0.5, high=0.5))) == "0.500 (0.500 to 0.500)"
    assert plain(wording.number_interval(Interval(value=0.5, low=-math.inf, high=math.inf))) == "0.500 (-inf to inf)"
    assert plain(wording.count_interval(Interval(value=117_000, low=95_200, high=140_000))) == "117k (95k to 140k)"


def test_power_of_ten() -> None:
    assert wording.power_of_ten(1.25e11) == "1.25\u00d710\u00b9\u00b9"
    assert wording.power_of_ten(1e12) == "10\u00b9\u00b2"
    assert wording.power_of_ten(2.0e12) == "2\u00d710\u00b9\u00b2"
    assert wording.power_of_ten(25_000) == "25k"


@given(st.floats(1e6, 1e30))
@settings(max_examples=50, deadline=None)
def test_power_of_ten_reads_back(value: float) -> None:
    text = wording.power_of_ten(value).translate(str.maketrans(
        "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079", "0123456789"))  # fmt: skip
    mantissa, _, power = text.rpartition("\u00d7")
    assert float(mantissa or 1) * 10.0 ** int(power[2:]) == pytest.approx(value, rel=6e-3)


def test_percent_and_lists() -> None:
    assert [plain(wording.percent(x)) for x in (0.0, 0.021, 0.345, 1.0)] == ["0 %", "2.1 %", "34 %", "100 %"]
    assert wording.join_words(["a"]) == "a"
    assert wording.join_words(["a", "b", "c"]) == "a, b and c"


def test_typeset_lowers_raises_and_escapes() -> None:
    html = wording.typeset("N_opt <b> & A0 (N/N0)^-alpha, D_t, val_iid")
    assert "N<sub>opt</sub> &lt;b&gt; &amp; A<sub>0</sub>" in html
    assert "<sup>\u2212\u03b1</sup>, D<sub>t</sub>, val_iid" in html
    assert wording.typeset("C = 1.48e+11 FLOPs") == "C = 1.48\u00d710\u00b9\u00b9 FLOPs"
    assert wording.typeset("run 59863e000815") == "run 59863e000815"
    for name, html in (("L0", "L<sub>0</sub>"), ("K0", "K<sub>0</sub>"), ("B_c", "B<sub>c</sub>")):
        assert wording.typeset(f"{name} = 2") == f"{html} = 2"
    assert wording.typeset("C^-eta, (A/B)^(a_N/a_D)") == (
        "C<sup>\u2212\u03b7</sup>, (A/B)<sup>a<sub>N</sub>/a<sub>D</sub></sup>"
    )


def test_flags_and_forms_in_words() -> None:
    assert wording.split_flags("A_FLAG,B  C, ") == ("A_FLAG", "B", "C")
    assert wording.split_flags("") == ()
    score = FormScore(
        form="log_quadratic", n_parameters=6, objective_value=0.1, rms_relative_error=0.01, aic=0.0, weight=1.0
    )
    assert wording.form_words(score) == "log quadratic"
    bounded = score.model_copy(update={"form": "bounded+batch", "plateau": 2.88768})
    assert wording.form_words(bounded) == "bounded with a batch term, L0 = 2.888"


@pytest.mark.parametrize(
    ("value", "low", "high", "says"),
    [
        (1.66e5, 1.31e5, 2.05e5, "166k (130k to 200k)"),
        (-1e5, -2e5, 5e4, "-100k (-200k to 50k)"),
        (None, 2e6, None, "at least 2M"),
        (None, None, -3e4, "at most -30k"),
        (2e6, 1e6, None, "2M (at least 1M)"),
        (2e6, None, 3e6, "2M (at most 3M)"),
        (2e6, None, None, "2M"),
        (None, None, None, None),
    ],
)
def test_token_gain_gives_the_interval_or_the_bound(
    full_study: Study, value: float | None, low: float | None, high: float | None, says: str | None
) -> None:
    assert full_study.transfer
    pair = full_study.transfer.pairs[0].model_copy(update={"D_t": value, "D_t_low": low, "D_t_high": high})
    text = wording.token_gain(pair)
    assert (text and plain(text)) == says
