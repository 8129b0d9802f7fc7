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


def export_warnings(source: Path, report: Path | None, *, unmeasured: bool = False) -> tuple[str, ...]:
    """What whoever exports these weights should read first.

    Parameters
    ----------
    source : what is exported.
    report : a `MemorisationReport` of them.
    unmeasured : let weights that were trained on from others go without one.

    Raises
    ------
    ConfigError : such weights without a report, unless `unmeasured`; or a report of other weights.
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
    run = RunFolder.holding(source)
    before = run.order().config.init_from if run else None
    if before is None:
        return ()
    unknown = "nobody has measured what they give away of the sequences they saw since"
    measure = f"plm-scaling evaluate memorisation {source} --seen FASTA --unseen FASTA -o {MEMORISATION}"
    if not unmeasured:
        raise ConfigError(
            f"these weights were trained on from {before[:24]}, and {unknown}",
            where=str(source),
            hint=f"{measure}, then --memorisation {MEMORISATION}; or --without-memorisation",
        )
    return (f"These weights were trained on from {before[:24]}, and {unknown}: {measure}.",)
