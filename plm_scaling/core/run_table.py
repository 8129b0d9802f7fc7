"""`RunTable`: one row per run, the only thing the laws read. CSV or Parquet on disk."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from plm_scaling.core.errors import RecordError
from plm_scaling.core.files import canonical_json, sha256_text, writing_atomic
from plm_scaling.core.records import config_error
from plm_scaling.core.run_row import EXCLUDED_FLAGS, RunRow

__all__ = ["EXCLUDED_FLAGS", "RunRow", "RunTable", "check_units"]


@dataclass(frozen=True)
class RunTable:
    """An immutable list of runs with columns as arrays."""

    rows: tuple[RunRow, ...]
    ignored: tuple[str, ...] = field(default=(), compare=False)
    """Columns of the file that mean nothing here; no part of the content hash."""

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
    def read(cls, path: Path, objective: str | None = None) -> RunTable:
        """Read a CSV or Parquet table: N, D and loss are needed, all other columns may be missing.

        `C` is another name of `C_6nd`; a row without `run_id` is called `row-<line>`. A column of an unknown name is
        left out, and named in `ignored`, unless it looks like a misspelt known one.

        Parameters
        ----------
        objective : clm or mlm, for rows that do not state it; a column `objective` wins.

        Raises
        ------
        RecordError : missing file, a missing required column, a misspelt one, a value that cannot be read or cannot
            be in these units (N and D are counts, loss is in nats, C in FLOPs).
        """
        if not path.is_file():
            raise RecordError("no run table here", where=str(path), hint="give a CSV, a Parquet file or a runs folder")
        columns, data = _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
        if path.suffix == ".parquet" and not columns:
            return cls(())  # Parquet keeps no columns of no rows
        names, ignored = _known_columns(columns, str(path))
        rows = tuple(_row(line, values, names, objective, path) for line, values in data)
        return cls(rows, ignored)


_REQUIRED: Final = ("N", "D", "loss")
_ALIASES: Final = {"C": "C_6nd"}
_ALIKE: Final = 0.8
_NOTHING: Final = (None, "")
_FEWEST: Final = {"N": 100.0, "D": 1000.0}
"""Smaller ones are billions, or millions, of what they should be."""

_POSITIVE: Final = ("C_6nd", "C_exact", "batch_tokens", "D_unique", "epochs")
"""What a row may leave out, but not state as zero or less."""

_MAX_LOSS: Final = 30.0
_MAX_SHIFT: Final = 1e3


def _read_parquet(path: Path) -> tuple[list[str], list[tuple[int, dict[str, Any]]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise RecordError(f"not a readable Parquet table: {error}", where=str(path)) from None
    return list(table.column_names), list(enumerate(table.to_pylist(), start=2))


def _read_csv(path: Path) -> tuple[list[str], list[tuple[int, dict[str, Any]]]]:
    try:
        # Spreadsheets put a byte-order mark first.
        with path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle)
            data: list[tuple[int, dict[Any, Any]]] = [(reader.line_num, row) for row in reader]
            columns = list(reader.fieldnames or ())
    except (UnicodeDecodeError, csv.Error) as error:
        raise RecordError(f"not a readable CSV table: {error}", where=str(path)) from None
    for line, row in data:
        if None in row:
            raise RecordError("this row has more fields than the header", where=f"{path}:{line}")
    return columns, data


def _known_columns(columns: list[str], where: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Field of a row -> column of the file; and the columns that mean nothing."""
    known = set(RunRow.model_fields)
    names = {column.strip(): column for column in columns if column.strip() in known}
    for column in columns:
        if column.strip() in _ALIASES:
            names.setdefault(_ALIASES[column.strip()], column)
    ignored = tuple(column for column in columns if column not in names.values())
    for column in (name for name in ignored if name.strip() not in _ALIASES):
        close = _close(column.strip(), (known | set(_ALIASES)) - set(names))
        if close:
            raise RecordError(f"{column}: unknown column", where=f"{where}:1", hint=f"did you mean {close}?")
    for name in _REQUIRED:
        if name not in names:
            raise RecordError(
                f"no column {name}",
                where=f"{where}:1",
                why=f"the columns are {', '.join(columns) or 'none'}; N, D and loss are needed",
                hint=f"plm-scaling import csv {where} --column {name}=YOUR_COLUMN",
            )
    return names, ignored


def _close(word: str, known: set[str]) -> str | None:
    import difflib

    def likeness(name: str) -> float:
        return difflib.SequenceMatcher(None, word.lower(), name.lower()).ratio()

    best = max(sorted(known), key=likeness, default="")
    return best if best and likeness(best) >= _ALIKE else None


def _row(line: int, data: dict[str, Any], names: dict[str, str], objective: str | None, path: Path) -> RunRow:
    where = f"{path}:{line}"
    values = {name: data[column] for name, column in names.items() if not _absent(data[column], name)}
    if "loss" not in values:
        raise RecordError("the loss is empty", where=where, hint="leave unfinished runs out of the table")
    values.setdefault("run_id", f"row-{line}")
    if objective is not None:
        values.setdefault("objective", objective)
    if "objective" not in values:
        raise RecordError("which objective?", where=where, hint="--objective clm|mlm")
    try:
        row = RunRow.model_validate(values)
    except ValidationError as error:
        problem = config_error(error, RunRow, where)
        raise RecordError(problem.what, where=problem.where, why=problem.why, hint=problem.hint) from None
    check_units(row, where)
    return row


def _absent(value: Any, name: str) -> bool:
    """Whether a cell is empty; "not a number" is as good as empty where a number may be missing."""
    if value in _NOTHING:
        return True
    if isinstance(value, str):
        return value.strip().lower() == "nan" and RunRow.model_fields[name].annotation == (float | None)
    return name not in _REQUIRED and isinstance(value, float) and math.isnan(value)


def check_units(row: RunRow, where: str) -> None:
    """Refuse numbers that can only be in other units: a fit would take them without a word."""
    for name in _REQUIRED:
        value = getattr(row, name)
        if not (math.isfinite(value) and value > 0):
            raise RecordError(f"{name} = {value:g} is no positive number", where=where)
    for name in _POSITIVE:
        value = getattr(row, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise RecordError(
                f"{name} = {value:g} is no positive number", where=where, hint="leave it empty where it is not known"
            )
    if row.loss_se is not None and not 0 <= row.loss_se <= _MAX_LOSS:
        raise RecordError(f"loss_se = {row.loss_se:g} is no standard error of a loss in nats", where=where)
    for name, fewest in _FEWEST.items():
        if getattr(row, name) < fewest:
            raise RecordError(
                f"{name} = {getattr(row, name):g} is too few",
                where=where,
                why="N and D are counts, of parameters and of tokens, not millions or billions",
                hint=f"write {name} as 1.25e8, say",
            )
    if row.loss > _MAX_LOSS:
        raise RecordError(
            f"loss = {row.loss:g} nats per token is more than any model's",
            where=where,
            why="it looks like a perplexity, or like bits or a sum",
            hint="a perplexity: take ln; bits: multiply by ln 2",
        )
    six = 6.0 * row.N * row.D
    if row.C_6nd is not None and not six / _MAX_SHIFT < row.C_6nd < six * _MAX_SHIFT:
        raise RecordError(
            f"C = {row.C_6nd:g} is {row.C_6nd / six:.1g} times 6 N D = {six:.3g}",
            where=where,
            why="C is in FLOPs, not gigaFLOPs, petaFLOP-days or hours",
        )


def _csv_text(data: list[dict[str, Any]]) -> str:
    import io

    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(RunRow.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(data)
    return out.getvalue()
