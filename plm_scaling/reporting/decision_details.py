"""Sections behind a decision: what it is compared with, its data, its money, and where its numbers come from."""

from __future__ import annotations

from collections.abc import Callable

from markupsafe import Markup

from plm_scaling.core.run import Objective
from plm_scaling.core.units import format_count
from plm_scaling.reporting.decision_figures import draw_frontier, draw_repeat_loss, draw_tornado, draw_valley
from plm_scaling.reporting.decision_tables import (
    tabulate_actions,
    tabulate_adaptation,
    tabulate_allocation,
    tabulate_coefficients,
    tabulate_downstream,
    tabulate_marginal,
    tabulate_objectives,
    tabulate_pilots,
    tabulate_splits,
    tabulate_swings,
    tabulate_transferred,
)
from plm_scaling.reporting.decision_view import DecisionView
from plm_scaling.reporting.downstream_figures import draw_downstream
from plm_scaling.reporting.figures import Section
from plm_scaling.reporting.study import Study
from plm_scaling.reporting.wording import join_words, percent
from plm_scaling.sizing.decision_record import Decision
from plm_scaling.sizing.run_bill import bill_line

__all__ = ["capital", "decided_objective", "decision_sections", "paired_panels"]


def decision_sections(view: DecisionView, study: Study) -> tuple[Section, ...]:
    """Sections in reading order; what could not be made is there with the reason."""
    makers: tuple[Callable[[DecisionView, Study], Section | None], ...] = (
        _compared,
        _passes,
        _dollar,
        _swings,
        _pilots,
        _own,
        _downstream,
        _allocation,
        _coefficients,
    )
    return tuple(section for make in makers if (section := make(view, study)) is not None)


def capital(text: str) -> str:
    """A sentence with its first letter raised."""
    return text[:1].upper() + text[1:]


def paired_panels(view: DecisionView, study: Study, objective: Objective) -> list[Markup]:
    """Valley and frontier; the latter where the laws are at hand."""
    made, curve = view.decisions[objective], view.frontiers.get(objective)
    panels = [draw_valley(made, objective)]
    if curve is not None and (view.sizing is not None or made is view.decision):
        whose = "your" if view.sizing is not None else "assumed"
        panels.append(draw_frontier(curve, made, objective, study.laws.get(objective), whose=whose))
    return panels


def decided_objective(made: Decision) -> Objective:
    """The objective that is decided on."""
    return "clm" if made.objective == "clm" else "mlm"


def _compared(view: DecisionView, study: Study) -> Section:
    own = decided_objective(view.decision)
    panels = [
        panel for objective in view.decisions if objective != own for panel in paired_panels(view, study, objective)
    ]
    tables = [tabulate_objectives(view)]
    if view.actions is not None:
        tables.append(tabulate_actions(view.actions))
    reading = (
        "Each objective at the same budget, by its own laws. A loss is compared only with losses of the same objective "
        "on the same validation set; between objectives, and with public models whose loss on that set was not "
        "measured, nothing is ranked: not comparable. To choose between them, name what the model is for and give a "
        "table of measured scores."
    )
    if len(view.decisions) == 1:
        reading += f" Only {own.upper()} has laws here that answer this budget."
    refused = " ".join(why for part, why in view.omitted.items() if part in ("clm", "mlm", "actions"))
    if view.actions is not None:
        reading += (
            " Regret is the mean over laws of what the best action of the same group has over this one; what rests on "
            "numbers nobody has checked is not ranked."
        )
    return Section("compared", "Compared", "CLM, MLM, transfer and the other actions", f"{reading} {refused}".strip(),
                   tuple(panels), tuple(tables))  # fmt: skip


def _passes(view: DecisionView, study: Study) -> Section:
    del study
    title = "Unique tokens, and passes over them"
    if not view.repeats:
        return Section("passes", "Passes", title, "", (), absent=view.omitted.get("repeats", "Not drawn."))
    reading = (
        "The model decided on, trained for more or fewer passes over the unique tokens (learning-rate schedule to "
        "match); the band holds 80 % of the laws, the dashed line is what as many new tokens would give."
    )
    borrowed = [name.upper() for name, curve in view.repeats.items() if curve.measured is None]
    if borrowed:
        reading += (
            f" For {join_words(borrowed)} what a repeated token is worth is borrowed from text: no run of proteins "
            "behind these laws repeats enough to say."
        )
    if len(borrowed) < len(view.repeats):
        reading += " Grey: the passes of the runs behind the law of repeats."
    wanted = view.repeats if view.sizing is not None else {decided_objective(view.decision): None}
    panels = tuple(draw_repeat_loss(view.repeats[name], view.decision, name) for name in wanted)
    return Section("passes", "Passes", title, reading, panels)


def _dollar(view: DecisionView, study: Study) -> Section:
    del study
    title = "What one more dollar buys"
    found = view.marginal
    if found is None:
        return Section("dollar", "Next dollar", title, "", (), absent=view.omitted.get("marginal", "Not computed."))
    reading = (
        f"At the best spending of ${found.usd:,.0f}, {format_count(found.N, 2)} parameters on "
        f"{format_count(found.D, 2)} tokens. " + " ".join(map(capital, found.sentences))
    )
    return Section("dollar", "Next dollar", title, reading, (), (tabulate_marginal(found),))


def _swings(view: DecisionView, study: Study) -> Section:
    del study
    title, found = "What moves the answer", view.tornado
    if found is None:
        return Section("sensitivity", "Sensitivity", title, "", (), absent=view.omitted.get("tornado", "Not shown."))
    reading = (
        "One input at a time from its low to its high end (pale, full), everything else as it is; the line is the "
        f"loss to expect, {found.loss:.3f} nats at {format_count(found.N, 2)} parameters."
    )
    panel = draw_tornado(found, decided_objective(view.decision))
    return Section("sensitivity", "Sensitivity", title, reading, (panel,), (tabulate_swings(found),))


def _pilots(view: DecisionView, study: Study) -> Section:
    del study
    title, plan = "Pilot runs before the budget is spent", view.pilots
    if plan is None:
        return Section("pilots", "Pilots", title, "", (), absent=view.omitted.get("pilots", "Not shown."))
    reading = (
        f"To know the law exactly would save {plan.evpi:.4f} nats in expectation, as much as ${plan.evpi_usd:,.0f} of "
        f"compute. {capital(plan.stop).rstrip('.')}. Pilots are worth making while they save more than they cost."
    )
    return Section("pilots", "Pilots", title, reading, (), (tabulate_pilots(plan),))


def _own(view: DecisionView, study: Study) -> Section | None:
    """What a user's own sequences can be used for: only where they were asked about."""
    del study
    plan = view.adaptation
    if plan is None:
        return None
    reading = " ".join(f"{sentence}." for sentence in (*plan.findings, *map(capital, plan.design)))
    title, tables = f"Your own {format_count(plan.tokens, 2)} tokens", [tabulate_adaptation(plan)]
    worth = tabulate_transferred(view.actions.actions if view.actions else (), plan.tokens)
    return Section("own", "Own sequences", title, reading, (), (*([worth] if worth.rows else []), *tables))


def _downstream(view: DecisionView, study: Study) -> Section:
    del study
    title = "What to expect downstream"
    if not view.downstream:
        why = view.omitted.get("downstream", "Not shown.")
        return Section("downstream", "Downstream", title, "", (), absent=why)
    reading = (
        "Published scores of public models against their size, not of the model decided on: a lower loss is not a "
        "better score. Dashed lines are methods that need no such model; bars are 95 % over proteins drawn anew."
    )
    panels = tuple(draw_downstream(found) for found in view.downstream)
    return Section(
        "downstream", "Downstream", title, reading, panels, (tabulate_downstream(view.downstream, view.decision.N),)
    )


def _allocation(view: DecisionView, study: Study) -> Section | None:
    del study
    plan = view.allocation
    if plan is None:
        return None
    best, grant = plan.chosen, plan.allocation
    days = "" if grant.wall_hours is None else f", {grant.wall_hours / 24:,.0f} days left"
    reading = (
        f"{grant.node_hours:,.0f} node-hours on {grant.nodes} nodes of {grant.gpus_per_node} {plan.gpu}{days}. The "
        f"best split, {plan.best}, misses the end with probability {percent(best.miss_probability)} and lies on "
        f"average {best.regret:.4f} nats above the best that all hours could buy. A sweep pays under "
        f"{percent(plan.probability_sweep_pays)} of the laws that may be true. The final run: {bill_line(plan.bill)}."
    )
    tables = (tabulate_allocation(plan), tabulate_splits(plan))
    return Section("allocation", "Allocation", "How to split the allocation", reading, (), tables)


def _coefficients(view: DecisionView, study: Study) -> Section:
    del study
    reading = (
        "Every number the decision rests on, and who vouches for it: own fit, measured (fitted by this package to "
        "released runs), read (in the named source), stated (your assumption), unverified (not checked by anybody "
        "here). A law's row holds its estimate; the decision used its draws."
    )
    return Section("coefficients", "Coefficients", "Where every coefficient comes from", reading, (),
                   (tabulate_coefficients(view),))  # fmt: skip
