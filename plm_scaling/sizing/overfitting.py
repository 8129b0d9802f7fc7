"""Repeats that hurt: a law with an overfitting penalty, the epochs at which to stop, and the size for a budget."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from plm_scaling.laws.bracket import lowest_bracketed
from plm_scaling.laws.two_powers import TwoPowers

__all__ = ["MOST_EPOCHS", "OverfittingLaw"]

MOST_EPOCHS: Final = 60.0
"""Epochs up to which the best number of them is looked for."""
_SIZES: Final = (1e7, 1e11)
"""Parameters among which the best size for a budget is looked for."""


@dataclass(frozen=True)
class OverfittingLaw:
    """L(N, D) + P R^delta (N / U)^kappa with R = max(D / U - 1, 0); P in nats, U unique tokens.

    **Source:** Lovelace et al. 2026, the penalty; `law` predicts fresh data.
    """

    law: TwoPowers
    unique_tokens: float
    P: float
    delta: float
    kappa: float

    def penalty(self, N: float, repeats: float) -> float:
        """P R^delta (N / U)^kappa; a delta of 0 charges it without repeats too."""
        if self.P == 0 or (repeats <= 0 and self.delta > 0):
            return 0.0
        power = self.kappa * (math.log(N) - math.log(self.unique_tokens))
        return self.P * math.exp(power + (self.delta * math.log(repeats) if self.delta > 0 else 0.0))

    def loss(self, N: float, D: float) -> float:
        """Nats per token of N parameters after D tokens."""
        return self.law.loss(N, D) + self.penalty(N, D / self.unique_tokens - 1.0)

    def best_epochs(self, N: float) -> float:
        """Epochs in [1, 60] of the lowest loss of N parameters.

        A penalty with delta < 1 rises at once, so that one epoch and a later valley may both be lowest nearby.
        """
        log_N, log_U = math.log(N), math.log(self.unique_tokens)

        def slope(repeats: float) -> float:
            gained = self.law.data_slope(log_N, log_U + math.log1p(repeats)) / (1.0 + repeats)
            if repeats > 0:
                return gained + self.delta * self.penalty(N, repeats) / repeats
            return math.copysign(math.inf, self.P) if 0 < self.delta < 1 and self.P != 0 else gained

        most = MOST_EPOCHS - 1.0
        points = [0.0, *(most * math.exp(-0.05 * k) for k in range(600, -1, -1))]
        return 1.0 + lowest_bracketed(lambda r: self.loss(N, (1.0 + r) * self.unique_tokens), slope, points)

    def best_size(self, C: float) -> float:
        """N in [1e7, 1e11] of the lowest loss when all of C = 6 N D FLOPs is spent."""
        log_ND, low, high = math.log(C / 6.0), math.log(_SIZES[0]), math.log(_SIZES[1])
        once = log_ND - math.log(self.unique_tokens)  # the size at which every token is seen once

        def slope(log_N: float) -> float:
            log_D = log_ND - log_N
            fresh = self.law.size_slope(log_N, log_D) - self.law.data_slope(log_N, log_D)
            repeats = math.expm1(min(once - log_N, 700.0))
            penalty = self.penalty(math.exp(log_N), repeats)
            if penalty == 0:
                return fresh
            steepness = self.delta * (1.0 + repeats) / repeats if self.delta > 0 else 0.0
            return fresh + penalty * (self.kappa - steepness)

        def loss(log_N: float) -> float:
            return self.loss(math.exp(log_N), math.exp(log_ND - log_N))

        near = [once - 10.0 ** (-k / 8.0) for k in range(80, -1, -1)] if self.delta < 1 else []
        points = [low + (high - low) * k / 800.0 for k in range(801)] + [once, *near]
        return math.exp(lowest_bracketed(loss, slope, sorted(x for x in points if low <= x <= high)))
