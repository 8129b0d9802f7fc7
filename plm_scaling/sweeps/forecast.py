"""How long a plan will take here: time a few steps of each model, then scale all budgets by one common factor."""

from __future__ import annotations

import heapq
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from plm_scaling.core.errors import PlanError
from plm_scaling.core.files import canonical_json
from plm_scaling.core.run import RunConfig
from plm_scaling.execution.local import Task, default_workers, run_tasks
from plm_scaling.sweeps.cost_records import StepShape
from plm_scaling.sweeps.decisions import needed_runs
from plm_scaling.sweeps.plan_records import PlannedRun, SweepPlan

__all__ = ["START_S", "StepShape", "fit_to_time", "measure_steps", "predicted_seconds", "step_shape", "wall_seconds"]

_OTHERS: Final = {"architecture", "n_heads", "d_ffn", "rotary_dim", "dropout"}

START_S: Final = 0.6
"""Start of a run's process, its validation and its files, per run: measured on the demo's runs."""
SCALES: Final = tuple(0.9**k for k in range(40))
TIMER: Final = "plm_scaling.training.speed:time_steps"


def step_shape(config: RunConfig) -> StepShape:
    """The key of `config` in a table of step times; a teacher's forward pass is not in it."""
    return (
        config.n_layers,
        config.d_model,
        config.context,
        config.batch_tokens,
        config.objective,
        config.dtype,
        canonical_json(config.model_dump(include=_OTHERS, exclude_defaults=True)),
    )


def measure_steps(shapes: set[StepShape], *, workers: int) -> dict[StepShape, float]:
    """Seconds per training step of each shape, with `workers` processes busy at the same time as in a sweep."""
    ordered = sorted(shapes)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.json" for number in range(len(ordered))]
        tasks = [
            Task(key=repr(shape), target=TIMER, args=(*shape[:-1], str(file), shape[-1]))
            for shape, file in zip(ordered, files, strict=True)
        ]
        for result in run_tasks(tasks, workers=workers, preload=(TIMER.partition(":")[0],)):
            if not result.ok:
                raise PlanError(f"could not time a training step of {result.key}", why=result.reason)
        return {shape: float(json.loads(file.read_text())) for shape, file in zip(ordered, files, strict=True)}


def predicted_seconds(plan: SweepPlan, step_seconds: Mapping[StepShape, float], *, workers: int) -> float:
    """Wall time of a plan whose runs are taken in order by `workers` processes."""
    seconds = [START_S + (run.steps - run.begin_step) * step_seconds[step_shape(run.config)] for run in plan.runs]
    return wall_seconds(plan.runs, seconds, workers=workers)


def wall_seconds(runs: Sequence[PlannedRun], seconds: Sequence[float], *, workers: int) -> float:
    """Time until the last run ends, each taking its own `seconds`, taken in order by `workers` at a time."""
    free_at = [0.0] * workers
    ends: dict[str, float] = {}
    for run, own in zip(runs, seconds, strict=True):
        earlier = (*needed_runs(run.config), run.trunk or "")
        start = max(heapq.heappop(free_at), *(ends.get(run_id, 0.0) for run_id in earlier))
        ends[run.run_id] = start + own
        heapq.heappush(free_at, ends[run.run_id])
    return max(ends.values(), default=0.0)


def fit_to_time(plan_at: Callable[[float], SweepPlan], *, seconds: float, workers: int | None = None) -> float:
    """The largest scale (at most 1, in steps of 10 %) at which the plan ends within `seconds` on this machine.

    Parameters
    ----------
    plan_at : scale -> plan.
    seconds : wall time aimed at.

    Raises
    ------
    PlanError : even the smallest scale takes longer.
    """
    pool = workers or default_workers()
    measured: dict[StepShape, float] = {}
    for scale in SCALES:
        plan = plan_at(scale)
        new = {step_shape(run.config) for run in plan.runs} - measured.keys()
        if new:
            measured |= measure_steps(new, workers=pool)
        if predicted_seconds(plan, measured, workers=pool) <= seconds:
            return scale
    raise PlanError(
        f"this machine cannot train the plan in {seconds:.0f} s even at {SCALES[-1]:.2f} of its budgets",
        hint="allow more minutes, or a plan with fewer runs",
    )
