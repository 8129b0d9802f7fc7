"""The decision on the report: one sentence with its probability, its pictures, and everything it is set beside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from markupsafe import Markup

from plm_scaling.core.run import Objective
from plm_scaling.core.units import format_count
from plm_scaling.reporting.decision_figures import draw_frontier, draw_repeat_loss, draw_valley
from plm_scaling.reporting.decision_tables import (
    tabulate_actions,
    tabulate_allocation,
    tabulate_coefficients,
    tabulate_downstream,
    tabulate_marginal,
    tabulate_objectives,
    tabulate_sizes,
    tabulate_splits,
)
from plm_scaling.reporting.decision_view import DecisionView, decision_view
from plm_scaling.reporting.downstream_figures import draw_downstream
from plm_scaling.reporting.figures import Section
from plm_scaling.reporting.study import Study
from plm_scaling.reporting.tables import Table
from plm_scaling.reporting.wording import chip_line, count_range, flag_words, join_words, percent, power_of_ten, typeset
from plm_scaling.sizing.action import ActionTable
from plm_scaling.sizing.answers import VALLEY_NATS
from plm_scaling.sizing.decision_record import Decision
from plm_scaling.sizing.run_bill import bill_line

__all__ = ["DecisionPart", "KeyNumber", "decision_part"]

_CERTAIN: Final = 0.995
_SPLIT: Final = {
    "parameters": "the draws of each form",
    "form": "the choice of form",
    "noise": "the noise of a run",
    "extrapolation": "extrapolation",
}


@dataclass(frozen=True)
class KeyNumber:
    """A number of the decision, what it is, and what goes with it."""

    name: str
    value: str
    aside: str = ""


@dataclass(frozen=True)
class DecisionPart:
    """What the page says of the decision; `absent` says why there is none, `assumption` that nobody asked for it."""

    absent: str = ""
    assumption: str = ""
    leads: bool = False
    """Whether it stands above the study's own verdict: somebody has named the budget."""
    sentence: Markup = field(default_factory=Markup)
    lines: tuple[Markup, ...] = ()
    numbers: tuple[KeyNumber, ...] = ()
    panels: tuple[Markup, ...] = ()
    tables: tuple[Table, ...] = ()
    missing: str = ""
    """Why the frontier is not among the pictures."""
    warnings: tuple[str, ...] = ()
    sections: tuple[Section, ...] = ()


def decision_part(study: Study) -> DecisionPart:
    """The decision of a study in words, pictures and tables."""
    view = decision_view(study)
    if isinstance(view, str):
        return DecisionPart(absent=view)
    made = view.decision
    objective = _objective(made)
    panels = _pair(view, study, objective)
    makers: tuple[Callable[[DecisionView, Study], Section | None], ...] = (
        _compared,
        _passes,
        _dollar,
        _downstream,
        _allocation,
        _coefficients,
    )
    return DecisionPart(
        assumption=view.assumption,
        leads=view.sizing is not None,
        sentence=_sentence(view),
        lines=_lines(view),
        numbers=_numbers(view),
        panels=tuple(panels),
        tables=(tabulate_sizes(made),),
        missing=view.omitted.get("frontier", ""),
        warnings=_warnings(view),
        sections=tuple(section for make in makers if (section := make(view, study)) is not None),
    )


def _pair(view: DecisionView, study: Study, objective: Objective) -> list[Markup]:
    """Valley and frontier; the latter where the laws are at hand."""
    made, curve = view.decisions[objective], view.frontiers.get(objective)
    panels = [draw_valley(made, objective)]
    if curve is not None and (view.sizing is not None or made is view.decision):
        whose = "your" if view.sizing is not None else "assumed"
        panels.append(draw_frontier(curve, made, objective, study.laws.get(objective), whose=whose))
    return panels


def _objective(made: Decision) -> Objective:
    return "clm" if made.objective == "clm" else "mlm"


# ---- the card on top -----------------------------------------------------------------------------------------------


def _sentence(view: DecisionView) -> Markup:
    made = view.decision
    share, nats = view.near
    text = "Train <b>{} parameters</b> on <b>{} tokens</b>{} with {}: "
    text += (
        "under <b>{}</b> of the laws (draws of every form, by weight) this size is within {} nats of the best."
        if _is_uncertain(made)
        else "the law states no uncertainty, so that <b>no probability</b> can be given."
    )
    passes = ""
    if made.epochs is not None and made.unique_tokens is not None:
        passes = f" ({made.epochs:.2g} passes over {format_count(made.unique_tokens)} unique tokens)"
    spent = f"{power_of_ten(made.C_budget)} FLOPs"
    if made.useful_C is not None:
        spent = f"{power_of_ten(made.C, 2)} of the {spent}, and keep the rest"
    args = (format_count(made.N, 2), format_count(made.D, 2), passes, spent)
    return chip_line(_objective(made), text, *args, _chance(share), nats)


def _is_uncertain(made: Decision) -> bool:
    """Whether the laws hold more than one opinion of N."""
    return made.N_quantiles[0] < made.N_quantiles[2]


def _chance(share: float) -> str:
    """Certainty is not for draws to give."""
    return f"over {percent(0.99)}" if share > _CERTAIN else percent(share)


def _lines(view: DecisionView) -> tuple[Markup, ...]:
    made = view.decision
    by_label = {regret.label: regret for regret in made.regrets}
    said = [
        Markup("Any size from <b>{}</b> costs less than {} nats on average{}.").format(
            count_range(*made.N_band),
            VALLEY_NATS,
            "".join(
                f"; {label} costs {by_label[label].mean:.3f}"
                for label in ("twice as large", "half as large")
                if label in by_label
            ),
        ),
        Markup("Of the variance of the loss to expect, {}.").format(_causes(made)),
    ]
    if view.actions is not None:
        said += _best_actions(view.actions)
    if len(view.decisions) > 1:
        said.append(Markup("<b>Losses of CLM and MLM are not comparable</b>: both are shown, neither is ranked."))
    if view.sizing is not None and view.sizing.bill is not None:
        said.append(Markup("<b>The bill.</b> {}.").format(typeset(bill_line(view.sizing.bill))))
    return tuple(said)


def _best_actions(table: ActionTable) -> list[Markup]:
    """What ranks first where actions compare, and what is nearly as good for less."""
    said = []
    for best in (action for action in table.actions if action.rank == 1):
        peers = [a for a in table.actions if a.rank is not None and (table.comparable or a.group == best.group)]
        if len(peers) < 2 or best.objective is None or best.p_best is None:
            continue
        scratch = next((action for action in peers if action.key == "scratch"), None)
        gain = (
            "" if scratch is None or scratch is best else f", on average {scratch.regret:.3f} better than from scratch"
        )
        doubts = f" Doubts: {flag_words(best.flags)}." if best.flags else ""
        text = "Of {} ways to spend it that compare, <b>{}</b> ranks first: ahead under {} of the laws{}.{}"
        said.append(chip_line(best.objective, text, len(peers), best.title, _chance(best.p_best), gain, doubts))
    return said + [Markup("{}").format(_capital(line)) for line in table.sentences if not line.startswith("best")]


def _causes(made: Decision) -> str:
    split = made.split
    if split.total <= 0:
        return "nothing is known: the law states none"
    shares = {words: getattr(split, cause) / split.total for cause, words in _SPLIT.items()}
    return join_words([f"{percent(share)} is {words}" for words, share in shares.items()])


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _numbers(view: DecisionView) -> tuple[KeyNumber, ...]:
    made, sizing = view.decision, view.sizing
    perplexity = made.perplexity
    level = f"{made.level:.0%} of runs"
    numbers = [
        KeyNumber("Parameters N", format_count(made.N, 2), f"best by the laws {count_range(*_outer(made))}"),
        KeyNumber("Tokens D", format_count(made.D, 2), f"{made.D / made.N:.0f} per parameter"),
    ]
    if made.epochs is not None:
        numbers.append(KeyNumber("Passes", f"{made.epochs:.2g}", f"{format_count(made.unique_tokens or 0.0)} unique"))
    numbers += [
        KeyNumber("Loss, nats per token", f"{made.loss:.3f}", f"{level} {made.loss_low:.3f} to {made.loss_high:.3f}"),
        KeyNumber("Perplexity", f"{perplexity[1]:.3g}", f"{perplexity[0]:.3g} to {perplexity[2]:.3g}"),
    ]
    if _is_uncertain(made):
        numbers.append(KeyNumber(f"Within {VALLEY_NATS} nats", _chance(made.probability), "of the laws"))
    if sizing is not None:
        shape = f"{sizing.n_layers} \u00d7 {sizing.d_model}, {sizing.n_heads} heads"
        numbers.append(KeyNumber("Buildable shape", shape, f"{format_count(sizing.N_built)} parameters"))
        if sizing.usd is not None:
            hours = f"{sizing.gpu_hours:,.0f} {sizing.gpu.upper()} hours"
            numbers.append(KeyNumber("Cost", f"${sizing.usd:,.0f}", hours))
    return tuple(numbers)


def _outer(made: Decision) -> tuple[float, float]:
    return made.N_quantiles[0], made.N_quantiles[2]


def _warnings(view: DecisionView) -> tuple[str, ...]:
    said = [*view.decision.warnings, *(view.sizing.warnings if view.sizing else ())]
    if view.allocation is not None:
        said += view.allocation.warnings
    return tuple(dict.fromkeys(_capital(sentence) for sentence in said))


# ---- what it is set beside -----------------------------------------------------------------------------------------


def _compared(view: DecisionView, study: Study) -> Section:
    own = _objective(view.decision)
    panels = [panel for objective in view.decisions if objective != own for panel in _pair(view, study, objective)]
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
    wanted = view.repeats if view.sizing is not None else {_objective(view.decision): None}
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
        f"{format_count(found.D, 2)} tokens. " + " ".join(map(_capital, found.sentences))
    )
    return Section("dollar", "Next dollar", title, reading, (), (tabulate_marginal(found),))


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
