"""What is known of what weights give away, before they leave the house."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from plm_scaling.core.errors import ConfigError
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.evals.memorisation import MemorisationReport

__all__ = ["MEMORISATION", "export_warnings"]

MEMORISATION: Final = "memorisation.json"
"""Name of the report beside exported weights."""


def export_warnings(source: Path, report: Path | None) -> tuple[str, ...]:
    """What whoever exports these weights should read first.

    Parameters
    ----------
    source : what is exported.
    report : a `MemorisationReport` of them; without one fine-tuned weights are warned of.

    Raises
    ------
    ConfigError : a report of other weights.
    RecordError : not a report. CheckpointError : weights that cannot be read.
    """
    from plm_scaling.models.open_model import read_model

    if report is not None:
        known, sha256 = MemorisationReport.read(report), read_model(source).sha256
        if known.sha256 != sha256:
            raise ConfigError(
                f"the report is of other weights ({known.model})",
                where=str(report),
                why=f"they are {known.sha256[:12] or 'unnamed'}, these are {sha256[:12]}",
                hint=f"plm-scaling evaluate memorisation {source} --seen FASTA --unseen FASTA",
            )
        return tuple(alarm.sentence for alarm in known.alarms)
    order = RunFolder(source).order_path
    before = RunFolder(source).order().config.init_from if order.is_file() else None
    if before is None:
        return ()
    return (
        f"These weights were trained on from {before[:24]}, and nobody has measured what they give away of the "
        f"sequences they saw since: plm-scaling evaluate memorisation {source} --seen FASTA --unseen FASTA.",
    )
