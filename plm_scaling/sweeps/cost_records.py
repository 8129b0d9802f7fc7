"""The values of a plan's price: `DeviceProfile` (what it is priced on), `PlanCosts` (what it costs), `CutRun`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from plm_scaling.core.records import Record
from plm_scaling.core.run import Objective

__all__ = ["CutRun", "DeviceProfile", "PlanCosts", "RunCost", "StepShape"]

StepShape = tuple[int, int, int, int, str, str, str]
"""What a step's time depends on: layers, width, context, batch in positions, objective, dtype, and canonical JSON of
the other fields of a config that it depends on, where they are not at their defaults."""


class DeviceProfile(Record):
    """How fast one device trains the models of a plan, and what an hour of it costs.

    Its speed is either measured (`step_seconds`) or a peak times a utilisation (`peak_flops_per_s`, `mfu_by_width`).
    """

    name: str
    source: Literal["measured", "hardware file"]
    step_seconds: tuple[tuple[StepShape, float], ...] = ()
    """Seconds of a training step of each shape, where they were measured."""
    peak_flops_per_s: float | None = Field(default=None, gt=0)
    """Dense peak of the hardware file, FLOP/s."""
    peak_is_half: bool = True
    """Whether that is the peak of half precision: runs in fp32 then reach less of it."""
    mfu_by_width: dict[int, float] = Field(default_factory=dict)
    """Share of the peak that models of each width of the plan reach."""
    memory_bytes: float | None = Field(default=None, gt=0)
    usd_per_hour: float | None = Field(default=None, ge=0)
    """Rental price of one device (the file's middle price)."""
    watts: float | None = Field(default=None, ge=0)
    """Drawn per device in training, the building's share included: rated power x load x PUE."""
    unverified: bool = False
    """The speed or the price is a recalled figure or a guess, and marked so in the hardware file."""


class RunCost(Record):
    """What one run costs."""

    run_id: str
    seconds: float
    """On one device: its start, its steps, its validations and its teacher."""
    device_hours: float
    usd: float | None
    """None where the device has no price."""
    energy_kwh: float | None
    """None where nobody says what the device draws."""
    segments: int
    """Jobs it takes within the time limit; 1 without a limit."""


class PlanCosts(Record):
    """What a plan costs on a number of equal devices."""

    device: DeviceProfile
    n_devices: int = Field(gt=0)
    time_limit_h: float | None = None
    """Longest time a job may take, hours."""
    runs: tuple[RunCost, ...]
    """In the order of the plan's runs."""
    wall_seconds: float
    """From the first start to the last end, the runs taken in order by `n_devices` devices; waiting in a queue is not
    in it."""
    device_hours: float
    usd: float | None
    energy_kwh: float | None
    segments: int


class CutRun(Record):
    """A run that a budget did not pay for."""

    run_id: str
    roles: tuple[str, ...]
    objective: Objective
    size: str
    D: int
    seed: int
    cost: float
    """Its own, in the budget's unit."""
    question: str
    """What it would have helped to answer."""
    reason: str
