"""Tables of a decision: other sizes, objectives, actions, dollars, downstream scores, allocations, coefficients."""

from __future__ import annotations

import math
from collections.abc import Sequence

from plm_scaling.core.units import format_count, format_usd
from plm_scaling.laws.interval import Interval
from plm_scaling.laws.repeat_fit import RepeatFit
from plm_scaling.reporting.decision_view import DecisionView
from plm_scaling.reporting.downstream_figures import floors_shown
from plm_scaling.reporting.tables import Table
from plm_scaling.reporting.wording import count, count_range, flag_words, join_words, passes, percent
from plm_scaling.sizing.action import Action, ActionTable
from plm_scaling.sizing.adaptation_pilots import AdaptationPilots
from plm_scaling.sizing.allocation_record import AllocationPlan
from plm_scaling.sizing.costs import gpu_named, load_hardware
from plm_scaling.sizing.decision_record import Decision
from plm_scaling.sizing.downstream_records import DownstreamView
from plm_scaling.sizing.form_names import form_name
from plm_scaling.sizing.law_ensemble import LawEnsemble, TokenDecay
from plm_scaling.sizing.marginal import MarginalValues
from plm_scaling.sizing.pilots import PilotPlan
from plm_scaling.sizing.tornado import Tornado

__all__ = [
    "tabulate_actions",
    "tabulate_adaptation",
    "tabulate_allocation",
    "tabulate_coefficients",
    "tabulate_downstream",
    "tabulate_marginal",
    "tabulate_objectives",
    "tabulate_pilots",
    "tabulate_sizes",
    "tabulate_splits",
    "tabulate_swings",
    "tabulate_transferred",
]

_ABSENT = "\u2013"
_SIZES = {"plan": "as decided", "minimax": "smallest worst case (minimax)"}
_METHODS = {"as is": "not at all", "full": "all weights", "lora": "low-rank additions", "scratch": "from scratch"}
_MUCH = 1e5
"""Dollars per 0.01 nats beyond which a purchase is as good as none."""


def tabulate_sizes(made: Decision) -> Table:
    """The plan and other sizes at the same budget."""
    rows = tuple(
        (
            _SIZES.get(regret.label, regret.label),
            format_count(regret.N, 2),
            format_count(regret.D, 2),
            _ABSENT if made.unique_tokens is None else passes(regret.D / made.unique_tokens),
            f"{regret.mean:.4f}",
            f"{regret.worst:.4f}",
        )
        for regret in made.regrets
    )
    mean = "Mean regret, nats" + (", on unlimited data" if "SIZE_HELD" in made.flags else "")
    header = ("Size", "N", "D", "Passes", mean, "Largest over the laws")
    return Table("What another size gives away at the same budget", header, rows)


def tabulate_objectives(view: DecisionView) -> Table:
    """Every objective at the budget, by its own laws."""
    rows = tuple(
        (
            objective.upper(),
            _laws_named(made),
            format_count(made.N, 2),
            count_range(*made.N_band),
            format_count(made.D, 2),
            _ABSENT if made.epochs is None else passes(made.epochs),
            _loss(made.loss, made.loss_low, made.loss_high),
            f"{made.form_factor:.2g}",
            f"{made.extrapolation_decades:.1f}",
            f"{objective.upper()} only",
        )
        for objective, made in view.decisions.items()
    )
    header = (
        "Objective",
        "Laws",
        "N",
        "Within 0.01 nats",
        "D",
        "Passes",
        "Loss (80 %)",
        "N differs by form, factor",
        "Decades beyond the runs",
        "Loss compares with",
    )
    return Table("Both objectives at this budget", header, rows, 2)


def _loss(value: float, low: float, high: float) -> str:
    return f"{value:.3f} ({low:.3f} to {high:.3f})".replace(" ", "\u00a0")


def _laws_named(made: Decision) -> str:
    source = made.source.partition(":")[0]
    return source if made.status in source else f"{source} ({made.status})"


def tabulate_actions(table: ActionTable) -> Table:
    """Every action, ranked within what it may be compared with."""
    measured = table.metric != "loss"
    rows = tuple(_action_row(action, measured) for action in table.actions)
    unit = f"of {table.metric}" if measured else "nats"
    header = (
        "Action",
        "Objective",
        "Rank",
        "N",
        "D",
        "Cost",
        "Loss (80 %)",
        *((f"{table.metric} (80 %)",) if measured else ()),
        f"Regret, {unit}",
        "Best under",
        "Doubts",
    )
    return Table(f"Ways to spend ${table.usd:,.0f}, or not to", header, rows, 2)


def _action_row(action: Action, measured: bool) -> tuple[str, ...]:
    why = action.ruled_out or ("not comparable: it has no loss" if action.objective is None else "")
    doubts = "; ".join(part for part in (why, flag_words(action.flags)) if part)
    loss, utility = action.loss, action.utility
    scored = _ABSENT if utility is None else _loss(utility.value, utility.low, utility.high)
    return (
        action.title,
        action.objective.upper() if action.objective else _ABSENT,
        _ABSENT if action.rank is None else str(action.rank),
        _counted(action.N),
        _counted(action.D),
        f"${action.usd:,.0f}" if action.usd or not action.ruled_out else _ABSENT,
        _ABSENT if loss is None else _loss(loss.value, loss.low, loss.high),
        *((scored,) if measured else ()),
        _ABSENT if action.regret is None else f"{action.regret:.4f}",
        _ABSENT if action.p_best is None else percent(action.p_best),
        doubts,
    )


def _counted(value: float | None) -> str:
    return _ABSENT if value is None else format_count(value, 2)


def tabulate_marginal(found: MarginalValues) -> Table:
    """What a thousand dollars more buy, by what they are spent on."""
    rows = [
        (
            value.title,
            _thousandths(value.nats_per_usd),
            _usd_per_step(value.nats_per_usd.value),
            _ABSENT if value.over_compute is None else f"{value.over_compute:.2f}",
        )
        for value in found.values
    ]
    if found.value("unique_tokens") is None:
        price = found.break_even_usd_per_token
        pays = _ABSENT if price is None else f"pays below ${1e6 * price.value:.3g} per million"
        why = "no price was given" if found.unique_tokens is not None else "nobody has said how many there are"
        rows.append((f"unique tokens in place of repeats ({why})", _ABSENT, pays, _ABSENT))
    header = ("A dollar more goes to", "Nats for $1,000 (80 %)", "Dollars for 0.01 nats", "Against compute")
    return Table("Marginal values", header, tuple(rows))


def _thousandths(value: Interval) -> str:
    low, middle, high = (1e3 * x for x in (value.low, value.value, value.high))
    return f"{middle:.4f} ({low:.4f} to {high:.4f})".replace("-", "\u2212")


def _usd_per_step(nats_per_usd: float) -> str:
    if nats_per_usd <= 0.01 / (1e3 * _MUCH):
        return "none would do"
    return f"${float(f'{0.01 / nats_per_usd:.3g}'):,.0f}"


def tabulate_swings(found: Tornado) -> Table:
    """What each input does to size, loss and money."""
    rows = tuple(
        (
            swing.name,
            f"{swing.low_label} to {swing.high_label}",
            count_range(*swing.N),
            f"{swing.loss[0]:.3f} to {swing.loss[1]:.3f}",
            f"${swing.usd_same_loss[0]:,.0f} to ${swing.usd_same_loss[1]:,.0f}",
        )
        for swing in found.swings
    )
    header = ("Input", "From, to", "N", "Loss, nats", "Dollars for the same loss")
    return Table("Sensitivity: one input at a time", header, rows, 2)


def tabulate_pilots(plan: PilotPlan) -> Table:
    """Pilot runs in the order in which they would be made, or each by itself where none pays."""
    chosen = plan.first or plan.candidates
    rows = tuple(
        (
            pilot.name,
            str(len(pilot.N)),
            count_range(min(pilot.N), max(pilot.N)),
            f"${pilot.usd:,.0f}",
            f"{pilot.evsi:.5f}",
            f"${pilot.evsi_usd:,.0f}",
            "yes" if pilot.pays else "no",
        )
        for pilot in chosen
    )
    title = "Pilot runs to make first" if plan.first else "Pilot runs, none of which pays"
    header = ("Pilots", "Runs", "N", "Cost", "Regret saved, nats", "Worth", "Pays")
    return Table(title, header, rows)


def tabulate_adaptation(plan: AdaptationPilots) -> Table:
    """Runs on one's own sequences that would settle what they are good for."""
    rows = tuple(
        (
            run.model,
            _METHODS[run.method],
            percent(run.tokens / plan.tokens),
            passes(run.epochs),
            f"{run.flops:.3g}",
            format_usd(run.usd),
            f"{run.state_gb:.2g} GB",
        )
        for run in plan.runs
    )
    header = ("Model", "Trained", "Of your tokens", "Passes", "Exact FLOPs", "Cost", "State")
    return Table("Pilots on your own sequences", header, rows, 2)


def tabulate_transferred(actions: Sequence[Action], tokens: float) -> Table:
    """What pre-training may be worth to one's own tokens, by model; empty without an action that says."""
    told = {a.N: a for a in actions if a.transferred is not None and a.N is not None}
    rows = tuple(
        (
            action.name.split()[-1],
            count_range(action.transferred.low, action.transferred.high) if action.transferred else _ABSENT,
            _counted(action.wanted_tokens),
            _ABSENT if action.wanted_tokens is None else f"{100 * tokens / action.wanted_tokens:.2g}\u00a0%",
        )
        for _, action in sorted(told.items())
    )
    header = ("Model", "Tokens of yours it stands for", "Its size wants from scratch", "You hold")
    return Table("What pre-training may be worth, by laws of other transfers (unverified)", header, rows)


def tabulate_downstream(views: Sequence[DownstreamView], N: float) -> Table:
    """What the published scores say of size, and what models near this size reach."""
    rows = []
    for view in views:
        near = view.near(N)
        values = [score.value for score in near]
        reached = f"{min(values):.2f} to {max(values):.2f} ({len(near)} models)" if values else "no public model"
        best = next(score for score in view.scores if score.model == view.best_model)
        floors = floors_shown(view)
        floor = max(floors, key=lambda floor: floor.value if view.higher_is_better else -floor.value, default=None)
        rows.append(
            (
                view.title,
                view.overall.verdict,
                view.large.verdict,
                reached,
                f"{best.family} {best.label}, {best.value:.2f}",
                _ABSENT if floor is None else f"{floor.name}, {floor.value:.2f}",
            )
        )
    header = (
        "Assays",
        "Does size help?",
        "From 500M parameters on?",
        f"Models within a factor 3 of {format_count(N, 2)}",
        "Best model",
        "Best without one",
    )
    return Table("Published zero-shot scores (Spearman) of public models", header, tuple(rows), 6)


def tabulate_allocation(plan: AllocationPlan) -> Table:
    """What each stage gets in the split taken."""
    rows = tuple(
        (stage.name, f"{stage.node_hours:,.0f}", percent(stage.share), str(stage.jobs) if stage.jobs else _ABSENT)
        for stage in plan.chosen.stages
    )
    return Table(f"The split taken: {plan.best}", ("Stage", "Node-hours", "Share", "Jobs"), rows)


def _small(nats: float) -> str:
    """Four decimals with a real sign, and no sign of nothing."""
    return f"{round(nats, 4) or 0.0:.4f}".replace("-", "\u2212")


def tabulate_splits(plan: AllocationPlan) -> Table:
    """Every split that was tried, against no sweep."""
    rows = tuple(
        (
            option.name + (" (taken)" if option.name == plan.best else ""),
            f"{option.final.node_hours:,.0f}",
            f"{format_count(option.N, 2)} ({count_range(option.N_low, option.N_high)})",
            percent(option.miss_probability),
            f"{option.end_hours_p90 / 24:,.0f}",
            f"{option.regret:.4f}",
            _small(option.regret_size),
            _small(option.regret_compute),
        )
        for option in plan.options
    )
    header = (
        "Split",
        "Node-hours of the final run",
        "N (80 %)",
        "Misses the end",
        "Days to the end, nine in ten",
        "Regret, nats",
        "Of it by the wrong size",
        "Of it by fewer hours",
    )
    return Table("Splits, against no sweep", header, rows)


# ---- provenance ----------------------------------------------------------------------------------------------------


def tabulate_coefficients(view: DecisionView) -> Table:
    """Laws with their coefficients, repeats, rates of the actions, prices; sources and status of each."""
    rows: list[tuple[str, ...]] = []
    for objective, law in view.laws.items():
        rows += _law_rows(objective.upper(), law)
    if not view.laws:
        made = view.decision
        rows.append((made.objective.upper(), "law of the loss", _ABSENT, made.source, made.status))
    for one in view.origins:
        made_from = one.law or "neither a fit of this folder nor shipped"
        rows.append((one.objective.upper(), f"law of {one.file}", one.sha256[:12], made_from, "content hash"))
    if view.actions is not None:
        rows += _rate_rows(view.actions)
    if view.sizing is not None:
        rows += _hardware_rows(view.sizing.gpu, view.sizing.usd, view.sizing.gpu_hours)
    for found in view.downstream:
        sources = dict.fromkeys(score.source for score in found.scores)
        status = join_words(sorted({score.status for score in found.scores}))
        rows.append((found.title, "published scores", f"{len(found.scores)} models", "; ".join(sources), status))
    header = ("For", "Law or number", "Value", "Source", "Status")
    return Table("Coefficients", header, tuple(dict.fromkeys(rows)), 5)


def _law_rows(name: str, law: LawEnsemble) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for member in law.members:
        values = member.form.natural(member.theta[0])
        parts = [f"{key} {value:.4g}" for key, value in zip(member.form.names, values.tolist(), strict=True)]
        centre = f"at N0 {count(math.exp(member.log_N0))}, D0 {count(math.exp(member.log_D0))}"
        form = f"{form_name(member.name)} (weight {percent(member.weight)}): {member.form.equation}"
        rows.append((name, form, f"{', '.join(parts)}; {centre}", law.source, law.status))
    spread = f"{100 * law.noise_sd:.2f} % of L; {100 * law.drift_sd:.2f} % per root decade beyond the runs"
    rows.append((name, "noise of a run; drift of extrapolations", spread, law.source, law.status))
    repeats = law.repeats
    if isinstance(repeats, TokenDecay):
        value = f"R_D {repeats.R_D:.4g}, standard deviation of its logarithm {repeats.log_sd:.2g}"
        rows.append((name, "worth of repeated tokens: text", value, repeats.source, repeats.status))
    elif isinstance(repeats, RepeatFit):
        parts = [f"{key} {repeats.parameters[key].value:.4g}" for key in repeats.fitted]
        rows.append((name, f"worth of repeated tokens: {repeats.form}", ", ".join(parts), law.source, law.status))
    return rows


def _rate_rows(table: ActionTable) -> list[tuple[str, ...]]:
    """Rates and public facts that actions rest on; the laws stand above."""
    return [
        (
            action.title if action.objective is None else f"{action.objective.upper()} {action.key.replace('_', ' ')}",
            one.name,
            f"{one.value:.4g}",
            one.source,
            one.status,
        )
        for action in table.actions
        for one in action.coefficients
        if one.value is not None and one.name != "R_D"
    ]


def _hardware_rows(key: str, usd: float | None, gpu_hours: float) -> list[tuple[str, ...]]:
    hardware = load_hardware()
    rows: list[tuple[str, ...]]
    if key not in hardware.gpus:
        return []
    gpu = gpu_named(key, hardware)
    price = _ABSENT if not usd else f"${usd / gpu_hours:.3g} per hour"
    speed = f"{gpu.peak_tflops:g} TFLOP/s, MFU {gpu.mfu:g} (lower at narrow widths)"
    rows = [
        ("Cost", f"speed of the {gpu.name}", speed, gpu.source, gpu.status),
        ("Cost", "share of the MFU by width", _ABSENT, "hardware.toml", hardware.mfu_by_width.status),
        ("Cost", f"price of the {gpu.name}", price, gpu.source, gpu.status),
    ]
    return rows
