from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.recipe import SMALL_MODEL_LIMIT, batch_tokens_for, default_recipe, learning_rate_at, peak_lr_for


def schedule(n_steps: int, peak: float = 1.0, warmup: float = 0.025) -> list[float]:
    return [learning_rate_at(step, n_steps, peak, warmup_fraction=warmup) for step in range(n_steps)]


@settings(deadline=None, max_examples=100)
@given(st.integers(2, 100_000), st.floats(1e-5, 1e-1), st.sampled_from([0.0, 0.025, 0.05]))
def test_the_last_step_is_at_exactly_a_tenth_of_the_peak(n_steps: int, peak: float, warmup: float) -> None:
    assert learning_rate_at(n_steps - 1, n_steps, peak, warmup_fraction=warmup) == peak * 0.1


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 800), st.sampled_from([0.0, 0.025, 0.05]))
def test_it_rises_to_the_peak_once_and_falls_ever_after(n_steps: int, warmup: float) -> None:
    rates = schedule(n_steps, 1.0, warmup)
    top = max(1, round(warmup * n_steps)) - 1
    assert rates[top] == max(rates) == 1.0
    assert all(a < b for a, b in itertools.pairwise(rates[: top + 1]))
    assert all(a > b for a, b in itertools.pairwise(rates[top:]))
    assert min(rates[top:]) == 0.1


def test_the_schedule_by_hand() -> None:
    rates = schedule(80, 2.0)  # 2 steps of warm-up, 78 of cosine
    assert rates[:2] == [1.0, 2.0]
    assert rates[40] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))  # half way down after 39 of 78
    assert rates[27] == pytest.approx(2.0 * (0.1 + 0.9 * 0.75))  # cos 60 degrees after 26 of 78
    assert learning_rate_at(79, 80, 2.0, final_fraction=0.0) == 0.0


def test_a_run_stopped_early_is_not_a_run_with_a_smaller_horizon() -> None:
    assert learning_rate_at(499, 1000, 1.0) > 5 * learning_rate_at(499, 500, 1.0)


def test_beyond_the_horizon_the_rate_stays() -> None:
    assert learning_rate_at(150, 100, 1.0) == learning_rate_at(99, 100, 1.0)


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
