"""`plm-scaling plan`: the sweep as a table before anything is spent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plm_scaling.cli.render import DryRun, OutputFormat, emit, next_command, say, warn
from plm_scaling.core.units import format_amount, format_count

if TYPE_CHECKING:
    from plm_scaling.sweeps.cost_records import PlanCosts, RunCost
    from plm_scaling.sweeps.plan_records import PlannedRun, SweepPlan

__all__ = ["command"]

_FORMATS = {
    "N": format_count,
    "D": format_count,
    "computed": format_count,
    "epochs": "{:.2f}".format,
    "C_exact": "{:.3g}".format,
    "C_6nd": "{:.3g}".format,
    "C_teacher": lambda value: value if isinstance(value, str) else f"{value:.3g}",
    "peak lr": "{:.3g}".format,
    "memory": lambda value: f"{value / 1e9:.3g} GB",
    "cost": format_amount,
    "hours": format_amount,
    "USD": format_amount,
    "kWh": format_amount,
}


@click.command(
    "plan", epilog="Example: plm-scaling plan configs/real_small.toml --corpus study/corpus -o study/plan.json"
)
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Where to write; default plan.json beside SPEC.")
@click.option("--corpus", type=click.Path(path_type=Path), help="Prepared corpus, instead of the spec's.")
@click.option("--scale", default=1.0, show_default=True, help="Multiply all budgets and tokens.")
@click.option("--hardware", metavar="NAME", help="Price it on h100, a100, ... of hardware.toml, or on FILE.toml:NAME.")
@click.option("--measure", is_flag=True, help="Price it on this machine: time a few steps of every shape.")
@click.option(
    "--devices", type=click.IntRange(min=1), help="How many, for the wall time.  [default: 1; --measure: all]"
)
@click.option("--time-limit-h", type=float, help="Longest job in hours: how many each run takes.")
@click.option("--budget-flops", type=float, help="Cut the plan down to so many FLOPs.")
@click.option("--gpu-hours", type=float, help="Cut it down to so many device-hours.")
@click.option("--usd", type=float, help="Cut it down to so many US dollars.")
@click.option(
    "--next", "next_runs", type=click.Path(path_type=Path), help="Plan the next budget, by a fit of this runs folder."
)
@DryRun
@OutputFormat
def command(
    spec: Path, out: Path | None, corpus: Path | None, scale: float, dry_run: bool, output: str, **options: Any
) -> None:
    """Lay out the runs of SPEC (TOML): shape, N, D, epochs, FLOPs, notes on what will not work.

    With --hardware or --measure: hours, money, energy, jobs. A budget keeps what answers most questions and lists the
    rest with the reason. --next chooses the sizes of the next isoFLOP budget by what the smaller ones say.
    """
    from plm_scaling import api

    target = None if dry_run else out or spec.parent / "plan.json"
    made = api.plan(spec, target, corpus=corpus, scale=scale, **options)
    emit(output, rows=_rows(made), value=made, formats=_FORMATS)
    if output == "human" and made.cut:
        emit(output, rows=_cut_rows(made), title="\ncut", formats=_FORMATS)
    if output == "human":
        say(f"{len(made.runs)} runs, {_flops_text(made)}, corpus {made.corpus_id[:12]}")
        if made.costs:
            say(_costs_text(made.costs))
    for remark in made.remarks:
        warn(remark)
    if target:
        next_command(f"plm-scaling run {target}")


def _rows(plan: SweepPlan) -> list[dict[str, Any]]:
    """The table: columns that say nothing about this plan are left out."""
    from plm_scaling.sweeps.differences import differences
    from plm_scaling.sweeps.sizes import size_text

    shown = any("data" in run.roles for run in plan.runs)
    taught = any(run.C_teacher or run.has_unknown_teacher for run in plan.runs)
    branching = any(run.trunk for run in plan.runs)
    chosen = any(run.reason for run in plan.runs)
    varies = differences([run.config for run in plan.runs])
    costs = plan.costs.runs if plan.costs else [None] * len(plan.runs)
    limited = plan.costs is not None and plan.costs.time_limit_h is not None
    return [
        {
            "run": r.run_id,
            "roles": ",".join(r.roles),
            "objective": r.config.objective,
            "shape": size_text(r.config.shape),
            **({"data": r.data} if shown else {}),
            "N": r.config.N,
            "D": r.config.D,
            **({"computed": r.D_computed} if branching else {}),
            "epochs": r.epochs,
            "C_exact": r.C_exact,
            **({"C_teacher": "unknown" if r.has_unknown_teacher else r.C_teacher} if taught else {}),
            "C_6nd": r.config.C_6nd,
            "batch": r.config.batch_tokens,
            "steps": r.steps,
            "peak lr": r.config.peak_lr,
            "seed": r.config.seed,
            **({"varies": other} if any(varies) else {}),
            **(_cost_columns(r, cost, limited) if cost else {}),
            "notes": ",".join(r.notes),
            **({"reason": r.reason} if chosen else {}),
        }
        for r, other, cost in zip(plan.runs, varies, costs, strict=True)
    ]


def _cost_columns(run: PlannedRun, cost: RunCost, limited: bool) -> dict[str, Any]:
    columns: dict[str, Any] = {"memory": run.memory_bytes, "hours": cost.device_hours}
    columns |= {} if cost.usd is None else {"USD": cost.usd}
    columns |= {} if cost.energy_kwh is None else {"kWh": cost.energy_kwh}
    return columns | ({"jobs": cost.segments} if limited else {})


def _cut_rows(plan: SweepPlan) -> list[dict[str, Any]]:
    return [
        {
            "run": cut.run_id,
            "roles": ",".join(cut.roles),
            "objective": cut.objective,
            "shape": cut.size,
            "D": cut.D,
            "seed": cut.seed,
            "cost": cut.cost,
            "question": cut.question,
            "reason": cut.reason,
        }
        for cut in plan.cut
    ]


def _costs_text(costs: PlanCosts) -> str:
    """The plan's price in one line."""
    parts = [
        f"{format_amount(costs.device_hours)} device-hours",
        f"{format_amount(costs.wall_seconds / 3600)} h on {costs.n_devices}",
    ]
    parts += [] if costs.usd is None else [f"${format_amount(costs.usd)}"]
    parts += [] if costs.energy_kwh is None else [f"{format_amount(costs.energy_kwh)} kWh"]
    parts += [] if costs.time_limit_h is None else [f"{costs.segments} jobs of at most {costs.time_limit_h:g} h"]
    return f"{costs.device.name} ({costs.device.source}): " + ", ".join(parts)


def _flops_text(plan: SweepPlan) -> str:
    """What all runs cost, and their teachers beside them."""
    text = f"{plan.total_C_exact:.3g} FLOPs exactly counted"
    if plan.total_C_teacher:
        text += f" and {plan.total_C_teacher:.3g} of teachers"
    unknown = sum(run.has_unknown_teacher for run in plan.runs)
    return text + (f" (the teachers of {unknown} runs not counted: their size is not known)" if unknown else "")
