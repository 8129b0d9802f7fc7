"""`plm-scaling status`: where every run of a sweep stands."""

from __future__ import annotations

from pathlib import Path

import click

from plm_scaling.cli.render import OutputFormat, emit, next_command, say
from plm_scaling.core.units import format_count

__all__ = ["command"]


@click.command("status")
@click.argument("runs", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--plan", type=click.Path(path_type=Path), help="Plan to compare with; default plan.json beside RUNS.")
@OutputFormat
def command(runs: Path, plan: Path | None, output: str) -> int:
    """Every run with its state, step, loss and the reason it stopped; exit code 3 if some are incomplete."""
    from plm_scaling import api
    from plm_scaling.cli.main import EXIT_INCOMPLETE

    lines = api.status(runs, plan=plan)
    rows = [
        {
            "run": line.run_id,
            "roles": line.roles,
            "objective": line.objective,
            "shape": line.shape,
            "D": format_count(line.D) if line.D else "-",
            "status": line.status,
            "progress": f"{100 * line.step / line.n_steps:.0f} %" if line.n_steps else "-",
            "loss": line.val_loss if line.val_loss is not None else line.loss,
            "tokens/s": format_count(line.tokens_per_s) if line.tokens_per_s else "-",
            "reason": line.reason,
        }
        for line in lines
    ]
    emit(output, rows=rows)
    counts = {state: sum(line.status == state for line in lines) for state in {line.status for line in lines}}
    say(", ".join(f"{count} {state}" for state, count in sorted(counts.items())))
    if counts.get("complete", 0) < len(lines):
        return EXIT_INCOMPLETE
    if lines:
        next_command(f"plm-scaling fit {runs} --objective {lines[0].objective}")
    return 0
