"""`plm-scaling evaluate score`: zero-shot scores of a table of variants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from plm_scaling.cli.render import OutputFormat, emit, say, warn

__all__ = ["COMMANDS"]

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_METHODS = ("auto", "wt_marginals", "masked_marginals", "pseudo_likelihood", "clm", "profile")
_SHOWN = 10


def _range(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    first, _, last = value.rpartition("-")
    try:
        return int(first), int(last)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no range such as 561-588", ctx, param) from None


@click.command("score")
@click.argument("model")
@click.argument("variants", type=_FILE)
@click.option("--wild-type", required=True, metavar="SEQUENCE|FASTA", help="Of the protein that was varied.")
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False), help="The table with scores, as CSV.")
@click.option("--column", help="Of the variants, if not a usual name.")
@click.option("--measured", help="Column of measurements, for the rank correlation.")
@click.option("--method", type=click.Choice(_METHODS), default="auto", show_default=True)
@click.option("--joint", is_flag=True, help="Mask all sites of a variant at once (masked_marginals).")
@click.option("--directions", type=click.Choice(["auto", "forward", "both"]), default="auto", show_default=True)
@click.option("--letters", type=click.Choice(["20", "raw"]), default="20", show_default=True)
@click.option("--first", type=int, default=1, show_default=True, help="Number of the wild type's first residue.")
@click.option("--region", callback=_range, metavar="A-B", help="Residues that whole sequences of the table replace.")
@click.option("--resamples", type=click.IntRange(10), default=1000, show_default=True, help="For the interval.")
@click.option("--seed", type=int, default=0, show_default=True)
@OutputFormat
def score(model: str, variants: Path, output: str, **asked: Any) -> None:
    """Score the variants of a CSV file by MODEL: A23G, A23G:K30L, K30del, K30_Y31insGS or whole sequences."""
    from plm_scaling import api

    found = api.evaluate_score(model, variants, **asked)
    pairs = list(zip(found.variants, found.scores, strict=True))
    if output == "human":
        pairs = sorted(pairs, key=lambda pair: -pair[1])[:_SHOWN]
    rows = [{"variant": name, "plm_score": value} for name, value in pairs]
    emit(output, rows=rows, value=found, title="likeliest", formats={"plm_score": lambda value: f"{value:.3f}"})
    say(f"{len(found.scores):,} variants by {found.protocol}: {found.forwards:,} forwards, {found.tokens:,} tokens")
    if found.spearman is not None:
        one = found.spearman
        text = f"Spearman {one.value:.3f} ({one.low:.3f} to {one.high:.3f}) with {found.measured:,} measurements"
        (click.echo if output == "human" else say)(text)
    for alarm in found.alarms:
        warn(alarm.sentence)


COMMANDS = (score,)
