"""Points to predict at and what a law says there, as CSV files."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plm_scaling.core.errors import RecordError, did_you_mean
from plm_scaling.core.files import write_atomic
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.laws.predict import Prediction, predict_losses

__all__ = ["PredictedPoints", "predict_points"]

_KNOWN = ("N", "D", "batch_tokens")


@dataclass(frozen=True)
class PredictedPoints:
    """The rows of a CSV of points, each with its prediction."""

    header: tuple[str, ...]
    rows: tuple[dict[str, str], ...]
    prediction: Prediction
    level: float = 0.90

    def table(self) -> list[dict[str, str | float]]:
        """The points' own columns, then loss, its interval (lo90, hi90 by the level), decades beyond the runs."""
        name = f"{100 * self.level:g}"
        p = self.prediction
        return [
            {
                **row,
                "loss": float(p.loss[i]),
                f"lo{name}": float(p.low[i]),
                f"hi{name}": float(p.high[i]),
                "decades_beyond": round(float(p.decades[i]), 3),
            }
            for i, row in enumerate(self.rows)
        ]

    def write(self, path: Path) -> Path:
        """Write as CSV, atomically."""
        out = io.StringIO()
        rows = self.table()
        writer = csv.DictWriter(out, fieldnames=list(rows[0]) if rows else list(self.header), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(path, out.getvalue())
        return path


def predict_points(law: LawFit, path: Path, *, level: float = 0.90) -> PredictedPoints:
    """What a law predicts at the points of a CSV with columns N and D, and batch_tokens where the batch is known.

    Other columns are carried through; columns of an earlier prediction are replaced.

    Raises
    ------
    RecordError : no such file, no column N or D, or a value that is not a positive number, naming the line.
    RefusedError : the fit holds no surface.
    """
    header, rows, lines = _read(path)
    columns = {name: _column(rows, lines, name, path) for name in _KNOWN if name in header}
    prediction = predict_losses(law, columns["N"], columns["D"], columns.get("batch_tokens"), level=level)
    stale = {"loss", f"lo{100 * level:g}", f"hi{100 * level:g}", "decades_beyond"}
    kept = tuple({key: value for key, value in row.items() if key not in stale} for row in rows)
    return PredictedPoints(header, kept, prediction, level)


def _read(path: Path) -> tuple[tuple[str, ...], tuple[dict[str, str], ...], tuple[int, ...]]:
    """Header, rows, and the line of each row: empty lines are no rows."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle)
            numbered: list[tuple[int, dict[str | None, str | None]]] = [(reader.line_num, row) for row in reader]
            header = tuple(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RecordError(f"not a readable CSV of points: {error}", where=str(path)) from None
    missing = [name for name in ("N", "D") if name not in header]
    if missing:
        raise RecordError(
            f"no column {' and '.join(missing)}", where=str(path), hint=did_you_mean(missing[0], header or ("N", "D"))
        )
    if not numbered:
        raise RecordError("no points below the header", where=str(path))
    for line, row in numbered:
        if None in row:
            raise RecordError("this row has more fields than the header", where=f"{path}:{line}")
    rows = tuple({str(key): value or "" for key, value in row.items()} for _, row in numbered)
    return header, rows, tuple(line for line, _ in numbered)


def _column(
    rows: tuple[dict[str, str], ...], lines: tuple[int, ...], name: str, path: Path
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    out = np.full(len(rows), np.nan)
    for i, row in enumerate(rows):
        text = row[name].strip()
        if name == "batch_tokens" and not text:
            continue
        try:
            out[i] = float(text)
        except ValueError:
            out[i] = math.nan
        if not (math.isfinite(out[i]) and out[i] > 0):
            raise RecordError(f"{name} is not a positive number: {text!r}", where=f"{path}:{lines[i]}")
    return out
