from __future__ import annotations

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import QuantityError
from plm_scaling.core.units import (
    block_parameters,
    exact_training_flops,
    format_amount,
    format_count,
    format_usd,
    format_with_error,
    parse_quantity,
    six_nd,
    total_parameters,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("15e9", 15e9),
        ("15B", 15e9),
        ("15G", 15e9),
        ("2.5M", 2.5e6),
        (" 2.5 M ", 2.5e6),
        ("40_000", 40_000),
        ("7k", 7_000),
        ("7K", 7_000),
        ("1T", 1e12),
        ("1.5E+3", 1_500),
        ("0.01", 0.01),
        ("+3", 3),
        (5_000, 5_000),
        (1e21, 1e21),
    ],
)
def test_quantities_as_people_write_them(text: str | float, value: float) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "12 bananas",
        "",
        "-3",
        "0",
        "0M",
        "nan",
        "inf",
        "1e400",
        "1,000",
        "15 e9",
        "3MB",
        "B",
        "1e",
        "0x10",
        "_1",
        "1e9.5",
    ],
)
def test_what_is_no_positive_number_is_refused_by_name(text: str) -> None:
    with pytest.raises(QuantityError) as caught:
        parse_quantity(text, what="--usd")
    assert caught.value.what == f"--usd: {text!r} is not a positive number"
    assert "15e9" in caught.value.hint


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.25, "0.25"),
        (670, "670"),
        (1_234, "1.23k"),
        (999.4, "999"),
        (999.6, "1.00k"),
        (98_560, "98.6k"),
        (999_499, "999k"),
        (999_950, "1.00M"),
        (1_230_000, "1.23M"),
        (4.5e9, "4.5B"),
        (3e12, "3T"),
        (999e12, "999T"),
        (1e15, "1.00e+15"),
        (-1_500, "-1.5k"),
        (1e-5, "1.00e-05"),
        (math.inf, "inf"),
    ],
)
def test_counts_for_people(value: float, text: str) -> None:
    # A whole number of units may lose its zeros ("3T"); a carry may keep them ("1.00k"): both read the same.
    assert format_count(value) in (text, text.replace(".00", ""))


@settings(deadline=None, max_examples=300)
@given(st.floats(1e-6, 1e24), st.integers(1, 5))
def test_a_printed_count_reads_back_as_that_count_to_its_digits(value: float, digits: int) -> None:
    text = format_count(value, digits)
    assert parse_quantity(text) == pytest.approx(value, rel=0.5001 * 10.0 ** (1 - digits))
    assert len(re.sub(r"e.*|[^0-9]", "", text).lstrip("0")) <= max(digits, 3)


@pytest.mark.parametrize(
    ("value", "se", "text"),
    [
        (0.4791, 0.0123, "0.479 +/- 0.012"),
        (2.30456, 0.5, "2.30 +/- 0.50"),
        (12.3456, 1.6, "12.3 +/- 1.6"),
        (1234.4, 56.0, "1234 +/- 56"),
        (1234.4, 560.0, "1234 +/- 560"),
        (-0.05, 0.00234, "-0.0500 +/- 0.0023"),
        (2.30456, None, "2.305"),
        (2.30456, 0.0, "2.305"),
        (2.30456, math.nan, "2.305"),
    ],
)
def test_numbers_are_rounded_by_their_error(value: float, se: float | None, text: str) -> None:
    assert format_with_error(value, se) == text


@settings(deadline=None, max_examples=200)
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e5))
def test_rounding_costs_at_most_a_twentieth_of_the_error(value: float, se: float) -> None:
    shown, error = map(float, format_with_error(value, se).split(" +/- "))
    for printed, true in ((shown, value), (error, se)):
        assert abs(printed - true) <= se / 20 * (1 + 1e-6) + 1e-9 * abs(value)


@pytest.mark.parametrize(
    ("n_layers", "d_model", "N", "total"),
    [
        (1, 16, 3_104, 4_176),
        (2, 64, 98_560, 102_848),
        (33, 1280, 648_890_880, 648_976_640),
        (6, 320, 7_376_640, 7_398_080),
    ],
)
def test_parameters_by_hand(n_layers: int, d_model: int, N: int, total: int) -> None:
    """N = 12 L d^2 + 2 L d; beside it 33 x d embeddings, 33 x d head weights and d gains of the last norm."""
    assert block_parameters(n_layers, d_model) == N
    assert total_parameters(n_layers, d_model) == total


def test_six_nd_by_hand() -> None:
    assert six_nd(2e6, 5e7) == 6e14


def test_exact_flops_by_hand() -> None:
    # One layer of width 4, one document of 3 positions. Products of one position: qkv 2x4x12, output 2x4x4, MLP
    # 2 x 2x4x16, head 2x4x33 = 96 + 32 + 256 + 264 = 648. Scores and their sum over values: 2 x 2x4x(3x3) = 144.
    forward = 3 * 648 + 144
    assert exact_training_flops(1, 4, positions=3, sum_length_squared=9) == 3 * forward


@pytest.mark.parametrize(("n_layers", "d_model"), [(1, 16), (2, 24), (3, 320)])
def test_exact_flops_are_those_of_the_shape(n_layers: int, d_model: int) -> None:
    """Which tests/models/test_flops.py compares with what torch counts."""
    shape = ModelShape(n_layers=n_layers, d_model=d_model)
    cost = {"positions": 73.0, "sum_length_squared": 4909.0}
    assert exact_training_flops(n_layers, d_model, **cost) == shape.training_flops(**cost)


def test_the_head_is_counted_for_every_position() -> None:
    """Also where only some positions are scored: the objectives are charged alike."""
    whole = exact_training_flops(2, 24, positions=70, sum_length_squared=4900)
    without = exact_training_flops(2, 24, positions=70, sum_length_squared=4900, vocab_size=0)
    assert whole - without == 3 * 70 * 2 * 24 * 33


@pytest.mark.parametrize(
    ("value", "text"),
    [(12345.6, "$12,346"), (9.999, "$10"), (4.2, "$4.20"), (0.00031, "$0.00031"), (0.0, "$0.00"), (1.0, "$1.00")],
)
def test_sums_are_printed_as_people_read_them(value: float, text: str) -> None:
    assert format_usd(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2250.4, "2,250"),
        (99.96, "100"),
        (31.42, "31.4"),
        (0.0312, "0.0312"),
        (12345.0, "12,300"),
        (6.68e20, "6.68e+20"),
    ],
)
def test_amounts_have_no_exponent_where_people_have_none(value: float, text: str) -> None:
    assert format_amount(value) == text
