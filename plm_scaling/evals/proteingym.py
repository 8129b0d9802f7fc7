"""ProteinGym's files: which assays there are, what was measured in each, and how a model's scores agree with it.

n: variants of an assay, A: assays, M: models.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError, CorpusError
from plm_scaling.evals.assays import AssayScores
from plm_scaling.evals.metrics import MetricName
from plm_scaling.evals.variants import Variant, parse_variants

__all__ = [
    "PROTEINGYM_METRICS",
    "Assay",
    "AssayData",
    "read_assay",
    "read_reference",
    "read_score_table",
]

FloatArray = npt.NDArray[np.float64]

PROTEINGYM_METRICS: Final[tuple[MetricName, ...]] = ("spearman", "ndcg", "auc", "mcc", "top_recall")
_REFERENCE: Final = ("DMS_id", "DMS_filename", "UniProt_ID", "taxon", "target_seq", "coarse_selection_type")
_TABLE: Final = ("DMS ID", "Number of Mutants", "Selection Type", "UniProt ID", "MSA_Neff_L_category", "Taxon")
_HINT: Final = "give the files as ProteinGym publishes them"


@dataclass(frozen=True)
class Assay:
    """One row of the reference file."""

    name: str
    filename: str
    protein: str
    """UniProt entry."""
    taxon: str
    """Human, Eukaryote (other), Prokaryote, Virus."""
    depth: str
    """Of the protein's alignment: Low, Medium, High; empty where there is none."""
    function: str
    """What is measured: Activity, Binding, Expression, OrganismalFitness, Stability."""
    target: str
    """Residues of the wild type."""
    cutoff: float | None = None
    """From this measurement on a variant counts as fit; the median where there is none."""


@dataclass(frozen=True)
class AssayData:
    """Measured variants of one protein."""

    assay: Assay
    variants: tuple[Variant, ...]
    measured: FloatArray
    """float64[n], higher is fitter."""
    fit: npt.NDArray[np.bool_]
    """bool[n]: the file's own column where it has one, else at or above the cut-off."""


def read_reference(path: Path) -> tuple[Assay, ...]:
    """The assays of `DMS_substitutions.csv` or `DMS_indels.csv`.

    Raises
    ------
    CorpusError : not readable, a missing column, or an assay listed twice.
    """
    rows = _read_rows(path, _REFERENCE)
    assays = tuple(
        Assay(
            name=row["DMS_id"],
            filename=row["DMS_filename"],
            protein=row["UniProt_ID"],
            taxon=row["taxon"],
            depth=row.get("MSA_Neff_L_category", "").capitalize(),
            function=row["coarse_selection_type"],
            target=row["target_seq"].strip().upper(),
            cutoff=_number_or_none(row.get("DMS_binarization_cutoff", "")),
        )
        for _, row in rows
    )
    seen: set[str] = set()
    for (line, _), assay in zip(rows, assays, strict=True):
        if assay.name in seen:
            raise CorpusError(f"assay {assay.name} is listed twice", where=f"{path}:{line}", hint=_HINT)
        seen.add(assay.name)
    return assays


def read_assay(path: Path, assay: Assay) -> AssayData:
    """Variants and measurements of one assay, checked against its wild type.

    Substitutions are read from `mutant` and must make `mutated_sequence` where the file has it; without `mutant` (or
    where it repeats the whole sequence, as for indels) the sequence itself is the variant.

    Raises
    ------
    CorpusError : not readable, a missing column, no variant, a measurement that is no finite number, a class that is
        neither 0 nor 1, substitutions that do not make the sequence beside them; with file and line.
    ConfigError : a variant that cannot be read or does not fit the wild type, with its number and text.
    """
    rows = _read_rows(path, ("DMS_score",))
    if not rows:
        raise CorpusError("no variant in the file", where=str(path), hint=_HINT)
    fields = rows[0][1]
    if "mutant" not in fields and "mutated_sequence" not in fields:
        raise CorpusError(
            "no column says what was changed", where=str(path), why="mutant or mutated_sequence is needed"
        )
    texts = [row.get("mutant", "") or row["mutated_sequence"] for _, row in rows]
    try:
        variants = parse_variants(assay.target, texts)
    except ConfigError as error:
        raise ConfigError(error.what, where=f"{path}: {error.where}", why=error.why, hint=error.hint) from None
    if "mutated_sequence" in fields:
        _check_sequences(path, rows, variants)
    measured = np.array([_number(row["DMS_score"], "DMS_score", f"{path}:{line}") for line, row in rows])
    fit = _classes(path, rows) if "DMS_score_bin" in fields else measured >= _cutoff(assay, measured)
    return AssayData(assay=assay, variants=variants, measured=measured, fit=fit)


def read_score_table(path: Path) -> AssayScores:
    """Published scores of models by assay (`DMS_substitutions_Spearman_DMS_level.csv`); nan where one is missing.

    Raises
    ------
    CorpusError : not readable, or a missing column.
    """
    rows = _read_rows(path, ("DMS ID", "Selection Type", "UniProt ID", "MSA_Neff_L_category", "Taxon"))
    models = [name for name in rows[0][1] if name not in _TABLE] if rows else []

    def column(name: str) -> tuple[str, ...]:
        return tuple(row[name] for _, row in rows)

    def value(line: int, text: str, model: str) -> float:
        return _number(text, model, f"{path}:{line}") if text.strip() else math.nan

    return AssayScores(
        assays=column("DMS ID"),
        proteins=column("UniProt ID"),
        functions=column("Selection Type"),
        depths=tuple(depth.capitalize() for depth in column("MSA_Neff_L_category")),
        taxa=column("Taxon"),
        models=tuple(models),
        scores_MA=np.array([[value(line, row[model], model) for line, row in rows] for model in models]),
    )


def _read_rows(path: Path, needed: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Rows of a CSV with the line each ends on."""
    import gzip

    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle)
            missing = [name for name in needed if name not in (reader.fieldnames or ())]
            if missing:
                raise CorpusError(f"no column {', '.join(missing)}", where=str(path), hint=_HINT)
            rows = []
            for row in reader:
                if None in row or None in row.values():
                    raise CorpusError("a row of another length than the header", where=f"{path}:{reader.line_num}")
                rows.append((reader.line_num, row))
            return rows
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise CorpusError("cannot read the table", where=str(path), why=str(error), hint=_HINT) from None


def _check_sequences(path: Path, rows: list[tuple[int, dict[str, str]]], variants: Sequence[Variant]) -> None:
    for (line, row), variant in zip(rows, variants, strict=True):
        stated = row["mutated_sequence"].strip().upper()
        if stated != variant.sequence:
            differ = [k + 1 for k, (a, b) in enumerate(zip(stated, variant.sequence, strict=False)) if a != b]
            first = f"they first differ at residue {differ[0]}" if differ else "they differ in length"
            raise CorpusError(
                f"{variant.name[:60]} does not make the sequence beside it",
                where=f"{path}:{line}",
                why=first,
                hint="see whether the target sequence of the reference file belongs to this assay",
            )


def _classes(path: Path, rows: list[tuple[int, dict[str, str]]]) -> npt.NDArray[np.bool_]:
    values = np.array([_number(row["DMS_score_bin"], "DMS_score_bin", f"{path}:{line}") for line, row in rows])
    odd = np.flatnonzero((values != 0.0) & (values != 1.0))
    if len(odd):
        raise CorpusError(f"class {values[odd[0]]:g} is neither 0 nor 1", where=f"{path}:{rows[odd[0]][0]}")
    return np.asarray(values == 1.0)


def _cutoff(assay: Assay, measured: FloatArray) -> float:
    return float(np.median(measured)) if assay.cutoff is None else assay.cutoff


def _number(text: str, column: str, where: str) -> float:
    value = _number_or_none(text)
    if value is None:
        raise CorpusError(f"{column} is {text!r}", where=where, why="a finite number is needed")
    return value


def _number_or_none(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
