"""The splits of an allocation as lines for a terminal, and as rows for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plm_scaling.core.units import format_count

if TYPE_CHECKING:
    from plm_scaling.sizing.allocation_record import AllocationOption, AllocationPlan

__all__ = ["allocation_lines", "allocation_rows"]

_SPLIT_WIDTH = 24


def allocation_lines(plan: AllocationPlan) -> list[str]:
    """The verdict, the split taken, and every other one beside it."""
    return [*_headline(plan), "", *_stages(plan), "", *_options(plan)]


def allocation_rows(plan: AllocationPlan) -> list[dict[str, Any]]:
    """A row per option: node-hours of every stage, risk, regret and what the final run would be."""
    return [
        {
            "split": option.name,
            "taken": option.name == plan.best,
            **{f"{stage.name} node-hours": stage.node_hours for stage in option.stages},
            **option.model_dump(exclude={"name", "stages"}),
        }
        for option in plan.options
    ]


def _headline(plan: AllocationPlan) -> list[str]:
    from plm_scaling.sizing.run_bill import bill_line

    grant, best = plan.allocation, plan.chosen
    until = "" if grant.wall_hours is None else f", {grant.wall_hours / 24:,.0f} days left"
    limit = "no queue limit" if grant.queue_limit_hours is None else f"jobs of at most {grant.queue_limit_hours:g} h"
    return [
        f"{plan.objective.upper()} on {grant.nodes} nodes x {grant.gpus_per_node} {plan.gpu}: "
        f"{grant.node_hours:,.0f} node-hours{until}, {limit}",
        "",
        f"  take          {plan.best}: misses the end with {_percent(best.miss_probability)}, "
        f"expected {best.regret:.4f} nats above the best that all hours could buy",
        f"  a sweep pays  under {plan.probability_sweep_pays:.0%} of the laws that may be true",
        f"  final run     {bill_line(plan.bill)}",
        f"  ends          {best.end_hours_median / 24:,.0f} days after the first job; "
        f"{best.end_hours_p90 / 24:,.0f} or more in one case of ten",
    ]


def _stages(plan: AllocationPlan) -> list[str]:
    """What the split taken gives to each stage."""
    lines = [f"  {'stage':<14}{'node-hours':>12}{'share':>8}{'jobs':>6}"]
    for stage in plan.chosen.stages:
        jobs = f"{stage.jobs}" if stage.jobs else "-"
        lines.append(f"  {stage.name:<14}{stage.node_hours:>12,.0f}{stage.share:>8.1%}{jobs:>6}")
    return lines


def _options(plan: AllocationPlan) -> list[str]:
    head = f"  {'split':<{_SPLIT_WIDTH}}{'final run':>10}{'N':>8}{'would be':>16}{'miss':>7}{'no reserve':>12}"
    lines = [head + f"{'regret':>9}{'of size':>9}{'of hours':>10}"]
    for option in plan.options:
        mark = "*" if option.name == plan.best else " "
        lines.append(
            f"{mark} {option.name:<{_SPLIT_WIDTH}}{option.final.share:>10.0%}{format_count(option.N, 2):>8}"
            f"{_band(option):>16}{_percent(option.miss_probability):>7}{_percent(option.miss_probability_no_reserve):>12}"
            f"{option.regret:>9.4f}{option.regret_size:>9.4f}{option.regret_compute:>10.4f}"
        )
    return lines


def _band(option: AllocationOption) -> str:
    """80 % of the sizes the sweep may end in."""
    if option.N_high <= option.N_low * 1.001:
        return "-"
    return f"{format_count(option.N_low, 2)} to {format_count(option.N_high, 2)}"


def _percent(share: float) -> str:
    return "<0.1 %" if 0 < share < 1e-3 else f"{100 * share:.1f} %" if share < 0.0995 else f"{share:.0%}"
