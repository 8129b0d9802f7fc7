"""A sweep as one line: states, FLOPs, device-seconds, cost and tokens so far, and what is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, overload

from plm_scaling.core.errors import ConfigError, RecordError
from plm_scaling.sweeps.plan_records import Currency, SweepPlan
from plm_scaling.sweeps.status import LineState, RunLine, sweep_status

__all__ = ["STATES", "SweepStatus", "SweepTotals", "read_status", "sweep_totals"]

STATES: Final[tuple[LineState, ...]] = (
    *("complete", "running", "planned", "interrupted", "halted", "failed", "diverged", "damaged"),
)
"""In the order they are told."""
_SETTLED: Final = frozenset({"complete", "halted", "failed", "diverged", "damaged"})


@dataclass(frozen=True)
class SweepTotals:
    """Sums over the runs of a sweep."""

    n_runs: int
    counts: dict[str, int]
    """Runs per state, every state named."""
    C_exact: float
    """Exact training FLOPs spent so far: of records as counted, of others by the mean cost of a token."""
    C_estimated: float
    """Part of it that is not from records."""
    C_planned: float | None
    """Exact FLOPs of all runs; None where some run's are not known."""
    device_s: float
    """Seconds of all devices so far."""
    usd: float | None
    """Cost so far; None without a price."""
    D: int
    """Training tokens so far."""
    D_unique: int
    """Distinct tokens, counted run by run: the same token in two runs counts twice."""
    D_repeated: int
    """The rest."""
    flops_per_s: float
    """Exact FLOP/s of the running runs together."""
    seconds_left: float | None
    """At that rate, failed runs left out; None where nothing runs, or the work left is not known."""


@dataclass(frozen=True)
class SweepStatus(Sequence[RunLine]):
    """The lines of a sweep, a sequence of them, with their totals."""

    lines: tuple[RunLine, ...]
    totals: SweepTotals
    remarks: tuple[str, ...] = ()
    """What could not be taken into account, and why."""
    currency: Currency = "C_exact"
    """How the plan counts the compute of a budget."""

    @property
    def is_settled(self) -> bool:
        """Whether no run runs, waits, or would start again: all are complete, halted, failed or damaged."""
        return all(line.status in _SETTLED for line in self.lines)

    @property
    def all_complete(self) -> bool:
        """Whether nothing is left to do."""
        return all(line.status in ("complete", "halted") for line in self.lines)

    def __len__(self) -> int:
        return len(self.lines)

    def __iter__(self) -> Iterator[RunLine]:
        return iter(self.lines)

    @overload
    def __getitem__(self, index: int) -> RunLine: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[RunLine, ...]: ...
    def __getitem__(self, index: int | slice) -> RunLine | tuple[RunLine, ...]:
        return self.lines[index]


def read_status(runs_dir: Path, plan_path: Path | None = None, *, usd_per_hour: float | None = None) -> SweepStatus:
    """Lines and totals of a runs folder.

    Parameters
    ----------
    plan_path : None for `plan.json` beside the folder, which need not be there, or be whole.

    Raises
    ------
    RecordError : a plan that was named and cannot be read.
    """
    plan, remarks = None, []
    beside = runs_dir.parent / "plan.json"
    if plan_path is not None:
        plan = SweepPlan.read(plan_path)
    elif beside.is_file():
        try:
            plan = SweepPlan.read(beside)
        except (RecordError, OSError) as error:
            remarks.append("the plan is left out: " + str(error).replace("\n", " "))
    lines = tuple(sweep_status(runs_dir, plan))
    totals = sweep_totals(lines, usd_per_hour=usd_per_hour)
    return SweepStatus(lines, totals, tuple(remarks), plan.currency if plan else "C_exact")


def sweep_totals(lines: Sequence[RunLine], *, usd_per_hour: float | None = None) -> SweepTotals:
    """Sum up the lines of `sweep_status`.

    Parameters
    ----------
    usd_per_hour : price of a device for an hour.

    Raises
    ------
    ConfigError : a negative price.
    """
    if usd_per_hour is not None and not usd_per_hour >= 0:
        raise ConfigError(f"a price of {usd_per_hour} per hour", where="usd_per_hour", hint="give a number of dollars")
    found = Counter(line.status for line in lines)
    device_s = sum(line.device_s for line in lines)
    D, D_unique = (sum(getattr(line, name) for line in lines) for name in ("D_done", "D_unique"))
    known = [line.C_planned for line in lines if line.C_planned is not None]
    rate = sum(_flops_per_s(line) for line in lines if line.status == "running")
    return SweepTotals(
        n_runs=len(lines),
        counts={state: found.get(state, 0) for state in STATES},
        C_exact=sum(line.C_exact for line in lines),
        C_estimated=sum(line.C_exact for line in lines if line.status != "complete"),
        C_planned=sum(known) if len(known) == len(lines) else None,
        device_s=device_s,
        usd=None if usd_per_hour is None else device_s / 3600.0 * usd_per_hour,
        D=D,
        D_unique=D_unique,
        D_repeated=D - D_unique,
        flops_per_s=rate,
        seconds_left=_seconds_left(lines, rate),
    )


def _flops_per_s(line: RunLine) -> float:
    if not line.tokens_per_s or not line.D or line.C_planned is None:
        return 0.0
    per_token = line.C_exact / line.D_done if line.D_done else line.C_planned / line.D
    return per_token * line.tokens_per_s


def _seconds_left(lines: Sequence[RunLine], rate: float) -> float | None:
    waiting = [line for line in lines if line.status not in _SETTLED]
    if not rate or any(line.C_planned is None for line in waiting):
        return None
    return sum(max(0.0, (line.C_planned or 0.0) - line.C_exact) for line in waiting) / rate
