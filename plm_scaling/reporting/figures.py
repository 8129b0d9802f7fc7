"""The report's sections: which pictures and tables belong together, and the sentence where there are none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from markupsafe import Markup

from plm_scaling.laws.surface import form_of
from plm_scaling.reporting.arm_figures import draw_diversity, draw_repeat_curves, draw_repeats, draw_transfer
from plm_scaling.reporting.arms import repeat_series
from plm_scaling.reporting.law_figures import draw_data, draw_isoflop, draw_sizes, draw_surface
from plm_scaling.reporting.mixtures import diversity_views
from plm_scaling.reporting.study import OBJECTIVES, Study, fitted_set, is_on_page
from plm_scaling.reporting.tables import (
    Table,
    tabulate_exponents,
    tabulate_forms,
    tabulate_minima,
    tabulate_parts,
    tabulate_surfaces,
    tabulate_transfer,
    tabulate_validation,
)

__all__ = ["Section", "all_sections"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Section:
    """A heading, how to read it, pictures, tables; `absent` says why there are no pictures."""

    key: str
    short: str
    title: str
    reading: str
    panels: tuple[Markup, ...]
    tables: tuple[Table, ...] = ()
    absent: str = ""
    points: tuple[str, ...] = ()
    """Conclusions, ahead of the pictures."""
    alarms: tuple[str, ...] = ()
    """Reasons to doubt, after the tables."""


def all_sections(study: Study) -> tuple[Section, ...]:
    """Sections in reading order, those without data included."""
    makers: tuple[Callable[[Study], Section], ...] = (_isoflop, _optimum, _surface, _repeats, _diversity, _transfer)
    return tuple(make(study) for make in makers)


def _kept(items: Iterable[_T | None]) -> tuple[_T, ...]:
    return tuple(item for item in items if item is not None)


def _section(
    key: str,
    short: str,
    title: str,
    reading: str,
    panels: Iterable[Markup | None],
    tables: Sequence[Table | None],
    absent: str,
) -> Section:
    kept = _kept(panels)
    return Section(key, short, title, reading if kept else "", kept, _kept(tables), "" if kept else absent)


def _elsewhere(study: Study) -> str:
    """Said above pictures of laws that were not fitted on the page's validation set."""
    others = sorted({fitted_set(study, law) or "another" for law in study.laws.values() if not is_on_page(study, law)})
    if not others:
        return ""
    return f" The laws were fitted on the validation set {' and '.join(others)}, not on this page's {study.validation}."


def _isoflop(study: Study) -> Section:
    reading = (
        "Each colour is one compute budget, the same in both panels. Points are means over seeds (single runs faint), "
        "bars the noise between seeds. The curve is a parabola (or cubic) in ln N, dotted beyond the sizes it was "
        "fitted to; the diamond is its minimum N_opt and the band its 95 % interval. An open diamond is a weak "
        "minimum; a circled point is a row without a minimum inside, so the best size lies beyond those tried."
    )
    reading += _elsewhere(study)
    panels = [draw_isoflop(study, objective) for objective in OBJECTIVES]
    absent = "No IsoFLOP analysis: fit-clm.json and fit-mlm.json are missing or hold no budget with several sizes."
    return _section("isoflop", "IsoFLOP", "Loss at equal compute", reading, panels, [tabulate_minima(study)], absent)


def _optimum(study: Study) -> Section:
    reading = (
        "Left: N_opt with its 95 % interval, the power law through the rows with a minimum inside, and its band "
        "(errors of its level and of its exponent in quadrature). Right: the tokens that go with it; the dashed line "
        "is what the corpus holds without repeating a token. Lines are dashed where they rest on minima no deeper than "
        "the noise."
    )
    reading += _elsewhere(study)
    absent = "No budget has a minimum in model size, so there is nothing to draw against compute."
    panels = [draw_sizes(study), draw_data(study)]
    return _section(
        "optimum", "Growth", "How the best choice grows", reading, panels, [tabulate_exponents(study)], absent
    )


def _surface(study: Study) -> Section:
    reading = (
        f"Lines of equal loss under the surface fitted to all runs on unlimited data (dots, coloured by budget): "
        f"{_equations(study)}. The thick line joins the lowest points at equal 6ND. Beyond the dots the lines are "
        "extrapolation."
    )
    reading += _elsewhere(study)
    absent = _no_surface(study)
    panels = [draw_surface(study, objective) for objective in OBJECTIVES]
    tables = [tabulate_surfaces(study), tabulate_forms(study)]
    return _section("surface", "L(N, D)", "The loss as a function of N and D", reading, panels, tables, absent)


def _no_surface(study: Study) -> str:
    """Why there is no surface, in the fits' own words where they refused one."""
    refused = {
        f"{name.upper()}: {refusal.reason}"
        for name, law in study.laws.items()
        if law.surface is None
        for refusal in law.refusals
    }
    if refused:
        return f"No surface has been fitted. {'. '.join(sorted(refused))}."
    return "No surface has been fitted: it needs runs that differ in N and in D independently."


def _equations(study: Study) -> str:
    """CLM: L = ..., MLM: L = ..., each with the batch its lines are drawn at where that matters."""
    said = []
    for objective in OBJECTIVES:
        fit = law.surface if (law := study.laws.get(objective)) else None
        if fit is not None:
            form = form_of(fit)
            at = (
                f" (lines at a batch of {fit.batch_typical:,.0f} tokens)"
                if form.has_batch and fit.batch_typical
                else ""
            )
            said.append(f"{objective.upper()}, {form.equation}{at}")
    return "; ".join(said)


def _repeats(study: Study) -> Section:
    reading = (
        "All runs of a panel see the same number of tokens; only the number of different ones shrinks to the right. "
        "The horizontal line is the run on unlimited data, its shade the noise between seeds. Below: the loss along "
        "training. MLM draws new masks in every pass, so that a repeated sequence is not a repeated task."
    )
    series = repeat_series(study)
    finals = [draw_repeats(study, one, f"repeats-{i}") for i, one in enumerate(series)]
    curves = [draw_repeat_curves(study, one, f"repeat-curves-{i}") for i, one in enumerate(series)]
    absent = "The study has no repeats arm with complete runs."
    return _section("repeats", "Repeats", "Repeated against unique tokens", reading, [*finals, *curves], [], absent)


def _diversity(study: Study) -> Section:
    views = diversity_views(study)
    reading = (
        "Bars show how the loss changes when tokens of the second source replace passes over the first, at equal N and "
        "D; the error holds the paired validation error and, where it is known, the noise between seeds."
    )
    if views:
        reference = views[0].pooled.reference
        reading += f" Zero is {reference.label}, {reference.epochs:.3g} passes."
    if any(view.parts for view in views):
        reading += (
            " Full bars are judged on the whole validation set, pale ones on the sequences of one source alone: what "
            "fewer repeats give shows on the first source's own sequences, what only a closer training mix gives does "
            "not."
        )
    panels = [draw_diversity(study, view, f"diversity-{i}") for i, view in enumerate(views)]
    absent = "The study has no diversity arm with complete runs."
    tables = [tabulate_parts(study), tabulate_validation(study)]
    return _section("diversity", "Second source", "A second source", reading, panels, tables, absent)


def _transfer(study: Study) -> Section:
    reading = (
        "The curve is training from scratch, the diamond the run that started from the other objective's weights. The "
        "green arrow is how many more tokens scratch would need for the same loss (D_t, pale: its interval); the "
        "second arrow is what the source's compute would have bought instead. Transfer pays if the first is longer. "
        "The gap's error in the table holds the paired validation error, with replicates also the seeds."
    )
    pairs = study.transfer.pairs if study.transfer else ()
    panels = [draw_transfer(study, pair, f"transfer-{i}") for i, pair in enumerate(pairs)]
    absent = "No transfer analysis: transfer.json is missing or holds no complete pair."
    return _section(
        "transfer", "Transfer", "Starting from the other objective", reading, panels, [tabulate_transfer(study)], absent
    )
