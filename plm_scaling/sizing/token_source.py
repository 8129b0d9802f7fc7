"""`TokenSource`: unique tokens that can be had, what each costs, and what it is worth in tokens of the target."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from plm_scaling.core.records import Record
from plm_scaling.laws.interval import Interval, normal_strata

__all__ = ["SourceStatus", "TokenSource", "rho_strata"]

FloatArray = npt.NDArray[np.float64]
SourceStatus = Literal["measured", "read", "unverified", "stated"]
"""measured: fitted to runs; read: in a named source; unverified: recalled; stated: the user's own assumption."""


class TokenSource(Record):
    """Tokens of one source: u of them are worth rho u / (1 + u / saturation_tokens) fresh tokens of the target.

    **Source:** a constant exchange rate of few tokens that falls as 1/D_t = 1/(rho u) + 1/cap does, with cap =
    rho saturation_tokens: the same limit that transferred tokens have in `plm_scaling.transfers.limited`.
    """

    name: str
    kind: Literal["sequenced", "generated"] = "sequenced"
    tokens: float = Field(default=math.inf, gt=0)
    """Unique tokens there are to be had; inf: as many as are paid for."""
    usd_per_token: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    rho: Interval = Interval(value=1.0, low=1.0, high=1.0)
    """Fresh target tokens that one of few is worth, at equal loss."""
    saturation_tokens: float = Field(default=math.inf, gt=0)
    """Tokens of this source after which one is worth half as much on average; inf where that was not measured."""
    status: SourceStatus = "stated"
    evidence: str = ""
    flags: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.rho.low <= self.rho.value <= self.rho.high:
            raise ValueError(f"{self.name}: the exchange rate lies outside its own interval")
        return self

    def rho_at(self, z: float) -> float:
        """The exchange rate z standard deviations from its estimate; each half of the interval has its own width."""
        end = NormalDist().inv_cdf(0.5 + 0.5 * self.rho.level)
        width = self.rho.high - self.rho.value if z > 0 else self.rho.value - self.rho.low
        return self.rho.value + z * width / end

    def worth(self, tokens: npt.ArrayLike, z: float = 0.0) -> FloatArray:
        """Fresh target tokens that `tokens` of this source are worth, float64 of its shape."""
        u = np.asarray(tokens, dtype=np.float64)
        return np.asarray(self.rho_at(z) * u / (1.0 + u / self.saturation_tokens))


def rho_strata(sources: tuple[TokenSource, ...], strata: int = 8) -> FloatArray:
    """Equally likely standard deviations of the sources' rates, float64[S, m]; one row of zeros where all are sure.

    A low-discrepancy sequence, so that few points spread over the rates of several sources at once.

    **Source:** Roberts 2018, the R sequence (generalised golden ratio).
    """
    sure = [source.rho.low == source.rho.high for source in sources]
    if all(sure):
        return np.zeros((1, len(sources)))
    phi = 2.0
    for _ in range(40):
        phi = (1.0 + phi) ** (1.0 / (len(sources) + 1))
    steps = phi ** -(np.arange(len(sources)) + 1.0)
    # Every column is made a permutation of the same strata: each rate alone is then sampled without bias.
    order = np.modf(0.5 + np.outer(np.arange(strata), steps))[0].argsort(axis=0).argsort(axis=0)
    z = normal_strata(strata)
    return np.asarray(np.where(sure, 0.0, z[order]))
