"""How much of a token budget to spend on CLM before MLM, when CLM tokens are worth so many MLM tokens at most."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from plm_scaling.laws.bracket import lowest_bracketed

__all__ = ["MOST_FIRST_SHARE", "PhaseSplit"]

MOST_FIRST_SHARE: Final = 0.98
"""Largest share of the first phase that is tried."""


@dataclass(frozen=True)
class PhaseSplit:
    """D tokens of N parameters shared between two phases; 1/D_t = 1/(k D_f^a N^b) + 1/(rho D_c).

    **Source:** Hernandez et al. 2021, eq. 1.1 for k D_f^a N^b, saturating at rho tokens per token of the first phase.
    """

    N: float
    D: float
    k: float
    a: float
    b: float
    rho: float

    def transferred(self, share: float) -> float:
        """D_t, tokens of the second phase that a first phase of this share of D is worth."""
        limit, room = self.rho * share * self.D, self._room(share)
        return limit / (1.0 + limit / room) if limit > 0 and room > 0 else 0.0

    def tokens(self, share: float) -> float:
        """D_f + D_t, tokens of the second phase alone that would lead as far."""
        return (1.0 - share) * self.D + self.transferred(share)

    def best_share(self) -> float:
        """The share in [0, 0.98] of the lowest loss, which falls with `tokens` alone; 0 unless rho > 1."""
        if self.rho <= 1 or self.k == 0:
            return 0.0
        most = MOST_FIRST_SHARE
        points = [0.0, *(most * math.exp(-0.05 * n) for n in range(500, -1, -1)), *(most * n / 400 for n in range(400))]
        return lowest_bracketed(lambda f: -self.tokens(f), lambda f: -self._slope(f), sorted(set(points)))

    def _room(self, share: float) -> float:
        """The k D_f^a N^b that transfer is worth at most at this length of the second phase."""
        power = self.a * math.log((1.0 - share) * self.D) + self.b * math.log(self.N)
        return self.k * math.exp(min(power, 600.0))

    def _slope(self, share: float) -> float:
        """The slope d tokens / d share, over D."""
        limit, room = self.rho * share * self.D, self._room(share)
        kept = 1.0 / (1.0 + limit / room)  # D_t over its limit
        return -1.0 + self.rho * kept**2 - self.a * (limit / room) * limit * kept**2 / ((1.0 - share) * self.D)
