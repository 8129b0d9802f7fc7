"""Runs of a folder that have not ended, as rows of a table, and the training losses of all runs on their way."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import RecordError
from plm_scaling.core.files import canonical_json
from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_row import RunRow, regularisation_text
from plm_scaling.core.run_table import RunTable
from plm_scaling.core.units import six_nd
from plm_scaling.laws.curves import Curve, Curves
from plm_scaling.sweeps.run_log import merged_metrics

__all__ = ["training_curves", "unfinished_runs"]

Float = npt.NDArray[np.float64]


def unfinished_runs(runs_dir: Path, complete: RunTable) -> RunTable:
    """One row per run that has logged a loss and has no record; its loss is the last training loss.

    Parameters
    ----------
    complete : the folder's complete runs, which say what an unfinished one will be scored on, and what a token of a
        size costs.
    """
    done = {row.run_id for row in complete}
    rows = []
    for path in sorted(runs_dir.iterdir()):
        folder = RunFolder(path)
        if path.name in done or not folder.order_path.is_file() or folder.record_path.exists():
            continue
        try:
            order, lines = folder.order(), _logged(folder)
        except RecordError:
            continue
        if lines:
            rows.append(_row(order.config, order.roles, lines[-1], complete))
    return RunTable(tuple(rows))


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
    return RunRow(
        run_id=config.run_id,
        objective=config.objective,
        role=",".join(roles),
        N=config.N,
        D=D,
        loss=last["loss"],
        final_loss="training",
        C_6nd=six_nd(config.N, D),
        C_exact=flops if isinstance(flops, int | float) else _as_peers(config.N, D, peers),
        batch_tokens=config.batch_tokens,
        peak_lr=config.peak_lr,
        corpus_id=config.corpus_id,
        validation_id=sets.pop() if len(sets) == 1 else None,
        streams=canonical_json([stream.identity() for stream in config.streams]),
        seed=config.seed,
        mask_refresh=config.mask_refresh,
        mask_ratio=config.mask_rate if config.objective == "mlm" else None,
        schedule=config.schedule,
        architecture=config.architecture,
        regularisation=regularisation_text(config),
        source_run_id=config.init_from,
        schedule_complete=False,
        D_planned=float(config.D),
    )


def _as_peers(N: float, D: float, peers: list[RunRow]) -> float | None:
    """Exact FLOPs by what complete runs of the size spent on a token."""
    costs = [row.C_exact / row.D for row in peers if row.N == N and row.C_exact is not None]
    return D * float(np.median(costs)) if costs else None
