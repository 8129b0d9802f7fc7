"""The cheapest way to one loss under one law: training and inference together."""

from __future__ import annotations

import math
from typing import NamedTuple

from plm_scaling.core.errors import ConfigError
from plm_scaling.laws.bracket import root_of_rising
from plm_scaling.laws.two_powers import TwoPowers

__all__ = ["IsoLossOptimum", "iso_loss_optimum"]


class IsoLossOptimum(NamedTuple):
    """The least 6 N D + 2 N T FLOPs that reach a loss."""

    N: float
    D: float
    train_flops: float
    inference_flops: float
    total_flops: float
    saving: float
    """Share saved of the lifetime FLOPs of the model that is cheapest to train to the same loss."""


def iso_loss_optimum(law: TwoPowers, target_loss: float, inference_tokens: float) -> IsoLossOptimum:
    """N and D that reach `target_loss` nats at the least training and inference FLOPs.

    On the curve of that loss 1 + T / (3 D) = alpha A N^-alpha / (beta B D^-beta). With the share u of the reducible
    loss that is the size's, the right side is (alpha / beta) u / (1 - u): the root is sought in w = ln(u / (1 - u)).

    Parameters
    ----------
    inference_tokens : T, tokens processed over the model's life.

    Raises
    ------
    ConfigError : no model reaches the target.

    **Source:** Sardana et al. 2023, eq. 2-3.
    """
    if target_loss <= law.E:
        raise ConfigError(f"no model reaches {target_loss:g} nats", why=f"the law's floor E is {law.E:g}")
    log_sum = math.log(target_loss - law.E) / law.gamma
    log_ratio = math.log(law.beta / law.alpha)

    def at(w: float) -> tuple[float, float]:
        log_N = (law.log_A - log_sum + _softplus(-w)) / law.alpha
        log_D = (law.log_B - log_sum + _softplus(w)) / law.beta
        return math.exp(log_N), math.exp(log_D)

    def served(w: float) -> float:
        return math.log1p(inference_tokens / (3.0 * at(w)[1]))

    # More D only lowers what inference adds, so that the root lies between training alone and this much beyond it.
    w = root_of_rising(lambda w: w - log_ratio - served(w), log_ratio, log_ratio + served(log_ratio))
    (N, D), (N0, D0) = at(w), at(log_ratio)
    total = 6.0 * N * D + 2.0 * N * inference_tokens
    return IsoLossOptimum(
        N=N,
        D=D,
        train_flops=6.0 * N * D,
        inference_flops=2.0 * N * inference_tokens,
        total_flops=total,
        saving=1.0 - total / (6.0 * N0 * D0 + 2.0 * N0 * inference_tokens),
    )


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
