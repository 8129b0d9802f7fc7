"""The decision on the report: one sentence with its probability, its pictures, and everything it is set beside."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from markupsafe import Markup

from plm_scaling.core.units import format_count
from plm_scaling.reporting.decision_details import capital, decided_objective, decision_sections, paired_panels
from plm_scaling.reporting.decision_tables import tabulate_sizes
from plm_scaling.reporting.decision_view import DecisionView, view_decision
from plm_scaling.reporting.figures import Section
from plm_scaling.reporting.study import Study
from plm_scaling.reporting.tables import Table
from plm_scaling.reporting.wording import chip_line, count_range, join_words, passes, percent, power_of_ten, typeset
from plm_scaling.sizing.action import ActionTable
from plm_scaling.sizing.answers import VALLEY_NATS
from plm_scaling.sizing.decision_record import Decision
from plm_scaling.sizing.decision_wording import chance, chance_doubts
from plm_scaling.sizing.loss_floor import floor_doubt
from plm_scaling.sizing.run_bill import bill_line

__all__ = ["DecisionPart", "KeyNumber", "decision_part", "part_of"]

_OTHER_BUDGET: Final = 0.1
"""Of ln(dollars): what rounding and buildable shapes may do."""
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
    view = view_decision(study)
    return DecisionPart(absent=view) if isinstance(view, str) else part_of(view, study)


def part_of(view: DecisionView, study: Study) -> DecisionPart:
    """A decision that has been gathered, in words, pictures and tables."""
    made = view.decision
    objective = decided_objective(made)
    panels = paired_panels(view, study, objective)
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
        sections=decision_sections(view, study),
    )


# ---- the card on top -----------------------------------------------------------------------------------------------


def _sentence(view: DecisionView) -> Markup:
    made = view.decision
    share, nats = view.near
    doubts = chance_doubts(made.extrapolation_decades, made.form_factor, made.flags)
    text = "Train <b>{} parameters</b> on <b>{} tokens</b>{} with {}: "
    text += (
        "under <b>{}</b> of the laws (draws of every form, by weight) this size is within {} nats of the best{}."
        if _is_uncertain(made)
        else "the law states no uncertainty, so that <b>no probability</b> can be given."
    )
    over = ""
    if made.epochs is not None and made.unique_tokens is not None:
        over = f" ({passes(made.epochs)} passes over {format_count(made.unique_tokens)} unique tokens)"
    spent = f"{power_of_ten(made.C_budget)} FLOPs"
    if made.useful_C is not None:
        spent = f"{power_of_ten(made.C, 2)} of the {spent}, and keep the rest"
    args = (format_count(made.N, 2), format_count(made.D, 2), over, spent)
    doubted = f" (and that is in doubt: {'; '.join(doubts)})" if doubts else ""
    return chip_line(decided_objective(made), text, *args, chance(share), nats, doubted)


def _is_uncertain(made: Decision) -> bool:
    """Whether the laws hold more than one opinion of N."""
    return "NO_DRAWS" not in made.flags


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
        asked = view.sizing.usd if view.sizing else None
        if asked and abs(math.log(view.actions.usd / asked)) > _OTHER_BUDGET:
            text = "spend.json is about another budget: <b>${:,.0f}</b>, not ${:,.0f}."
            said.append(Markup(text).format(view.actions.usd, asked))
    if len(view.decisions) > 1 and not (view.actions and view.actions.comparable):
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
        gain = ""
        if scratch is not None and scratch is not best:
            better = (scratch.regret or 0.0) - (best.regret or 0.0)
            gain = f", on average {better:.3f} better than from scratch"
        text = "Of {} ways to spend it that compare, <b>{}</b> ranks first: ahead under {} of the laws{}."
        said.append(chip_line(best.objective, text, len(peers), best.title, chance(best.p_best), gain))
    return said + [Markup("{}").format(capital(line)) for line in table.sentences if not line.startswith("best")]


def _causes(made: Decision) -> str:
    split = made.split
    if split.total <= 0:
        return "nothing is known: the law states none"
    shares = {words: getattr(split, cause) / split.total for cause, words in _SPLIT.items()}
    return join_words([f"{percent(share)} is {words}" for words, share in shares.items()])


def _numbers(view: DecisionView) -> tuple[KeyNumber, ...]:
    made, sizing = view.decision, view.sizing
    perplexity = made.perplexity
    level = f"{made.level:.0%} of runs"
    numbers = [
        KeyNumber("Parameters N", format_count(made.N, 2), f"best by the laws {count_range(*_outer(made))}"),
        KeyNumber("Tokens D", format_count(made.D, 2), f"{passes(made.D / made.N)} per parameter"),
    ]
    if made.epochs is not None:
        numbers.append(KeyNumber("Passes", passes(made.epochs), f"{format_count(made.unique_tokens or 0.0)} unique"))
    numbers += [
        KeyNumber("Loss, nats per token", f"{made.loss:.3f}", f"{level} {made.loss_low:.3f} to {made.loss_high:.3f}"),
        KeyNumber("Perplexity", f"{perplexity[1]:.3g}", f"{perplexity[0]:.3g} to {perplexity[2]:.3g}"),
    ]
    if _is_uncertain(made):
        numbers.append(KeyNumber(f"Within {VALLEY_NATS} nats", chance(made.probability), "of the laws"))
    if sizing is not None:
        shape = f"{sizing.n_layers} \u00d7 {sizing.d_model}, {sizing.n_heads} head{'s' * (sizing.n_heads > 1)}"
        numbers.append(KeyNumber("Buildable shape", shape, f"{format_count(sizing.N_built)} parameters"))
        if sizing.usd is not None:
            hours = f"{sizing.gpu_hours:,.0f} {sizing.gpu.upper()} hours"
            numbers.append(KeyNumber("Cost", f"${sizing.usd:,.0f}", hours))
    return tuple(numbers)


def _outer(made: Decision) -> tuple[float, float]:
    return made.N_quantiles[0], made.N_quantiles[2]


def _warnings(view: DecisionView) -> tuple[str, ...]:
    made = view.decision
    law = view.laws.get("clm" if made.objective == "clm" else "mlm")
    said_before = view.sizing is not None and "LOSS_FLOOR_UNKNOWN" in view.sizing.flags
    floor = floor_doubt(made, law).values() if law is not None and not said_before else ()
    said = [*made.warnings, *floor, *(view.sizing.warnings if view.sizing else ())]
    if view.allocation is not None:
        said += view.allocation.warnings
    said += [
        f"{one.file} was made from another law of {one.objective.upper()} (hash {one.sha256[:12]}) than this folder's: "
        "make it again, or read the two apart."
        for one in view.origins
        if not one.law and one.objective in view.laws
    ]
    return tuple(dict.fromkeys(capital(sentence) for sentence in said))
