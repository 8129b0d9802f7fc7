"""`plm-scaling demo`: the whole path in minutes, nothing pre-computed."""

from __future__ import annotations

from pathlib import Path

import click

from plm_scaling.cli.render import DryRun, next_command, say

__all__ = ["command"]


@click.command("demo", epilog="Example: plm-scaling demo -o demo")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("demo"), show_default=True)
@click.option("--minutes", default=4.0, show_default=True, type=click.FloatRange(0.1), help="Training time aimed at.")
@click.option("--seed", default=0, show_default=True, help="Seed of the simulated corpus.")
@click.option("--workers", type=click.IntRange(1), help="Processes at a time; default one per core.")
@DryRun
def command(out: Path, minutes: float, seed: int, workers: int | None, dry_run: bool) -> None:
    """Simulate a corpus, prepare it, sweep CLM and MLM, fit, measure repeats and transfer, write report.html."""
    from plm_scaling import api
    from plm_scaling.cli.sweep_progress import SweepProgress

    if dry_run:
        say(f"would simulate a corpus, train about {minutes:g} minutes and write {out / 'report.html'}")
        return
    with SweepProgress(out / "runs") as progress:
        page = api.demo(
            out,
            minutes=minutes,
            seed=seed,
            workers=workers,
            on_stage=lambda text: say(f"- {text}"),
            on_event=progress.on_event,
        )
    click.echo(page)
    next_command(f"open {page} in a browser")
