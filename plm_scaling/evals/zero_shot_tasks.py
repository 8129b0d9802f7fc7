"""Tasks that ask what a model expects before it has seen a measurement: sites, and variants of one protein."""

from __future__ import annotations

import csv
import gzip
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from plm_scaling.core.errors import ConfigError, CorpusError
from plm_scaling.evals.adapters.base import Adapter
from plm_scaling.evals.bootstrap import bootstrap_metric, measured_twice, noise_ceiling
from plm_scaling.evals.fasta import read_fasta
from plm_scaling.evals.proteingym import Assay, read_assay, read_reference
from plm_scaling.evals.results import FloorScore
from plm_scaling.evals.scoring import score_variants
from plm_scaling.evals.site_nats import site_nats
from plm_scaling.evals.site_sample import sample_sites
from plm_scaling.evals.task import Answer, Asked, Scored, Task, answer_of, sample_rows
from plm_scaling.evals.variants import Variant, parse_variants
from plm_scaling.evals.zero_shot_floors import zero_shot_floors

__all__ = ["TASKS"]

REFERENCE: Final = "DMS_substitutions.csv"
_AAV: Final = "aav_capsid_28mer.csv"
_AAV_REGION: Final = (560, 588)
_BLAT: Final = "BLAT_ECOLX_Ranganathan2015_labeled.csv"
_SITES: Final = 8


def _site_nats(task: Task, adapter: Adapter, asked: Asked) -> list[Answer]:
    """A fixed sample of sites of the held-out proteins, the same for every model."""
    if asked.sequences is None:
        raise ConfigError(f"{task.name} needs held-out proteins", hint="--sequences FASTA")
    started, names = time.perf_counter(), read_fasta(asked.sequences)
    sequences = [names[k].sequence for k in sample_rows(len(names), asked)]
    sample = sample_sites(sequences, per_sequence=_SITES, seed=asked.seed)
    found = site_nats(adapter, sequences, sample, draws=asked.resamples)
    scored = Scored(
        truth=np.zeros(len(found.values)),
        scores=found.values,
        protocol=found.protocol,
        clusters=tuple(str(k) for k in found.sample.sequence.tolist()),
        cluster_kind="sequence",
        tokens=float(found.cost.tokens),
        warnings=(f"{found.cut} sites were read in a window of their protein.",) if found.cut else (),
        flags=("WINDOWS",) if found.cut else (),
    )
    return [answer_of(task, adapter, asked, scored, value=found.mean, started=started)]


def _capsid(task: Task, adapter: Adapter, asked: Asked) -> list[Answer]:
    """The AAV2 library: 28 residues of the capsid drawn anew, each variant once."""
    table, reference = task.paths(asked)
    target = _assay(reference, "CAPSD_AAV2S_Sinai_2021").target
    rows = _csv_rows(table, ("sequence", "score"))
    texts, values = [row["sequence"] for row in rows], np.array([float(row["score"]) for row in rows])
    names = sorted(set(texts))
    number = {name: k for k, name in enumerate(names)}
    owner = np.array([number[text] for text in texts])
    measured = np.bincount(owner, values) / np.bincount(owner)
    which = sample_rows(len(names), asked)
    variants = parse_variants(target, [names[k] for k in which], region=_AAV_REGION)
    ceiling = noise_ceiling(*measured_twice(texts, values), draws=100, seed=asked.seed)
    return _zero_shot(task, adapter, asked, target, variants, measured[which], ceiling.single)


def _blat(task: Task, adapter: Adapter, asked: Asked) -> list[Answer]:
    """Single substitutions of beta-lactamase TEM-1, fitness at 2,500 ug/ml ampicillin."""
    table, reference = task.paths(asked)
    target = _assay(reference, "BLAT_ECOLX_Stiffler_2015").target
    rows = [row for row in _csv_rows(table, ("mutant", "2500")) if row["2500"].strip()]
    rows = [rows[k] for k in sample_rows(len(rows), asked)]
    variants = parse_variants(target, [row["mutant"] for row in rows])
    return _zero_shot(task, adapter, asked, target, variants, np.array([float(row["2500"]) for row in rows]), None)


def _zero_shot(
    task: Task,
    adapter: Adapter,
    asked: Asked,
    target: str,
    variants: Sequence[Variant],
    measured: np.ndarray,
    ceiling: float | None,
) -> list[Answer]:
    started = time.perf_counter()
    found = score_variants(adapter, target, variants)
    scored = Scored(
        truth=measured,
        scores=found.values,
        protocol=found.protocol,
        floors=_floors(target, variants, measured, asked),
        noise_ceiling=ceiling,
        tokens=float(found.cost.tokens),
    )
    return [answer_of(task, adapter, asked, scored, started=started)]


def _floors(target: str, variants: Sequence[Variant], measured: np.ndarray, asked: Asked) -> tuple[FloorScore, ...]:
    rows = []
    for name, scores in zero_shot_floors(target, variants, seed=asked.seed).items():
        if len(np.unique(scores)) > 1:
            one = bootstrap_metric("spearman", measured, scores, draws=min(asked.resamples, 200), seed=asked.seed)
            rows.append(FloorScore(name=name, value=one.value, low=one.low, high=one.high))
    return tuple(rows)


def _assays(task: Task, adapter: Adapter, asked: Asked) -> list[Answer]:
    """Every ProteinGym assay whose file lies in the folder of data, by its published metrics."""
    (reference,) = task.paths(asked)
    assert asked.data is not None
    files = {path.name: path for path in asked.data.rglob("*.csv")}
    present = [assay for assay in read_reference(reference) if assay.filename in files]
    if not present:
        raise ConfigError(
            "no assay of ProteinGym is here",
            where=str(asked.data),
            why=f"none of the files that {reference.name} names lies there",
            hint="unpack DMS_ProteinGym_substitutions.zip of ProteinGym into it",
        )
    answers = []
    for assay in present:
        started, data = time.perf_counter(), read_assay(files[assay.filename], assay)
        which = sample_rows(len(data.variants), asked)
        variants, measured = [data.variants[k] for k in which], data.measured[which]
        found = score_variants(adapter, assay.target, variants)
        scored = Scored(
            truth=measured,
            scores=found.values,
            protocol=found.protocol,
            floors=_floors(assay.target, variants, measured, asked),
            tokens=float(found.cost.tokens),
        )
        answers.append(answer_of(task, adapter, asked, scored, started=started, name=f"proteingym.dms.{assay.name}"))
    return answers


def _assay(reference: Path, name: str) -> Assay:
    found = {assay.name: assay for assay in read_reference(reference)}
    if name not in found:
        raise CorpusError(f"no assay {name}", where=str(reference), hint="take ProteinGym's own reference file")
    return found[name]


def _csv_rows(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as handle:
        reader = csv.DictReader(handle)
        missing = [name for name in needed if name not in (reader.fieldnames or ())]
        if missing:
            raise CorpusError(f"no column {missing[0]!r}", where=str(path), why=f"it has {reader.fieldnames}")
        return list(reader)


TASKS: Final = (
    Task(
        "site_nats", "likelihood", "-ln p(residue | all others) on fixed sites: one scale for all objectives",
        "site_nats", False, ("masked", "causal", "profile"), _site_nats,
    ),
    Task(
        "aav28.zero_shot", "zero-shot", "AAV2 capsid library, 28 varied residues", "spearman", True,
        ("masked", "causal", "profile"), _capsid, files=(_AAV, REFERENCE),
    ),
    Task(
        "blat.zero_shot", "zero-shot", "beta-lactamase TEM-1, single substitutions", "spearman", True,
        ("masked", "causal", "profile"), _blat, files=(_BLAT, REFERENCE),
    ),
    Task(
        "proteingym.dms", "zero-shot", "ProteinGym's substitution assays that lie in the folder, one row each",
        "spearman", True, ("masked", "causal", "profile"), _assays, files=(REFERENCE,),
    ),
)  # fmt: skip
