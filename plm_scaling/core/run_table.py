"""`RunTable`: one row per run, the only thing the laws read. CSV or Parquet on disk."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from plm_scaling.core.errors import RecordError
from plm_scaling.core.files import canonical_json, sha256_text, writing_atomic
from plm_scaling.core.records import Record, config_error
from plm_scaling.core.run import Objective

__all__ = ["RunRow", "RunTable"]


class RunRow(Record):
    """One run as the laws see it. Optional columns switch a feature off by name when they are missing."""

    run_id: str
    objective: Objective
    role: str = ""
    """Comma-separated: isoflop, grid, replicate, repeats, diversity, transfer_source, transfer_target, ..."""
    N: float
    """Block parameters."""
    D: float
    """Training tokens, repeats included."""
    loss: float
    """Nats per token on the validation set named by `validation_id`."""
    loss_se: float | None = None
    D_unique: float | None = None
    epochs: float | None = None
    seen_earlier: float | None = None
    """Distinct tokens of this run that an earlier run of its lineage had been trained on."""
    C_6nd: float | None = None
    C_exact: float | None = None
    device_s: float | None = None
    batch_tokens: float | None = None
    peak_lr: float | None = None
    corpus_id: str | None = None
    validation_id: str | None = None
    streams: str | None = None
    """Canonical JSON of the run's streams; equal text means the same data pools."""
    seed: int | None = None
    mask_refresh: bool = True
    """Whether every epoch drew new MLM masks."""
    source_run_id: str | None = None
    source_objective: Objective | None = None
    N_source: float | None = None
    D_source: float | None = None
    C_source: float | None = None
    schedule_complete: bool = True
    flags: str = ""

    def has_role(self, role: str) -> bool:
        """Whether `role` is among the row's roles."""
        return role in self.role.split(",")


@dataclass(frozen=True)
class RunTable:
    """An immutable list of runs with columns as arrays."""

    rows: tuple[RunRow, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[RunRow]:
        return iter(self.rows)

    def column(self, name: str) -> npt.NDArray[np.float64]:
        """A numeric column as float64[n]; missing values are NaN."""
        values = (getattr(row, name) for row in self.rows)
        return np.array([np.nan if v is None else v for v in values], dtype=np.float64)

    def where(self, keep: Callable[[RunRow], bool]) -> RunTable:
        """The rows for which `keep` is true."""
        return RunTable(tuple(row for row in self.rows if keep(row)))

    def of(self, objective: str) -> RunTable:
        """The rows of one objective."""
        return self.where(lambda row: row.objective == objective)

    def content_hash(self) -> str:
        """Hex SHA-256 over the rows, independent of their order."""
        rows = sorted(canonical_json(row.identity()) for row in self.rows)
        return sha256_text("\n".join(rows))

    def write(self, path: Path) -> Path:
        """Write as CSV or Parquet, by the ending of `path`, atomically."""
        data = [row.model_dump(mode="json") for row in self.rows]
        with writing_atomic(path) as handle:
            if path.suffix == ".parquet":
                import pyarrow as pa
                import pyarrow.parquet as pq

                pq.write_table(pa.Table.from_pylist(data), handle)
            else:
                lines = _csv_text(data)
                handle.write(lines.encode())
        return path

    @classmethod
    def read(cls, path: Path) -> RunTable:
        """Read a CSV or Parquet table; unknown columns are an error that names them.

        Raises
        ------
        RecordError : missing file, a missing required column, or a value that cannot be read.
        """
        if not path.is_file():
            raise RecordError("no run table here", where=str(path), hint="give a CSV, a Parquet file or a runs folder")
        data = _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
        rows = []
        for number, values in enumerate(data, start=2):
            try:
                rows.append(RunRow.model_validate(values))
            except ValidationError as error:
                problem = config_error(error, RunRow, f"{path}:{number}")
                raise RecordError(problem.what, where=problem.where, why=problem.why, hint=problem.hint) from None
        return cls(tuple(rows))


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        data: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise RecordError(f"not a readable Parquet table: {error}", where=str(path)) from None
    return [_present(row) for row in data]


def _read_csv(path: Path) -> list[dict[str, Any]]:
    try:
        # Spreadsheets put a byte-order mark first.
        with path.open(newline="", encoding="utf-8-sig") as handle:
            data: list[dict[str | None, Any]] = list(csv.DictReader(handle))
    except (UnicodeDecodeError, csv.Error) as error:
        raise RecordError(f"not a readable CSV table: {error}", where=str(path)) from None
    for number, row in enumerate(data, start=2):
        if None in row:
            raise RecordError("this row has more fields than the header", where=f"{path}:{number}")
    return [_present({str(key): value for key, value in row.items()}) for row in data]


def _present(row: dict[str, Any]) -> dict[str, Any]:
    """A row without the known columns it leaves empty: they stand at their defaults."""
    return {key: value for key, value in row.items() if value not in (None, "") or key not in RunRow.model_fields}


def _csv_text(data: list[dict[str, Any]]) -> str:
    import io

    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(RunRow.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(data)
    return out.getvalue()
