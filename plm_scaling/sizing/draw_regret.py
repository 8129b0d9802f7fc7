"""The size to choose when several laws are equally likely: least mean regret, and least largest regret."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from plm_scaling.core.errors import ConfigError
from plm_scaling.laws.bracket import lowest_bracketed, root_of_rising
from plm_scaling.laws.two_powers import TwoPowers

__all__ = ["DrawRegret"]


@dataclass(frozen=True)
class DrawRegret:
    """Equally likely laws at one budget of C = 6 N D FLOPs; regret is the loss above a law's own lowest, nats."""

    laws: tuple[TwoPowers, ...]
    C: float

    def __post_init__(self) -> None:
        if not self.laws:
            raise ConfigError("no laws to choose between", hint="give at least one")

    @cached_property
    def optima(self) -> tuple[float, ...]:
        """Compute-optimal N of each law."""
        return tuple(law.optimum(self.C)[0] for law in self.laws)

    @cached_property
    def lowest(self) -> tuple[float, ...]:
        """Lowest loss of each law at the budget, nats."""
        return tuple(law.loss(N, self.C / (6.0 * N)) for law, N in zip(self.laws, self.optima, strict=True))

    def regrets(self, N: float) -> tuple[float, ...]:
        """Regret of each law at N parameters."""
        D = self.C / (6.0 * N)
        return tuple(law.loss(N, D) - lowest for law, lowest in zip(self.laws, self.lowest, strict=True))

    def mean(self, N: float) -> float:
        """Mean regret at N parameters."""
        return math.fsum(self.regrets(N)) / len(self.laws)

    def largest(self, N: float) -> float:
        """Largest regret at N parameters."""
        return max(self.regrets(N))

    def least_mean(self) -> float:
        """N of the lowest mean regret.

        It lies between the smallest and the largest optimum. Laws without an outer exponent below 1 are convex in
        ln N, and so is their mean; with one the mean may have several valleys.
        """
        low, high = self._ends()
        steps = 1000 if any(law.gamma < 1 for law in self.laws) and high > low else 1
        log_ND = math.log(self.C / 6.0)

        def slope(log_N: float) -> float:
            log_D = log_ND - log_N
            return math.fsum(law.size_slope(log_N, log_D) - law.data_slope(log_N, log_D) for law in self.laws)

        points = [low + (high - low) * k / steps for k in range(steps + 1)]
        return math.exp(lowest_bracketed(lambda x: self.mean(math.exp(x)), slope, points))

    def least_largest(self) -> float:
        """N of the lowest largest regret.

        Every regret falls up to its law's optimum and rises from there, so the largest does so too: it still falls
        where the law that regrets most has its optimum further on.
        """
        low, high = self._ends()
        optima = self.optima

        def rising(log_N: float) -> float:
            N = math.exp(log_N)
            _, worst = max(zip(self.regrets(N), optima, strict=True))
            return log_N - math.log(worst)

        return math.exp(root_of_rising(rising, low, high))

    def _ends(self) -> tuple[float, float]:
        return math.log(min(self.optima)), math.log(max(self.optima))
