"""The law of two powers, L = E + (A N^-alpha + B D^-beta)^gamma, with what repeats are worth; all in logarithms."""

from __future__ import annotations

import math
from dataclasses import dataclass

from plm_scaling.laws.bracket import root_around
from plm_scaling.laws.repeat_worth import log_worth, worth_share

__all__ = ["TwoPowers"]


@dataclass(frozen=True)
class TwoPowers:
    """One law; N in parameters, D and U in tokens, E in nats per token."""

    E: float
    log_A: float
    log_B: float
    alpha: float
    beta: float
    gamma: float = 1.0
    R_D: float = math.inf
    """R_D*: epochs that repeats are worth at most; inf counts every token as new."""
    R_N: float = math.inf
    """The same of parameters beyond the best size for the unique tokens."""

    # ---- unlimited tokens ------------------------------------------------------------------------------------------

    def loss(self, N: float, D: float) -> float:
        """E + (A N^-alpha + B D^-beta)^gamma, every token new. **Source:** Hoffmann et al. 2022, eq. 2."""
        return self.E + _exp(self.gamma * self.log_reducible(_ln(N), _ln(D)))

    def log_reducible(self, log_N: float, log_D: float) -> float:
        """The logarithm of (A N^-alpha + B D^-beta)."""
        size, data = self.log_A - self.alpha * log_N, self.log_B - self.beta * log_D
        high, low = max(size, data), min(size, data)
        return high if math.isinf(high) else high + math.log1p(math.exp(low - high))

    def log_size_gain(self, log_N: float) -> float:
        """The logarithm of what the size term falls by per unit of ln N: ln(alpha A N^-alpha)."""
        return math.log(self.alpha) + self.log_A - self.alpha * log_N

    def log_data_gain(self, log_D: float) -> float:
        """The logarithm of what the data term falls by per unit of ln D: ln(beta B D^-beta)."""
        return math.log(self.beta) + self.log_B - self.beta * log_D

    @property
    def log_G(self) -> float:
        """The logarithm of G, G = (alpha A / (beta B))^(1/(alpha+beta)). **Source:** Hoffmann et al. 2022, eq. 4."""
        return (self.log_size_gain(0.0) - self.log_data_gain(0.0)) / (self.alpha + self.beta)

    def optimum(self, C: float) -> tuple[float, float]:
        """(N, D) of the lowest loss on 6 N D = C FLOPs; E and gamma drop out.

        **Source:** Hoffmann et al. 2022, eq. 4.
        """
        log_ND = math.log(C / 6.0)
        log_N = self.log_G + log_ND * self.beta / (self.alpha + self.beta)
        return _exp(log_N), _exp(log_ND - log_N)

    def size_slope(self, log_N: float, log_D: float) -> float:
        """The slope dL / d ln N at fixed D."""
        return -self._outer(log_N, log_D) * _exp(self.log_size_gain(log_N))

    def data_slope(self, log_N: float, log_D: float) -> float:
        """The slope dL / d ln D at fixed N."""
        return -self._outer(log_N, log_D) * _exp(self.log_data_gain(log_D))

    def _outer(self, log_N: float, log_D: float) -> float:
        """The slope dL / d(A N^-alpha + B D^-beta)."""
        return self.gamma * _exp((self.gamma - 1.0) * self.log_reducible(log_N, log_D))

    # ---- U unique tokens -------------------------------------------------------------------------------------------

    def log_best_size(self, log_U: float) -> float:
        """The logarithm of the compute-optimal N for U tokens: G (U G)^(beta/alpha)."""
        return self.log_G + (self.beta / self.alpha) * (log_U + self.log_G)

    def repeated_loss(self, N: float, D: float, U: float) -> float:
        """Loss after D tokens of which U are unique; more unique tokens than D still make room for parameters.

        **Source:** Muennighoff et al. 2023, eq. 5-6, with an outer exponent.
        """
        return self.E + _exp(self.gamma * self.log_reducible(*self.log_worths(_ln(N), _ln(D), _ln(U))))

    def log_worths(self, log_N: float, log_D: float, log_U: float) -> tuple[float, float]:
        """The logarithm of the effective parameters and tokens. **Source:** Muennighoff et al. 2023, eq. 5-6."""
        return log_worth(log_N, self.log_best_size(log_U), self.R_N), log_worth(log_D, log_U, self.R_D)

    def log_repeated_gains(self, log_N: float, log_D: float, log_U: float) -> tuple[float, float]:
        """The logarithm of what the two terms fall by per unit of ln N and of ln D, at U unique tokens."""
        N_worth, D_worth = self.log_worths(log_N, log_D, log_U)
        return (
            self.log_size_gain(N_worth) + worth_share(log_N, self.log_best_size(log_U), self.R_N),
            self.log_data_gain(D_worth) + worth_share(log_D, log_U, self.R_D),
        )

    def repeated_optimum(self, C: float, U: float) -> tuple[float, float]:
        """(N, D) of the lowest `repeated_loss` on 6 N D = C FLOPs with U unique tokens.

        The terms are convex in ln N along the budget, since ln of what N and D are worth is concave with slopes that
        meet at the kinks: there is one minimum, where the two gains are equal.
        """
        log_ND, log_U = math.log(C / 6.0), _ln(U)

        def excess(log_N: float) -> float:
            size, data = self.log_repeated_gains(log_N, log_ND - log_N, log_U)
            return data - size

        log_N = root_around(excess, math.log(self.optimum(C)[0]))
        return _exp(log_N), _exp(log_ND - log_N)


def _ln(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _exp(value: float) -> float:
    """e^value; inf beyond the largest number."""
    return math.exp(value) if value < 709.0 else math.inf
