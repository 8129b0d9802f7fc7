"""The runs a run descends from."""

from __future__ import annotations

from plm_scaling.core.errors import RunError
from plm_scaling.core.run import RunConfig, RunRecord
from plm_scaling.core.run_folder import RunFolder

__all__ = ["lineage"]


def lineage(folder: RunFolder, config: RunConfig) -> tuple[RunRecord, ...]:
    """Records of the runs this one descends from, oldest first.

    Raises
    ------
    RunError : one of them is not complete.
    """
    found: list[RunRecord] = []
    while config.init_from:
        source = folder.sibling(config.init_from)
        record = source.record()
        if record is None:
            raise RunError(
                f"run {folder.path.name} starts from run {config.init_from}, which is not complete",
                where=str(source.path),
                hint="train that run first; `plm-scaling run` takes them in order",
            )
        found.insert(0, record)
        config = record.config
    return tuple(found)
