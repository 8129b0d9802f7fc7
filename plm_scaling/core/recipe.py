"""Hyper-parameters as named rules: peak learning rate and batch size. No torch.

Every rule's name goes into the RunConfig, so that a record says where its numbers came from.
"""

from __future__ import annotations

import math
from typing import Final, Literal

__all__ = [
    "BATCH_EXPONENT",
    "MASK_RATES",
    "MIN_STEPS",
    "SMALL_MODEL_LIMIT",
    "BatchRule",
    "RecipeName",
    "ScheduleName",
    "batch_tokens_by_power",
    "batch_tokens_for",
    "beta2_for",
    "default_recipe",
    "peak_lr_for",
]

RecipeName = Literal["cheng", "small"]
ScheduleName = Literal["cosine", "wsd"]
BatchRule = Literal["recipe", "power"]

SMALL_MODEL_LIMIT: Final = 1_000_000
"""Below this many block parameters the `small` recipe is the default."""
BATCH_EXPONENT: Final = 0.383
"""Power of D that the best batch grows with."""
MASK_RATES: Final = (0.05, 0.6)
"""Shares of masked residues that a sweep may ask for. Outside them an MLM learns from too few residues, or sees too
few; not measured here."""
MIN_STEPS: Final = 200
"""With fewer optimiser steps a run says more about its schedule than about its size."""
_DIGITS: Final = 6
"""The last digits of a power depend on the C library, and what comes out is part of a run's id."""


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


def batch_tokens_by_power(D: float, *, B0: float, D0: float, context: int) -> int:
    """Batch B0 (D / D0)^0.383 in window positions, rounded to whole windows, at least one.

    Parameters
    ----------
    D : training tokens of the run.
    B0, D0 : a batch that is known to be good, and the training tokens it is good at.
    context : positions of a window.

    **Source:** Bergsma et al. 2025 (Power Lines), the exponent as nanochat uses it with B0 = 2^19; text, not proteins.
    """
    return max(1, round(B0 * math.pow(D / D0, BATCH_EXPONENT) / context)) * context


def beta2_for(batch_tokens: int, half_life_tokens: float) -> float:
    """AdamW's beta2 whose memory of squared gradients halves every `half_life_tokens`: 0.5^(batch / half-life).

    Parameters
    ----------
    batch_tokens, half_life_tokens : window positions.

    **Source:** Marek et al. 2025: the half-life of the second moment, not beta2, is what stays the same when the batch
    changes; text, not proteins.
    """
    forgotten = -math.expm1(-math.log(2.0) * batch_tokens / half_life_tokens)
    return 1.0 - float(f"{forgotten:.{_DIGITS}g}")
