"""`plm-scaling plan`: the sweep as a table before anything is spent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from plm_scaling.cli.render import DryRun, OutputFormat, emit, next_command, say
from plm_scaling.core.units import format_count

if TYPE_CHECKING:
    from plm_scaling.sweeps.plan_records import SweepPlan

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
}


@click.command(
    "plan", epilog="Example: plm-scaling plan configs/real_small.toml --corpus study/corpus -o study/plan.json"
)
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Where to write; default plan.json beside SPEC.")
@click.option("--corpus", type=click.Path(path_type=Path), help="Prepared corpus, instead of the spec's.")
@click.option("--scale", default=1.0, show_default=True, help="Multiply all budgets and tokens.")
@DryRun
@OutputFormat
def command(spec: Path, out: Path | None, corpus: Path | None, scale: float, dry_run: bool, output: str) -> None:
    """Lay out the runs of SPEC (TOML): shape, N, D, epochs, FLOPs, notes on what will not work."""
    from plm_scaling import api
    from plm_scaling.sweeps.differences import differences
    from plm_scaling.sweeps.sizes import size_text

    target = None if dry_run else out or spec.parent / "plan.json"
    made = api.plan(spec, target, corpus=corpus, scale=scale)
    shown = any("data" in run.roles for run in made.runs)
    taught = any(run.C_teacher or run.has_unknown_teacher for run in made.runs)
    branching = any(run.trunk for run in made.runs)
    varies = differences([run.config for run in made.runs])
    rows = [
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
            "notes": ",".join(r.notes),
        }
        for r, other in zip(made.runs, varies, strict=True)
    ]
    emit(output, rows=rows, value=made, formats=_FORMATS)
    if output == "human":
        say(f"{len(made.runs)} runs, {_flops_text(made)}, corpus {made.corpus_id[:12]}")
    if target:
        next_command(f"plm-scaling run {target}")


def _flops_text(plan: SweepPlan) -> str:
    """What all runs cost, and their teachers beside them."""
    text = f"{plan.total_C_exact:.3g} FLOPs exactly counted"
    if plan.total_C_teacher:
        text += f" and {plan.total_C_teacher:.3g} of teachers"
    unknown = sum(run.has_unknown_teacher for run in plan.runs)
    return text + (f" (the teachers of {unknown} runs not counted: their size is not known)" if unknown else "")
