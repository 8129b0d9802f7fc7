"""The table from which `spend --metrics` learns what a loss is worth: CSV loss,metric,objective,model,low,high.

A row is a scored model: of a run its loss, which the map is learnt from; of a public model its name and no loss.

With site-conditional nats as the metric (`--for "site nats" --lower-is-better`) actions of both objectives are ranked
on the one likelihood scale they share; with a task's metric, by that task.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plm_scaling.core.errors import ConfigError
from plm_scaling.core.files import write_atomic
from plm_scaling.evals.frontier import Frontier

__all__ = ["MetricRow", "rows_of_frontier", "write_metric_table"]

_PUBLIC: Final = ("esm2", "progen2", "hf")


@dataclass(frozen=True)
class MetricRow:
    """A model with its loss in nats per token, on the validation set that the laws are of, and its metric."""

    loss: float | None
    """None for a public model, whose own loss is on other proteins."""
    metric: float
    objective: str
    model: str = ""
    """Of a public model, by which `spend` knows it."""
    low: float | None = None
    high: float | None = None
    """95 %, of a public model's metric."""


def rows_of_frontier(frontier: Frontier) -> tuple[MetricRow, ...]:
    """A task's metric of the runs of a file of results, by their validation losses, and of the public models that were
    measured beside them, by their names; without controls.
    """
    told = [one for one in frontier.points if not one.control and one.objective in ("clm", "mlm")]
    runs = [MetricRow(one.loss, one.value, one.objective) for one in told if one.loss is not None]
    public = [one for one in told if one.loss is None and one.source == "computed" and one.family in _PUBLIC]
    return (*runs, *(MetricRow(None, one.value, one.objective, one.model, one.low, one.high) for one in public))


def write_metric_table(path: Path, rows: Sequence[MetricRow]) -> Path:
    """Write the table, atomically; returns the path.

    Raises
    ------
    ConfigError : no row with a loss.
    """
    if all(row.loss is None for row in rows):
        raise ConfigError(
            "no scored model has a loss",
            why="the table maps the loss of the laws to a metric",
            hint="score runs of your own, which know their validation loss",
        )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    public = any(row.model for row in rows)
    writer.writerow(["loss", "metric", "objective", *(("model", "low", "high") if public else ())])
    for row in rows:
        numbers = ["" if value is None else repr(value) for value in (row.loss, row.metric, row.low, row.high)]
        more = (row.model, *numbers[2:]) if public else ()
        writer.writerow([*numbers[:2], row.objective, *more])
    write_atomic(path, text.getvalue())
    return path
