"""`AllocationPlan`: the ways to split an allocation, with risk and regret of each."""

from __future__ import annotations

from typing import ClassVar, Final

from plm_scaling.core.records import Record
from plm_scaling.sizing.allocation_risk import Allocation, Conditions
from plm_scaling.sizing.run_bill import RunBill

__all__ = ["NO_SWEEP", "AllocationOption", "AllocationPlan", "StageShare"]

NO_SWEEP: Final = "no sweep, "
"""How the name of the split that measures nothing begins."""


class StageShare(Record):
    """What one stage gets."""

    name: str
    node_hours: float
    share: float
    """Of the node-hours granted."""
    jobs: int
    """One after the other, under the queue limit, at the planned speed."""


class AllocationOption(Record):
    """One way to split the allocation."""

    name: str
    stages: tuple[StageShare, ...]
    """Pilots, sweep, final run, evaluation, reserve."""
    C: float
    """6 N D FLOPs of the final run."""
    C_sweep: float | None
    """Largest budget of the sweep."""
    N: float
    """Mean size (geometric) over the laws that may be true."""
    N_low: float
    N_high: float
    """80 % of what the choice would be; one size where nothing is learned."""
    D: float
    miss_probability: float
    """That the hours or the time run out before the evaluation has ended."""
    miss_probability_no_reserve: float
    """The same if the reserve were given to the final run."""
    end_hours_median: float
    end_hours_p90: float
    """Wall-clock from the first submission, waits included."""
    regret: float
    """Mean, nats above the best size trained with all hours by someone who knows the law."""
    regret_size: float
    """Of it: the final run has the wrong size for its own hours."""
    regret_compute: float
    """Of it: hours that did not go into the final run."""
    regret_low: float
    regret_high: float
    """80 % over the laws."""

    @property
    def final(self) -> StageShare:
        """The final run."""
        return next(stage for stage in self.stages if stage.name == "final run")

    def hours_of(self, stage: str) -> float:
        """Node-hours of a stage by its name, 0 where there is none."""
        return next((one.node_hours for one in self.stages if one.name == stage), 0.0)


class AllocationPlan(Record):
    """Splits of an allocation, best first to last tried, with what was assumed."""

    SCHEMA_VERSION: ClassVar[int] = 1

    objective: str
    law: str
    law_status: str
    gpu: str
    allocation: Allocation
    conditions: Conditions
    risk: float
    """Probability of missing the end that was accepted."""
    law_doubt: float
    """Assumed standard deviation of ln(best N for your corpus / best N by the laws)."""
    options: tuple[AllocationOption, ...]
    best: str
    """Name of the option taken."""
    probability_sweep_pays: float
    """Share of the laws under which the best split with a sweep has a lower loss than the best without one."""
    bill: RunBill
    """Of the final run of the option taken, at the size that is expected now."""
    flags: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    laws_sha256: str = ""
    """Content hash of the fit or published law behind it; empty in older files."""

    @property
    def chosen(self) -> AllocationOption:
        """The option taken."""
        return next(option for option in self.options if option.name == self.best)

    @property
    def without_sweep(self) -> AllocationOption:
        """The published law, nothing measured."""
        return next(option for option in self.options if option.name.startswith(NO_SWEEP))
