"""Which tasks share a job and which jobs an array: those of one time limit, which follows from what tasks will take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from plm_scaling.execution.slurm_options import SlurmOptions
from plm_scaling.execution.tasks import Task

__all__ = ["Batch", "batches", "job_minutes"]

_MARGIN: Final = 1.5
_START_MINUTES: Final = 5.0
"""For a job to begin: modules, imports, files over a network."""
_SHORTEST_MINUTES: Final = 15


@dataclass(frozen=True)
class Batch:
    """Jobs that are submitted as one array."""

    minutes: int
    """Time limit of each."""
    jobs: tuple[tuple[Task, ...], ...]
    """The tasks of each."""


def job_minutes(tasks: Sequence[Task], options: SlurmOptions) -> int:
    """Time limit of a job, minutes: 1.5 times what its tasks are expected to take and 5 minutes, on a coarse scale.

    The scale is 15, 30, 60, ... minutes, so that few arrays are needed. Never more than `options.minutes`, and as much
    where nobody knows how long a task takes. A short limit lets a scheduler fill gaps with a job; what does not finish
    in time goes on in the next job.
    """
    seconds = [task.seconds for task in tasks if task.seconds is not None]
    if len(seconds) < len(tasks):
        return options.minutes
    wanted = _MARGIN * max(max(seconds), sum(seconds) / options.workers_per_job) / 60 + _START_MINUTES
    minutes = _SHORTEST_MINUTES
    while minutes < min(wanted, options.minutes):
        minutes *= 2
    return min(minutes, options.minutes)


def batches(tasks: Sequence[Task], options: SlurmOptions) -> list[Batch]:
    """Tasks that are ready together as jobs, and these as arrays; tasks that take alike long share a job."""
    alike = sorted(tasks, key=lambda task: job_minutes([task], options))  # stable: else in their order
    size = options.tasks_per_job
    jobs = [tuple(alike[i : i + size]) for i in range(0, len(alike), size)]
    by_limit: dict[int, list[tuple[Task, ...]]] = {}
    for job in jobs:
        by_limit.setdefault(job_minutes(job, options), []).append(job)
    step = options.array_size
    return [
        Batch(minutes, tuple(some[i : i + step]))
        for minutes, some in by_limit.items()
        for i in range(0, len(some), step)
    ]
