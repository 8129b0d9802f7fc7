"""Tables and logs of other tools as run tables: any CSV, Weights & Biases exports, TensorBoard's CSV exports.

What a file does not state the user does, by NAME=COLUMN (another name of a column) or NAME=NUMBER (the same for all
runs); a run's name may state it too, as in `N=85M bs=524288`.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError, QuantityError, RecordError, did_you_mean
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_table import RunRow, RunTable, check_units
from plm_scaling.core.units import parse_quantity, six_nd
from plm_scaling.laws.curves import Curve, Curves
from plm_scaling.laws.imported import Finding, Imported
from plm_scaling.laws.tails import mean_of_last

__all__ = ["imported_own_runs", "read_csv_table", "read_tensorboard", "read_wandb"]

Float = npt.NDArray[np.float64]
Cells = dict[str, str]

_IN_NAME: Final = re.compile(r"(?:^|[^A-Za-z])(N|D|C|bs|batch_tokens|seed)=([\d.]+(?:e[+-]?\d+)?[kMGBT]?)")
_SHORT: Final = {"bs": "batch_tokens", "C": "C_6nd"}
_TEXT: Final = frozenset({"run_id", "objective"})
_EXTREMES: Final = ("__MIN", "__MAX")
_FINISHED: Final = frozenset({"", "finished", "FINISHED"})
_TENSORBOARD: Final = ["Wall time", "Step", "Value"]
_TENSORBOARD_NAME: Final = re.compile(r"^run-(?P<run>.*?)-tag-(?P<tag>.*)$")


@dataclass(frozen=True)
class _Stated:
    """What the user said: other names of columns, and numbers that hold for every run."""

    columns: dict[str, str]
    numbers: dict[str, float]

    @classmethod
    def of(cls, said: Mapping[str, str]) -> _Stated:
        columns: dict[str, str] = {}
        numbers: dict[str, float] = {}
        for name, word in said.items():
            key = _SHORT.get(name, name)
            if key not in RunRow.model_fields:
                raise ConfigError(
                    f"{name}={word}: no such quantity", where="--column", hint=did_you_mean(name, RunRow.model_fields)
                )
            try:
                if key in _TEXT:
                    columns[key] = word
                else:
                    numbers[key] = parse_quantity(word)
            except QuantityError:
                columns[key] = word
        return cls(columns, numbers)


@dataclass
class _Collected:
    """Rows and curves as they come, and what was wrong."""

    objective: str | None
    rows: list[RunRow] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def found(self, kind: str, what: str, *files: str) -> None:
        self.findings.append(Finding(kind=kind, what=what, files=files))

    def add(self, values: dict[str, Any], where: str) -> RunRow | None:
        """Take a run; N, D or C may be missing, and is then 6 N D's third."""
        complete = _third_of_6nd(values)
        missing = [name for name in ("N", "D", "loss") if complete.get(name) is None]
        if missing:
            self.found("NO_NUMBERS", f"{values.get('run_id', where)}: no {' and no '.join(missing)}", where)
            return None
        if self.objective is not None:
            complete.setdefault("objective", self.objective)
        if "objective" not in complete:
            raise RecordError("which objective?", where=where, hint="--objective clm|mlm")
        try:
            row = RunRow.model_validate(complete)
        except ValueError as error:
            raise RecordError(f"a value cannot be read: {error}", where=where) from None
        check_units(row, where)
        self.rows.append(row)
        return row

    def imported(self, files: int, hint: str, where: Path, ignored: tuple[str, ...] = ()) -> Imported:
        if not self.rows:
            why = "; ".join(finding.what for finding in self.findings[:3])
            raise RecordError("no run could be read", where=str(where), why=why, hint=hint)
        known = {row.run_id for row in self.rows}
        return Imported(
            table=RunTable(tuple(self.rows), ignored),
            curves=Curves.joined([curve for curve in self.curves if curve.run_id in known]),
            findings=tuple(self.findings),
            counts={"files": files, "runs": len(self.rows)},
        )


def _third_of_6nd(values: dict[str, Any]) -> dict[str, Any]:
    """Fill the missing one of N, D and C = 6 N D.

    **Source:** Kaplan et al. 2020, section 2.1.
    """
    N, D, C = (values.get(name) for name in ("N", "D", "C_6nd"))
    if C and N and D is None:
        return values | {"D": C / (6.0 * N)}
    if C and D and N is None:
        return values | {"N": C / (6.0 * D)}
    if N and D and C is None:
        return values | {"C_6nd": six_nd(N, D)}
    return values


def read_csv_table(path: Path, columns: Mapping[str, str], objective: str | None = None) -> Imported:
    """Read any CSV, TSV or Parquet table with one row per run.

    Parameters
    ----------
    columns : our name -> the file's column, or a number for all rows; two of N, D and C are enough.
    objective : clm or mlm, for a table that does not say.

    Raises
    ------
    RecordError : not a table, a number that cannot be read, units that cannot be right. ConfigError : a column the
        file does not have.
    """
    stated = _Stated.of(columns)
    header, cells = _table(path)
    used = _used_columns(header, stated, path)
    collected = _Collected(objective)
    for line, row in cells:
        where = f"{path}:{line}"
        collected.add({"run_id": f"row-{line}"} | stated.numbers | _values(row, used, where), where)
    ignored = tuple(name for name in header if name not in used.values())
    return collected.imported(1, "name the columns: --column N=... --column D=... --column loss=...", path, ignored)


def _table(path: Path) -> tuple[list[str], list[tuple[int, Cells]]]:
    """Header, and rows with their lines."""
    if not path.is_file():
        raise RecordError("no table here", where=str(path))
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise RecordError(f"not a readable Parquet table: {error}", where=str(path)) from None
        rows = [{k: "" if v is None else str(v) for k, v in row.items()} for row in table.to_pylist()]
        return list(table.column_names), list(enumerate(rows, start=2))
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            first = handle.readline()
            handle.seek(0)
            reader = csv.DictReader(handle, delimiter="\t" if "\t" in first else ";" if ";" in first else ",")
            lines = [(reader.line_num, {str(k): str(v or "").strip() for k, v in row.items()}) for row in reader]
            return [name for name in reader.fieldnames or ()], lines
    except (UnicodeDecodeError, csv.Error) as error:
        raise RecordError(f"not a readable table: {error}", where=str(path)) from None


def _used_columns(header: list[str], stated: _Stated, path: Path) -> dict[str, str]:
    """Our names -> the file's columns: those stated, and those that carry our names already."""
    for name, column in stated.columns.items():
        if column not in header:
            raise ConfigError(f"{name}={column}: no such column", where=str(path), hint=did_you_mean(column, header))
    ours = {_SHORT.get(name, name): name for name in header if _SHORT.get(name, name) in RunRow.model_fields}
    return {name: column for name, column in ours.items() if name not in stated.numbers} | stated.columns


def _values(row: Cells, used: Mapping[str, str], where: str) -> dict[str, Any]:
    """The cells that are not empty; numbers where the field is one, 85M and 1e20 included."""
    values: dict[str, Any] = {}
    for name, column in used.items():
        text = row.get(column, "")
        if text == "" or text.lower() in ("nan", "none", "null", "na"):
            continue
        if RunRow.model_fields[name].annotation in (float, float | None):
            values[name] = _number(text.replace(",", ""), column, where)
        else:
            values[name] = text
    return values


def _number(text: str, column: str, where: str) -> float:
    """1.25e8, 125M, 0: as people write numbers."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return parse_quantity(text, what=column)
    except QuantityError as error:
        raise RecordError(error.what, where=where, hint=error.hint) from None


def _in_name(name: str) -> dict[str, Any]:
    """What a run's name states: N=85M, D=10B, C=1e19, bs=524288, seed=1."""
    found: dict[str, Any] = {}
    for key, text in _IN_NAME.findall(name):
        try:
            found[_SHORT.get(key, key)] = int(text) if key == "seed" else parse_quantity(text)
        except (ValueError, QuantityError):
            continue  # part of another word
    return found


# ---- curves ----------------------------------------------------------------------------------------------------------


def _add_curve(
    collected: _Collected, facts: dict[str, Any], axis: Float, loss: Float, *, axis_is_D: bool, where: str
) -> None:
    """Take a run from its curve; the tokens of a point are its step times the batch, unless the axis counts them."""
    good = np.isfinite(axis) & np.isfinite(loss) & (axis > 0) & (loss > 0)
    if not good.all():
        collected.found("NOT_FINITE", f"{facts['run_id']}: {(~good).sum()} points are no positive numbers", where)
    order = np.argsort(axis[good], kind="stable")
    axis, loss = axis[good][order], loss[good][order]
    if not len(loss):
        collected.found("NO_NUMBERS", f"{facts['run_id']}: no loss", where)
        return
    batch = facts.get("batch_tokens")
    if axis_is_D:
        D = axis
    elif batch:
        D = axis * float(batch)
    elif facts.get("D"):
        D = axis / axis[-1] * float(facts["D"])
    else:
        raise RecordError(
            f"how many tokens is a step of {facts['run_id']}?",
            where=where,
            hint="--column batch_tokens=524288, or --column D=Step if the axis counts tokens",
        )
    level, se = mean_of_last(loss)
    row = collected.add({"D": float(D[-1]), "loss": level, "loss_se": se, "final_loss": "last5"} | facts, where)
    if row is not None:
        step = D / float(batch) if axis_is_D and batch else axis
        collected.curves.append(Curve(row.run_id, step, D, loss, np.full(len(loss), "")))


def read_wandb(path: Path, columns: Mapping[str, str], objective: str | None = None) -> Imported:
    """Read Weights & Biases CSV exports: charts (`Step, "RUN - METRIC", ...`), the runs table, or a folder of both.

    A chart gives curves, the runs table gives each run's config by its name; with both, they are joined. Of several
    metrics, `loss=METRIC` says which.

    Raises
    ------
    RecordError : no export, or a run whose tokens nothing tells. ConfigError : several metrics and none chosen.
    """
    stated = _Stated.of(columns)
    files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    tables = {file: _table(file) for file in files}
    charts = {file: table for file, table in tables.items() if _series(table[0])}
    collected = _Collected(objective)
    facts: dict[str, dict[str, Any]] = {}
    summary = _Stated({k: v for k, v in stated.columns.items() if not (charts and k in ("loss", "D"))}, stated.numbers)
    ignored: tuple[str, ...] = ()
    for file, (header, rows) in tables.items():
        if file in charts:
            continue
        used = _used_columns(header, summary, file)
        ignored = tuple(name for name in header if name not in used.values())
        for line, row in rows:
            name = row.get("Name") or row.get("name") or f"row-{line}"
            values = _in_name(name) | summary.numbers | _values(row, used, f"{file}:{line}")
            facts[name] = {"run_id": name} | values | _state(collected, name, row, file)
    for file, (header, rows) in charts.items():
        _add_chart(collected, stated, facts, file, header, rows)
    if not charts:
        for name, values in facts.items():
            collected.add(values, f"{path}: {name}")
    return collected.imported(len(files), "--column N=CONFIG_COLUMN or --column N=85M; batch_tokens=...", path, ignored)


def _state(collected: _Collected, name: str, row: Cells, file: Path) -> dict[str, Any]:
    state = row.get("State", "")
    if state in _FINISHED:
        return {}
    collected.found("UNFINISHED", f"{name}: {state}", str(file))
    return {"schedule_complete": False}


def _series(header: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Columns of a chart: column -> (run, metric)."""
    found = {}
    for column in header:
        run, separator, metric = column.rpartition(" - ")
        if separator and not metric.endswith(_EXTREMES) and metric != "_step":
            found[column] = (run, metric)
    return found


def _add_chart(
    collected: _Collected,
    stated: _Stated,
    facts: Mapping[str, dict[str, Any]],
    file: Path,
    header: list[str],
    rows: list[tuple[int, Cells]],
) -> None:
    series = _series(header)
    metrics = sorted({metric for _, metric in series.values()})
    wanted = stated.columns.get("loss") or (metrics[0] if len(metrics) == 1 else None)
    if wanted not in metrics:
        what = f"loss={wanted}: no such metric" if wanted else f"{len(metrics)} metrics: which is the validation loss?"
        raise ConfigError(what, where=str(file), hint=f"--column loss=...; the chart holds {', '.join(metrics)}")
    axis_name = header[0]
    axis_is_D = stated.columns.get("D") == axis_name or "token" in axis_name.lower()
    axis = _floats([row.get(axis_name, "") for _, row in rows])
    for column, (run, metric) in series.items():
        if metric != wanted:
            continue
        loss = _floats([row.get(column, "") for _, row in rows])
        here = np.isfinite(loss)
        known = {"run_id": run} | _in_name(run) | stated.numbers | facts.get(run, {})
        known = {name: value for name, value in known.items() if name not in ("loss", "loss_se")}
        if axis_is_D:
            known.pop("D", None)
        _add_curve(collected, known, axis[here], loss[here], axis_is_D=axis_is_D, where=f"{file}: {run}")


def _floats(texts: Iterable[str]) -> Float:
    def number(text: str) -> float:
        try:
            return float(text)
        except ValueError:
            return math.nan

    return np.array([number(text) for text in texts], dtype=np.float64)


def read_tensorboard(path: Path, columns: Mapping[str, str], objective: str | None = None) -> Imported:
    """Read TensorBoard's CSV downloads: files of `Wall time,Step,Value`, one a run, or a folder of them.

    Of several tags in a folder, `loss=TAG` says which. N and the tokens of a step come from the user or from names
    like `N=85M_bs=524288`.

    Raises
    ------
    RecordError : no such file, or a run whose tokens nothing tells. ConfigError : several tags and none chosen.
    """
    stated = _Stated.of(columns)
    files = sorted(path.rglob("*.csv")) if path.is_dir() else [path]
    collected = _Collected(objective)
    logs: list[tuple[Path, str, str, list[tuple[int, Cells]]]] = []
    for file in files:
        header, rows = _table(file)
        if header != _TENSORBOARD:
            collected.found("UNREADABLE", "the columns are not Wall time, Step, Value", str(file))
            continue
        match = _TENSORBOARD_NAME.match(file.stem)
        logs.append((file, match["run"] if match else file.stem, match["tag"] if match else "", rows))
    tags = sorted({tag for _, _, tag, _ in logs})
    wanted = stated.columns.get("loss") or (tags[0] if len(tags) == 1 else None)
    if logs and wanted not in tags:
        what = f"loss={wanted}: no such tag" if wanted else f"{len(tags)} tags: which is the validation loss?"
        raise ConfigError(what, where=str(path), hint=f"--column loss=...; the tags are {', '.join(tags)}")
    for file, run, tag, rows in logs:
        if tag == wanted:
            known = {"run_id": run} | _in_name(file.stem) | stated.numbers
            axis, loss = (_floats(row[name] for _, row in rows) for name in ("Step", "Value"))
            axis_is_D = stated.columns.get("D") == "Step"
            _add_curve(collected, known, axis, loss, axis_is_D=axis_is_D, where=str(file))
    return collected.imported(len(files), "--column N=85M --column batch_tokens=524288", path)


def imported_own_runs(runs: Path, table: RunTable, *, with_curves: bool) -> Imported:
    """Our own runs as an import: nothing to clean; losses stay those measured at the end of each run.

    All evaluations scored one fixed set, so all points of the curves share its name.
    """
    curves = []
    for row in table if with_curves else ():
        lines = [line for line in RunFolder(runs / row.run_id).metrics() if line.get("val_loss") is not None]
        if lines:
            step, D, loss = (np.array([float(line[n]) for line in lines]) for n in ("step", "D", "val_loss"))
            curves.append(Curve(row.run_id, step, D, loss, np.full(len(lines), row.validation_id or "")))
    return Imported(table=table, curves=Curves.joined(curves), counts={"runs": len(table)})
