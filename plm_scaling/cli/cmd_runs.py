"""`plm-scaling runs`: SQL over what the runs logged, the run table, CSV and TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from plm_scaling.cli.render import DryRun, OutputFormat, emit, next_command, say, warn

__all__ = ["command"]

_ROWS = 1000
"""Rows of an answer that people see; JSON and CSV hold all."""


@click.group("runs", epilog="Another group's runs: plm-scaling import runs THEIR_RUNS -o theirs.csv")
def command() -> None:
    """What the runs of a folder logged: SQL over all of them, a run table, CSV, TensorBoard."""


def Runs(verb: Any) -> Any:
    """Add the argument RUNS, `runs` by default."""
    folder = click.Path(path_type=Path, exists=True, file_okay=False)
    return click.argument("runs", type=folder, default=Path("runs"))(verb)


@command.command(
    "sql", epilog='Example: plm-scaling runs sql "select objective, N, min(loss) from runs group by all" study/runs'
)
@click.argument("query")
@Runs
@OutputFormat
def sql(query: str, runs: Path, output: str) -> None:
    """Answer one SELECT (DuckDB), read-only, over the views of RUNS (default: runs).

    runs: one row per run, with its configuration and record.  metrics: run_id and the logged lines, the last attempt
    wins.  losses: every validation set.  val: every validation sequence.
    """
    from plm_scaling import api

    found = api.runs_sql(runs, query)
    shown = found.rows if output != "human" else found.rows[:_ROWS]
    emit(output, rows=[dict(zip(found.columns, map(_plain, row), strict=True)) for row in shown])
    for remark in found.remarks:
        warn(remark)
    if len(shown) < len(found.rows):
        warn(f"{len(found.rows) - len(shown):,} further rows are not shown: --format csv, or a limit in the query")


def _plain(value: Any) -> Any:
    """A value that JSON can hold."""
    return value if value is None or isinstance(value, bool | int | float | str | list | dict) else str(value)


@command.command("table", epilog="Example: plm-scaling runs table study/runs -o runs.csv")
@Runs
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("runs.csv"), show_default=True)
@click.option("--validation", default="val_iid", show_default=True, help="Validation set whose loss is meant.")
@DryRun
def table(runs: Path, out: Path, validation: str, dry_run: bool) -> None:
    """Write the run table of the complete runs, which `fit`, `transfer` and others read: .csv or .parquet."""
    from plm_scaling import api

    found = api.runs_table(runs, None if dry_run else out, validation=validation)
    say(f"{'would write' if dry_run else 'wrote'} {len(found)} runs to {out}")
    if len(found) and not dry_run:
        next_command(f"plm-scaling fit {out} --objective {found.rows[0].objective}")


@command.command("export", epilog="Example: plm-scaling runs export study/runs --tensorboard tb --csv csv")
@Runs
@click.option("--csv", type=click.Path(path_type=Path), help="New folder for runs.csv, metrics.csv and losses.csv.")
@click.option("--tensorboard", type=click.Path(path_type=Path), help="New folder for event files, a folder per run.")
@DryRun
def export(runs: Path, csv: Path | None, tensorboard: Path | None, dry_run: bool) -> None:
    """Write what the runs logged as CSV files or TensorBoard event files (x axis: tokens)."""
    from plm_scaling import api

    if csv is None and tensorboard is None:
        raise click.UsageError("give --csv DIR, --tensorboard DIR, or both")
    places = " and ".join(str(path) for path in (csv, tensorboard) if path)
    if dry_run:
        say(f"would write {places}")
        return
    for remark in api.runs_export(runs, csv=csv, tensorboard=tensorboard):
        warn(remark)
    say(f"wrote {places}")
    if tensorboard:
        next_command(f"tensorboard --logdir {tensorboard}")
