"""`plm-scaling report`: one offline page for a study's folder."""

from __future__ import annotations

from pathlib import Path

import click

from plm_scaling.cli.render import DryRun, say

__all__ = ["command"]


@click.command("report", epilog="Example: plm-scaling report study/ -o report.html")
@click.argument("study", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Default: STUDY/report.html.")
@click.option(
    "--validation", default="val_iid", show_default=True, help="Validation set of the page (heldout_NAME, SET@SOURCE)."
)
@click.option(
    "--evals",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    help="Results of evaluate run, instead of STUDY/evals/*.jsonl; may be repeated.",
)
@DryRun
def command(study: Path, out: Path | None, validation: str, evals: tuple[Path, ...], dry_run: bool) -> None:
    """Write the report of STUDY: the decision for the budget in size.json, the verdict, pictures, runs, provenance."""
    from plm_scaling import api

    if dry_run:
        say(f"would write {out or study / 'report.html'}")
        return
    click.echo(api.report(study, out, validation=validation, evals=evals))
