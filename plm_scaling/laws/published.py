"""Runs from elsewhere, by the name of what wrote them: one door to all importers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from plm_scaling.core.errors import ConfigError, did_you_mean
from plm_scaling.laws.curves import curves_path
from plm_scaling.laws.denoise import FinalLoss, denoise
from plm_scaling.laws.imported import Imported

__all__ = ["IMPORTERS", "import_table", "report_path", "with_final_losses", "write_imported"]

IMPORTERS: Final[dict[str, str]] = {
    "cheng2024": "the released logs of Cheng et al. 2024: folder, .zip or .tar.gz",
    "csv": "any CSV, TSV or Parquet table with one row per run",
    "wandb": "CSV exports of Weights & Biases: charts, the runs table, or a folder of both",
    "tensorboard": "CSV downloads of TensorBoard: one file per run, or a folder of them",
}
"""Name -> what it reads."""


def import_table(
    name: str, path: Path, *, columns: Mapping[str, str] | None = None, objective: str | None = None
) -> Imported:
    """Read runs that were logged elsewhere.

    Parameters
    ----------
    name : a key of `IMPORTERS`.
    columns : our name -> the file's column, or a number for all runs (csv, wandb, tensorboard).
    objective : clm or mlm, where the source does not say.

    Raises
    ------
    ConfigError : no such importer, or options it has no use for. RecordError : nothing readable at `path`.
    """
    if name == "cheng2024":
        from plm_scaling.laws.cheng2024 import read_cheng2024

        if columns or objective:
            raise ConfigError("these logs state columns and objectives themselves", where=name)
        return read_cheng2024(path)
    from plm_scaling.laws import exports

    readers = {"csv": exports.read_csv_table, "wandb": exports.read_wandb, "tensorboard": exports.read_tensorboard}
    if name not in readers:
        raise ConfigError(f"{name}: no such importer", hint=did_you_mean(name, IMPORTERS))
    return readers[name](path, columns or {}, objective)


def with_final_losses(imported: Imported, final: FinalLoss) -> Imported:
    """The same runs with losses read off their curves in the way asked for; as they are, where there are no curves."""
    if not len(imported.curves):
        return imported
    read = denoise(imported.table, imported.curves, final=final)
    return replace(imported, table=replace(read.table, ignored=imported.table.ignored), noise=read.report)


def report_path(table: Path) -> Path:
    """Where the report of an import is kept: `NAME.import.json` beside `NAME.csv`."""
    return table.with_name(f"{table.stem}.import.json")


def write_imported(imported: Imported, out: Path, *, importer: str, source: Path) -> tuple[Path, ...]:
    """Write the table, its curves as they were logged, and the report; returns the paths.

    Curves of an earlier import under the same name go: they would be taken for this table's.
    """
    written = [imported.table.write(out)]
    if len(imported.curves):
        written.append(imported.curves.write(curves_path(out)))
    else:
        curves_path(out).unlink(missing_ok=True)
    written.append(imported.report(importer, str(source)).write(report_path(out)))
    return tuple(written)
