"""`plm-scaling status`: where every run of a sweep stands."""

from __future__ import annotations

from pathlib import Path

import click

from plm_scaling.cli.render import OutputFormat, emit, next_command, say, warn

__all__ = ["command"]


@click.command("status", epilog="Example, for cron: plm-scaling status study/runs --totals --format json")
@click.argument("runs", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--plan", type=click.Path(path_type=Path), help="Plan to compare with; default plan.json beside RUNS.")
@click.option("--usd-per-hour", type=click.FloatRange(min=0), help="Price of a device, for the cost so far.")
@click.option("--isoflop", is_flag=True, help="Losses of the complete runs by budget and size instead of the runs.")
@click.option("--totals", is_flag=True, help="Totals alone; as JSON one object with totals and runs.")
@OutputFormat
def command(runs: Path, plan: Path | None, usd_per_hour: float | None, isoflop: bool, totals: bool, output: str) -> int:
    """Every run with its state, step, loss and the reason it stopped; exit code 3 if some are incomplete.

    The last line sums up: runs per state, exact FLOPs, device time and cost, unique and repeated tokens so far.
    """
    from plm_scaling import api
    from plm_scaling.cli import status_screen
    from plm_scaling.cli.main import EXIT_INCOMPLETE

    found = api.status(runs, plan=plan, usd_per_hour=usd_per_hour)
    view = api.status_isoflop(found) if isoflop else None
    if output == "json" and totals:
        click.echo(status_screen.json_text(found, view))
    elif totals and output == "csv":
        emit(output, rows=[status_screen.totals_row(found.totals)])
    elif view is not None:
        emit(output, rows=status_screen.isoflop_rows(view), title="budgets of at least two sizes")
    elif not totals:
        emit(output, rows=(status_screen.screen_rows if output == "human" else status_screen.plain_rows)(found.lines))
    for remark in found.remarks:
        warn(remark)
    (click.echo if totals and output == "human" else say)(status_screen.totals_text(found.totals))
    if not found.all_complete:
        return EXIT_INCOMPLETE
    if found.lines:
        next_command(f"plm-scaling fit {runs} --objective {found.lines[0].objective}")
    return 0
