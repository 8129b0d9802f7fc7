"""What one more dollar buys: of compute, of unique tokens, of epochs, of parameters; and the price data may have."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError
from plm_scaling.core.records import Record
from plm_scaling.core.units import format_count, format_usd
from plm_scaling.laws.interval import Interval
from plm_scaling.sizing.spending import Allocation, Spending, allocation_at, best_allocation, quantile_interval

__all__ = ["MarginalKey", "MarginalValue", "MarginalValues", "break_even_price", "marginal_values"]

FloatArray = npt.NDArray[np.float64]
MarginalKey = Literal["compute", "epochs", "parameters", "unique_tokens", "new_tokens"]

_STEP: Final = 0.02
"""Of the logarithms: small beside the valley, large beside rounding."""
_PATH: Final = 0.2
_NOTHING: Final = 1e-12
_TITLES: Final[dict[MarginalKey, str]] = {
    "compute": "compute, size and tokens as they are then best",
    "epochs": "more passes over the same tokens, size kept",
    "parameters": "a larger model on the same tokens",
    "unique_tokens": "unique tokens in place of repeats, at equal compute",
    "new_tokens": "unique tokens on top, each trained on once",
}


class MarginalValue(Record):
    """What a dollar more is worth if it goes to one thing."""

    key: MarginalKey
    title: str
    nats_per_usd: Interval
    """Fall of the loss per dollar, 80 % over draws x forms; below zero: it makes the model worse."""
    over_compute: float | None = None
    """`nats_per_usd` over that of compute; None where compute buys nothing."""


class MarginalValues(Record):
    """The values of a dollar at one spending, and what follows for the price of data."""

    N: float
    D: float
    unique_tokens: float | None
    epochs: float | None
    usd: float
    usd_per_token: float | None
    """Price of a new unique token."""
    values: tuple[MarginalValue, ...]
    parity_N: float | None = None
    """Size at which one pass over a token costs what a new token costs, q / (6 p); inf where none does."""
    break_even_usd_per_token: Interval | None = None
    """Price below which a dollar for unique tokens beats a dollar for compute."""
    sentences: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    def value(self, key: MarginalKey) -> MarginalValue | None:
        """The value of one thing, None if it was not asked or has no price."""
        return next((value for value in self.values if value.key == key), None)


def marginal_values(
    spending: Spending, best: Allocation | None = None, *, usd_per_token: float | None = None
) -> MarginalValues:
    """Falls of the loss per dollar at the best spending (or at `best`), from every draw of the laws.

    Parameters
    ----------
    usd_per_token : price of one more unique token of the target; None: that of the first source with a price, or none.

    Raises
    ------
    ConfigError : a price that is no positive number.

    **Source:** -(dL/dU)/q against -(dL/dD)/(6 p N), the first-order condition of buying data (equal at the optimum).
    """
    if usd_per_token is not None and not (math.isfinite(usd_per_token) and usd_per_token > 0):
        raise ConfigError("the price of a token must be a positive number", why=f"got {usd_per_token!r}")
    q = usd_per_token or next((s.usd_per_token for s in spending.bought if s.usd_per_token > 0), None)
    at = _At(spending, best or best_allocation(spending))
    gains: dict[MarginalKey, FloatArray] = {"compute": at.compute(), "epochs": at.epochs()}
    # At a size that is held the law of repeats would go on to larger ones, on no evidence: no value is stated.
    if spending.N is None and not spending.holds(at.best):
        gains["parameters"] = at.parameters()
    per_token = at.unique_tokens() if spending.unique_tokens is not None else None
    if q is not None and per_token is not None:
        gains["unique_tokens"] = per_token / q
        gains["new_tokens"] = at.new_tokens(q)
    weights = spending.laws.draw_weights
    compute = float((weights @ gains["compute"]).mean())
    values = tuple(_value(key, gain, weights, compute) for key, gain in gains.items())
    found = MarginalValues(
        N=at.best.N,
        D=at.best.D,
        unique_tokens=at.best.unique_tokens,
        epochs=at.best.epochs,
        usd=at.best.usd,
        usd_per_token=q,
        values=values,
        parity_N=None if q is None else spending.price.size_at(q),
        break_even_usd_per_token=_break_even(per_token, gains["compute"], weights),
        flags=_flags(spending, at.best, compute),
    )
    return found.model_copy(update={"sentences": _sentences(found)})


def break_even_price(spending: Spending, best: Allocation) -> Interval | None:
    """Price below which a unique token beats compute at the best spending; None where compute buys nothing there.

    Raises
    ------
    ConfigError : the unique tokens were not stated.
    """
    if spending.unique_tokens is None:
        raise ConfigError("no unique tokens were stated", hint="say how many distinct training tokens you have")
    if best.used < 1.0:
        return None
    at = _At(spending, best)
    # At the best size a dollar for tokens does what a dollar for compute does.
    compute = at.compute() if spending.holds(best) else at.epochs()
    return _break_even(at.unique_tokens(), compute, spending.laws.draw_weights)


class _At:
    """Losses around one spending, by draw and stratum."""

    def __init__(self, spending: Spending, best: Allocation) -> None:
        self.spending, self.best = spending, best

    def losses(self, N: float, D: float, more_unique: float = 0.0) -> FloatArray:
        spending = self.spending
        if more_unique and spending.unique_tokens is not None:
            spending = replace(spending, unique_tokens=spending.unique_tokens + more_unique)
        return allocation_at(spending, N, D, self.best.taken).losses

    def compute(self) -> FloatArray:
        """Along the sizes that are best for a little less and a little more money, tokens at hand as they are."""
        best, price = self.best, self.spending.price
        slope = 0.0
        if best.used < 1.0:
            return np.zeros_like(best.losses)
        if self.spending.N is None:
            kept = replace(self.spending, sources=(), unique_tokens=best.worth_tokens)
            ends = [best_allocation(replace(kept, usd=best.usd_compute * math.exp(s))).N for s in (-_PATH, _PATH)]
            slope = math.log(ends[1] / ends[0]) / (2.0 * _PATH)
        money = [best.usd_compute * math.exp(sign * _STEP) for sign in (-1.0, 1.0)]
        sizes = [best.N * math.exp(sign * slope * _STEP) for sign in (-1.0, 1.0)]
        less, more = (self.losses(N, usd / float(price.usd(N))) for N, usd in zip(sizes, money, strict=True))
        return np.asarray((less - more) / (money[1] - money[0]))

    def epochs(self) -> FloatArray:
        N, D, h = self.best.N, self.best.D, _STEP
        less, more = self.losses(N, D * math.exp(-h)), self.losses(N, D * math.exp(h))
        return np.asarray((less - more) / (2.0 * math.sinh(h) * self.best.usd_compute))

    def parameters(self) -> FloatArray:
        N, D = self.best.N, self.best.D
        sizes = [N * math.exp(sign * _STEP) for sign in (-1.0, 1.0)]
        usd = [D * float(self.spending.price.usd(n)) for n in sizes]
        less, more = (self.losses(n, D) for n in sizes)
        return np.asarray((less - more) / (usd[1] - usd[0]))

    def unique_tokens(self) -> FloatArray:
        """Per token, not per dollar."""
        assert self.spending.unique_tokens is not None
        step = _STEP * self.spending.unique_tokens
        less, more = (self.losses(self.best.N, self.best.D, sign * step) for sign in (-1.0, 1.0))
        return np.asarray((less - more) / (2.0 * step))

    def new_tokens(self, q: float) -> FloatArray:
        assert self.spending.unique_tokens is not None
        step = _STEP * min(self.spending.unique_tokens, self.best.D)
        N, D = self.best.N, self.best.D
        less, more = self.losses(N, D - step, -step), self.losses(N, D + step, step)
        return np.asarray((less - more) / (2.0 * step * (q + float(self.spending.price.usd(N)))))


def _value(key: MarginalKey, gain: FloatArray, weights: FloatArray, compute: float) -> MarginalValue:
    interval = quantile_interval(gain, weights)
    ratio = interval.value / compute if compute > _NOTHING else None
    return MarginalValue(key=key, title=_TITLES[key], nats_per_usd=interval, over_compute=ratio)


def _break_even(per_token: FloatArray | None, compute: FloatArray, weights: FloatArray) -> Interval | None:
    if per_token is None or float((weights @ compute).mean()) <= _NOTHING:
        return None
    # A draw in which compute buys nothing would pay any price: it stands at a thousandth of the mean.
    least = 1e-3 * float((weights @ compute).mean())
    price = np.maximum(per_token, 0.0) / np.maximum(compute, least)
    value = max(float((weights @ per_token).mean()), 0.0) / float((weights @ compute).mean())
    return quantile_interval(price, weights, value)


def _flags(spending: Spending, best: Allocation, compute: float) -> tuple[str, ...]:
    flags = [flag for flag in spending.ensemble.flags if flag in ("NO_DRAWS", "TEXT_REPEATS", "TEXT_LAW")]
    if spending.unique_tokens is None:
        flags.append("UNIQUE_TOKENS_UNKNOWN")
    if best.used < 1.0 or compute <= _NOTHING:
        flags.append("COMPUTE_BUYS_NOTHING")
    return tuple(flags)


def _sentences(found: MarginalValues) -> tuple[str, ...]:
    """What the numbers say, plainly."""
    said = []
    compute, unique = found.value("compute"), found.value("unique_tokens")
    assert compute is not None
    if "COMPUTE_BUYS_NOTHING" in found.flags:
        said.append("one more dollar of compute buys nothing here: these unique tokens cannot use it.")
    else:
        said.append(f"{_for_a_hundredth(compute.nats_per_usd.value)} of compute lower the loss by 0.01 nats.")
    if found.break_even_usd_per_token is not None:
        price = found.break_even_usd_per_token
        said.append(
            f"a million unique tokens are worth {format_usd(1e6 * price.value)} of compute "
            f"({format_usd(1e6 * price.low)} to {format_usd(1e6 * price.high)}); below that price data beat compute."
        )
    if unique is not None and unique.over_compute is not None:
        winner = "unique tokens" if unique.over_compute > 1 else "compute"
        said.append(
            f"at ${1e6 * (found.usd_per_token or 0.0):.3g} per million a dollar of unique tokens is worth "
            f"{unique.over_compute:.2g} of compute: the next dollar goes to {winner}."
        )
    if found.parity_N is not None and 0 < found.parity_N < math.inf:
        said.append(
            f"above {format_count(found.parity_N, 2)} parameters one pass over a token costs more than a new token."
        )
    if found.unique_tokens is None:
        said.append("say how many unique tokens you have to learn what more of them are worth.")
    return tuple(said)


def _for_a_hundredth(nats_per_usd: float) -> str:
    return format_usd(0.01 / nats_per_usd) if nats_per_usd > _NOTHING else "any sum"
