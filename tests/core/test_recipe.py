from __future__ import annotations

import math

import pytest

from plm_scaling.core.recipe import SMALL_MODEL_LIMIT, batch_tokens_for, default_recipe, peak_lr_for


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
