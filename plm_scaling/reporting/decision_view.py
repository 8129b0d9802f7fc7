"""`DecisionView`: what the decision on top of a report is drawn from, gathered from size.json and its laws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from plm_scaling.core.errors import RefusedError
from plm_scaling.core.run import Objective
from plm_scaling.core.units import format_count
from plm_scaling.reporting.decision_curves import Frontier, RepeatCurve, frontier_of, repeat_curve
from plm_scaling.reporting.decision_prices import priced_actions, priced_values, tried
from plm_scaling.reporting.law_origins import LawOrigin, law_origins
from plm_scaling.reporting.study import OBJECTIVES, Study
from plm_scaling.reporting.wording import power_of_ten
from plm_scaling.sizing.action import ActionTable
from plm_scaling.sizing.adaptation_pilots import AdaptationPilots
from plm_scaling.sizing.allocation_record import AllocationPlan
from plm_scaling.sizing.answers import VALLEY_NATS
from plm_scaling.sizing.decision import LOW_REGRET, decide
from plm_scaling.sizing.decision_record import Decision
from plm_scaling.sizing.decision_search import search_sizes
from plm_scaling.sizing.default_laws import published_ensemble
from plm_scaling.sizing.downstream import downstream_view
from plm_scaling.sizing.downstream_records import DownstreamView
from plm_scaling.sizing.law_ensemble import LawEnsemble, ensemble_of_fit
from plm_scaling.sizing.marginal import MarginalValues
from plm_scaling.sizing.pilots import PilotPlan
from plm_scaling.sizing.recommendation import Recommendation
from plm_scaling.sizing.spending_view import SpendingView
from plm_scaling.sizing.tornado import Tornado

__all__ = ["ASSUMED_FACTOR", "SIZE_COMMAND", "SPEND_COMMAND", "DecisionView", "view_decision"]

ASSUMED_FACTOR: Final = 10.0
"""Budget of a study that nobody has sized: so many times the largest it ran."""
SIZE_COMMAND: Final = (
    "plm-scaling size --objective mlm --gpu-hours 5000 --unique-tokens 15e9 --laws study/fit-mlm.json "
    "-o study/size.json"
)
SPEND_COMMAND: Final = (
    "plm-scaling spend --objective any --gpu-hours 5000 --unique-tokens 15e9 --laws study/fit-clm.json "
    "--laws study/fit-mlm.json --format json > study/spend.json"
)
_SAME_LOSS: Final = 2e-3
"""Nats by which laws may miss the loss of a decision that was made with them: they may have been thinned since."""
_PAGE_DRAWS: Final = 60
"""Draws of a form where a curve or a price is asked for, not the decision."""
_NEAR_DRAWS: Final = 500
_DOWNSTREAM: Final = ("fitness", "virus", "capsid")
_PARTS: Final = ("frontier", "repeats", "actions", "marginal")

_Laws = dict[Objective, LawEnsemble]
_Decisions = dict[Objective, Decision]


@dataclass(frozen=True)
class DecisionView:
    """The decision of the page first, then what it is set beside; `omitted` says why a part is not there."""

    decision: Decision
    near: tuple[float, float]
    """Share of the draws x forms under which N is within so many nats of the best."""
    assumption: str = ""
    """Said above everything where the budget is not the user's."""
    sizing: Recommendation | None = None
    decisions: Mapping[Objective, Decision] = field(default_factory=dict)
    """At the same budget, by objective; that of the page among them."""
    laws: Mapping[Objective, LawEnsemble] = field(default_factory=dict)
    origins: tuple[LawOrigin, ...] = ()
    """Which laws the files of the decision were made from, as far as they say."""
    frontiers: Mapping[Objective, Frontier] = field(default_factory=dict)
    repeats: Mapping[Objective, RepeatCurve] = field(default_factory=dict)
    actions: ActionTable | None = None
    marginal: MarginalValues | None = None
    tornado: Tornado | None = None
    pilots: PilotPlan | None = None
    adaptation: AdaptationPilots | None = None
    """Where spend.json was asked about sequences of one's own."""
    allocation: AllocationPlan | None = None
    downstream: tuple[DownstreamView, ...] = ()
    omitted: Mapping[str, str] = field(default_factory=dict)


def view_decision(study: Study) -> DecisionView | str:
    """The decision of a study, or the sentence that says why it has none."""
    own, refused = _own_laws(study)
    try:
        return _assumed(study, own, refused) if study.sizing is None else _stated(study, study.sizing, own)
    except RefusedError as error:
        return f"No decision: {error.what}" + (f" ({error.why})." if error.why else ".")


def _own_laws(study: Study) -> tuple[_Laws, str]:
    """The fits that predict losses, and why others do not."""
    laws: _Laws = {}
    refused = []
    for objective in OBJECTIVES:
        if fit := study.laws.get(objective):
            try:
                laws[objective] = ensemble_of_fit(fit, draws=_NEAR_DRAWS)
            except RefusedError as error:
                refused.append(f"the fit of {objective.upper()} predicts no losses: {error.why}")
    return laws, "; ".join(refused)


# ---- a budget that the user named ----------------------------------------------------------------------------------


def _stated(study: Study, sizing: Recommendation, own: _Laws) -> DecisionView:
    """The decision of size.json, or one made here where it holds none."""
    shipped: _Laws = {objective: published_ensemble(objective) for objective in OBJECTIVES}
    made, objective = sizing.decision, sizing.objective
    if made is None:
        laws = own if objective in own else shipped
        made = decide(laws[objective], sizing.C, unique_tokens=sizing.unique_tokens, force=True)
        said = (
            f"The law behind size.json, which asks for {format_count(sizing.N, 2)} parameters (shape, cost and bill "
            f"are of that size), states no loss: this decision was made for the page, from {made.source}."
        )
        return _completed(study, made, laws, {}, assumption=said)
    for laws in (own, shipped):
        if objective in laws and _gives(laws[objective], made):
            return _completed(study, made, laws, {})
    why = f"Not shown: the laws of size.json ({made.source}) are neither the fits in this folder nor the shipped ones."
    return _completed(study, made, {}, dict.fromkeys(_PARTS, why))


def _gives(law: LawEnsemble, made: Decision) -> bool:
    """Whether a decision was made with a law, by the loss it expects."""
    found = float(law.draw_weights @ law.losses(made.N, made.D, made.unique_tokens)[:, 0])
    return abs(found - made.loss) < _SAME_LOSS


# ---- a budget that is assumed --------------------------------------------------------------------------------------


def _assumed(study: Study, own: _Laws, refused: str) -> DecisionView:
    """The study's own laws at ten times the compute they were fitted to."""
    if not own:
        raise RefusedError("no budget has been named, and no law to answer from", why=refused or "there is no fit")
    top = max((law.range_C[1] for law in own.values() if law.range_C), default=None)
    if top is None:
        raise RefusedError("no budget has been named", why="the fits do not say for which compute they hold")
    C = ASSUMED_FACTOR * top
    made = decide(next(iter(own.values())), C, unique_tokens=study.unique_train_tokens, force=True)
    said = (
        f"Nobody has named a budget: ten times the largest one run, {power_of_ten(C)} FLOPs, is assumed, "
        f"for {made.objective.upper()}."
    )
    why = f"Not shown: nobody has named a budget and its price. {SIZE_COMMAND} adds them."
    omitted = dict.fromkeys(("actions", "marginal", "downstream"), why)
    return _completed(study, made, own, omitted, assumption=said)


# ---- what is set beside it -----------------------------------------------------------------------------------------


def _completed(
    study: Study, made: Decision, laws: _Laws, omitted: dict[str, str], *, assumption: str = ""
) -> DecisionView:
    objective: Objective = "clm" if made.objective == "clm" else "mlm"
    few = {name: law.thinned(_PAGE_DRAWS) for name, law in laws.items()}
    decisions = {objective: made, **_others(few, made, omitted, objective)}
    unique, sizing = made.unique_tokens, study.sizing
    actions, marginal, tornado, pilots = _spent(study.spending, objective)
    if unique is None:
        omitted.setdefault("repeats", "Not drawn: nobody has said how many unique tokens there are (--unique-tokens).")
    if sizing is not None:
        actions = actions or tried("actions", lambda: priced_actions(sizing, few, study.transfer), omitted)
        marginal = marginal or tried("marginal", lambda: priced_values(sizing, few[objective]), omitted)
    for part, found in (("tornado", tornado), ("pilots", pilots)):
        if found is None:
            omitted[part] = f"Not shown: {SPEND_COMMAND} adds it."
    return DecisionView(
        decision=made,
        near=_near(laws[objective], made) if objective in laws else (made.probability, VALLEY_NATS),
        assumption=assumption,
        sizing=sizing,
        origins=law_origins(study),
        decisions={name: decisions[name] for name in OBJECTIVES if name in decisions},
        laws=laws,
        frontiers={name: frontier_of(few[name], decision) for name, decision in decisions.items() if name in few},
        repeats={name: repeat_curve(law, made, unique) for name, law in few.items()} if unique else {},
        actions=actions,
        marginal=marginal,
        tornado=tornado,
        pilots=pilots,
        adaptation=study.spending.adaptation.get(objective) if study.spending else None,
        allocation=study.allocation,
        downstream=tuple(map(downstream_view, _DOWNSTREAM)) if sizing is not None else (),
        omitted=omitted,
    )


def _spent(
    spending: SpendingView | None, objective: Objective
) -> tuple[ActionTable | None, MarginalValues | None, Tornado | None, PilotPlan | None]:
    """What spend.json holds for the page's objective."""
    if spending is None:
        return None, None, None, None
    parts = (spending.marginal.get(objective), spending.tornado.get(objective), spending.pilots.get(objective))
    return (spending.actions, *parts)


def _others(laws: _Laws, made: Decision, omitted: dict[str, str], own: Objective) -> _Decisions:
    """The other objective at the same budget, from laws of the same kind."""
    found: _Decisions = {}
    for objective, law in laws.items():
        if objective != own:
            try:
                found[objective] = decide(law, made.C_budget, unique_tokens=made.unique_tokens)
            except RefusedError as error:
                omitted[objective] = f"{objective.upper()} is refused at this budget: {error.what}."
    return found


def _near(law: LawEnsemble, made: Decision) -> tuple[float, float]:
    """Weight of the draws whose loss at the plan is at most 0.005 nats above their own lowest at the budget."""
    search = search_sizes(law, lambda N: made.C_budget / (6.0 * N), made.unique_tokens)
    here = search.ensemble.losses(made.N, made.D, made.unique_tokens)[:, 0]
    return min(float(search.weights @ (here - search.own_best[1] <= LOW_REGRET)), 1.0), LOW_REGRET
