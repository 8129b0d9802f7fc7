"""Where a run's weights come from: the runs it descends from, and weights made elsewhere."""

from __future__ import annotations

from typing import Final

from plm_scaling.core.errors import RunError
from plm_scaling.core.run import RunConfig, RunRecord
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.weight_identity import is_foreign

__all__ = ["FOREIGN_SOURCE", "complete_record", "lineage", "lineage_flags"]

FOREIGN_SOURCE: Final = "FOREIGN_SOURCE"
"""Flag of a run that descends from weights made elsewhere: what those were trained on is in no ledger here."""


def complete_record(folder: RunFolder, run_id: str, needs: str) -> RunRecord:
    """Record of another run of the study.

    Parameters
    ----------
    folder : of the run that asks.
    needs : what it does with the other, for the message.

    Raises
    ------
    RunError : the other run is not complete.
    """
    source = folder.sibling(run_id)
    record = source.record()
    if record is None:
        raise RunError(
            f"run {folder.path.name} {needs} run {run_id}, which is not complete",
            where=str(source.path),
            hint="train that run first; `plm-scaling run` takes them in order",
        )
    return record


def lineage(folder: RunFolder, config: RunConfig) -> tuple[RunRecord, ...]:
    """Records of the runs this one descends from, oldest first. Weights made elsewhere are no run: they end the line.

    Raises
    ------
    RunError : one of them is not complete.
    """
    found: list[RunRecord] = []
    while config.init_from and not is_foreign(config.init_from):
        record = complete_record(folder, config.init_from, "starts from")
        found.insert(0, record)
        config = record.config
    return tuple(found)


def lineage_flags(config: RunConfig, earlier: tuple[RunRecord, ...]) -> tuple[str, ...]:
    """Flags that a run's record gets for where its weights come from.

    Parameters
    ----------
    earlier : the runs it descends from (`lineage`).
    """
    first = earlier[0].config if earlier else config
    return (FOREIGN_SOURCE,) if is_foreign(first.init_from) else ()
