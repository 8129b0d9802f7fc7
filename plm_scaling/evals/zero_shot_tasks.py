"""Tasks that ask what a model expects of the variants of a protein before it has seen a measurement."""

from __future__ import annotations

import csv
import gzip
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from plm_scaling.core.errors import CorpusError
from plm_scaling.evals.adapters.base import Adapter, FloatArray
from plm_scaling.evals.alarms import score_alarms
from plm_scaling.evals.bootstrap import bootstrap_metric, measured_twice, noise_ceiling
from plm_scaling.evals.data_alarms import contamination_of, model_alarms
from plm_scaling.evals.encodings import blosum62_scores, letter_matrix, mutation_counts
from plm_scaling.evals.proteingym import Assay, read_reference
from plm_scaling.evals.results import FloorScore
from plm_scaling.evals.scoring import score_variants
from plm_scaling.evals.tables import read_aav28
from plm_scaling.evals.task import Answer, Asked, Scored, Task, answer_of, sample_rows
from plm_scaling.evals.variants import Variant, parse_variants

__all__ = ["TASKS", "scored_variants"]

REFERENCE: Final = "DMS_substitutions.csv"
_AAV: Final = "aav_capsid_28mer.csv"
_AAV_REGION: Final = (560, 588)
_BLAT: Final = "BLAT_ECOLX_Ranganathan2015_labeled.csv"


def _capsid(task: Task, adapter: Adapter, asked: Asked) -> list[Answer]:
    """The AAV2 library: 28 residues of the capsid drawn anew, each variant once."""
    file, reference = task.paths(asked)
    target, table = _assay(reference, "CAPSD_AAV2S_Sinai_2021").target, read_aav28(file)
    rows = _csv_rows(file, "sequence", "score")
    twice = measured_twice([row["sequence"] for row in rows], [float(row["score"]) for row in rows])
    ceiling = noise_ceiling(*twice, draws=100, seed=asked.seed)
    which = sample_rows(len(table), asked)
    variants = parse_variants(target, [table.sequences[k] for k in which], region=_AAV_REGION)
    return _zero_shot(task, adapter, asked, target, variants, table.targets[which], ceiling.single)


def _blat(task: Task, adapter: Adapter, asked: Asked) -> list[Answer]:
    """Single substitutions of beta-lactamase TEM-1, fitness at 2,500 ug/ml ampicillin."""
    table, reference = task.paths(asked)
    target = _assay(reference, "BLAT_ECOLX_Stiffler_2015").target
    rows = [row for row in _csv_rows(table, "mutant", "2500") if row["2500"].strip()]
    rows = [rows[k] for k in sample_rows(len(rows), asked)]
    variants = parse_variants(target, [row["mutant"] for row in rows])
    return _zero_shot(task, adapter, asked, target, variants, np.array([float(row["2500"]) for row in rows]), None)


def _zero_shot(
    task: Task,
    adapter: Adapter,
    asked: Asked,
    target: str,
    variants: Sequence[Variant],
    measured: FloatArray,
    ceiling: float | None,
) -> list[Answer]:
    started = time.perf_counter()
    scored = scored_variants(adapter, asked, target, variants, measured, task.name)
    return [answer_of(task, adapter, asked, replace(scored, noise_ceiling=ceiling), started=started)]


def scored_variants(
    adapter: Adapter, asked: Asked, target: str, variants: Sequence[Variant], measured: FloatArray, where: str
) -> Scored:
    """Scores of variants beside floors of the same, and alarms about what they follow."""
    found = score_variants(adapter, target, variants)
    alarms = score_alarms(
        found.values,
        lengths=[len(variant.sequence) for variant in variants],
        mutations=[len(variant.substitutions) for variant in variants],
        where=where,
    )
    # Only scores of different lengths rest on what a model knows of ends.
    alarms += model_alarms(adapter, [target] if any(variant.indel for variant in variants) else [])
    alarms += contamination_of(asked, where, [target])
    return Scored(
        truth=measured,
        scores=found.values,
        protocol=found.protocol,
        floors=_floors(target, variants, measured, asked),
        tokens=float(found.cost.tokens),
        flags=tuple(alarm.code for alarm in alarms),
        warnings=tuple(alarm.sentence for alarm in alarms),
    )


def _floors(target: str, variants: Sequence[Variant], measured: FloatArray, asked: Asked) -> tuple[FloorScore, ...]:
    """What needs no model, on the same variants; what does not vary among them scores nothing."""
    columns = {"random": np.random.default_rng(asked.seed).random(len(variants))}
    if not any(variant.indel for variant in variants):
        letters = letter_matrix([variant.sequence for variant in variants])
        columns["BLOSUM62"] = blosum62_scores(letters, target)
        columns["mutation count"] = -mutation_counts(letters, target).astype(np.float64)
    rows = []
    for name, scores in columns.items():
        if np.ptp(scores) > 0.0:
            one = bootstrap_metric("spearman", measured, scores, draws=min(asked.resamples, 200), seed=asked.seed)
            rows.append(FloorScore(name=name, value=one.value, low=one.low, high=one.high))
    return tuple(rows)


def _assay(reference: Path, name: str) -> Assay:
    found = {assay.name: assay for assay in read_reference(reference)}
    if name not in found:
        raise CorpusError(f"no assay {name}", where=str(reference), hint="take ProteinGym's own reference file")
    return found[name]


def _csv_rows(path: Path, variant: str, number: str) -> list[dict[str, str]]:
    """Rows with a variant and a number, which may be blank.

    Raises
    ------
    CorpusError : a column that is not there; a row, by line, that is short or whose number is none.
    """
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as handle:
        reader = csv.DictReader(handle)
        missing = [name for name in (variant, number) if name not in (reader.fieldnames or ())]
        if missing:
            why = f"it has {', '.join(reader.fieldnames)}" if reader.fieldnames else "the file is empty"
            raise CorpusError(f"no column {missing[0]!r}", where=str(path), why=why)
        rows = list(reader)
    for line, row in enumerate(rows, start=2):
        if None in (row[variant], row[number]):
            raise CorpusError("a row that ends too early", where=f"{path}:{line}", hint="was the file cut short?")
        if row[number].strip() and not _is_number(row[number]):
            raise CorpusError(f"{row[number]!r} is no number", where=f"{path}:{line}, column {number}")
    return rows


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


TASKS: Final = (
    Task(
        "aav28.zero_shot", "zero-shot", "AAV2 capsid library, 28 varied residues", "spearman", True,
        ("masked", "causal", "total", "profile"), _capsid, files=(_AAV, REFERENCE),
    ),
    Task(
        "blat.zero_shot", "zero-shot", "beta-lactamase TEM-1, single substitutions", "spearman", True,
        ("masked", "causal", "total", "profile"), _blat, files=(_BLAT, REFERENCE),
    ),
)  # fmt: skip
