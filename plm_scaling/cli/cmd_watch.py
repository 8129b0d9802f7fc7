"""`plm-scaling watch`: the status of a sweep, live."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from plm_scaling.cli.render import rich_table, say, warn

if TYPE_CHECKING:
    from plm_scaling.sweeps.totals import SweepStatus

__all__ = ["command"]

_FRAME = 5
"""Lines of a terminal that are not rows of the table."""


@click.command("watch", epilog="Example: plm-scaling watch study/runs --every 10")
@click.argument("runs", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--plan", type=click.Path(path_type=Path), help="Plan to compare with; default plan.json beside RUNS.")
@click.option("--usd-per-hour", type=click.FloatRange(min=0), help="Price of a device, for the cost so far.")
@click.option("--every", type=click.FloatRange(min=0.1), default=5.0, show_default=True, help="Seconds between looks.")
def command(runs: Path, plan: Path | None, usd_per_hour: float | None, every: float) -> int:
    """The table of `status`, again and again, until every run is complete or failed; exit codes as of `status`.

    What runs and what failed stands first. Without a terminal the totals are printed whenever they change.
    """
    from plm_scaling import api
    from plm_scaling.cli.main import EXIT_INCOMPLETE

    looks = api.watch(runs, plan=plan, usd_per_hour=usd_per_hour, every=every)
    last = _live(looks) if sys.stdout.isatty() else _lines(looks)
    for remark in last.remarks:
        warn(remark)
    if last.all_complete:
        return 0
    say(f"see why: plm-scaling status {runs}")
    return EXIT_INCOMPLETE


def _lines(looks: Iterator[SweepStatus]) -> SweepStatus:
    from plm_scaling.cli.status_screen import totals_text

    found = None
    told = ""
    for found in looks:
        text = totals_text(found.totals)
        if text != told:
            click.echo(text)
            told = text
    assert found is not None  # there is always a first look
    return found


def _live(looks: Iterator[SweepStatus]) -> SweepStatus:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    from plm_scaling.cli.status_screen import live_rows, totals_text

    console = Console(highlight=False, markup=False, emoji=False)
    found = None
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        for found in looks:
            rows, hidden = live_rows(found.lines, console.size.height - _FRAME)
            more = [Text(f"... and {hidden:,} more")] if hidden else []
            live.update(Group(Text(totals_text(found.totals)), Text(), rich_table(rows), *more), refresh=True)
    assert found is not None  # there is always a first look
    return found
