"""`LibraryScores`: zero-shot scores of a user's variants, and how well they follow what was measured. n variants."""

from __future__ import annotations

import csv
import gzip
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from plm_scaling.core.errors import ConfigError, did_you_mean
from plm_scaling.core.files import write_atomic
from plm_scaling.core.records import Record
from plm_scaling.evals.adapters.base import Adapter, ModelInfo
from plm_scaling.evals.alarms import Alarm, score_alarms
from plm_scaling.evals.bootstrap import Bootstrapped, bootstrap_metric
from plm_scaling.evals.data_alarms import model_alarms
from plm_scaling.evals.fasta import read_fasta
from plm_scaling.evals.scoring import Scores
from plm_scaling.evals.variants import Variant

__all__ = ["LibraryScores", "VariantTable", "judge_scores", "read_variants", "read_wild_type", "write_scores"]

_USUAL: Final = ("variant", "variants", "mutant", "mutation", "mutations", "mutated_sequence", "sequence", "seq")
_SCORE: Final = "plm_score"


class VariantTable(Record):
    """Rows of a CSV file as they are."""

    path: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    column: str
    """The one with the variants."""

    def cells(self, column: str) -> tuple[str, ...]:
        """A column.

        Raises
        ------
        ConfigError : there is none of that name.
        """
        if column not in self.header:
            raise ConfigError(f"no column {column!r}", where=self.path, hint=did_you_mean(column, self.header))
        place = self.header.index(column)
        return tuple(row[place] for row in self.rows)


class LibraryScores(Record):
    """Scores of a library by one model under one protocol."""

    model: ModelInfo
    protocol: str
    variants: tuple[str, ...]
    scores: tuple[float, ...]
    """Nats, the wild type's less; higher is likelier."""
    wild_type_nats: float | None = None
    """The wild type's own total, where totals are compared."""
    sites: int
    forwards: int
    tokens: int
    tokens_unshared: int
    """With every document computed by itself."""
    spearman: Bootstrapped | None = None
    """With what was measured, where a column of it was named."""
    measured: int = 0
    """Variants with a measurement."""
    alarms: tuple[Alarm, ...] = ()


def read_variants(path: Path, column: str | None = None) -> VariantTable:
    """A CSV file with a header, plain or .gz.

    Parameters
    ----------
    column : of the variants; by default the first of the usual names (variant, mutant, sequence, ...).

    Raises
    ------
    ConfigError : the file cannot be read, has no such column or no row, or rows of different lengths.
    """
    try:
        with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as handle:
            header, *rows = list(csv.reader(handle)) or [[]]
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError("cannot read the table of variants", where=str(path), why=str(error)) from None
    names = [name.strip() for name in header]
    lower = [name.lower() for name in names]
    usual = next((names[lower.index(name)] for name in _USUAL if name in lower), None)
    chosen = column or usual
    if chosen is None or chosen not in names:
        raise ConfigError(
            f"no column {column!r}" if column else "no column of variants",
            where=f"{path}, line 1",
            why=f"the columns are {', '.join(names) or 'none'}",
            hint="name it: --column NAME",
        )
    if not rows:
        raise ConfigError("no variant in the table", where=str(path))
    for number, row in enumerate(rows, 2):
        if len(row) != len(names):
            raise ConfigError(f"{len(row)} cells, the header has {len(names)}", where=f"{path}, line {number}")
    return VariantTable(path=str(path), header=tuple(names), rows=tuple(map(tuple, rows)), column=chosen)


def read_wild_type(told: str | Path) -> str:
    """Residues of a wild type: given as letters, or the one record of a FASTA file.

    Raises
    ------
    ConfigError : a file of several proteins. CorpusError : a file that cannot be read.
    """
    if not isinstance(told, Path) and not Path(told).suffix:
        return told.strip().upper()
    proteins = read_fasta(Path(told))
    if len(proteins) > 1:
        raise ConfigError(
            f"{len(proteins)} proteins, and one wild type is needed", where=str(told), hint="leave one in the file"
        )
    return proteins[0].sequence


def judge_scores(
    adapter: Adapter,
    variants: Sequence[Variant],
    scores: Scores,
    measured: Sequence[str] | None = None,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> LibraryScores:
    """Scores with their rank correlation and alarms.

    Parameters
    ----------
    measured : cells of a column, [n]; empty ones are left out.

    Raises
    ------
    ConfigError : a measurement that is no number, by row. RefusedError : no correlation is defined on them.
    """
    spearman, count = None, 0
    if measured is not None:
        truth = np.array([_number(cell, row) for row, cell in enumerate(measured, 2)])
        here = np.isfinite(truth)
        count = int(here.sum())
        spearman = bootstrap_metric("spearman", truth[here], scores.values[here], draws=draws, seed=seed)
    lengths = [len(variant.sequence) for variant in variants]
    changes = [] if any(variant.indel for variant in variants) else [len(variant.substitutions) for variant in variants]
    return LibraryScores(
        model=adapter.info,
        protocol=scores.protocol,
        variants=tuple(variant.name for variant in variants),
        scores=tuple(scores.values.tolist()),
        wild_type_nats=scores.wild_type,
        sites=scores.cost.sites,
        forwards=scores.cost.forwards,
        tokens=scores.cost.tokens,
        tokens_unshared=scores.cost.tokens_unshared,
        spearman=spearman,
        measured=count,
        alarms=score_alarms(scores.values, lengths=lengths, mutations=changes) + model_alarms(adapter, []),
    )


def write_scores(path: Path, table: VariantTable, scores: Sequence[float]) -> Path:
    """The table with the column plm_score at its end (an older one replaced), atomically; returns the path."""
    kept = [k for k, name in enumerate(table.header) if name != _SCORE]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(table.header[k] for k in kept), _SCORE])
    for row, score in zip(table.rows, scores, strict=True):
        writer.writerow([*(row[k] for k in kept), repr(score)])
    write_atomic(path, text.getvalue())
    return path


def _number(cell: str, line: int) -> float:
    if not cell.strip():
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"{cell!r} is no measurement", where=f"line {line}", hint="a number, or nothing")
    return value
