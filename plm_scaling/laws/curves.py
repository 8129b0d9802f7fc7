"""`Curves`: evaluations along the way of many runs, one row each; a Parquet file beside the run table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import RecordError
from plm_scaling.core.files import writing_atomic

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Curve", "Curves", "curves_path"]

Float = npt.NDArray[np.float64]
Text = npt.NDArray[np.str_]

COLUMNS: Final = ("run_id", "step", "D", "loss", "validation_batch_id")


def curves_path(table: Path) -> Path:
    """Where the curves of a run table are kept: `NAME.curves.parquet` beside `NAME.csv`."""
    return table.with_name(f"{table.stem}.curves.parquet")


@dataclass(frozen=True, eq=False)
class Curve:
    """One run's evaluations in the order of its training; all arrays have one entry per evaluation."""

    run_id: str
    step: Float
    """Optimiser steps done."""
    D: Float
    """Tokens trained on."""
    loss: Float
    """Validation loss, nats per token."""
    validation_batch_id: Text
    """What was scored: evaluations of equal ids saw the same tokens; empty where nothing is known of it."""

    def __len__(self) -> int:
        return len(self.loss)


@dataclass(frozen=True, eq=False)
class Curves:
    """A long table: one row per evaluation; rows of a run lie together, in the order of its training."""

    run_id: Text
    step: Float
    D: Float
    loss: Float
    validation_batch_id: Text

    def __post_init__(self) -> None:
        lengths = {len(getattr(self, name)) for name in COLUMNS}
        if len(lengths) > 1:
            raise ValueError(f"columns of different lengths: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.run_id)

    def __iter__(self) -> Iterator[Curve]:
        """Every run's curve, in the order of their first rows."""
        if not len(self):
            return
        names, first = np.unique(self.run_id, return_index=True)
        order = np.argsort(self.run_id, kind="stable")
        edges = np.searchsorted(self.run_id[order], names)
        groups = dict(zip(names.tolist(), np.split(order, edges[1:]), strict=True))
        for name in names[np.argsort(first)].tolist():
            yield self._curve(name, groups[name])

    def of(self, run_id: str) -> Curve | None:
        """The curve of one run, None if there is none."""
        rows = np.flatnonzero(self.run_id == run_id)
        return self._curve(run_id, rows) if len(rows) else None

    def _curve(self, run_id: str, rows: npt.NDArray[np.intp]) -> Curve:
        return Curve(run_id, self.step[rows], self.D[rows], self.loss[rows], self.validation_batch_id[rows])

    @classmethod
    def joined(cls, curves: Sequence[Curve]) -> Curves:
        """One long table of single curves."""
        if not curves:
            return cls(*(np.array([], dtype=kind) for kind in ("U1", float, float, float, "U1")))
        return cls(
            run_id=np.concatenate([np.full(len(curve), curve.run_id) for curve in curves]),
            step=np.concatenate([curve.step for curve in curves]),
            D=np.concatenate([curve.D for curve in curves]),
            loss=np.concatenate([curve.loss for curve in curves]),
            validation_batch_id=np.concatenate([curve.validation_batch_id for curve in curves]),
        )

    def write(self, path: Path) -> Path:
        """Write as Parquet, atomically."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns: dict[str, Any] = {
            name: pa.array(getattr(self, name)).dictionary_encode() if name.endswith("_id") else getattr(self, name)
            for name in COLUMNS
        }
        with writing_atomic(path) as handle:
            pq.write_table(pa.table(columns), handle, compression="zstd")
        return path

    @classmethod
    def read(cls, path: Path) -> Curves:
        """Read a Parquet file of curves; a table without `validation_batch_id` is taken to know nothing of it.

        Raises
        ------
        RecordError : missing, damaged, or without one of the other columns.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not path.is_file():
            raise RecordError("no curves here", where=str(path), hint="plm-scaling import writes them beside the table")
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise RecordError(f"not a readable Parquet table: {error}", where=str(path)) from None
        missing = [name for name in COLUMNS[:-1] if name not in table.column_names]
        if missing:
            raise RecordError(f"the curves lack the column {missing[0]}", where=str(path))
        return cls(
            run_id=_texts(table, "run_id"),
            step=_numbers(table, "step"),
            D=_numbers(table, "D"),
            loss=_numbers(table, "loss"),
            validation_batch_id=_texts(table, "validation_batch_id"),
        )


def _texts(table: pa.Table, name: str) -> Text:
    if name not in table.column_names:
        return np.full(table.num_rows, "", dtype=np.str_)
    return np.array([value or "" for value in table[name].to_pylist()], dtype=np.str_)


def _numbers(table: pa.Table, name: str) -> Float:
    return np.asarray(table[name].to_numpy(), dtype=np.float64)
