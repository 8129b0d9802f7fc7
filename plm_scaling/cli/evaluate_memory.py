"""`plm-scaling evaluate memorisation|generate|sizes`: what models give away and write, and sizes that contradict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plm_scaling.cli.render import OutputFormat, emit, next_command, warn

if TYPE_CHECKING:
    from plm_scaling.evals.generation import GroupQuality

__all__ = ["COMMANDS"]

_PATH = click.Path(path_type=Path)
_AGREE = (
    "No family contradicts itself. SIGN_FLIP would have been raised by a correlation above 0 at one size and below 0 "
    "at another, FALLS_WITH_SIZE by three sizes or more of which each larger one scores lower; both only beyond their "
    "intervals. A family with a single size cannot raise either, and scores may be wrong at all sizes alike."
)
_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command("memorisation")
@click.argument("model")
@click.option("--seen", type=_FILE, required=True, help="Sequences the model was trained on (FASTA).")
@click.option("--unseen", type=_FILE, required=True, help="Of the same families, never trained on (FASTA).")
@click.option("--before", help="The model before it was trained on them: makes membership sharper.")
@click.option("-o", "--out", type=_PATH, default=Path("memorisation.json"), show_default=True, help="The report.")
@click.option("--references", type=click.IntRange(1), default=64, show_default=True, help="Of each sequence.")
@click.option("--shown", type=click.FloatRange(0.05, 0.95), default=0.5, show_default=True, help="Share of a prompt.")
@click.option("--resamples", type=click.IntRange(10), default=1000, show_default=True, help="For the intervals.")
@click.option("--seed", type=int, default=0, show_default=True)
@OutputFormat
def memorisation(model: str, seen: Path, unseen: Path, output: str, **asked: Any) -> None:
    """Does MODEL give away the sequences it was trained on? Asked before fine-tuned weights are exported."""
    from plm_scaling import api

    report = api.evaluate_memorisation(model, seen, unseen, **asked)
    rows = [
        {
            "sequences": name,
            "n": group.n,
            "regenerated": group.exact,
            "nearly": group.near,
            "identity": round(group.recovered, 3),
            "exposure, bits": round(group.exposure, 2),
            "most": round(group.most_exposed, 2),
        }
        for name, group in (("seen", report.seen), ("unseen", report.unseen))
    ]
    emit(output, rows=rows, value=report)
    if output == "human":
        gap, told = report.exposure_gap, report.membership_gain or report.membership
        click.echo(f"exposure: {gap.value:+.2f} bits ({gap.low:+.2f} to {gap.high:+.2f})")
        click.echo(f"membership: told in {told.value:.0%} of pairs ({told.low:.0%} to {told.high:.0%}; chance 50%)")
        if not report.alarms:
            click.echo(report.verdict)
    for alarm in report.alarms:
        warn(alarm.sentence)
    next_command(f"plm-scaling export {model} -o FOLDER --memorisation {asked['out']}")


@click.command("generate")
@click.argument("model")
@click.option("-n", "--count", "n", type=click.IntRange(1), default=100, show_default=True, help="Sequences to draw.")
@click.option("--prompt", default="", help="Residues every sequence begins with.")
@click.option("--longest", type=click.IntRange(1), default=512, show_default=True, help="Residues.")
@click.option("--temperature", type=click.FloatRange(0.0), default=1.0, show_default=True)
@click.option("--top-p", type=click.FloatRange(0.0, 1.0, min_open=True), default=1.0, show_default=True)
@click.option("--natural", type=_FILE, help="Held-out proteins (FASTA) to set them beside, as they are and shuffled.")
@click.option("--corpus", type=_FOLDER, help="What the model was trained on, for novelty.")
@click.option("--judged", metavar="PATH|esmfold:FOLDER", help="Structures judged elsewhere, or weights that fold.")
@click.option("--structures", type=_PATH, default=Path("structures"), show_default=True, help="Predicted ones go here.")
@click.option("--references", type=_FOLDER, help="Known structures: the nearest, by Foldseek or TM-align on PATH.")
@click.option("--fasta", type=_PATH, help="Also write the sequences.")
@click.option("--keep", type=_PATH, help="Also write those that may serve as training data; --corpus finds copies.")
@click.option("--shortest", type=click.IntRange(1), default=30, show_default=True, help="Residues, of what is kept.")
@click.option("--near", type=float, default=0.9, show_default=True, help="Identity to the corpus that is not kept.")
@click.option("-o", "--out", type=_PATH, default=Path("generation.json"), show_default=True, help="The report.")
@click.option("--resamples", type=click.IntRange(10), default=1000, show_default=True, help="For the intervals.")
@click.option("--seed", type=int, default=0, show_default=True)
@OutputFormat
def generate(model: str, output: str, **asked: Any) -> None:
    """Draw sequences from a causal MODEL, and measure the first 1,000 beside natural and shuffled proteins."""
    from plm_scaling import api

    report = api.evaluate_generate(model, **asked)
    emit(output, rows=[_group(group) for group in report.groups], value=report)
    if output == "human" and report.sieved is not None:
        click.echo(f"kept {asked['keep']}: {report.sieved.sentence}")
    for warning in report.warnings:
        warn(warning)


def _group(group: GroupQuality) -> dict[str, Any]:
    nats = "" if group.nats is None else f"{group.nats.value:.3f} ({group.nats.low:.3f} to {group.nats.high:.3f})"
    row: dict[str, Any] = {
        "sequences": group.name,
        "n": group.n,
        "nats a residue": nats,
        "length": f"{group.length:.0f} +/- {group.length_spread:.0f}",
        "unique": round(group.unique, 3),
        "clusters": round(group.clusters, 3),
        "low complexity": round(group.low_complexity, 3),
    }
    shown = {"known words": group.known_words, "nearest": group.nearest_identity, "pLDDT": group.plddt, "TM": group.tm}
    return row | {name: round(value, 3) for name, value in shown.items() if value is not None}


@click.command("sizes")
@click.argument("results", type=_FILE)
@OutputFormat
def sizes(results: Path, output: str) -> None:
    """Families in a file of RESULTS whose sizes contradict each other: signs that flip, scores that only fall."""
    from plm_scaling import api

    found = api.evaluate_sizes(results)
    rows = [{"alarm": one.code, "where": one.where, "value": one.value, "sentence": one.sentence} for one in found]
    if output == "human" and not found:
        click.echo(_AGREE)
        return
    emit(output, rows=[json.loads(one.model_dump_json()) for one in found] if output == "json" else rows)


COMMANDS = (memorisation, generate, sizes)
