"""The table from which `spend --metrics` learns what a loss is worth: CSV loss,metric,objective, a scored model a row.

With site-conditional nats as the metric (`--for "site nats" --lower-is-better`) actions of both objectives are ranked
on the one likelihood scale they share; with a task's metric, by that task.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from plm_scaling.core.errors import ConfigError, did_you_mean
from plm_scaling.core.files import write_atomic
from plm_scaling.evals.frontier import Frontier
from plm_scaling.evals.site_nats import SiteNats

__all__ = ["MetricRow", "rows_of_frontier", "rows_of_sites", "write_metric_table"]


@dataclass(frozen=True)
class MetricRow:
    """A model with its loss in nats per token, on the validation set that the laws are of, and its metric."""

    loss: float
    metric: float
    objective: str


def rows_of_sites(results: Sequence[SiteNats], losses: Mapping[str, float]) -> tuple[MetricRow, ...]:
    """Site-conditional nats of models, by their losses.

    Public models, controls and profiles have no loss on the laws' validation set: they are given none and left out.

    Parameters
    ----------
    losses : by the model's name.

    Raises
    ------
    ConfigError : a loss of a model that is not among the results.
    """
    names = [result.info.name for result in results]
    for name in losses:
        if name not in names:
            raise ConfigError(f"a loss of {name!r}, which was not scored", hint=did_you_mean(name, names))
    return tuple(
        MetricRow(losses[result.info.name], result.mean.value, result.info.objective)
        for result in results
        if result.info.name in losses and result.info.objective != "none"
    )


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
