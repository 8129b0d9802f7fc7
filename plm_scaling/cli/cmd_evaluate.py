"""`plm-scaling evaluate`: downstream tasks, with floors and controls beside every number."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plm_scaling.cli import evaluate_curves, evaluate_labels, evaluate_memory, evaluate_score
from plm_scaling.cli.evaluate_labels import SPLIT_HELP
from plm_scaling.cli.main import EXIT_INCOMPLETE
from plm_scaling.cli.render import OutputFormat, emit, next_command, say, warn
from plm_scaling.core.units import format_count

if TYPE_CHECKING:
    from plm_scaling.core.records import Record
    from plm_scaling.evals.results import ResultRow
    from plm_scaling.evals.run_tasks import Step

__all__ = ["command"]

_PATH = click.Path(path_type=Path)
_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_HEADS = ("ridge", "logistic", "nearest", "cnn", "lora", "full")
_WIDEST = 100


@click.group(
    "evaluate", epilog="Example: plm-scaling evaluate run study/runs --tasks site_nats --sequences held_out.fasta"
)
def command() -> None:
    """Downstream tasks for runs of ours, ESM-2, ProGen2 and other protein models, with floors and controls."""


@command.command("ls")
@OutputFormat
def ls(output: str) -> None:
    """The tasks, by kind: their metric, what a model needs for them, and the published files they read.

    `flip.gb1.*` is a pattern that `--tasks` takes. --format csv and json have a row for each task.
    """
    from plm_scaling import api

    tasks = api.evaluate_ls()
    if output == "human":
        from plm_scaling.cli.tasks_screen import task_lines

        width = min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST)
        click.echo("\n".join(task_lines(tasks, width)))
        next_command("plm-scaling evaluate run MODEL --tasks NAME --data FOLDER -o rows.jsonl")
        return
    rows = [
        {
            "task": task.name,
            "kind": task.kind,
            "metric": task.metric,
            "needs": " or ".join(task.needs),
            "files": ", ".join(task.files),
            "about": task.about,
        }
        for task in tasks
    ]
    emit(output, rows=rows)


@command.command("run")
@click.argument("models", nargs=-1, required=True)
@click.option("--tasks", multiple=True, default=("*",), show_default=True, help="Name or pattern; may be repeated.")
@click.option("--data", type=_FOLDER, help="Folder of evaluation sets, in their published layouts.")
@click.option("--sequences", type=_FILE, help="Held-out proteins (FASTA), for tasks about likelihood.")
@click.option("--corpus", type=_FOLDER, help="What the models were trained on: for audits and bins of identity.")
@click.option("-o", "--out", type=_PATH, default=Path("evals.jsonl"), show_default=True, help="Results, one a line.")
@click.option("--limit", type=click.IntRange(1), help="A seeded sample of so many examples of each task.")
@click.option("--resamples", type=click.IntRange(10), default=1000, show_default=True, help="For the intervals.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--head", type=click.Choice(_HEADS), help="Of supervised tasks; lora and full train the model itself.")
@click.option("--control/--no-control", default=True, show_default=True, help="Random weights of the same shapes.")
@click.option("--again", is_flag=True, help="Also what the file answers already.")
@click.option("--cache", type=_PATH, help="Folder in which embeddings are kept for later calls.")
@evaluate_curves.Picture
@OutputFormat
def run(models: tuple[str, ...], output: str, picture: Path | None, **asked: Any) -> int:
    """Put tasks to MODELS: runs or folders of runs, weights of ESM-2 or ProGen2, hf:PATH, random:esm2-8m, uniform.

    Every answer is added to the file as soon as it is there; what it answers already is not asked again. Tasks whose
    data are not there are passed over. It ends with each metric against loss, where 3 runs of one objective or more
    have answered; --picture draws these curves. Exit code 3 if a task failed, or none could be asked.
    """
    from plm_scaling import api

    steps = api.evaluate_run(models, told=_told, tell=say, **asked)
    rows = [row for step in steps for row in step.rows]
    if missing := dict.fromkeys(step.task for step in steps if step.outcome == "no data"):
        why = next(step.why for step in steps if step.outcome == "no data")
        say(f"no data for {', '.join(missing)}; the first: {why}" if len(missing) > 1 else f"no data: {why}")
    emit(output, rows=[_whole(row) if output == "json" else _shown(row) for row in rows])
    out = asked["out"]
    trained = [row for row in rows if not _random(row)] or rows  # what controls warn of their models do, or are
    for warning in dict.fromkeys(said for row in trained for said in row.warnings):
        warn(warning)
    if rows and (picture is not None or output == "human"):
        evaluate_curves.show_curves(out, asked["tasks"], picture)
    if rows:
        next_command(f"plm-scaling evaluate frontier {out} --task {shlex.quote(rows[0].task)}")
    return EXIT_INCOMPLETE if not rows or any(step.outcome == "failed" for step in steps) else 0


def _told(step: Step) -> None:
    if step.outcome != "no data":
        say(f"{step.model}  {step.task}  {step.outcome}" + (f": {step.why}" if step.why else ""))


def _whole(row: Record) -> dict[str, Any]:
    """Everything of a row, as its file has it."""
    plain: dict[str, Any] = json.loads(row.model_dump_json())
    return plain


def _random(row: ResultRow) -> bool:
    return row.model.origin.startswith("random")


def _shown(row: ResultRow) -> dict[str, Any]:
    itself = (row.model.name, "random weights") if _random(row) else (row.model.name,)
    others = [floor for floor in row.floors if floor.name not in itself]
    floors = sorted(others, key=lambda floor: -floor.value if row.higher_is_better else floor.value)
    best = f"{floors[0].name} {floors[0].value:.3f}" if floors else ""
    interval = "" if row.low is None else f"{row.low:.3f} to {row.high:.3f}"
    return {
        "task": row.task,
        "model": row.model.name,
        "objective": row.model.objective,
        "N": format_count(row.model.N) if row.model.N else "",
        "metric": row.metric,
        "value": round(row.value, 4),
        "95 %": interval,
        "best floor": best,
        "n": row.n,
        "protocol": row.protocol,
    }


@command.command("compare")
@click.argument("results", type=_FILE)
@click.option("--against", required=True, help="Model that the others are compared with.")
@click.option("--tasks", multiple=True, default=("*",), show_default=True, help="Name or pattern; may be repeated.")
@click.option("--seed", type=int, default=0, show_default=True)
@OutputFormat
def compare(results: Path, against: str, tasks: tuple[str, ...], seed: int, output: str) -> None:
    """Models of a file of RESULTS against one of them, on the same examples, with p values for the whole table."""
    from plm_scaling import api

    found = api.evaluate_compare(results, against, tasks=tasks, seed=seed)
    several = len({(row.task, row.metric, row.model) for row in found}) < len(found)
    rows = [
        {
            "task": row.task,
            "model": row.model,
            **({"protocol": row.protocol} if several else {}),
            "value": round(row.value, 4),
            "against": round(row.value_against, 4),
            "difference": round(row.difference.value, 4),
            "95 %": f"{row.difference.low:.4f} to {row.difference.high:.4f}",
            "p (Holm)": f"{row.p_holm:.2g}",
        }
        for row in found
    ]
    emit(output, rows=[_whole(row) for row in found] if output == "json" else rows)
    for row in found:
        if row.protocol != row.protocol_against and not row.comparable:
            warn(f"{row.task}: {row.model} was scored by {row.protocol}, {against} by {row.protocol_against}.")


@command.command("frontier")
@click.argument("results", type=_FILE)
@click.option("--task", required=True, help="One task of the file.")
@click.option("--metric", help="Where the task has several.")
@click.option(
    "--table", type=click.Path(path_type=Path, dir_okay=False), help="Also write the CSV that spend --metrics reads."
)
@click.option("--picture", type=click.Path(path_type=Path, dir_okay=False), help="Also draw: .svg, .png or .pdf.")
@OutputFormat
def frontier(
    results: Path, task: str, metric: str | None, table: Path | None, picture: Path | None, output: str
) -> None:
    """A metric against N, D, FLOPs and loss: models of RESULTS beside published ones."""
    from plm_scaling import api

    found = api.evaluate_frontier(results, task, metric=metric, table=table, picture=picture)
    if picture is not None:
        say(f"drew {picture}")
    if table is not None:
        better = "" if found.higher_is_better else " --lower-is-better"
        words = f"--objective any --for {shlex.quote(found.task)} --metrics {shlex.quote(str(table))}{better}"
        next_command(f"plm-scaling spend --usd DOLLARS {words}")
    rows = [
        {
            "model": point.model,
            "objective": point.objective,
            "source": point.status or ("control" if point.control else point.source),
            "N": point.N,
            "D": point.D,
            "6 N D": point.C,
            "loss": point.loss,
            found.metric: round(point.value, 4),
            "95 %": "" if point.low is None else f"{point.low:.3f} to {point.high:.3f}",
            **({"protocol": point.protocol} if "MIXED_PROTOCOLS" in found.flags else {}),
        }
        for point in found.points
    ]
    emit(output, rows=rows, value=found)
    if output != "human":
        return
    for floor in found.floors:
        click.echo(f"floor {floor.name}: {floor.value:.3f}")
    for per, slopes in (("tenfold compute", found.slopes), ("nat of loss", found.slopes_of_loss)):
        for objective, slope in slopes.items():
            interval = f"{slope.low:+.3f} to {slope.high:+.3f}"
            click.echo(f"{objective.upper()}: {slope.value:+.3f} per {per} ({interval})")
    for objective, why in found.refused.items():
        click.echo(f"{objective.upper()}: no slope on the loss: {why}")
    for warning in found.warnings:
        warn(warning)


@command.command("floors")
@click.argument("csv", type=_FILE)
@click.option("--sequence", help="Column of sequences, if not a usual name.")
@click.option("--target", help="Column of measurements or classes.")
@click.option("--split", default="sampled", show_default=True, help=SPLIT_HELP)
@click.option("--wild-type", help="Sequence that variants are compared with.")
@click.option("--classes", is_flag=True, help="Targets are classes: accuracy instead of rank correlation.")
@click.option("--validation", help="Column that marks training rows which choose the penalty.")
@click.option("--resamples", type=click.IntRange(10), default=1000, show_default=True, help="For the intervals.")
@click.option("--seed", type=int, default=0, show_default=True)
@OutputFormat
def floors(csv: Path, output: str, **asked: Any) -> None:
    """What needs no language model on any CSV: one-hot and pairwise ridge, BLOSUM62, mutation count, chance."""
    from plm_scaling import api

    found = api.evaluate_floors(csv, **asked)
    rows = [
        {
            "floor": row.name,
            "metric": row.metric,
            "value": None if row.value is None else round(row.value, 4),
            "95 %": "" if row.low is None else f"{row.low:.3f} to {row.high:.3f}",
            "train": row.n_train,
            "test": row.n_test,
            "why none": row.why,
        }
        for row in found
    ]
    emit(output, rows=[_whole(row) for row in found] if output == "json" else rows)
    if merged := found[0].merged:
        how = "dropped" if asked["classes"] else "merged: each sequence counts once, with the mean of its values"
        say(f"{merged:,} rows that repeat a sequence were {how}")


@command.command("validate")
@OutputFormat
def validate(output: str) -> int:
    """What must hold before a score means anything, on models whose answers are known. Exit code 1 if a check fails."""
    from plm_scaling import api

    checks = api.evaluate_validate()
    rows = [
        {
            "check": check.name,
            "holds": "yes" if check.passed else "NO",
            "deviation": f"{check.worst:.2g}",
            "allowed": f"{check.allowed:.2g}",
            "about": check.about,
        }
        for check in checks
    ]
    emit(output, rows=rows)
    return 0 if all(check.passed for check in checks) else 1


for _group in (evaluate_curves, evaluate_labels, evaluate_memory, evaluate_score):
    for _verb in _group.COMMANDS:
        command.add_command(_verb)
