"""`TrainingPrice`: accelerator hours and dollars of training on one token, at every size. numpy only."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["CostOf", "TrainingPrice", "price_per_flop", "training_price"]

FloatArray = npt.NDArray[np.float64]
CostOf = Callable[[float, float], tuple[float, float]]
"""(N, D) -> accelerator hours, US dollars; proportional to D."""

_SIZES: Final = np.linspace(math.log(1e4), math.log(1e13), 181)


@dataclass(frozen=True)
class TrainingPrice:
    """Prices of one token, straight in log-log between 20 sizes to a decade, from 1e4 to 1e13 parameters."""

    log_N: FloatArray
    """float64[G], rising."""
    log_usd: FloatArray
    log_hours: FloatArray

    def usd(self, N: npt.ArrayLike) -> FloatArray:
        """US dollars to train N parameters on one token."""
        return np.asarray(np.exp(self._at(N, self.log_usd)))

    def hours(self, N: npt.ArrayLike) -> FloatArray:
        """Accelerator hours to train N parameters on one token."""
        return np.asarray(np.exp(self._at(N, self.log_hours)))

    def scaled(self, *, usd: float = 1.0, hours: float = 1.0) -> TrainingPrice:
        """The same with other prices or speeds: dollars and hours multiplied."""
        return replace(self, log_usd=self.log_usd + math.log(usd), log_hours=self.log_hours + math.log(hours))

    def size_at(self, usd_per_token: float) -> float:
        """Size at which training on a token costs this much: 0 where even the smallest costs more, inf if none does.

        The parity size of a price of data, N = q / (6 p): one pass over a new token costs as much as the token.
        """
        wanted = math.log(usd_per_token) if usd_per_token > 0 else -math.inf
        if wanted < self.log_usd[0]:
            return 0.0
        if wanted > self.log_usd[-1]:
            return math.inf
        return float(np.exp(np.interp(wanted, self.log_usd, self.log_N)))

    def _at(self, N: npt.ArrayLike, values: FloatArray) -> FloatArray:
        x = np.log(np.asarray(N, dtype=np.float64))
        # Beyond the grid the price goes on in proportion to N.
        beyond = x - np.clip(x, self.log_N[0], self.log_N[-1])
        return np.asarray(np.interp(x, self.log_N, values) + beyond)


def training_price(cost_of: CostOf) -> TrainingPrice:
    """The prices that a bill of (N, D) implies, read at one token."""
    bills = np.array([cost_of(math.exp(x), 1.0) for x in _SIZES])
    return TrainingPrice(_SIZES, np.log(bills[:, 1]), np.log(bills[:, 0]))


def price_per_flop(usd_per_flop: float, flops_per_hour: float = 1.0) -> TrainingPrice:
    """6 N FLOPs per token at a price and a speed that do not depend on the size."""
    log_flops = _SIZES + math.log(6.0)
    return TrainingPrice(_SIZES, log_flops + math.log(usd_per_flop), log_flops - math.log(flops_per_hour))
