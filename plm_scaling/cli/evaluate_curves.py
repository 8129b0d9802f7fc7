"""`evaluate curves`, and the same at the end of `evaluate run`: what the loss of the runs is worth, task by task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import click

from plm_scaling.cli.render import OutputFormat, emit, say, warn

__all__ = ["COMMANDS", "Picture", "show_curves"]

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
Picture = click.option(
    "--picture", type=click.Path(path_type=Path, dir_okay=False), help="Draw metric against loss: .svg, .png or .pdf."
)


@click.command("curves")
@click.argument("results", type=_FILE)
@click.option("--tasks", multiple=True, default=("*",), show_default=True, help="Name or pattern; may be repeated.")
@Picture
@OutputFormat
def curves(results: Path, tasks: tuple[str, ...], picture: Path | None, output: str) -> None:
    """Metric against validation loss of the runs in RESULTS, task by task, with slopes and their intervals."""
    show_curves(results, tasks, picture, output)


def show_curves(results: Path, tasks: tuple[str, ...], picture: Path | None, output: str = "human") -> None:
    """A line for each task and objective; nothing where there is no curve."""
    from plm_scaling import api

    rows: list[dict[str, Any]] = []
    found = api.evaluate_curves(results, tasks=tasks, picture=picture)
    for one in found:
        for objective, slope in one.slopes_of_loss.items():
            near = [p for p in one.points if p.loss and not p.control and p.model not in one.far]
            losses = [p.loss for p in near if p.loss and p.objective == objective.split()[0]]
            rows.append(
                {
                    "task": one.task,
                    "metric": f"{one.metric}, {'higher' if one.higher_is_better else 'lower'} is better",
                    "objective": objective,
                    "models": len(losses),
                    "loss": f"{min(losses):.3f} to {max(losses):.3f}",
                    "per nat of loss": round(slope.value, 4),
                    "95 %": f"{slope.low:+.3f} to {slope.high:+.3f}",
                }
            )
    if output == "json":
        rows = [json.loads(one.model_dump_json()) for one in found]
    if rows or output != "human":
        emit(output, rows=rows)
    for warning in dict.fromkeys(f"{one.task}: {said}" for one in found for said in one.warnings):
        warn(warning)
    if picture is not None:
        say(f"drew {picture}")


COMMANDS: Final = (curves,)
