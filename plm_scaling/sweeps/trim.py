"""A plan cut down to a budget: whole questions are kept or cut, every kind of question before more of one.

A run is worth what it adds to the question its role asks, and half a question is worth nothing: two sizes of an isoFLOP
row have no minimum, a target without its source or its scratch partner has no D_t. So runs are kept in *questions*:

- isoflop: the three cheapest budgets of an objective together (with fewer no law can be held against a budget it has
  not seen), then one budget at a time;
- grid, wsd: one number of tokens (all sizes), the three smallest together;
- transfer: one size in one direction: sources, targets, their scratch partners and controls;
- lr_probe: one corner: a size and number of tokens at all its learning rates;
- any other arm: all runs of one size and objective, since they are compared with each other;
- replicates: the same with a further seed.

A question brings the runs that it starts from, learns from or branches off, whatever arm they belong to. Questions are
taken in this order until one does not fit, which ends it: (1) runs of the first seed before replicates, (2) the first
question of every arm and objective before the second of any, (3) of the first ones the laws before the experiments,
which are read against them, (4) the cheap before the dear. Nothing behind the first question that does not fit is kept,
however cheap: so a larger budget never keeps less.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from plm_scaling.core.errors import ConfigError, PlanError
from plm_scaling.core.units import format_amount, format_count
from plm_scaling.sweeps.cost_records import CutRun
from plm_scaling.sweeps.decisions import needed_runs
from plm_scaling.sweeps.plan_records import PlannedRun, SweepPlan
from plm_scaling.sweeps.sizes import size_text

__all__ = ["Question", "TrimUnit", "questions_of", "trimmed"]

TrimUnit = Literal["FLOPs", "GPU-hours", "USD"]

_LEVELS: Final = 3
"""Budgets, or numbers of tokens, of which less than these are no law."""
_SAME: Final = math.log(1.05)
"""Runs of one budget differ by less: D is a whole number of tokens."""
_LAW_ARMS: Final = {"isoflop": "budgets", "grid": "numbers of tokens"}
_ADJECTIVES: Final = frozenset({"replicate", "wsd", "transfer_source", "shuffled_source", "continued_first"})
"""Roles that say more about a run of another role, or that runs which need it bring along."""
_TRANSFER: Final = frozenset({"transfer_target", "transfer_scratch", "rewarmed"})


@dataclass(frozen=True)
class Question:
    """Runs that are worth something together.

    Attributes
    ----------
    arm : the role that asks.
    name : in words, for the table of what was cut.
    group : arm and objective: of each group the first question comes before the second of any.
    seeds_before : 0 for the first seed of its runs, 1 for the next, ...
    runs : ids.
    """

    arm: str
    name: str
    group: tuple[str, ...]
    seeds_before: int
    runs: frozenset[str]


def trimmed(plan: SweepPlan, budget: float, unit: TrimUnit) -> SweepPlan:
    """The plan with the questions that the budget pays for, and in `cut` the runs it does not.

    Parameters
    ----------
    budget : training FLOPs counted exactly (teachers included), device-hours or US dollars.

    Raises
    ------
    ConfigError : a budget that is no positive number, or one in a unit that the plan has no prices in.
    PlanError : it does not even pay for the first question.
    """
    if not (math.isfinite(budget) and budget > 0):
        raise ConfigError(f"a budget of {budget:g} {unit} is not a positive number")
    price = _prices(plan, unit)
    if math.fsum(price.values()) <= budget:
        return plan
    runs = {run.run_id: run for run in plan.runs}
    ordered = _ordered(questions_of(plan), runs, price)
    kept, left = _kept(ordered, runs, price, budget)
    if not kept:
        least = _cost(_closure(ordered[0].runs, runs), price)
        raise PlanError(
            f"{format_amount(budget)} {unit} do not pay for any question of the plan",
            why=f"the first is {ordered[0].name}, for {format_amount(least)} {unit}",
            hint="raise the budget, or ask for smaller budgets, sizes or tokens in the spec",
        )
    return _cut_down(plan, kept, left, price, budget, unit)


def _prices(plan: SweepPlan, unit: TrimUnit) -> Mapping[str, float]:
    """What each run costs in the unit."""
    if unit == "FLOPs":
        return {run.run_id: (run.C_exact + (run.C_teacher or 0.0)) * run.computed_share for run in plan.runs}
    if plan.costs is None:
        raise ConfigError(f"{unit} need a device", hint="--hardware NAME, or --measure to time this machine")
    if unit == "GPU-hours":
        return {cost.run_id: cost.device_hours for cost in plan.costs.runs}
    if plan.costs.usd is None:
        raise ConfigError(f"{plan.costs.device.name} has no price", hint="--hardware NAME beside --measure gives one")
    return {cost.run_id: cost.usd or 0.0 for cost in plan.costs.runs}


# ---- questions -------------------------------------------------------------------------------------------------------


def questions_of(plan: SweepPlan) -> list[Question]:
    """The questions that the plan's runs answer together; a run of several arms belongs to several."""
    seeds = _seed_ranks(plan.runs)
    levels = _budget_levels(plan)
    found: dict[tuple[str, ...], Question] = {}
    for run in plan.runs:
        rank = seeds[run.run_id]
        for arm in _arms(run):
            level, name = _level(run, arm, levels)
            group = (arm, run.config.objective, *([str(rank)] if rank else []))
            said = name + (f", seed {run.config.seed}" if rank else "")
            question = found.setdefault((*group, level), Question(arm, said, group, rank, frozenset()))
            found[*group, level] = replace(question, runs=question.runs | {run.run_id})
    runs = {run.run_id: run for run in plan.runs}
    reached = _closure((run_id for question in found.values() for run_id in question.runs), runs)
    alone = [run for run in plan.runs if run.run_id not in reached]
    return [*found.values(), *(_question_alone(run, seeds[run.run_id]) for run in alone)]


def _arms(run: PlannedRun) -> tuple[str, ...]:
    """The arms that ask for a run, none for one that others bring along; what transfer compares is one arm."""
    asked = (role for role in run.roles if role not in _ADJECTIVES)
    return tuple(dict.fromkeys("transfer" if role in _TRANSFER else role for role in asked))


def _question_alone(run: PlannedRun, rank: int) -> Question:
    """A run that no arm's question reaches."""
    arm = run.roles[0] if run.roles else "other"
    name = f"{arm} {run.config.objective}, {size_text(run.config.shape)}, D = {format_count(run.config.D)}"
    return Question(arm, name, (arm, run.config.objective, str(rank)), rank, frozenset({run.run_id}))


def _seed_ranks(runs: Sequence[PlannedRun]) -> Mapping[str, int]:
    """Place of a run's seed among those of its arms and objective."""
    seeds: dict[tuple[str, str], set[int]] = {}
    for run in runs:
        for arm in _arms(run):
            seeds.setdefault((arm, run.config.objective), set()).add(run.config.seed)
    ranks = {key: {seed: rank for rank, seed in enumerate(sorted(found))} for key, found in seeds.items()}
    return {
        run.run_id: min((ranks[arm, run.config.objective][run.config.seed] for arm in _arms(run)), default=0)
        for run in runs
    }


def _budget_levels(plan: SweepPlan) -> Mapping[str, float]:
    """The budget of every isoFLOP run: the smallest compute of those that differ by less than 5 %."""
    runs = [run for run in plan.runs if "isoflop" in run.roles]
    compute = {run.run_id: run.C_exact if plan.currency == "C_exact" else run.config.C_6nd for run in runs}
    levels: dict[str, float] = {}
    level = 0.0
    for run_id, C in sorted(compute.items(), key=lambda item: item[1]):
        level = level if level and math.log(C / level) < _SAME else C
        levels[run_id] = level
    return levels


def _level(run: PlannedRun, arm: str, levels: Mapping[str, float]) -> tuple[str, str]:
    """What tells a question from the others of its arm and objective, and its name."""
    config = run.config
    if arm == "isoflop":
        C = levels[run.run_id]
        return f"{C:.6e}", f"isoflop {config.objective}, {C:.3g} FLOPs"
    if arm == "grid":
        return f"{config.D:020d}", f"grid {config.objective}, D = {format_count(config.D)}"
    size = size_text(config.shape)
    if arm == "lr_probe":
        return f"{size} {config.D}", f"lr_probe {config.objective}, {size}, D = {format_count(config.D)}"
    return size, f"{arm} {config.objective}, {size}"


# ---- order -----------------------------------------------------------------------------------------------------------


def _ordered(
    questions: Sequence[Question], runs: Mapping[str, PlannedRun], price: Mapping[str, float]
) -> list[Question]:
    """Questions as they are kept: see the module's text."""
    groups: dict[tuple[str, ...], list[Question]] = {}
    for question in questions:
        groups.setdefault(question.group, []).append(question)

    def cost(question: Question) -> float:
        return _cost(_closure(question.runs, runs), price)

    placed: list[tuple[tuple[int, int, bool, float, str], Question]] = []
    for group in groups.values():
        cheap_first = _first_together(sorted(group, key=lambda q: (cost(q), q.name)))
        for place, q in enumerate(cheap_first):
            later = place == 0 and q.arm not in _LAW_ARMS
            placed.append(((q.seeds_before, place, later, cost(q), q.name), q))
    return [question for _, question in sorted(placed, key=lambda pair: pair[0])]


def _first_together(group: list[Question]) -> list[Question]:
    """Of the arms behind a law, the first three levels as one question."""
    first, rest = group[:_LEVELS], group[_LEVELS:]
    if group[0].arm not in _LAW_ARMS or group[0].seeds_before or len(first) == 1:
        return group
    name = f"{group[0].arm} {group[0].group[1]}, the {len(first)} cheapest {_LAW_ARMS[group[0].arm]}"
    together = frozenset().union(*(question.runs for question in first))
    return [Question(group[0].arm, name, group[0].group, 0, together), *rest]


def _closure(wanted: Iterable[str], runs: Mapping[str, PlannedRun]) -> set[str]:
    """The runs, and all that they start from, learn from or branch off, as far as they are in the plan."""
    found: set[str] = set()
    waiting = list(wanted)
    while waiting:
        run_id = waiting.pop()
        if run_id in found or run_id not in runs:
            continue
        found.add(run_id)
        run = runs[run_id]
        waiting += [*needed_runs(run.config), *([run.trunk] if run.trunk else [])]
    return found


def _cost(ids: Iterable[str], price: Mapping[str, float]) -> float:
    return math.fsum(price[run_id] for run_id in ids)


def _kept(
    ordered: Sequence[Question], runs: Mapping[str, PlannedRun], price: Mapping[str, float], budget: float
) -> tuple[set[str], list[Question]]:
    """Ids of the runs that are kept, and the questions that are not, in the order they would have come."""
    kept: set[str] = set()
    for place, question in enumerate(ordered):
        grown = kept | _closure(question.runs, runs)
        if _cost(grown, price) > budget:
            return kept, list(ordered[place:])
        kept = grown
    return kept, []


# ---- what remains ----------------------------------------------------------------------------------------------------


def _cut_down(
    plan: SweepPlan, kept: set[str], left: Sequence[Question], price: Mapping[str, float], budget: float, unit: TrimUnit
) -> SweepPlan:
    spent = _cost(kept, price)
    more = _cost(_closure(left[0].runs, {run.run_id: run for run in plan.runs}) - kept, price)
    reasons = _reasons(
        plan, left, kept, f"needs {format_amount(more)} {unit}, {format_amount(budget - spent)} are left"
    )
    cut = [run for run in plan.runs if run.run_id not in kept]
    lost = format_amount(_cost((run.run_id for run in cut), price))
    remark = (
        f"cut to {format_amount(budget)} {unit}: {len(kept)} of {len(plan.runs)} runs are kept for "
        f"{format_amount(spent)} {unit}, {len(cut)} runs of {lost} {unit} are cut; "
        f"the next question would be {left[0].name}, for {format_amount(more)} {unit} more"
    )
    return plan.model_copy(
        update={
            "runs": tuple(_without_branches(run, plan.runs, kept) for run in plan.runs if run.run_id in kept),
            "cut": (*plan.cut, *(_cut_run(run, price[run.run_id], *reasons[run.run_id]) for run in cut)),
            "remarks": (*plan.remarks, remark),
        }
    )


def _reasons(plan: SweepPlan, left: Sequence[Question], kept: set[str], first: str) -> Mapping[str, tuple[str, str]]:
    """For every run that is cut: the first question it would have come with, and why that was cut."""
    runs = {run.run_id: run for run in plan.runs}
    found: dict[str, tuple[str, str]] = {}
    for place, question in enumerate(left):
        why = f"ranks behind {left[0].name}, which does not fit" if place else first
        if question.seeds_before:
            why = f"a replicate: {why}"
        for run_id in _closure(question.runs, runs) - kept:
            found.setdefault(run_id, (question.name, why))
    return found


def _cut_run(run: PlannedRun, cost: float, question: str, reason: str) -> CutRun:
    return CutRun(
        run_id=run.run_id,
        roles=run.roles,
        objective=run.config.objective,
        size=size_text(run.config.shape),
        D=run.config.D,
        seed=run.config.seed,
        cost=cost,
        question=question,
        reason=reason,
    )


def _without_branches(run: PlannedRun, runs: Sequence[PlannedRun], kept: set[str]) -> PlannedRun:
    """A trunk keeps no state for branches that are cut."""
    if not run.keep_steps:
        return run
    wanted = {other.begin_step for other in runs if other.trunk == run.run_id and other.run_id in kept}
    return run.model_copy(update={"keep_steps": tuple(step for step in run.keep_steps if step in wanted)})
