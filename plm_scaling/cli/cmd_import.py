"""`plm-scaling import`: runs logged elsewhere as a clean run table, with every defect named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from plm_scaling.cli.render import DryRun, OutputFormat, emit, next_command, say, warn

if TYPE_CHECKING:
    from plm_scaling.laws.denoise import NoiseReport
    from plm_scaling.laws.imported import Imported

__all__ = ["command"]

_NAMES = ["cheng2024", "csv", "wandb", "tensorboard", "runs"]


@click.command(
    "import",
    epilog="Examples: plm-scaling import cheng2024 training_logs.zip -o runs.csv;  "
    "plm-scaling import csv sweep.csv --column N=params --column D=tokens --objective clm",
)
@click.argument("name", type=click.Choice(_NAMES))
@click.argument("path", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("runs.csv"), show_default=True)
@click.option(
    "--loss",
    type=click.Choice(["denoised", "last", "last5"]),
    default="denoised",
    show_default=True,
    help="How a final loss is read off a curve.",
)
@click.option("--objective", type=click.Choice(["clm", "mlm"]), help="Where the source does not say.")
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="NAME=COLUMN|NUMBER",
    help="Our name for a column of the source, or a number for all runs: N=params, batch_tokens=524288.",
)
@click.option("--validation", default="val_iid", show_default=True, help="Validation set (runs only).")
@DryRun
@OutputFormat
def command(
    name: str,
    path: Path,
    out: Path,
    loss: Literal["denoised", "last", "last5"],
    objective: str | None,
    columns: tuple[str, ...],
    validation: str,
    dry_run: bool,
    output: str,
) -> None:
    """Read the runs that NAME wrote at PATH: clean, one row per run, with what was wrong and what was done about it.

    cheng2024: released logs, as a folder, .zip or .tar.gz.  csv: any table with a row per run.  wandb, tensorboard:
    their CSV exports.  runs: a runs folder of plm-scaling.  Writes the table, its curves (OUT.curves.parquet) and a
    report (OUT.import.json).
    """
    from plm_scaling import api
    from plm_scaling.laws.imported import finding_rows

    imported = api.import_runs(
        name,
        path,
        None if dry_run else out,
        loss=loss,
        objective=objective,
        columns=_pairs(columns),
        validation=validation,
    )
    report = imported.report(name, str(path))
    emit(output, rows=finding_rows(imported.findings), title="findings", value=report)
    if output == "human" and imported.noise is not None:
        emit(output, rows=_noise_rows(imported.noise), title="validation noise of the last fifth of a run (sd, nats)")
    _say_counts(imported)
    if dry_run:
        say(f"would write {out}")
        return
    say(f"wrote {out}")
    objectives = sorted({row.objective for row in imported.table}, reverse=True)
    next_command(f"plm-scaling fit {out} --objective {objectives[0]} --form auto")


def _pairs(words: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for word in words:
        name, separator, column = word.partition("=")
        if not (separator and name and column):
            raise click.BadParameter(f"{word!r} is not NAME=COLUMN", param_hint="--column")
        pairs[name.strip()] = column.strip()
    return pairs


def _noise_rows(noise: NoiseReport) -> list[dict[str, Any]]:
    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.5f}"

    return [
        {
            "objective": group.objective,
            "batch": "-" if group.batch_tokens is None else f"{group.batch_tokens:,.0f}",
            "runs": group.n_runs,
            "denoised": group.n_denoised,
            "sd before": shown(group.sd_before),
            "sd after": shown(group.sd_after),
            "times less": "-" if group.ratio is None else f"{group.ratio:.1f}",
            "SE of a loss": shown(group.loss_se),
            "validation set": _sets(group.validation_id),
        }
        for group in noise.groups
    ]


def _sets(validation_id: str) -> str:
    first, *others = validation_id.split(",")
    return (first or "-") + (f" and {len(others)} more" if others else "")


def _say_counts(imported: Imported) -> None:
    from plm_scaling.laws.noise import law_runs

    say(", ".join(f"{count:,} {what}" for what, count in imported.counts.items()))
    for objective in sorted({row.objective for row in imported.table}):
        runs = law_runs(imported.table, objective)
        say(f"{objective}: {len(runs)} of {len(imported.table.of(objective))} runs can enter a law")
    if imported.table.ignored:
        warn("columns that mean nothing here: " + ", ".join(imported.table.ignored))
    for group in imported.noise.groups if imported.noise else ():
        if group.skipped:
            names = ", ".join(f"{run.run_id} ({run.why})" for run in group.skipped)
            warn(f"shared noise not removed: {names}")
