"""`plm-scaling exchange`: what a token of another source is worth."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from plm_scaling.cli.render import OutputFormat, emit, next_command, say, warn

__all__ = ["command"]


@click.command("exchange", epilog="Example: plm-scaling exchange study/runs --objective mlm --laws study/fit-mlm.json")
@click.argument("runs", type=click.Path(path_type=Path, exists=True))
@click.option("--objective", type=click.Choice(["clm", "mlm"]), required=True, help="Of the runs.")
@click.option("--laws", multiple=True, metavar="FILE|zoo:NAME", help="Law of the target's losses; best your own fit.")
@click.option("--target", default="", help="Source that counts as one; default: the one drawn in limited parts.")
@click.option(
    "--validation",
    default="val_iid",
    show_default=True,
    help="Set whose losses are compared; val_iid@TARGET: the target's own sequences.",
)
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False), help="TOML for `spend --sources`.")
@OutputFormat
def command(
    runs: Path, objective: str, laws: tuple[str, ...], target: str, validation: str, out: Path | None, output: str
) -> int:
    """Tokens of the target that one token of another source is worth at equal loss, from runs on mixtures of the two.

    RUNS is a runs folder, CSV or Parquet table with diversity runs ([[diversity]] in a sweep).
    """
    from plm_scaling import api
    from plm_scaling.cli.spending_screen import exchange_rows

    found = api.exchange(runs, objective=objective, laws=laws, target=target, validation=validation, out=out)
    if output != "human":
        emit(output, rows=exchange_rows(found), value=found)
        return 0
    click.echo("\n".join(found.sentences))
    for what, slope in found.slopes.items():
        click.echo(f"{what}: the rate goes as N^{slope.value:.2f} ({slope.low:.2f} to {slope.high:.2f})")
    for refusal in found.refusals:
        warn(f"{refusal.quantity}: {refusal.reason}.")
    if out is not None:
        say(f"wrote {out}")
        asked = f"--objective {objective} --unique-tokens TOKENS --sources {shlex.quote(str(out))}"
        next_command(f"plm-scaling spend --usd DOLLARS {asked}")
    return 0
