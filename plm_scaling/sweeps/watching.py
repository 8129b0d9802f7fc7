"""Reconcile again and again until nothing is left that another start could bring further."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from plm_scaling.core.run_folder import RunFolder
from plm_scaling.sweeps.reconcile import SweepOutcome

__all__ = ["watch_plan"]

_LONGEST_REST_S = 3600.0


def watch_plan(
    reconcile: Callable[[], SweepOutcome],
    runs_dir: Path,
    *,
    max_attempts: int = 3,
    every_s: float = 60.0,
    sleep: Callable[[float], None] = time.sleep,
) -> SweepOutcome:
    """Call `reconcile` until every run is complete, has failed, waits for one that failed, or gets no further.

    A run gets no further if it stands at the same step after `max_attempts` calls in a row. In between calls it rests
    `every_s`; when no run at all got further, twice as long each time, at most an hour. A run that another process
    trains is waited for, as long as it moves.

    Parameters
    ----------
    reconcile : one pass, as `run_plan`.
    runs_dir : folder of the runs' folders.
    every_s : seconds between calls.
    """
    steps: dict[str, int] = {}
    fruitless: dict[str, int] = {}
    rest_s = every_s
    while True:
        outcome = reconcile()
        left = [line.run_id for line in outcome.lines if line.state in ("planned", "running", "interrupted")]
        moved = False
        for run_id in left:
            step = RunFolder(runs_dir / run_id).status().step
            fruitless[run_id] = 0 if step > steps.get(run_id, -1) else fruitless[run_id] + 1
            moved |= fruitless[run_id] == 0
            steps[run_id] = max(step, steps.get(run_id, -1))
        if all(fruitless[run_id] >= max_attempts - 1 for run_id in left):
            return outcome
        rest_s = every_s if moved else min(2 * rest_s, _LONGEST_REST_S)
        sleep(rest_s)
