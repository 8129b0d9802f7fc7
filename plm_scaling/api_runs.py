"""The verbs that look at a runs folder, whatever is in it; `plm_scaling.api` has them too."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plm_scaling.sweeps.isoflop_view import IsoflopLine
    from plm_scaling.sweeps.totals import SweepStatus

__all__ = ["status", "status_isoflop", "watch"]


def status(runs: Path, *, plan: Path | None = None, usd_per_hour: float | None = None) -> SweepStatus:
    """Where every run stands, from the files of its folder alone; runs of the plan not yet begun included.

    The plan is `plan.json` beside the folder unless it is named; `usd_per_hour` is the price of a device.
    """
    from plm_scaling.sweeps.totals import read_status

    return read_status(runs, plan, usd_per_hour=usd_per_hour)


def status_isoflop(found: SweepStatus) -> list[IsoflopLine]:
    """An early IsoFLOP view of a status: losses of its complete runs by objective, budget and size, nothing fitted."""
    from plm_scaling.sweeps.isoflop_view import isoflop_view

    return isoflop_view(found.lines, found.currency)


def watch(
    runs: Path, *, plan: Path | None = None, usd_per_hour: float | None = None, every: float = 5.0
) -> Iterator[SweepStatus]:
    """`status` every so many seconds, until every run is complete or failed."""
    while True:
        found = status(runs, plan=plan, usd_per_hour=usd_per_hour)
        yield found
        if found.is_settled:
            return
        time.sleep(every)
