"""`plm-scaling evaluate labels`: how many labels a model saves, and from how many on it no longer pays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from plm_scaling.cli.render import OutputFormat, emit, say, warn

__all__ = ["COMMANDS", "SPLIT_HELP"]

_PATH = click.Path(path_type=Path)
_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
SPLIT_HELP = (
    "A column of the table (train, valid, test, or empty for neither); sampled: 80 % train, by hash of the sequence; "
    "low_vs_high: train up to the wild type's value (needs --wild-type and a row of it); K_vs_many (one, two, 3, ...): "
    "train on at most K mutations (needs --wild-type)."
)
"""Of `--split`, wherever a user's table is read."""


@click.command("labels")
@click.argument("table")
@click.argument("models", nargs=-1)
@click.option("-o", "--out", type=_PATH, help="Also write all curves, by seed, as JSON.")
@click.option("--data", type=_FOLDER, help="Folder of evaluation sets, where TABLE is a task.")
@click.option("--sequence", help="Column of sequences, if not a usual name.")
@click.option("--target", help="Column of measurements or classes.")
@click.option("--split", default="sampled", show_default=True, help=SPLIT_HELP)
@click.option("--wild-type", help="Sequence that variants are compared with.")
@click.option("--classes", is_flag=True, help="Targets are classes: accuracy instead of rank correlation.")
@click.option("--floors", multiple=True, help="Only this floor; may be repeated.")
@click.option("--labels", type=click.IntRange(3), multiple=True, help="This number of labels; may be repeated.")
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="Samples of labels.")
@click.option("--pooling", type=click.Choice(["mean", "sites"]), default="mean", show_default=True)
@click.option("--head", type=click.Choice(["ridge", "logistic", "nearest"]), help="That learns from activations.")
@click.option("--rows", type=_PATH, help="Also add all points to this file of results.")
@click.option("--control/--no-control", default=True, show_default=True, help="Also random weights of each model.")
@click.option("--limit", type=click.IntRange(50), help="At most so many rows of a task's table.")
@OutputFormat
def labels(table: str, models: tuple[str, ...], output: str, **asked: Any) -> None:
    """Metric against the number of labels, on TABLE (a CSV or a supervised task), for MODELS and floors."""
    from plm_scaling import api

    found = api.evaluate_labels(table, models, **asked)
    there = [one for one in found.curves if output != "human" or any(mean is not None for mean in one.means)]
    rows = [
        {"labels": count, **{one.name: _shown(one.means[k], one.spread[k]) for one in there}}
        for k, count in enumerate(found.labels)
    ]
    emit(output, rows=rows, value=found)
    if output == "human":
        click.echo(
            f"{found.metric} on {found.n_test:,} test rows of {found.table}, {found.split}; {found.seeds} samples"
        )
        for crossing in found.crossings:
            click.echo(crossing.text)
    if found.merged:
        how = (
            "dropped"
            if found.metric == "accuracy"
            else "merged: each sequence counts once, with the mean of its values"
        )
        say(f"{found.merged:,} rows that repeat a sequence were {how}")
    for one in found.curves:
        if one.why:
            where = "here" if all(mean is None for mean in one.means) else "at some numbers of labels"
            warn(f"floor {one.name} has no value {where} and is no part of the best floor: {one.why}.")


def _shown(mean: float | None, spread: float | None) -> str:
    if mean is None:
        return ""
    return f"{mean:.3f}" if spread is None else f"{mean:.3f} +- {spread:.3f}"


COMMANDS = (labels,)
