"""`plm-scaling predict`: the losses that a fit expects of runs not yet made."""

from __future__ import annotations

from pathlib import Path

import click

from plm_scaling.cli.render import DryRun, OutputFormat, emit, say, warn

__all__ = ["command"]

_FAR = 1.0
"""Decades: the reach of the law's own extrapolation test."""


@click.command("predict", epilog="Example: plm-scaling predict fit-mlm.json --points points.csv -o predicted.csv")
@click.argument("law", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--points",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="CSV with columns N and D (counts), and batch_tokens where the batch is known.",
)
@click.option("--level", default=0.90, show_default=True, type=click.FloatRange(0.5, 0.999), help="Of the interval.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="CSV to write. Default: print only.")
@DryRun
@OutputFormat
def command(law: Path, points: Path, level: float, out: Path | None, dry_run: bool, output: str) -> None:
    """Losses that LAW (a fit.json) predicts at the points of a CSV, with the interval of a single new run.

    The interval holds the parameters' draws, the scatter of runs about the law, the choice of form, and beyond the
    budgets fitted the error that the form made in its own extrapolation test.
    """
    from plm_scaling import api

    predicted = api.predict(law, points, out=None if dry_run else out, level=level)
    emit(output, rows=predicted.table(), title=f"{law.name}: predicted loss, nats per token")
    beyond = float(predicted.prediction.decades.max())
    if beyond > _FAR:
        warn(
            f"EXTRAPOLATED: {beyond:.1f} decades of compute beyond the runs fitted: nothing tested the law so far out."
        )
    if out is not None:
        say(f"{'would write' if dry_run else 'wrote'} {out}")
