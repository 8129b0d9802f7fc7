"""What an analyst's choices do to the answer: every combination of them, the envelope, and what others say, together.

The spread over choices is no interval: it says how far two careful people may come apart on the same runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from plm_scaling.core.errors import ConfigError, FitError, RefusedError
from plm_scaling.core.records import Record
from plm_scaling.core.run_table import RunTable
from plm_scaling.laws.budgets import Currency, check_runs, compute_of
from plm_scaling.laws.choices import CHOICE_SENTENCES, ChoiceTable, analyst_choices
from plm_scaling.laws.curves import Curves
from plm_scaling.laws.denoise import FinalLoss, denoise
from plm_scaling.laws.envelope import ENVELOPE_SENTENCES, EnvelopeFit, fit_envelope
from plm_scaling.laws.law_fit import Interval, LawFit, Refusal
from plm_scaling.laws.noise import law_runs
from plm_scaling.laws.zoo import PublishedLaw, load_zoo
from plm_scaling.sizing.answers import decades_outside, laws_of_fit

__all__ = ["LawChoices", "Reading", "choices_of"]

_FINALS: Final[tuple[FinalLoss, ...]] = ("last", "last5", "denoised")
_BESIDE: Final = 0.02
"""Decades outside a range that are no extrapolation yet: rounding of D to whole steps."""

ReadingKind = Literal["envelope", "published", "own fit"]


class Reading(Record):
    """An exponent of N_opt ~ C^a from elsewhere than the table of choices."""

    name: str
    kind: ReadingKind
    a_N: float
    a_N_low: float | None = None
    a_N_high: float | None = None
    """95 %; None where the source states none."""
    N_opt: float
    """At the C of the choices, parameters."""
    flags: tuple[str, ...] = ()


class LawChoices(Record):
    """How far the exponent of N_opt and its value depend on choices, and what other methods and sources say."""

    objective: str
    currency: Currency
    C: float
    """Compute at which every N_opt is given, FLOPs."""
    range_C: tuple[float, float]
    """Of the runs, FLOPs."""
    losses: tuple[str, ...]
    """Loss definitions compared."""
    choices: ChoiceTable | None = None
    """None where no budget has three sizes."""
    envelopes: tuple[EnvelopeFit, ...] = ()
    """Through end points; with curves also through points along the way."""
    readings: tuple[Reading, ...] = ()
    """The envelopes, the published power frontiers, the laws of a fit of one's own."""
    notes: tuple[str, ...] = ()
    """A plain sentence for every flag."""
    refusals: tuple[Refusal, ...] = ()

    @property
    def answered(self) -> bool:
        """Whether these runs give any exponent."""
        by_choices = self.choices is not None and self.choices.a_N is not None
        return by_choices or any(reading.kind == "envelope" for reading in self.readings)


def choices_of(
    table: RunTable,
    objective: str,
    *,
    curves: Curves | None = None,
    C: float | None = None,
    currency: Currency = "C_6nd",
    fit: LawFit | None = None,
    draws: int = 200,
) -> LawChoices:
    """Every combination of choices on one table of runs, beside the envelope, published frontiers and an own fit.

    Parameters
    ----------
    curves : losses along the way; with them the final loss is a choice (last, last5, denoised) and the envelope is
        also drawn through points along the way.
    C : compute at which N_opt is given, FLOPs; None for the largest budget, or the largest run where there is none.
    fit : own fit of the same objective, whose exponents stand beside the others.
    draws : resamples of the runs behind the envelopes' intervals.

    Raises
    ------
    FitError : no usable run of the objective, or none with a compute in this currency.
    ConfigError : a fit of the other objective.
    """
    if fit is not None and fit.objective != objective:
        raise ConfigError(
            f"this fit is of {fit.objective}, the runs are of {objective}", hint="give the other fit.json"
        )
    runs = table.of(objective)
    usable = law_runs(runs, objective)
    check_runs(usable, objective, currency)
    seen = [compute for row in usable if (compute := compute_of(row, currency)) > 0]
    losses = _losses(runs, curves)
    refusals: list[Refusal] = []
    choices = None
    try:
        choices = analyst_choices(losses.tables, objective, C=C, currency=currency)
    except FitError as error:
        refusals.append(Refusal(quantity="choices of a minimum", code="NO_ISOFLOP", reason=_reason(error)))
    at = choices.C if choices is not None else C or max(seen)
    envelopes = _envelopes(runs, objective, losses.curves, currency, draws, refusals)
    others, doubts = _others(fit, objective, at)
    readings = (*(reading for envelope in envelopes for reading in _envelope_reading(envelope, at)), *others)
    found = LawChoices(
        objective=objective,
        currency=currency,
        C=at,
        range_C=(min(seen), max(seen)),
        losses=tuple(losses.tables),
        choices=choices,
        envelopes=envelopes,
        readings=readings,
        refusals=tuple(refusals),
    )
    return found.model_copy(update={"notes": (*_notes(found), *doubts)})


@dataclass(frozen=True)
class _Losses:
    """The same runs by definition of the final loss, and the curves without shared noise."""

    tables: Mapping[str, RunTable]
    curves: Curves | None = None


def _losses(runs: RunTable, curves: Curves | None) -> _Losses:
    if curves is None or not {row.run_id for row in runs} & set(curves.run_id.tolist()):
        said = {row.final_loss for row in runs}
        return _Losses({(said.pop() if len(said) == 1 else "") or "table": runs})
    read = {final: denoise(runs, curves, final=final) for final in _FINALS}
    return _Losses({final: one.table for final, one in read.items()}, read["denoised"].curves)


def _envelopes(
    runs: RunTable, objective: str, curves: Curves | None, currency: Currency, draws: int, refusals: list[Refusal]
) -> tuple[EnvelopeFit, ...]:
    """Through end points, and along the way where there are curves; one that cannot be drawn is refused."""
    made = []
    for intermediate in (False, True) if curves is not None else (False,):
        try:
            made.append(
                fit_envelope(runs, objective, curves, currency=currency, intermediate=intermediate, draws=draws)
            )
        except FitError as error:
            name = _envelope_name(intermediate)
            refusals.append(Refusal(quantity=name, code="FEW_SIZES_ON_ENVELOPE", reason=_reason(error)))
    for envelope in made:
        if envelope.a_N is None:
            name, code = _envelope_name(envelope.intermediate), "FEW_SIZES_ON_ENVELOPE"
            reason = "fewer than two sizes on it have both a smaller and a larger one beside them"
            refusals.append(Refusal(quantity=f"exponent of the {name}", code=code, reason=reason))
    return tuple(made)


def _envelope_name(intermediate: bool) -> str:
    return "envelope of points along the way" if intermediate else "envelope of end points"


def _envelope_reading(envelope: EnvelopeFit, C: float) -> tuple[Reading, ...]:
    if envelope.a_N is None or envelope.k_N is None:
        return ()
    N = envelope.k_N * C**envelope.a_N.value
    return (_reading(_envelope_name(envelope.intermediate), "envelope", envelope.a_N, N, envelope.flags),)


def _reading(name: str, kind: ReadingKind, a_N: Interval, N: float, flags: tuple[str, ...]) -> Reading:
    return Reading(name=name, kind=kind, a_N=a_N.value, a_N_low=a_N.low, a_N_high=a_N.high, N_opt=N, flags=flags)


def _others(fit: LawFit | None, objective: str, C: float) -> tuple[list[Reading], list[str]]:
    """The published power frontiers, then the laws of a fit of one's own; and what must be said of the latter."""
    frontiers = [law for law in load_zoo() if law.objective == objective and law.form == "power_frontier"]
    made = [reading for law in frontiers for reading in _published(law, C)]
    if fit is None:
        return made, []
    try:
        laws = {law.law_id: law for law in laws_of_fit(fit)}
    except RefusedError as error:
        return made, [f"{error.what}: {error.why}."]
    parts = (("isoflop", fit.isoflop), ("surface", fit.surface))
    for name, part in parts:
        law = laws.get(f"own-{fit.objective}-{name}")
        if law is not None and part is not None and part.a_N is not None:
            flags = (*_far(C, law.range_C), *law.flags)
            made.append(_reading(law.law_id, "own fit", part.a_N, law.optimum(C), flags))
    return made, []


def _published(law: PublishedLaw, C: float) -> tuple[Reading, ...]:
    a_N = law.exponents()[0]
    if a_N is None:
        return ()
    low, high = law.ci95.get("a_N", (None, None))
    N, flags = law.optimum(C)[0], _far(C, law.range_C)
    return (Reading(name=law.id, kind="published", a_N=a_N, a_N_low=low, a_N_high=high, N_opt=N, flags=flags),)


def _far(C: float, span: tuple[float, float] | None) -> tuple[str, ...]:
    return ("EXTRAPOLATION",) if decades_outside(C, span) > _BESIDE else ()


def _reason(error: FitError) -> str:
    return f"{error.what}: {error.why}" if error.why else error.what


def _notes(found: LawChoices) -> tuple[str, ...]:
    """One sentence per flag of the choices and the envelopes, what lies outside the runs, and what is refused."""
    of_choices = found.choices
    flags = [*of_choices.flags, *(flag for row in of_choices.rows for flag in row.flags)] if of_choices else []
    notes = [f"{flag}: {CHOICE_SENTENCES[flag]}" for flag in dict.fromkeys(flags)]
    flags = [flag for envelope in found.envelopes for flag in envelope.flags]
    notes += [f"{flag}: {ENVELOPE_SENTENCES[flag]}" for flag in dict.fromkeys(flags)]
    outside = decades_outside(found.C, found.range_C)
    if outside > _BESIDE:
        notes.append(
            f"EXTRAPOLATION: {found.C:.3g} FLOPs lie {outside:.1f} decades outside the runs; no choice is right there "
            "because it agrees with another."
        )
    elif far := [reading.name for reading in found.readings if "EXTRAPOLATION" in reading.flags]:
        notes.append(f"EXTRAPOLATION: {found.C:.3g} FLOPs lie outside what was fitted by {', '.join(far)}.")
    if found.currency != "C_6nd" and any(reading.kind != "envelope" for reading in found.readings):
        notes.append("Published laws and fits of one's own are asked for C = 6 N D, these runs for C in exact FLOPs.")
    return (*notes, *(f"REFUSED: {refusal.quantity}: {refusal.reason}." for refusal in found.refusals))
