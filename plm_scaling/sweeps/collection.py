"""SQL over a runs folder: DuckDB on the files of the runs as they are, read-only, in memory.

runs     one row per run: id, status, reason, configuration, record
metrics  run_id and the logged lines; of a step logged twice, the last attempt's
losses   run_id and the loss of every validation set, of complete runs
val      run_id and the loss of every validation sequence, of complete runs
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from plm_scaling.core.errors import ConfigError, RecordError
from plm_scaling.core.processor import cpu_count
from plm_scaling.sweeps.collection_rows import LOSS_COLUMNS, RUN_COLUMNS, FoundRun, find_runs, loss_rows, run_rows
from plm_scaling.sweeps.run_log import merged_metrics

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

__all__ = ["METRIC_COLUMNS", "VIEWS", "QueryResult", "query_runs", "read_view"]

_WHOLE: Final = frozenset({"step", "D", "memory_bytes", "D_unique"})
METRIC_COLUMNS: Final[dict[str, str]] = {
    "run_id": "string",
    **{
        name: "int64" if name in _WHOLE else "float64"
        for name in (
            *("step", "D", "loss", "lr", "grad_norm", "val_loss"),
            *("tokens_per_s", "mfu", "memory_bytes", "flops", "flops_6nd", "D_unique"),
        )
    },
}
_VAL_COLUMNS: Final[dict[str, str]] = {
    "run_id": "string",
    "set": "string",
    "row": "int64",
    **{
        name: "float64" if name.endswith("sum") else "int64"
        for name in ("loss_sum", "n_targets", "residue_loss_sum", "n_residue_targets")
    },
}
VIEWS: Final[Mapping[str, Mapping[str, str]]] = {
    "runs": RUN_COLUMNS,
    "metrics": METRIC_COLUMNS,
    "losses": LOSS_COLUMNS,
    "val": _VAL_COLUMNS,
}
"""Views with their columns and Arrow types."""
_MAGIC: Final = b"PAR1"


@dataclass(frozen=True)
class QueryResult:
    """What a query found. Numbers that are not finite are None."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    remarks: tuple[str, ...] = ()
    """Files that were left out, and why."""


def query_runs(runs_dir: Path, sql: str) -> QueryResult:
    """Answer one SELECT over the views of a runs folder. Nothing is written, and nothing outside the folder is read.

    Files that cannot be read are left out and named in the remarks.

    Raises
    ------
    RecordError : no such folder.
    ConfigError : no valid SQL, or not a single SELECT; the views and their columns are named.
    """
    import duckdb

    source = _Source.of(runs_dir)
    while True:
        with _connection(source.runs_dir) as connection:
            try:
                _check(connection, sql)
                for name in _mentioned(sql):
                    _make_view(connection, name, source)
                _lock(connection, source.runs_dir)
                answer = connection.execute(sql)
                columns = _distinct([str(column[0]) for column in answer.description or ()])
                rows = tuple(tuple(_finite(value) for value in row) for row in answer.fetchall())
                return QueryResult(columns, rows, tuple(source.remarks))
            except duckdb.Error as error:
                if not source.leave_out(error):
                    raise _sql_error(error) from None


def read_view(runs_dir: Path, name: str) -> tuple[pa.Table, tuple[str, ...]]:
    """A whole view as an Arrow table, and the files that were left out.

    Raises
    ------
    RecordError : no such folder.
    """
    import duckdb

    source = _Source.of(runs_dir)
    while True:
        with _connection(source.runs_dir) as connection:
            try:
                _make_view(connection, name, source)
                order = ", ".join(column for column in ("run_id", "step", "set", "row") if column in VIEWS[name])
                order = "run_id" if name == "runs" else order
                table = connection.sql(f"SELECT * FROM {name} ORDER BY {order}").to_arrow_table()
                return table, tuple(source.remarks)
            except duckdb.Error as error:
                if not source.leave_out(error):
                    raise RecordError(f"the runs cannot be read: {error}", where=str(runs_dir)) from None


@dataclass
class _Source:
    """The runs of a folder, without the files that turned out to be damaged."""

    runs_dir: Path
    runs: list[FoundRun]
    damaged: dict[str, str]

    @classmethod
    def of(cls, runs_dir: Path) -> _Source:
        if not runs_dir.is_dir():
            raise RecordError("no runs folder here", where=str(runs_dir), hint="plm-scaling run PLAN")
        return cls(runs_dir.resolve(), find_runs(runs_dir.resolve()), {})

    @property
    def remarks(self) -> list[str]:
        return [f"{path} is left out: {why}" for path, why in self.damaged.items()]

    def parquet_groups(self, name: str, columns: Iterable[str]) -> list[list[str]]:
        """Files of this name in complete runs, grouped by the columns they have: older releases wrote fewer."""
        groups: dict[tuple[str, ...], list[str]] = {}
        for run in self.runs:
            path = f"{run.folder.path}/{name}"
            if not run.has_ended or name not in run.names or path in self.damaged:
                continue
            footer = _footer(path)
            if footer is None:
                self.damaged[path] = "not a Parquet file"
                continue
            # Thrift writes a name behind its length.
            key = tuple(column for column in columns if bytes([len(column)]) + column.encode() in footer)
            groups.setdefault(key, []).append(path)
        return list(groups.values())

    def leave_out(self, error: Exception) -> bool:
        """Take note of the files an error is about; False if it is about none that was not left out before."""
        import duckdb

        known = len(self.damaged)
        message = str(error)
        if found := re.search(rf"{re.escape(str(self.runs_dir))}/[^\s\"']+\.parquet", message):
            self.damaged.setdefault(found[0], message.splitlines()[0])
        elif not isinstance(error, duckdb.ProgrammingError):  # no mistake in the SQL, and it does not say which file
            self._read_all()
        return len(self.damaged) > known

    def _read_all(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        for path in (run.folder.path / name for run in self.runs for name in ("metrics.parquet", "val.parquet")):
            try:
                if path.is_file() and str(path) not in self.damaged:
                    pq.read_table(path)
            except (OSError, pa.ArrowException) as error:
                self.damaged[str(path)] = str(error).splitlines()[0]


def _footer(path: str) -> bytes | None:
    """The footer of a Parquet file; None if it is not whole."""
    try:
        with open(path, "rb") as handle:
            size = handle.seek(0, 2)
            handle.seek(max(0, size - 8))
            end = handle.read(8)
            length = int.from_bytes(end[:4], "little")
            if end[4:] != _MAGIC or length + 12 > size:
                return None
            handle.seek(size - 8 - length)
            return handle.read(length)
    except OSError:
        return None


def _connection(runs_dir: Path) -> duckdb.DuckDBPyConnection:
    """A database in memory that neither installs nor loads anything, nor looks at this process' variables."""
    import duckdb

    del runs_dir
    connection = duckdb.connect(
        ":memory:", config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
    )
    for setting in ("python_enable_replacements = false", "temp_directory = ''"):
        connection.execute(f"SET {setting}")
    return connection


def _lock(connection: duckdb.DuckDBPyConnection, runs_dir: Path) -> None:
    """From here on only files of the runs folder can be opened, and no setting changes any more."""
    connection.execute(f"SET allowed_directories = [{_quoted(f'{runs_dir}/')}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _check(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """One SELECT and nothing else: COPY could write, and INSTALL, ATTACH and SET have no business here."""
    statements = connection.extract_statements(sql)
    kinds = [statement.type.name for statement in statements]
    if kinds != ["SELECT"]:
        what = "no statement" if not kinds else f"{len(kinds)} statements" if len(kinds) > 1 else f"a {kinds[0]}"
        raise ConfigError(f"one SELECT is answered here, this is {what}", where="SQL", hint=_views_text())


def _mentioned(sql: str) -> list[str]:
    return [name for name in VIEWS if re.search(rf"\b{name}\b", sql, re.IGNORECASE)]


def _make_view(connection: duckdb.DuckDBPyConnection, name: str, source: _Source) -> None:
    columns = VIEWS[name]
    if name in ("runs", "losses"):
        rows = run_rows(source.runs) if name == "runs" else loss_rows(source.runs)
        connection.register(name, _table(rows, columns))
        return
    file = "metrics.parquet" if name == "metrics" else "val.parquet"
    connection.register("_begun", _unfinished(source.runs) if name == "metrics" else _table([], columns))
    listed = ", ".join(f'"{column}"' for column in columns)
    parts = ["SELECT * FROM _begun"]
    for files in source.parquet_groups(file, columns):
        paths = ", ".join(map(_quoted, files))
        parts.append(
            "SELECT parse_path(filename)[-2] AS run_id, * EXCLUDE (filename) "
            f"FROM read_parquet([{paths}], filename = true)"
        )
    connection.execute(f"CREATE VIEW {name} AS SELECT {listed} FROM ({' UNION ALL BY NAME '.join(parts)})")


def _unfinished(runs: Sequence[FoundRun]) -> pa.Table:
    """Lines of runs without a record, from their attempts."""
    import pyarrow as pa

    def lines(run: FoundRun) -> pa.Table:
        rows = _one_attempt(run) or _table(merged_metrics(run.folder), METRIC_COLUMNS)
        return rows.set_column(0, "run_id", pa.array([run.run_id] * len(rows), pa.string()))

    with ThreadPoolExecutor(cpu_count()) as pool:  # Arrow reads without Python's lock
        begun = list(pool.map(lines, (run for run in runs if not run.has_ended)))
    return pa.concat_tables([_table([], METRIC_COLUMNS), *begun])


def _one_attempt(run: FoundRun) -> pa.Table | None:
    """Lines of a single undamaged attempt without repeated steps, ten times faster than by Python; else None."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import json as arrow_json

    attempts = run.folder.attempts()
    if len(attempts) != 1:
        return None
    schema = pa.schema([(name, _arrow_type(kind)) for name, kind in METRIC_COLUMNS.items()])
    try:
        options = arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
        table = arrow_json.read_json(attempts[0].metrics_path, parse_options=options)
    except (OSError, pa.ArrowException):
        return None
    table = table.filter(pc.is_valid(table["step"])).select(list(METRIC_COLUMNS))
    steps = table["step"].to_numpy()
    return table if (steps[1:] > steps[:-1]).all() else None


def _table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> pa.Table:
    """Rows as Arrow; a value of another kind than its column's is null."""
    import pyarrow as pa

    return pa.table({name: _array([row.get(name) for row in rows], kind) for name, kind in columns.items()})


def _array(values: Sequence[Any], kind: str) -> pa.Array:
    import pyarrow as pa

    wanted = _arrow_type(kind)
    try:
        return pa.array(values, wanted)
    except (pa.ArrowException, TypeError, OverflowError):
        return pa.array([_of_kind(value, kind) for value in values], wanted)


def _arrow_type(kind: str) -> pa.DataType:
    import pyarrow as pa

    return {"bool": pa.bool_(), "int64": pa.int64(), "float64": pa.float64(), "string": pa.string()}[kind]


def _of_kind(value: Any, kind: str) -> Any:
    """The value, or None where it is of another kind or beyond 64 bits."""
    if kind in ("bool", "string"):
        return value if isinstance(value, bool if kind == "bool" else str) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**63:
        return None
    return float(value) if kind == "float64" else int(value)


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Names of columns, numbered where they come again."""
    return tuple(f"{name}_{names[:k].count(name)}" if name in names[:k] else name for k, name in enumerate(names))


def _finite(value: Any) -> Any:
    value = float(value) if isinstance(value, Decimal) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _sql_error(error: Exception) -> ConfigError:
    lines = str(error).splitlines()
    return ConfigError("the query cannot be answered", where="SQL", why=lines[0] if lines else "", hint=_views_text())


def _views_text() -> str:
    return "\n       ".join(f"{name}({', '.join(columns)})" for name, columns in VIEWS.items())
