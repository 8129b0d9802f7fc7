"""How far the answer moves with every input: size, loss and money, the widest swing first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from plm_scaling.core.records import Record
from plm_scaling.core.units import format_count
from plm_scaling.sizing.form_names import form_name
from plm_scaling.sizing.law_ensemble import LawEnsemble, LawMember, TokenDecay, text_decay
from plm_scaling.sizing.spending import Spending, best_allocation, search_ensemble

__all__ = ["Fixed", "Swing", "Tornado", "Variation", "tornado", "usual_variations"]

FloatArray = npt.NDArray[np.float64]
Fixed = Literal["usd", "gpu_hours", "flops"]
"""What the budget was stated in: it stays when a price or a speed changes."""

_Z80: Final = 1.2816
_TAIL: Final = 0.2
_MOST: Final = math.log(1e3)


@dataclass(frozen=True)
class Variation:
    """One input at its low and at its high end; `None` where an end is the base."""

    name: str
    low_label: str
    high_label: str
    low: Spending | None
    high: Spending | None


class Swing(Record):
    """What one input does to the answer, from its low to its high end."""

    name: str
    low_label: str
    high_label: str
    N: tuple[float, float]
    loss: tuple[float, float]
    """Mean over draws x forms."""
    usd: tuple[float, float]
    """Money spent."""
    usd_same_loss: tuple[float, float]
    """Money that would reach the base's loss, to first order in ln(money)."""
    swing_N: float
    """log10 of the largest over the smallest N, the base among them."""
    swing_loss: float
    swing_usd: float
    """log10 likewise of `usd_same_loss`."""


class Tornado(Record):
    """All inputs' swings about one answer."""

    N: float
    loss: float
    usd: float
    swings: tuple[Swing, ...]
    """Sorted by the swing of the loss, then of N."""

    def by(self, what: Literal["N", "loss", "usd"]) -> tuple[Swing, ...]:
        """Sorted by the swing of one answer, the widest first."""
        return tuple(sorted(self.swings, key=lambda swing: -float(getattr(swing, f"swing_{what}"))))


def tornado(spending: Spending, variations: Sequence[Variation]) -> Tornado:
    """The best spending under every variation, one at a time.

    The laws are thinned: an end is compared with a base that was found in the same way.
    """
    base = _Answer.of(spending)
    lower = _Answer.of(replace(spending, usd=spending.usd * math.exp(-0.5)))
    slope = max(2.0 * (lower.loss - base.loss), 1e-9)
    swings = []
    for variation in variations:
        low, high = (base if end is None else _Answer.of(end) for end in (variation.low, variation.high))
        swings.append(_swing(variation, base, low, high, slope))
    swings.sort(key=lambda swing: (-round(swing.swing_loss, 9), -swing.swing_N, swing.name))
    return Tornado(N=base.N, loss=base.loss, usd=base.usd, swings=tuple(swings))


def usual_variations(
    spending: Spending,
    *,
    fixed: Fixed = "usd",
    price: tuple[float, float, float] | None = None,
    mfu: tuple[float, float] = (0.7, 1.3),
    unique_factor: float = 2.0,
) -> tuple[Variation, ...]:
    """Price and speed of the accelerators, unique tokens and their price, worth of repeats, form and draws of the laws.

    Parameters
    ----------
    fixed : what the budget was stated in.
    price : low, mid and high price of an accelerator hour; None leaves the price out.
    mfu : factors on the utilisation.
    unique_factor : the unique tokens are divided and multiplied by it.
    """
    made = []
    if price is not None:
        low, high = (_repriced(spending, end / price[1], fixed) for end in (price[0], price[2]))
        made.append(Variation("price per accelerator hour", f"${price[0]:g}", f"${price[2]:g}", low, high))
    slow, fast = (_respeeded(spending, factor, fixed) for factor in mfu)
    made.append(Variation("utilisation (MFU)", f"x{mfu[0]:g}", f"x{mfu[1]:g}", slow, fast))
    if spending.unique_tokens is not None:
        made += _data_variations(spending, spending.unique_tokens, unique_factor)
    return (*made, *_law_variations(spending))


@dataclass(frozen=True)
class _Answer:
    N: float
    loss: float
    usd: float

    @classmethod
    def of(cls, spending: Spending) -> _Answer:
        few = replace(spending, ensemble=search_ensemble(spending.laws))
        found = best_allocation(few)
        return cls(found.N, float((few.laws.draw_weights @ found.losses).mean()), found.usd)


def _swing(variation: Variation, base: _Answer, low: _Answer, high: _Answer, slope: float) -> Swing:
    same = [end.usd * math.exp(min(max((end.loss - base.loss) / slope, -_MOST), _MOST)) for end in (low, high)]

    def decades(*values: float) -> float:
        return math.log10(max(values) / min(values))

    losses = (low.loss, high.loss, base.loss)
    return Swing(
        name=variation.name,
        low_label=variation.low_label,
        high_label=variation.high_label,
        N=(low.N, high.N),
        loss=(low.loss, high.loss),
        usd=(low.usd, high.usd),
        usd_same_loss=(same[0], same[1]),
        swing_N=decades(low.N, high.N, base.N),
        swing_loss=max(losses) - min(losses),
        swing_usd=decades(*same, base.usd),
    )


def _repriced(spending: Spending, factor: float, fixed: Fixed) -> Spending:
    """Another price of compute: money stays, or grows with the price where hours or FLOPs are what was stated."""
    usd = spending.usd * (1.0 if fixed == "usd" else factor)
    return replace(spending, price=spending.price.scaled(usd=factor), usd=usd)


def _respeeded(spending: Spending, factor: float, fixed: Fixed) -> Spending:
    price = spending.price.scaled(usd=1.0 / factor, hours=1.0 / factor)
    return replace(spending, price=price, usd=spending.usd * (1.0 / factor if fixed == "flops" else 1.0))


def _data_variations(spending: Spending, unique: float, factor: float) -> list[Variation]:
    few, many = (replace(spending, unique_tokens=unique * f) for f in (1.0 / factor, factor))
    labels = format_count(unique / factor, 2), format_count(unique * factor, 2)
    made = [Variation("unique tokens", *labels, few, many)]
    for k, source in enumerate(spending.sources):
        if source.usd_per_token > 0:
            ends = [_with_source(spending, k, usd_per_token=source.usd_per_token * f) for f in (1.0 / factor, factor)]
            low, high = (f"${1e6 * source.usd_per_token * f:.3g}/M" for f in (1.0 / factor, factor))
            made.append(Variation(f"price of {source.name}", low, high, *ends))
        rho = source.rho
        if rho.low < rho.high:
            ends = [
                _with_source(spending, k, rho=rho.model_copy(update={"low": v, "value": v, "high": v}))
                for v in (rho.low, rho.high)
            ]
            made.append(Variation(f"worth of {source.name}", f"{rho.low:.2g}", f"{rho.high:.2g}", *ends))
    if worth := _repeat_variation(spending):
        made.append(worth)
    return made


def _with_source(spending: Spending, k: int, **update: object) -> Spending:
    changed = spending.sources[k].model_copy(update=update)
    return replace(spending, sources=(*spending.sources[:k], changed, *spending.sources[k + 1 :]))


def _repeat_variation(spending: Spending) -> Variation | None:
    repeats = spending.ensemble.repeats
    if repeats is None:
        return None
    if not isinstance(repeats, TokenDecay):
        text = replace(spending, ensemble=replace(spending.ensemble, repeats=text_decay()))
        return Variation("law of repeats", "text", "own", text, None)
    ends = [repeats.R_D * math.exp(sign * _Z80 * repeats.log_sd) for sign in (-1.0, 1.0)]
    low, high = (
        replace(spending, ensemble=replace(spending.laws, repeats=replace(repeats, R_D=R_D, log_sd=0.0)))
        for R_D in ends
    )
    return Variation("worth of repeats (R_D)", f"{ends[0]:.2g}", f"{ends[1]:.2g}", low, high)


def _law_variations(spending: Spending) -> list[Variation]:
    """Every form alone, and the draws that ask for the smallest and the largest models."""
    laws, made = spending.laws, []
    if len(laws.members) > 1:
        alone = [replace(laws, members=(replace(member, weight=1.0),)) for member in laws.members]
        sizes = [_own_sizes(spending, one).mean() for one in alone]
        low, high = int(np.argmin(sizes)), int(np.argmax(sizes))
        ends = (replace(spending, ensemble=alone[k]) for k in (low, high))
        names = form_name(laws.members[low].name), form_name(laws.members[high].name)
        made.append(Variation("form of the law", *names, *ends))
    if any(len(np.unique(m.theta[1:], axis=0)) > 1 for m in laws.members):
        low_part, high_part = (_tail(spending, laws, upper) for upper in (False, True))
        made.append(Variation("draws of the law", "smallest fifth of N", "largest fifth of N", low_part, high_part))
    return made


def _own_sizes(spending: Spending, laws: LawEnsemble) -> FloatArray:
    """Ln of each draw's own best size, float64[K], unlimited data."""
    grid = np.linspace(math.log(1e5), math.log(1e13), 161)
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        losses = laws.losses(np.exp(grid), spending.usd / spending.price.usd(np.exp(grid)))
    losses = np.where(np.isfinite(losses), losses, 1e9)
    best = np.clip(losses.argmin(axis=1), 1, len(grid) - 2)
    before, here, after = (losses[np.arange(len(losses)), best + step] for step in (-1, 0, 1))
    bend = before - 2.0 * here + after
    shift = np.where(bend > 0, 0.5 * (before - after) / np.where(bend > 0, bend, 1.0), 0.0)
    return np.asarray(grid[best] + np.clip(shift, -1.0, 1.0) * (grid[1] - grid[0]))


def _tail(spending: Spending, laws: LawEnsemble, upper: bool) -> Spending:
    """The fifth of every form's draws that ask for the largest, or the smallest, models."""
    members: list[LawMember] = []
    for member in laws.members:
        own = _own_sizes(spending, replace(laws, members=(replace(member, weight=1.0),)))
        order = np.argsort(own, kind="stable")
        count = max(1, round(_TAIL * len(own)))
        kept = order[-count:] if upper else order[:count]
        theta = member.theta[1 + np.sort(kept)]
        members.append(replace(member, theta=np.concatenate([theta.mean(axis=0, keepdims=True), theta])))
    return replace(spending, ensemble=replace(laws, members=tuple(members)))
