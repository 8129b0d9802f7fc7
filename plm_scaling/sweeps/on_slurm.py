"""A sweep's runs as Slurm jobs: what runs need of an executor, as they resume where prepared tasks begin again."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from plm_scaling.execution.slurm import SlurmExecutor
from plm_scaling.execution.slurm_options import SlurmOptions
from plm_scaling.execution.tasks import Cause
from plm_scaling.sweeps.reconcile import preloaded_modules

__all__ = ["RESUMED", "sweep_executor", "work_folder"]

RESUMED: Final[frozenset[Cause]] = frozenset(
    {"stopped", "killed", "time limit", "preempted", "node failure", "vanished"}
)
"""Endings after which a run goes on from its last checkpoint."""


def work_folder(runs_dir: Path) -> Path:
    """Where the jobs of a runs folder keep their files: beside it, hidden."""
    runs = runs_dir.resolve()
    return runs.with_name(f".{runs.name}.slurm")


def sweep_executor(
    runs_dir: Path,
    options: SlurmOptions | None = None,
    *,
    max_attempts: int = 3,
    backoff_s: float = 30.0,
    poll_s: float = 5.0,
    lag_s: float = 30.0,
) -> SlurmExecutor:
    """What trains the runs of `runs_dir` on the cluster this machine submits to.

    Parameters
    ----------
    runs_dir : folder of the runs' folders, which all nodes see.
    options : resources of a job. Unless they say otherwise, runs are asked to stop 120 s ahead of a job's time limit.
    max_attempts : starts of a run in one call, if each is lost to something from outside. A job that Slurm itself
        starts again, after a preemption or ahead of its time limit, counts as one start.
    backoff_s : seconds before the second start, twice as many before the third, and so on.
    poll_s, lag_s : as of `SlurmExecutor`.
    """
    options = options or SlurmOptions()
    if "warning_s" not in options.model_fields_set:
        options = options.model_copy(update={"warning_s": 120})
    return SlurmExecutor(
        work_folder(runs_dir),
        options,
        label="plm-run",
        preload=preloaded_modules(),
        max_starts=max_attempts,
        restart_after=RESUMED,
        backoff_s=backoff_s,
        poll_s=poll_s,
        lag_s=lag_s,
    )
