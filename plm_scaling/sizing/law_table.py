"""The published laws as tables: which there are, what one says over its range, what several say at one budget."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from plm_scaling.core.errors import ConfigError, RefusedError, did_you_mean
from plm_scaling.core.records import Record
from plm_scaling.core.units import format_count
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.laws.zoo import PublishedLaw, all_laws, find_law
from plm_scaling.sizing.answers import FLAG_DECADES, REFUSE_DECADES, answer_of, decades_outside, laws_of_fit

__all__ = ["LawComparison", "LawPoint", "LawSheet", "LawSummary", "compare_laws", "law_sheet", "law_summaries"]

_OBJECTIVES: Final = ("clm", "mlm", "text")
_DECADES_SHOWN: Final = (1e18, 1e19, 1e20, 1e21, 1e22)
_POINTS_SHOWN: Final = 5
_SAME_SIZE: Final = 2.0


class LawSummary(Record):
    """A line of the list of laws."""

    id: str
    objective: str
    form: str
    a_N: float | None
    """Exponent of N_opt ~ C^a; None where the law has none."""
    a_D: float | None
    range_C: tuple[float, float] | None
    """FLOPs."""
    status: str
    source: str


class LawPoint(Record):
    """What one law says at one budget; None where it says nothing."""

    law_id: str
    objective: str
    status: str
    C: float
    """FLOPs, counted as the law counts them."""
    N: float | None = None
    D: float | None = None
    tokens_per_parameter: float | None = None
    six_ND_over_C: float | None = None
    """A law may state N and D separately; then 6 N D need not be C."""
    loss: float | None = None
    """Nats per token of the law's own corpus and objective."""
    N_low: float | None = None
    N_high: float | None = None
    """Band of N, for fits of one's own."""
    decades_outside: float = 0.0
    """Decades of compute outside the law's range; of N or D where it states no range of compute."""
    flags: tuple[str, ...] = ()


class LawSheet(Record):
    """A law and what it says over its range."""

    law: PublishedLaw
    formula: str
    a_N: float | None
    a_D: float | None
    points: tuple[LawPoint, ...]
    """Empty for a law that says nothing about a budget."""


class LawComparison(Record):
    """Several laws at one budget."""

    C: float
    points: tuple[LawPoint, ...]
    notes: tuple[str, ...]


def law_summaries(*, objective: str | None = None, unverified: bool = False) -> tuple[LawSummary, ...]:
    """The published laws, those nobody has checked only if `unverified`.

    Raises
    ------
    ConfigError : unknown objective.
    """
    return tuple(
        LawSummary(
            id=law.id,
            objective=law.objective,
            form=law.form,
            a_N=law.exponents()[0],
            a_D=law.exponents()[1],
            range_C=law.range_C,
            status=law.status,
            source=law.source,
        )
        for law in _chosen(objective, unverified)
    )


def law_sheet(name: str, budgets: Sequence[float] = ()) -> LawSheet:
    """One law: formula, coefficients, source, caveat, and what it says at `budgets` or over its range.

    Parameters
    ----------
    budgets : FLOPs; by default five over the law's range, or 1e18 to 1e22 where it states none.

    Raises
    ------
    ConfigError : no such law, or budgets for a law that says nothing about a budget.
    """
    law = find_law(name)
    if budgets and not _speaks_of_compute(law):
        raise ConfigError(f"{law.id} says nothing about a budget of compute", why=law.form_of.formula)
    wanted = (tuple(budgets) or _grid(law.range_C)) if _speaks_of_compute(law) else ()
    a_N, a_D = law.exponents()
    points = tuple(_point(law, C) for C in wanted)
    return LawSheet(law=law, formula=law.form_of.formula, a_N=a_N, a_D=a_D, points=points)


def compare_laws(
    C: float,
    names: Sequence[str] = (),
    fits: Sequence[LawFit] = (),
    *,
    objective: str | None = None,
    unverified: bool = False,
) -> LawComparison:
    """Laws side by side at C FLOPs: the named ones and fits of one's own, or all of one objective.

    Parameters
    ----------
    C : training FLOPs, read by each law as it counts them.
    names : published laws; with none given, all of `objective` (by default that of the fits) that answer for C.
    fits : own fits, whose sizes carry a band.
    unverified : whether "all" includes the laws nobody has checked.

    Raises
    ------
    ConfigError : no such law, one that says nothing about a budget, or nothing to compare.
    """
    if not (math.isfinite(C) and C > 0):
        raise ConfigError(f"a compute budget must be a positive number of FLOPs, got {C!r}")
    of_fits = {fit.objective for fit in fits}
    if objective is None and len(of_fits) == 1:
        (objective,) = of_fits
    if names:
        laws = [find_law(name) for name in names]
        for law in laws:
            if not _speaks_of_compute(law):
                raise ConfigError(f"{law.id} says nothing about a budget of compute", why=law.form_of.formula)
    elif objective is None:
        raise ConfigError("compare which laws?", hint="name some, or one objective: " + ", ".join(_OBJECTIVES))
    else:
        laws = [law for law in _chosen(objective, unverified) if _speaks_of_compute(law)]
    points, notes = [_point(law, C) for law in laws], []
    for fit in fits:
        found, note = _points_of_fit(fit, C)
        points += found
        notes += note
    if not names and (spread := _exponent_spread(_chosen(objective, unverified))):
        notes.append(spread)
    return LawComparison(C=C, points=tuple(points), notes=(*notes, *_notes(points)))


def _exponent_spread(laws: Iterable[PublishedLaw]) -> str:
    """The lowest and the highest exponent of N, those of sources without coefficients included."""
    stated = sorted((a, law.id) for law in laws if (a := law.exponents()[0]) is not None)
    if len(stated) < 2:
        return ""
    (low, first), (high, last) = stated[0], stated[-1]
    return f"published exponents of N in C span {low:.2f} ({first}) to {high:.2f} ({last})"


def _chosen(objective: str | None, unverified: bool) -> list[PublishedLaw]:
    if objective is not None and objective not in _OBJECTIVES:
        raise ConfigError(f"unknown objective {objective!r}", hint=did_you_mean(objective, _OBJECTIVES))
    return [
        law for law in all_laws() if objective in (None, law.objective) and (unverified or law.status != "unverified")
    ]


def _speaks_of_compute(law: PublishedLaw) -> bool:
    return law.sizes_a_budget or law.form == "loss_compute"


def _grid(span: tuple[float, float] | None) -> tuple[float, ...]:
    if span is None:
        return _DECADES_SHOWN
    step = math.log(span[1] / span[0]) / (_POINTS_SHOWN - 1)
    return (*(span[0] * math.exp(step * k) for k in range(_POINTS_SHOWN - 1)), span[1])


def _point(law: PublishedLaw, C: float) -> LawPoint:
    said = law.answer({"C": C})
    outside, known = _distance(law, C, said.get("N"), said.get("D"))
    flags = _flags(outside, known)
    flags += ("TEXT_LAW",) if law.objective == "text" else ()
    flags += ("UNVERIFIED",) if law.status == "unverified" else ()
    return LawPoint(
        law_id=law.id,
        objective=law.objective,
        status=law.status,
        C=C,
        decades_outside=outside,
        flags=flags,
        **said,
    )


def _distance(law: PublishedLaw, C: float, N: float | None, D: float | None) -> tuple[float, bool]:
    """Decades outside the law's range, and whether it states one: of compute, else of N and D."""
    if law.range_C is not None:
        return decades_outside(C, law.range_C), True
    stated = [(x, span) for x, span in ((N, law.range_N), (D, law.range_D)) if x is not None and span is not None]
    return max((decades_outside(x, span) for x, span in stated), default=0.0), bool(stated)


def _flags(outside: float, known: bool) -> tuple[str, ...]:
    if not known:
        return ("RANGE_UNKNOWN",)
    if outside > FLAG_DECADES:
        return "EXTRAPOLATION", "FAR_OUTSIDE_RANGE"
    return ("EXTRAPOLATION",) if outside > 0 else ()


def _points_of_fit(fit: LawFit, C: float) -> tuple[list[LawPoint], list[str]]:
    """The laws in a fit of one's own; a fit that identifies none is a note, not the end of the comparison."""
    try:
        laws = laws_of_fit(fit)
    except RefusedError as error:
        return [], [f"{error.what}: {error.why}"]
    points = []
    for law in laws:
        said = answer_of(law, C, "counted")
        points.append(
            LawPoint(
                law_id=said.law_id,
                objective=law.objective,
                status=said.status,
                C=C,
                N=said.N,
                D=said.D,
                tokens_per_parameter=said.D / said.N,
                six_ND_over_C=6.0 * said.N * said.D / C,
                loss=said.loss,
                N_low=said.N_low,
                N_high=said.N_high,
                decades_outside=said.extrapolation_decades,
                flags=(*_flags(said.extrapolation_decades, law.range_C is not None), *law.flags),
            )
        )
    return points, []


def _notes(points: Iterable[LawPoint]) -> list[str]:
    """What must be said of the lines together."""
    listed, notes = list(points), []
    sized = sorted((p for p in listed if p.N is not None), key=lambda p: p.N or 0.0)
    if len(sized) > 1 and (factor := (sized[-1].N or 0.0) / (sized[0].N or 1.0)) >= _SAME_SIZE:
        small, large = (f"{p.law_id} {format_count(p.N or 0.0, 2)}" for p in (sized[0], sized[-1]))
        notes.append(f"the laws disagree on N by a factor {factor:.1f}: {small}, {large}; do not average them")
    if sum(p.loss is not None for p in listed) > 1:
        notes.append("losses of different corpora, tokenizers or objectives cannot be compared with each other")
    if any("EXTRAPOLATION" in p.flags for p in listed):
        notes.append(
            "EXTRAPOLATION: outside the compute, or else the N and D, a law was fitted on; "
            f"beyond {REFUSE_DECADES} decades N can be wrong by more than any band says"
        )
    if unchecked := [p.law_id for p in listed if "UNVERIFIED" in p.flags]:
        notes.append(f"UNVERIFIED, numbers recalled and not checked against a source: {', '.join(unchecked)}")
    return notes
