"""`plm-scaling fit`: laws with intervals and named doubts."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from plm_scaling.cli.render import DryRun, OutputFormat, emit, next_command, say, warn

__all__ = ["command"]


@click.command("fit", epilog="Example: plm-scaling fit study/runs --objective mlm")
@click.argument("table", type=click.Path(path_type=Path, exists=True))
@click.option("--objective", type=click.Choice(["clm", "mlm"]), help="Needed only where the table holds both.")
@click.option("--validation", default="val_iid", show_default=True, help="Validation set whose losses are fitted.")
@click.option("--currency", type=click.Choice(["C_exact", "C_6nd"]), default="C_exact", show_default=True)
@click.option("--draws", default=1000, show_default=True, type=click.IntRange(50), help="Bootstrap draws.")
@click.option("--seed", default=0, show_default=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Default: fit-OBJECTIVE.json beside TABLE.")
@DryRun
@OutputFormat
def command(
    table: Path,
    objective: str | None,
    validation: str,
    currency: Literal["C_exact", "C_6nd"],
    draws: int,
    seed: int,
    out: Path | None,
    dry_run: bool,
    output: str,
) -> int:
    """Fit IsoFLOP minima and L(N, D) to TABLE: a runs folder, a CSV or a Parquet file.

    Exit code 4 if the exponents are refused; the fit is written all the same and says why.
    """
    from plm_scaling import api
    from plm_scaling.cli.fit_screen import law_rows
    from plm_scaling.cli.main import EXIT_REFUSED

    fitted = api.fit(
        table, objective=objective, validation=validation, currency=currency, draws=draws, seed=seed, out=None
    )
    emit(output, rows=law_rows(fitted), title=f"{fitted.objective}, {fitted.n_runs} runs", value=fitted)
    for note in fitted.notes:
        warn(note)
    target = out or table.parent / f"fit-{fitted.objective}.json"
    if dry_run:
        say(f"would write {target}")
    else:
        fitted.write(target)
        next_command(f"plm-scaling report {table.parent}" if table.is_dir() else f"less {target}")
    return 0 if fitted.isoflop and fitted.isoflop.a_N else EXIT_REFUSED
