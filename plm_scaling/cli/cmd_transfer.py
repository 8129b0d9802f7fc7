"""`plm-scaling transfer`: what a pre-trained source is worth in target tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from plm_scaling.cli.render import DryRun, OutputFormat, emit, next_command, say, warn
from plm_scaling.core.units import format_count, format_with_error

if TYPE_CHECKING:
    from plm_scaling.transfers.transfer_fit import TransferPair

__all__ = ["command"]


@click.command("transfer", epilog="Example: plm-scaling transfer study/runs")
@click.argument("table", type=click.Path(path_type=Path, exists=True))
@click.option("--laws", multiple=True, type=click.Path(path_type=Path, exists=True), help="fit.json of the target.")
@click.option("--validation", default="val_iid", show_default=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Default: transfer.json beside TABLE.")
@DryRun
@OutputFormat
def command(table: Path, laws: tuple[Path, ...], validation: str, out: Path | None, dry_run: bool, output: str) -> None:
    """D_t of every scratch/transferred pair of TABLE, per source token, and net of the source's compute."""
    from plm_scaling import api
    from plm_scaling.laws.law_fit import LawFit

    found = laws or tuple(sorted(table.parent.glob("fit-*.json")))
    target = out or table.parent / "transfer.json"
    fitted = api.transfer(
        table, validation=validation, laws=[LawFit.read(path) for path in found], out=None if dry_run else target
    )
    rows = [
        {
            "source": pair.source_run_id,
            "target": pair.target_run_id,
            "N": format_count(pair.N),
            "D": format_count(pair.D),
            "gap (nats)": format_with_error(pair.gap, pair.gap_total_se or pair.gap_se),
            "D_t (95 %)": _tokens(pair),
            "D_t / D_source": f"{pair.D_t_per_source_token:.2f}" if pair.D_t_per_source_token is not None else "-",
            "net tokens": format_count(pair.net_tokens) if pair.net_tokens is not None else "-",
            "flags": ",".join(pair.flags),
        }
        for pair in fitted.pairs
    ]
    exact = [pair.model_dump(mode="json", exclude={"flags"}) for pair in fitted.pairs]
    emit(output, rows=exact if output == "csv" else rows, value=fitted)
    for note in fitted.notes:
        warn(note)
    if dry_run:
        say(f"would write {target}")
    else:
        next_command(f"plm-scaling report {table.parent}")


def _tokens(pair: TransferPair) -> str:
    """166k [131k, 205k]; an end the scratch runs leave open is "?", and D_t beyond them is only bounded."""
    low, high = (None if end is None else format_count(end) for end in (pair.D_t_low, pair.D_t_high))
    if pair.D_t is not None:
        return format_count(pair.D_t) + (f" [{low or '?'}, {high or '?'}]" if low or high else "")
    return f"at least {low}" if low else f"at most {high}" if high else "-"
