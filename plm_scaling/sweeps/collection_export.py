"""A runs folder as CSV files, or as TensorBoard event files. Whole or not at all: written beside, then renamed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from plm_scaling.core.errors import ConfigError
from plm_scaling.sweeps.collection import METRIC_COLUMNS, read_view

__all__ = ["export_csv", "export_tensorboard"]

_TAGS: Final = {"loss": "train/loss", "lr": "train/lr", "grad_norm": "train/grad_norm", "val_loss": "val/loss"}
"""As runs that were tracked while they trained name them; the rest is perf/NAME."""
_CSV_VIEWS: Final = ("runs", "metrics", "losses")


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, renamed to `path` at the end, removed if that is not reached.

    Raises
    ------
    ConfigError : something is there already.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError("there is something here already", where=str(path), hint="name a folder that does not exist")
    made = path.with_name(f".{path.name}.exporting")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    try:
        yield made
        if path.is_dir():
            path.rmdir()
        made.rename(path)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def export_csv(runs_dir: Path, out: Path) -> tuple[str, ...]:
    """Write runs.csv, metrics.csv and losses.csv into a new folder; returns what was left out, and why.

    Raises
    ------
    RecordError : no runs folder. ConfigError : the folder to write is not empty.
    """
    from pyarrow import csv

    remarks: dict[str, None] = {}
    with _new_folder(out) as folder:
        for name in _CSV_VIEWS:
            table, left_out = read_view(runs_dir, name)
            remarks |= dict.fromkeys(left_out)
            csv.write_csv(table, folder / f"{name}.csv")
    return tuple(remarks)


def export_tensorboard(runs_dir: Path, out: Path) -> tuple[str, ...]:
    """Write one folder of event files per run into a new folder; returns what was left out, and why.

    The horizontal axis is D, the tokens seen, as for runs that were tracked while they trained.

    Raises
    ------
    RecordError : no runs folder. ConfigError : the folder to write is not empty, or tensorboard is not installed.
    """
    if find_spec("tensorboard") is None:
        raise ConfigError("tensorboard is not installed", hint="pip install 'plm-scaling[track]'")
    table, remarks = read_view(runs_dir, "metrics")
    with _new_folder(out) as folder:
        writer: _Events | None = None
        for row in table.to_pylist():  # by run, then by step
            if writer is None or writer.run_id != row["run_id"]:
                if writer is not None:
                    writer.close()
                writer = _Events(folder, row["run_id"])
            writer.write(row)
        if writer is not None:
            writer.close()
    return remarks


class _Events:
    """Event files of one run, by TensorBoard's own writer, which needs neither TensorFlow nor torch."""

    def __init__(self, folder: Path, run_id: str) -> None:
        self.run_id = run_id
        writer = import_module("tensorboard.summary.writer.event_file_writer")
        self._writer: Any = writer.EventFileWriter(str(folder / run_id))
        self._event: Callable[..., Any] = import_module("tensorboard.compat.proto.event_pb2").Event
        self._summary: Any = import_module("tensorboard.compat.proto.summary_pb2").Summary

    def write(self, row: dict[str, Any]) -> None:
        names = [name for name in METRIC_COLUMNS if name not in ("run_id", "D") and row[name] is not None]
        value = self._summary.Value
        values = [value(tag=_tag(name), simple_value=float(row[name])) for name in names]
        self._writer.add_event(self._event(step=row["D"] or 0, summary=self._summary(value=values)))

    def close(self) -> None:
        self._writer.close()


def _tag(name: str) -> str:
    return _TAGS.get(name, f"train/{name}" if name in ("step", "D_unique") else f"perf/{name}")
