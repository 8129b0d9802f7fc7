"""A spending view and exchange rates as lines for a terminal, and as rows."""

from __future__ import annotations

from collections.abc import Sequence

import click

from plm_scaling.cli.render import emit, next_command, warn
from plm_scaling.core.units import format_count, format_usd
from plm_scaling.laws.interval import Interval
from plm_scaling.sizing.action import Action, ActionTable
from plm_scaling.sizing.exchange_rates import ExchangeRates
from plm_scaling.sizing.spending_view import SpendingView
from plm_scaling.sizing.tornado import Swing

__all__ = ["action_rows", "exchange_rows", "show_spending", "spending_lines"]

Row = dict[str, object]
_MOST_SWINGS = 6
_OWN = ("adapt", "own_scratch", "add_own")


def show_spending(view: SpendingView, output: str, *, asked: str) -> None:
    """Print a view as `--format` asks for.

    Parameters
    ----------
    asked : the question as `size` takes it.
    """
    if output == "human":
        click.echo("\n".join(spending_lines(view)))
        for refusal in view.refusals:
            warn(f"{refusal.quantity}: {refusal.reason}.")
        next_command(f"plm-scaling size {asked}   # shape, recipe and bill of the run")
    else:
        emit(output, rows=action_rows(view.actions), value=view)


def spending_lines(view: SpendingView) -> list[str]:
    """Verdict, actions, marginal values, limits, swings and pilots."""
    lines = [*view.actions.sentences, "", *_actions(view.actions)]
    for objective, marginal in view.marginal.items():
        lines += ["", f"One more dollar, {objective.upper()}:", *(f"  {sentence}" for sentence in marginal.sentences)]
        for value in marginal.values:
            ratio = "" if value.over_compute is None else f"   {value.over_compute:.2g} x compute"
            per_thousand = 1e3 * value.nats_per_usd.value
            lines.append(f"    {value.title:<56} {per_thousand:9.2g} nats per $1,000{ratio}")
    for objective, limit in view.limits.items():
        lines += [f"  {objective.upper()}: {sentence}" for sentence in limit.sentences]
    for objective, swings in view.tornado.items():
        lines += ["", f"What moves the answer, {objective.upper()} (low end, high end):"]
        shown = swings.swings[:_MOST_SWINGS]
        left, right = (max(len(label) for label in labels) for labels in _labels(shown))
        for swing in shown:
            size = f"N {format_count(swing.N[0], 2)} - {format_count(swing.N[1], 2)}"
            loss = f"loss {swing.loss[0]:.3f} - {swing.loss[1]:.3f}"
            lines.append(f"    {swing.name:<28} {swing.low_label:>{left}} | {swing.high_label:<{right}} {loss}, {size}")
    for objective, plan in view.pilots.items():
        lines += [
            "",
            f"Pilots, {objective.upper()}: knowing the law saves {plan.evpi:.4f} nats ({format_usd(plan.evpi_usd)})",
        ]
        for pilot in plan.first:
            lines.append(f"    {pilot.name}: {format_usd(pilot.usd)} saves {format_usd(pilot.evsi_usd)} of regret")
        lines.append(f"    {plan.stop}")
    for objective, own in view.adaptation.items():
        lines += ["", f"Your own {format_count(own.tokens, 2)} tokens, {objective.upper()}:"]
        lines += _own_lines([one for one in view.actions.actions if one.objective == objective and one.key in _OWN])
        lines += [f"  {sentence}." for sentence in (*own.findings, *own.design)]
    return lines


def _own_lines(actions: Sequence[Action]) -> list[str]:
    """What every use of one's own sequences assumes; what several say is said once."""
    said: set[str] = set()
    lines = []
    for action in actions:
        lines += [f"    {action.title}", *(f"      {one}" for one in action.assumptions if one not in said)]
        said |= set(action.assumptions)
    return lines


def _labels(swings: Sequence[Swing]) -> tuple[list[str], list[str]]:
    return ["", *(swing.low_label for swing in swings)], ["", *(swing.high_label for swing in swings)]


def _actions(table: ActionTable) -> list[str]:
    lines = []
    by_metric = any(action.utility for action in table.actions)
    head = (
        f"  {'':>4}  {'loss':<22}"
        + (f"{table.metric:<20}" if by_metric else "")
        + f"{'regret':>8}  {'best':>5}  {'cost':>9}"
    )
    lines.append(f"{head}  action")
    for action in table.actions:
        rank = f"{action.rank}." if action.rank else "-"
        regret = "" if action.regret is None else f"{action.regret:.4f}"
        best = "" if action.p_best is None else f"{action.p_best:.0%}"
        free = action.key in ("reuse", "alignment") or (action.key == "adapt" and action.D is None)
        cost = format_usd(action.usd) if action.usd or free else ""
        name = "" if action.objective is None or len(table.groups) == 1 else f"{action.objective.upper()}: "
        cells = f"  {rank:>4}  {_interval(action.loss):<22}" + (f"{_interval(action.utility):<20}" if by_metric else "")
        lines.append(f"{cells}{regret:>8}  {best:>5}  {cost:>9}  {name}{action.title}")
        if "OUTSIDE_MAP" in action.flags:
            lines.append(f"        {'':<22}its loss lies beyond the models you scored: {table.metric} is held constant")
        if action.ruled_out:
            lines.append(f"        {'':<22}not ranked: {action.ruled_out}")
    return lines


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return ""
    low, value, high = (f"{one:.3f}" for one in (interval.low, interval.value, interval.high))
    return value if low == high else f"{value} ({low}-{high})"


def action_rows(table: ActionTable) -> list[Row]:
    """One row per action, for JSON lines and CSV."""
    return [_row(action) for action in table.actions]


def _row(action: Action) -> Row:
    names = ("rank", "name", "objective", "N", "D", "epochs", "C", "gpu_hours", "usd", "regret", "p_best", "ruled_out")
    row: Row = {name: getattr(action, name) for name in names}
    row |= {"loss": action.loss.value if action.loss else None, "title": action.title}
    return row | {"utility": action.utility.value if action.utility else None, "flags": ",".join(action.flags)}


def exchange_rows(rates: ExchangeRates) -> list[Row]:
    """One row per source and size."""
    rows: Sequence[Row] = [
        {
            "source": rate.source,
            "target": rate.target,
            "objective": rate.objective,
            "N": rate.N,
            "D": rate.D,
            "rho": rate.rho.value,
            "rho_low": rate.rho.low,
            "rho_high": rate.rho.high,
            "saturation_tokens": rate.saturation_tokens.value if rate.saturation_tokens else None,
            "flags": ",".join(rate.flags),
        }
        for rate in rates.rates
    ]
    return list(rows)
