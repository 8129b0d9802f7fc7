from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plm_scaling.core.recipe import (
    SMALL_MODEL_LIMIT,
    batch_tokens_by_power,
    batch_tokens_for,
    beta2_for,
    default_recipe,
    peak_lr_for,
)


@pytest.mark.parametrize(
    ("N", "batch", "recipe", "lr"),
    [
        (1e9, 1_048_576, "cheng", 0.030 * 10**-1.989),  # 3.08e-4
        (1.0, 512, "cheng", 0.030),
        (24_576, 512, "small", 6e-3),
        (24_576, 1024, "small", 6e-3),
        (24_576, 2048, "small", 7.8e-3),
        (245_760, 512, "small", 6e-3 * 10**-0.3),
    ],
)
def test_peak_learning_rates_are_those_of_the_rules(N: float, batch: int, recipe: str, lr: float) -> None:
    assert peak_lr_for(N, batch, recipe) == pytest.approx(lr, rel=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("N", "D", "recipe", "batch"),
    [
        (85e6, 1e10, "cheng", 524_288),
        (0.99e9, 1e10, "cheng", 524_288),
        (1e9, 1e10, "cheng", 1_048_576),
        (1e5, 2.49e6, "small", 512),
        (1e5, 2.5e6, "small", 1024),
        (1e5, 4.99e6, "small", 1024),
        (1e5, 5e6, "small", 2048),
    ],
)
def test_batches_are_those_of_the_rules(N: float, D: float, recipe: str, batch: int) -> None:
    assert batch_tokens_for(N, D, recipe) == batch  # type: ignore[arg-type]


def test_the_recipe_changes_at_a_million_parameters() -> None:
    assert SMALL_MODEL_LIMIT == 1_000_000
    assert default_recipe(999_999) == "small"
    assert default_recipe(1_000_000) == "cheng"


def test_the_small_recipe_is_higher_where_it_was_checked() -> None:
    """The published line is 1.5 to 1.9 times too low between 25k and 332k parameters."""
    ratios = [peak_lr_for(N, 512, "small") / peak_lr_for(N, 512, "cheng") for N in (24_576, 98_560, 332_352)]
    assert all(1.4 < ratio < 2.0 for ratio in ratios)
    assert math.isclose(ratios[0], 1.867, rel_tol=1e-2)


@pytest.mark.parametrize(
    ("D", "batch"),
    [(1e9, 2**19), (2e9, 2**19 * 1.3041), (1e12, 2**19 * 1000**0.383), (1.0, 128), (1e8, 2**19 * 0.4140)],
)
def test_a_batch_by_power_passes_through_its_anchor_and_is_whole_windows(D: float, batch: float) -> None:
    made = batch_tokens_by_power(D, B0=2**19, D0=1e9, context=128)
    assert made % 128 == 0
    assert made == pytest.approx(batch, abs=64 + 1e-3 * batch)


@given(st.integers(1, 10**7), st.integers(1, 100), st.floats(1e3, 1e9))
def test_the_second_moment_forgets_half_in_a_half_life_whatever_the_batch(batch: int, steps: int, half: float) -> None:
    beta2 = beta2_for(batch, half)
    assert 0.0 <= beta2 < 1.0
    expected = 0.5 ** (steps * batch / half)
    assert beta2**steps == pytest.approx(expected, rel=1e-4, abs=1e-3)
    assert beta2_for(10**6, 10**6) == pytest.approx(0.5, abs=1e-6)


def test_the_published_beta2_is_a_half_life() -> None:
    """.95 at 512 x 1024 positions is a half-life of 7.09M; at a 64th of that batch it is .9992."""
    half = 2**19 * math.log(0.5) / math.log(0.95)
    assert beta2_for(2**19, half) == pytest.approx(0.95, abs=1e-6)
    assert beta2_for(2**13, half) == pytest.approx(0.95 ** (1 / 64), abs=1e-6)
