"""The verbs that look at a runs folder, whatever is in it; `plm_scaling.api` has them too."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plm_scaling.core.halt import Halt
    from plm_scaling.core.run_table import RunTable
    from plm_scaling.sweeps.collection import QueryResult
    from plm_scaling.sweeps.isoflop_view import IsoflopLine
    from plm_scaling.sweeps.totals import SweepStatus

__all__ = ["halted_runs", "runs_export", "runs_sql", "runs_table", "status", "status_isoflop", "watch"]


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


def halted_runs(runs: Path | str, *, objective: str | None = None) -> dict[str, Halt]:
    """Runs that `run --stop-dominated` halted, by id, each with the reason, its predicted end and the compute saved."""
    from plm_scaling.sweeps.halting import halted_runs as halted

    return halted(Path(runs), objective)


def runs_sql(runs: Path, query: str) -> QueryResult:
    """Answer one SELECT over the views runs, metrics, losses and val of a runs folder; nothing is written.

    Raises
    ------
    RecordError : no such folder. ConfigError : no valid SQL; the views and their columns are named.
    """
    from plm_scaling.sweeps.collection import query_runs

    return query_runs(runs, query)


def runs_table(runs: Path, out: Path | None = None, *, validation: str = "val_iid") -> RunTable:
    """The run table of a runs folder, which the laws read; written to `out` (CSV or Parquet by its ending) if given.

    Raises
    ------
    RecordError : no such folder, a damaged record, or a set that no run was scored on.
    ConfigError : another ending.
    """
    from plm_scaling.core.errors import ConfigError
    from plm_scaling.sweeps.runs import collect_runs

    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise ConfigError("a run table is a .csv or a .parquet file", where=str(out), hint="end its name in .csv")
    table = collect_runs(runs, validation=validation)
    if out is not None:
        table.write(out)
    return table


def runs_export(runs: Path, *, csv: Path | None = None, tensorboard: Path | None = None) -> tuple[str, ...]:
    """Write what the runs logged as CSV files, as TensorBoard event files, or both, into new folders.

    Returns
    -------
    files that could not be read and were left out, with the reason.

    Raises
    ------
    RecordError : no such folder. ConfigError : nothing was asked for, or a folder that is not empty.
    """
    from plm_scaling.core.errors import ConfigError
    from plm_scaling.sweeps.collection_export import export_csv, export_tensorboard

    if csv is None and tensorboard is None:
        raise ConfigError("nothing to export to", hint="give --csv DIR, --tensorboard DIR, or both")
    remarks = (*(export_csv(runs, csv) if csv else ()), *(export_tensorboard(runs, tensorboard) if tensorboard else ()))
    return tuple(dict.fromkeys(remarks))
