"""What one law says at a budget: published laws and fits of one's own, brought to one shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Final, Literal

import numpy as np

from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.laws.interval import interval_of
from plm_scaling.laws.law_fit import Interval, IsoflopFit, LawFit, SurfaceFit
from plm_scaling.laws.surface import form_of, surface_loss, surface_optimum
from plm_scaling.laws.zoo import PublishedLaw
from plm_scaling.sizing.costs import exact_over_6nd
from plm_scaling.sizing.recommendation import LawAnswer, LawRole

__all__ = [
    "FLAG_DECADES",
    "REFUSE_DECADES",
    "VALLEY_NATS",
    "SizingLaw",
    "answer_of",
    "decades_outside",
    "laws_of_fit",
    "published_sizing_law",
    "valley",
    "with_valley",
]

FLAG_DECADES: Final = 1.0
"""Beyond so many decades of compute outside its range a law's answer is flagged."""
REFUSE_DECADES: Final = 1.5
"""Beyond so many decades the answer is refused unless forced."""
VALLEY_NATS: Final = 0.01
"""A law's valley: the sizes whose loss at the budget is at most so far above the lowest."""
_FRONTIER_DEX: Final = 0.25
_FRONTIER_DEX_PER_DECADE: Final = 0.1

Band = tuple[float, float]


@dataclass(frozen=True)
class SizingLaw:
    """A law as sizing sees it; C is 6 N D throughout."""

    law_id: str
    objective: str
    source: str
    status: str
    optimum: Callable[[float], float]
    """FLOPs -> compute-optimal N."""
    band: Callable[[float], Band | None]
    """FLOPs -> band of N, None if the law states none."""
    loss: Callable[[float, float], float | None]
    """(N, D) -> nats per token."""
    range_C: Band | None = None
    caveat: str = ""
    flags: tuple[str, ...] = ()


def decades_outside(C: float, range_C: Band | None) -> float:
    """log10 of the distance between C and a range of compute; 0 inside it, and for a law that states no range.

    Infinite where C is beyond what a number holds, or nothing.
    """
    if range_C is None:
        return 0.0
    if not 0 < C < math.inf:
        return math.inf
    return max(0.0, math.log10(C) - math.log10(range_C[1]), math.log10(range_C[0]) - math.log10(C))


def valley(loss: Callable[[float], float], N_opt: float, *, width: float = VALLEY_NATS) -> Band:
    """Sizes around `N_opt` whose loss is within `width` nats of the lowest, searched over six decades either side.

    Parameters
    ----------
    loss : N -> loss at the fixed budget, with one minimum, at `N_opt`.
    """
    top = loss(N_opt) + width

    def edge(sign: float) -> float:
        inside, outside = math.log(N_opt), math.log(N_opt) + sign * math.log(1e6)
        if loss(math.exp(outside)) <= top:
            return math.exp(outside)
        for _ in range(48):
            middle = 0.5 * (inside + outside)
            inside, outside = (middle, outside) if loss(math.exp(middle)) <= top else (inside, middle)
        return math.exp(inside)

    return edge(-1.0), edge(1.0)


def with_valley(law: SizingLaw) -> SizingLaw:
    """A law that states a loss, with the sizes within 0.01 nats of its lowest as its band."""

    def band(C: float) -> Band:
        return valley(lambda N: _stated(law.loss(N, C / (6.0 * N))), law.optimum(C))

    return replace(law, band=band)


def published_sizing_law(law: PublishedLaw, unique_tokens: float | None = None) -> SizingLaw:
    """A law of the zoo for sizing; with `unique_tokens` a law that values repeats answers for that much data.

    A law with a loss has its valley as band. A power frontier has none: it gets the 0.25 dex its figure draws by
    hand, plus 0.1 dex per decade outside its range, since its exponents move by up to 0.1 with the loss definition,
    the minimum rule and the fit space.

    **Source:** Cheng et al. 2024, isoFLOP figure and released logs.
    """

    values_repeats = law.form == "repeats" and unique_tokens is not None

    def loss(N: float, D: float) -> float | None:
        return law.loss(N, D, unique_tokens if values_repeats else None)

    def at_budget(C: float) -> Callable[[float], float]:
        return lambda n: _stated(loss(n, C / (6.0 * n)))

    def optimum(C: float) -> float:
        return law.optimum(C, unique_tokens)[0]

    def band(C: float) -> Band | None:
        N = optimum(C)
        if law.form == "power_frontier":
            dex = _FRONTIER_DEX + _FRONTIER_DEX_PER_DECADE * decades_outside(C, law.range_C)
            return N * 10.0**-dex, N * 10.0**dex
        return valley(at_budget(C), N)

    flags: tuple[str, ...] = ("TEXT_LAW",) if law.objective == "text" else ()
    flags += ("UNVERIFIED",) if law.status == "unverified" else ()
    return SizingLaw(
        law_id=law.id,
        objective=law.objective,
        source=law.source,
        status=law.status,
        optimum=optimum,
        band=band,
        loss=loss,
        range_C=law.range_C,
        caveat="; ".join(part for part in (law.convention, law.caveat) if part),
        flags=flags,
    )


def _stated(loss: float | None) -> float:
    if loss is None:
        raise ConfigError("this law states no loss")
    return loss


def laws_of_fit(fit: LawFit) -> tuple[SizingLaw, ...]:
    """The laws in a fit of one's own: the isoFLOP frontier first where it is identified, then the fitted surface.

    A surface without an optimum (no minimum at fixed compute, or one that the fit refused) answers nothing here.

    Raises
    ------
    RefusedError : the fit identifies neither.
    """
    laws = []
    if fit.isoflop is not None and fit.isoflop.a_N is not None and fit.isoflop.k_N is not None:
        laws.append(_isoflop_law(fit, fit.isoflop, fit.isoflop.a_N, fit.isoflop.k_N))
    if fit.surface is not None and fit.surface.a_N is not None:
        laws.append(_surface_law(fit, fit.surface))
    if not laws:
        raise RefusedError(
            f"this {fit.objective.upper()} fit does not say which size is compute-optimal",
            why=_why_none(fit),
            hint="add budgets and sizes until at least two isoFLOP rows have an interior minimum",
        )
    return tuple(laws)


def _why_none(fit: LawFit) -> str:
    """What the fit itself says of the size it does not give."""
    if fit.refusals:
        return "; ".join(f"{refusal.quantity}: {refusal.reason}" for refusal in fit.refusals)
    if fit.notes:
        return "; ".join(fit.notes)
    if fit.surface is not None:
        return f"the form {fit.surface.form} has no lowest loss at a fixed compute"
    return "neither the isoFLOP exponents nor a surface could be fitted"


def _in_currency(currency: Literal["C_exact", "C_6nd"], optimum: Callable[[float], float]) -> Callable[[float], float]:
    """6 N D -> N for a law fitted on another currency of compute."""
    if currency == "C_6nd":
        return optimum

    def converted(C: float) -> float:
        # The overhead changes slowly with N: the fixed point contracts by more than 3 per round.
        N = optimum(C)
        for _ in range(30):
            N = optimum(C * exact_over_6nd(N))
        return N

    return converted


def _isoflop_law(fit: LawFit, isoflop: IsoflopFit, a_N: Interval, k_N: float) -> SizingLaw:
    """The frontier N = k_N C^a_N; its band turns the exponent's interval around the middle of the data."""
    rows = [row for row in isoflop.rows if row.N_opt is not None]
    centre = float(np.mean([math.log(row.C) for row in rows])) if rows else math.log(math.sqrt(math.prod(fit.range_C)))
    own = [math.log(row.N_opt.high / row.N_opt.low) / 2.0 for row in rows if row.N_opt is not None]
    at_centre = median(own) if own else 0.0
    optimum = _in_currency(isoflop.currency, lambda C: float(k_N * C**a_N.value))

    def band(C: float) -> Band | None:
        N = optimum(C)
        lever = math.log(C * (exact_over_6nd(N) if isoflop.currency == "C_exact" else 1.0)) - centre
        turned = sorted((lever * (a_N.low - a_N.value), lever * (a_N.high - a_N.value)))
        return N * math.exp(-math.hypot(turned[0], at_centre)), N * math.exp(math.hypot(turned[1], at_centre))

    return SizingLaw(
        law_id=f"own-{fit.objective}-isoflop",
        objective=fit.objective,
        source=f"own fit of {fit.n_runs} runs, isoFLOP minima",
        status="own fit",
        optimum=optimum,
        band=band,
        loss=lambda N, D: None,
        range_C=_range_6nd(fit, optimum),
        flags=isoflop.flags,
    )


def _surface_law(fit: LawFit, surface: SurfaceFit) -> SizingLaw:
    """The fitted surface, a law of N and D whatever the currency; its band is the central 95 % of the draws."""
    form = form_of(surface)
    batch = surface.batch_typical
    tells_batch = form.has_batch and batch is not None

    def optimum(C: float) -> float:
        return float(surface_optimum(surface, C)[0][0])

    def band(C: float) -> Band | None:
        sizes, _ = surface_optimum(surface, C)
        interval = interval_of(float(sizes[0]), sizes[1:])
        return (interval.low, interval.high) if interval else None

    return SizingLaw(
        law_id=f"own-{fit.objective}-surface",
        objective=fit.objective,
        source=f"own fit of {fit.n_runs} runs, {form.equation}",
        status="own fit",
        optimum=optimum,
        band=band,
        loss=lambda N, D: float(surface_loss(surface, N, D)),
        range_C=surface.range_C_6nd or _range_6nd(fit, optimum),
        caveat=f"at batches of {batch:,.0f} tokens, the median of the runs" if tells_batch else "",
        flags=surface.flags,
    )


def _range_6nd(fit: LawFit, optimum: Callable[[float], float]) -> Band:
    """The fit's range of compute as 6 N D."""
    low, high = fit.range_C
    if fit.currency == "C_6nd":
        return low, high
    return low / exact_over_6nd(optimum(low)), high / exact_over_6nd(optimum(high))


def answer_of(law: SizingLaw, C: float, role: LawRole) -> LawAnswer:
    """What a law says at C = 6 N D FLOPs and unlimited unique tokens."""
    N = law.optimum(C)
    D = C / (6.0 * N)
    outside = decades_outside(C, law.range_C)
    flags = law.flags
    if law.range_C is None:
        flags += ("RANGE_UNKNOWN",)
    elif law.range_C[1] < C:
        flags += ("ABOVE_RANGE",)
    elif law.range_C[0] > C:
        flags += ("BELOW_RANGE",)
    if outside > FLAG_DECADES:
        flags += ("FAR_OUTSIDE_RANGE",)
    band = law.band(C)
    return LawAnswer(
        law_id=law.law_id,
        source=law.source,
        status=law.status,
        N=N,
        D=D,
        N_low=band[0] if band else None,
        N_high=band[1] if band else None,
        loss=law.loss(N, D),
        extrapolation_decades=outside,
        flags=flags,
        role=role,
        caveat=law.caveat,
        range_C=law.range_C,
    )
