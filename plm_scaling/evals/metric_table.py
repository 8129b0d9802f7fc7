"""The table from which `spend --metrics` learns what a loss is worth: CSV loss,metric,objective, a scored model a row.

With site-conditional nats as the metric (`--for "site nats" --lower-is-better`) actions of both objectives are ranked
on the one likelihood scale they share; with a task's metric, by that task.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plm_scaling.core.errors import ConfigError
from plm_scaling.core.files import write_atomic
from plm_scaling.evals.frontier import Frontier

__all__ = ["MetricRow", "rows_of_frontier", "write_metric_table"]


@dataclass(frozen=True)
class MetricRow:
    """A model with its loss in nats per token, on the validation set that the laws are of, and its metric."""

    loss: float
    metric: float
    objective: str


def rows_of_frontier(frontier: Frontier) -> tuple[MetricRow, ...]:
    """A task's metric of the runs of a file of results, by their validation losses; without controls."""
    return tuple(
        MetricRow(point.loss, point.value, point.objective)
        for point in frontier.points
        if point.loss is not None and not point.control and point.objective in ("clm", "mlm")
    )


def write_metric_table(path: Path, rows: Sequence[MetricRow]) -> Path:
    """Write the table, atomically; returns the path.

    Raises
    ------
    ConfigError : no row.
    """
    if not rows:
        raise ConfigError(
            "no scored model has a loss",
            why="the table maps the loss of the laws to a metric",
            hint="score runs of your own, which know their validation loss",
        )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["loss", "metric", "objective"])
    for row in rows:
        writer.writerow([repr(row.loss), repr(row.metric), row.objective])
    write_atomic(path, text.getvalue())
    return path
