"""Hyper-parameters as named rules: peak learning rate and batch size. No torch.

Every rule's name goes into the RunConfig, so that a record says where its numbers came from.
"""

from __future__ import annotations

import math
from typing import Final, Literal

__all__ = [
    "SMALL_MODEL_LIMIT",
    "RecipeName",
    "ScheduleName",
    "batch_tokens_for",
    "default_recipe",
    "peak_lr_for",
]

RecipeName = Literal["cheng", "small"]
ScheduleName = Literal["cosine", "wsd"]

SMALL_MODEL_LIMIT: Final = 1_000_000
"""Below this many block parameters the `small` recipe is the default."""


def default_recipe(N: float) -> RecipeName:
    """`small` below 1M parameters, the published recipe from there on."""
    return "small" if N < SMALL_MODEL_LIMIT else "cheng"


def peak_lr_for(N: float, batch_tokens: int, recipe: RecipeName) -> float:
    """Peak learning rate of a model with N block parameters and a batch of `batch_tokens` positions.

    `cheng`: 0.030 N^-0.221, a least-squares line through the study's chosen settings (not optima).
    `small`: 6e-3 (N/24576)^-0.3, times 1.3 from a batch of 2,048 on; checked on 25k-332k
    parameters, where the published line is 1.5-1.9 times too low.

    **Source:** Cheng et al. 2024, run names of the released logs; `small`: docs/decisions.md.
    """
    if recipe == "cheng":
        return 0.030 * math.pow(N, -0.221)
    return 6e-3 * math.pow(N / 24_576, -0.3) * (1.3 if batch_tokens >= 2048 else 1.0)


def batch_tokens_for(N: float, D: float, recipe: RecipeName) -> int:
    """Batch size in window positions (context x windows per step).

    `cheng`: 512 x 1024 below 1B parameters, 1024 x 1024 from there on.
    `small`: 512 below 2.5e6 tokens, 1,024 below 5e6, else 2,048: at this scale more steps beat larger batches.

    **Source:** Cheng et al. 2024, training logs; `small`: docs/decisions.md.
    """
    if recipe == "cheng":
        return 512 * 1024 if N < 1e9 else 1024 * 1024
    if D < 2.5e6:
        return 512
    return 1024 if D < 5e6 else 2048
