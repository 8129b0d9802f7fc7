"""Runs of a folder that have not ended, as rows of a table, and the training losses of all runs on their way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import RecordError
from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import RunOrder
from plm_scaling.core.run_row import RunRow, columns_of
from plm_scaling.core.run_table import RunTable
from plm_scaling.core.units import six_nd
from plm_scaling.corpus.format import VAL_IID
from plm_scaling.laws.completed_table import MOST_UNCERTAIN, CompletedTable, complete_table
from plm_scaling.laws.curves import Curve, Curves
from plm_scaling.sweeps.run_log import merged_metrics
from plm_scaling.sweeps.runs import collect_runs

__all__ = ["completed_folder", "training_curves", "unfinished_runs"]

Float = npt.NDArray[np.float64]


def unfinished_runs(runs_dir: Path, complete: RunTable) -> RunTable:
    """One row per run that has logged a loss and has no record; its loss is the last training loss.

    Runs that diverged are left out: whatever they logged before, there is no end that it leads to.

    Parameters
    ----------
    complete : the folder's complete runs, which say what an unfinished one will be scored on, and what a token of a
        size costs.
    """
    done = {row.run_id for row in complete}
    rows = []
    for folder, order in _without_record(runs_dir):
        if folder.path.name in done or _has_diverged(folder):
            continue
        if lines := _logged(folder):
            rows.append(_row(order.config, order.roles, lines[-1], complete))
    return RunTable(tuple(rows))


def _without_record(runs_dir: Path) -> Iterator[tuple[RunFolder, RunOrder]]:
    """Runs with orders that can be read, and no record."""
    for path in sorted(runs_dir.iterdir()):
        folder = RunFolder(path)
        if not folder.order_path.is_file() or folder.record_path.exists():
            continue
        try:
            order = folder.order()
        except RecordError:
            continue
        yield folder, order


def _has_diverged(folder: RunFolder) -> bool:
    attempts = folder.attempts()
    last = attempts[-1].status() if attempts else None
    return last is not None and last.status == "diverged"


def completed_folder(
    runs_dir: Path, objective: str, validation: str = VAL_IID, *, most_uncertain: float = MOST_UNCERTAIN
) -> CompletedTable:
    """The runs of a folder, the unfinished ones with the final losses that their training losses foretell.

    Halted runs are taken in whatever the errors of their ends: with these it was decided that they need no more.

    Parameters
    ----------
    most_uncertain : as of `complete_table`, for all others.

    Raises
    ------
    RecordError : of `collect_runs`.
    """
    complete = collect_runs(runs_dir, validation=validation)
    begun = unfinished_runs(runs_dir, complete)
    halted = [row.run_id for row in begun if RunFolder(runs_dir / row.run_id).halted_path.is_file()]
    runs = RunTable((*complete, *begun))
    curves = training_curves(runs_dir, [row.run_id for row in runs])
    made = complete_table(runs, curves, objective, most_uncertain=most_uncertain, however_uncertain=halted)
    diverged = {
        folder.path.name: "it diverged: there is no end to predict"
        for folder, order in _without_record(runs_dir)
        if order.config.objective == objective and _has_diverged(folder)
    }
    return replace(made, passed_over=diverged | made.passed_over)


def training_curves(runs_dir: Path, run_ids: Iterable[str]) -> Curves:
    """Mean training losses between log lines, nats per target; runs without any are left out."""
    curves = []
    for run_id in run_ids:
        lines = _logged(RunFolder(runs_dir / run_id))
        if lines:
            step, D, loss = (np.array([float(line[name]) for line in lines]) for name in ("step", "D", "loss"))
            curves.append(Curve(run_id, step, D, loss, np.full(len(lines), "")))
    return Curves.joined(curves)


def _logged(folder: RunFolder) -> list[dict[str, Any]]:
    """Log lines whose training loss is a number."""
    lines = merged_metrics(folder)
    return [line for line in lines if isinstance(line.get("loss"), int | float) and math.isfinite(line["loss"])]


def _row(config: RunConfig, roles: tuple[str, ...], last: dict[str, Any], complete: RunTable) -> RunRow:
    D = float(last["D"])
    peers = [row for row in complete if row.objective == config.objective]
    sets = {row.validation_id for row in peers}
    flops = last.get("flops")
    found = {
        "role": ",".join(roles),
        "D": D,
        "loss": last["loss"],
        "final_loss": "training",
        "C_6nd": six_nd(config.N, D),
        "C_exact": flops if isinstance(flops, int | float) else _as_peers(config.N, D, peers),
        "validation_id": sets.pop() if len(sets) == 1 else None,
        "schedule_complete": False,
        "D_planned": config.D,
    }
    return RunRow.model_validate(columns_of(config) | found)


def _as_peers(N: float, D: float, peers: list[RunRow]) -> float | None:
    """Exact FLOPs by what complete runs of the size spent on a token."""
    costs = [row.C_exact / row.D for row in peers if row.N == N and row.C_exact is not None]
    return D * float(np.median(costs)) if costs else None
