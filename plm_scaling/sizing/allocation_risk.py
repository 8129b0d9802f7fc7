"""Whether work fits an allocation: queue waits, requeues, failures and a machine slower than planned, simulated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from plm_scaling.core.errors import ConfigError
from plm_scaling.core.records import Record
from plm_scaling.laws.jets import FloatArray
from plm_scaling.sizing.run_bill import SEGMENT_OVERHEAD, slurm_segments

__all__ = ["Allocation", "Conditions", "Outcomes", "Stage", "hours_until", "jobs_of", "largest_work", "simulate_stages"]

_DRAWS: Final = 1000
_MOST_JOBS: Final = 20_000


class Allocation(Record):
    """What a computing centre has granted."""

    nodes: int = Field(ge=1)
    """Used at a time."""
    gpus_per_node: int = Field(ge=1)
    node_hours: float = Field(gt=0)
    """Granted; a job of all nodes for an hour takes `nodes` of them."""
    wall_hours: float | None = Field(default=None, gt=0)
    """From now until the grant expires; None if it does not."""
    queue_limit_hours: float | None = Field(default=24.0, gt=0)
    """Longest job of the queue; None for no limit."""

    @property
    def gpu_hours(self) -> float:
        """All that was granted."""
        return self.node_hours * self.gpus_per_node


def hours_until(expires: str, now: datetime) -> float:
    """Hours from `now` to an end that a user names: 1400h, 60d, or a date (2027-03-31, its midnight).

    Raises
    ------
    ConfigError : not one of these, or not ahead of `now`.
    """
    text, scale = expires.strip().lower(), {"h": 1.0, "d": 24.0}
    try:
        if text[-1:] in scale:
            hours = float(text[:-1]) * scale[text[-1]]
        else:
            end = datetime.fromisoformat(text)
            hours = ((end if end.tzinfo else end.replace(tzinfo=now.tzinfo)) - now).total_seconds() / 3600.0
    except ValueError:
        raise ConfigError(f"no end is called {expires!r}", hint="1400h, 60d, or a date such as 2027-03-31") from None
    if not (math.isfinite(hours) and hours > 0):
        raise ConfigError(f"the end {expires} is not ahead of now ({now:%Y-%m-%d %H:%M})")
    return hours


class Conditions(Record):
    """What is assumed of the machine. None of it is measured: put in your own centre's figures."""

    queue_wait_hours: float = Field(default=6.0, ge=0)
    """Mean wait of a job, exponentially distributed; every segment and every requeue waits."""
    failures_per_node_hour: float = Field(default=2e-4, ge=0)
    """Jobs lost to the machine: one in 26 days on eight nodes. An assumption."""
    checkpoint_hours: float = Field(default=0.5, ge=0)
    """Between checkpoints; a requeue loses half of it."""
    segment_overhead: float = Field(default=SEGMENT_OVERHEAD, ge=0, lt=1)
    """Share of each job that starts, compiles, loads and saves."""
    speed_sd: float = Field(default=0.15, ge=0)
    """Of ln(speed) about the planned one, as long as nothing was measured on the machine."""
    speed_sd_measured: float = Field(default=0.03, ge=0)
    """The same after pilots have measured it."""
    sweep_packing: float = Field(default=0.85, gt=0, le=1)
    """Share of the nodes that the many short runs of a sweep keep busy."""


class Stage(Record):
    """Work that is done one after the other with other stages, on all nodes."""

    name: str
    node_hours: float = Field(ge=0)
    """Of useful work at the planned speed."""
    measured: bool = False
    """Its speed was measured before its length was set."""
    packing: float = Field(default=1.0, gt=0, le=1)
    """Share of the nodes that it keeps busy."""


@dataclass(frozen=True)
class Outcomes:
    """Draws of what a plan takes."""

    node_hours: FloatArray
    """[n], charged in all."""
    wall_hours: FloatArray
    """[n], from the first submission to the last end, waits included."""

    def missed(self, allocation: Allocation) -> npt.NDArray[np.bool_]:
        """Bool[n]: the hours or the time ran out before the last stage ended."""
        late = self.node_hours > allocation.node_hours
        return late if allocation.wall_hours is None else late | (self.wall_hours > allocation.wall_hours)

    def miss_probability(self, allocation: Allocation) -> float:
        """Share of the draws that do not end in time."""
        return float(np.mean(self.missed(allocation)))


def simulate_stages(
    stages: Sequence[Stage],
    allocation: Allocation,
    conditions: Conditions,
    *,
    draws: int = _DRAWS,
    seed: int = 0,
) -> Outcomes:
    """Node-hours and wall-clock of stages one after the other, in draws.

    A stage computes for h = node_hours / (nodes x speed x packing x (1 - overhead)) hours, in ceil(h / limit) jobs.
    Failures are Poisson in nodes x h. Each requeue (a further job, a failure) loses half a checkpoint interval; each
    job and each failure waits, exponentially. Draws hold the same luck for any plan: more work never takes less.

    Raises
    ------
    ConfigError : no draws.

    **Source:** definition; Daly 2006, section 2, for half an interval as the expected loss of a failure.
    """
    if draws < 1:
        raise ConfigError("a simulation needs at least one draw", why=f"got {draws}")
    nodes, limit = allocation.nodes, allocation.queue_limit_hours
    z = np.random.default_rng(seed).standard_normal(draws)
    charged, wall = np.zeros(draws), np.zeros(draws)
    for number, stage in enumerate(stages):
        if stage.node_hours == 0:
            continue
        sd = conditions.speed_sd_measured if stage.measured else conditions.speed_sd
        useful = nodes * stage.packing * (1.0 - conditions.segment_overhead)
        hours = stage.node_hours * np.exp(sd * z) / useful
        jobs = np.ones(draws) if limit is None else np.maximum(np.ceil(hours / limit), 1.0)  # hours may underflow
        failures = _arrivals(conditions.failures_per_node_hour * nodes * hours, (seed, number, 0))
        lost = (jobs - 1.0 + failures) * conditions.checkpoint_hours / 2.0
        charged += nodes * (hours + lost)
        wall += hours + lost + conditions.queue_wait_hours * _waits(jobs + failures, (seed, number, 1))
    return Outcomes(charged, wall)


def _sums(count: float, draws: int, key: tuple[int, ...]) -> FloatArray:
    """Sums of the first 1, 2, ... unit exponentials, float64[m, draws], m >= count; the same for any count of a key."""
    if count > _MOST_JOBS:
        raise ConfigError(
            f"a plan of {count:,.0f} jobs and failures is too long to be played through",
            why=f"more than {_MOST_JOBS:,.0f} follow each other under this queue limit",
            hint="a longer queue limit, or fewer failures per node-hour",
        )
    return _made_sums(2 ** math.ceil(math.log2(max(count, 1.0))), draws, key)


@lru_cache(maxsize=32)
def _made_sums(rows: int, draws: int, key: tuple[int, ...]) -> FloatArray:
    sums = np.cumsum(np.random.default_rng(key).standard_exponential((rows, draws)), axis=0)
    sums.setflags(write=False)
    return sums


def _arrivals(mean: FloatArray, key: tuple[int, ...]) -> FloatArray:
    """Poisson counts [n] of these means: arrivals ahead of that time, so that they rise with it."""
    highest = float(mean.max())
    times = _sums(highest + 8.0 * math.sqrt(highest) + 20.0, len(mean), key)
    return np.asarray((times <= mean).sum(axis=0), dtype=np.float64)


def _waits(count: FloatArray, key: tuple[int, ...]) -> FloatArray:
    """Sums of so many unit exponentials, [n]; rise with the count."""
    sums = _sums(float(count.max()), len(count), key)
    return sums[count.astype(np.intp) - 1, np.arange(len(count))]


def jobs_of(stage: Stage, allocation: Allocation, conditions: Conditions) -> int:
    """Jobs of a stage one after the other at the planned speed; 0 for no work."""
    if stage.node_hours == 0:
        return 0
    wall = stage.node_hours / (allocation.nodes * stage.packing)
    return slurm_segments(wall, allocation.queue_limit_hours, conditions.segment_overhead)


def largest_work(
    before: Sequence[Stage],
    work: Stage,
    after: Sequence[Stage],
    allocation: Allocation,
    conditions: Conditions,
    *,
    risk: float,
    draws: int = _DRAWS,
    seed: int = 0,
) -> float:
    """Most node-hours of `work` between other stages whose plan misses the end with at most probability `risk`.

    0 if even none of it does.
    """

    def misses(node_hours: float) -> float:
        stages = (*before, work.model_copy(update={"node_hours": node_hours}), *after)
        return simulate_stages(stages, allocation, conditions, draws=draws, seed=seed).miss_probability(allocation)

    low, high = 0.0, allocation.node_hours
    if misses(0.0) > risk:
        return 0.0
    for _ in range(max(1, math.ceil(math.log2(1e4)))):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if misses(middle) <= risk else (low, middle)
    return low
