"""What causal models write, as a task: how likely, long, various and new, beside natural and shuffled proteins."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Final

from plm_scaling.corpus.reader import Corpus
from plm_scaling.evals.adapters.base import Adapter
from plm_scaling.evals.bootstrap import bootstrap_mean
from plm_scaling.evals.fasta import read_fasta
from plm_scaling.evals.generation import GenerationReport, GroupQuality, evaluate_generation
from plm_scaling.evals.results import FloorScore
from plm_scaling.evals.sampling import sample_sequences
from plm_scaling.evals.task import Answer, Asked, NoDataError, Task, sample_rows, task_row

__all__ = ["TASKS"]

_COUNT: Final = 100
_LONGEST: Final = 512
_HIGHER: Final = {"perplexity": False, "length": True, "unique": True, "novelty": True, "diversity": True}


def _measure(task: Task, adapter: Adapter, asked: Asked) -> list[Answer]:
    """As many sequences as natural ones are set beside, no longer than the longest of these: one row a quality."""
    if asked.sequences is None:
        raise NoDataError(f"{task.name} needs natural proteins to set beside what is drawn", hint="--sequences FASTA")
    started = time.perf_counter()
    count = asked.limit or _COUNT
    proteins = [one.sequence for one in read_fasta(asked.sequences)]
    natural = [proteins[k] for k in sample_rows(len(proteins), replace(asked, limit=count))]
    longest = min(_LONGEST, max(map(len, natural)))
    drawn = sample_sequences(adapter, count, longest=longest, seed=asked.seed)
    report = evaluate_generation(
        adapter,
        natural=natural,
        corpus=None if asked.corpus is None else Corpus.open(asked.corpus),
        longest=longest,
        drawn=drawn,
        draws=asked.resamples,
        seed=asked.seed,
    )
    protocol = f"{count} drawn at temperature 1, up to {longest} residues"
    spread = bootstrap_mean(
        [len(one.sequence) for one in drawn if one.sequence], draws=asked.resamples, seed=asked.seed
    )
    ends = _ends(report.groups[0]) | {"length": (spread.low, spread.high)}
    answers = []
    for quality, value in _values(report.groups[0]).items():
        one = replace(task, name=f"{task.name}/{quality}", metric=quality, higher_is_better=_HIGHER[quality])
        row = task_row(
            one,
            adapter,
            asked,
            value=value,
            ends=ends.get(quality, (None, None)),
            n=report.groups[0].n,
            clusters="sequence",
            protocol=f"{protocol}; {report.tool}" if quality == "novelty" else protocol,
            references=_references(report, quality),
            seconds=time.perf_counter() - started,
            tokens=float(sum(len(one.sequence) + one.ended for one in drawn)),
            warnings=tuple(f"{task.name}, {adapter.info.name}: {said}" for said in report.warnings),
        )
        answers.append(Answer(row))
    return answers


def _values(group: GroupQuality) -> dict[str, float]:
    """Perplexity by the model itself, mean length, share of different ones, 1 less the identity to the nearest record,
    and clusters at 50 % identity per sequence.
    """
    found = {"length": group.length, "unique": group.unique, "diversity": group.clusters}
    if group.nats is not None:
        found = {"perplexity": math.exp(group.nats.value), **found}
    return found if group.nearest_identity is None else {**found, "novelty": 1.0 - group.nearest_identity}


def _ends(group: GroupQuality) -> dict[str, tuple[float, float]]:
    return {} if group.nats is None else {"perplexity": (math.exp(group.nats.low), math.exp(group.nats.high))}


def _references(report: GenerationReport, quality: str) -> tuple[FloorScore, ...]:
    """What natural proteins, and these shuffled, come to when they are measured in the same way."""
    known = [(group, _values(group)) for group in report.groups[1:]]
    return tuple(FloorScore(name=group.name, value=values[quality]) for group, values in known if quality in values)


TASKS: Final = (
    Task(
        name="generation",
        kind="generation",
        about="what a causal model writes: perplexity, length, unique, diversity; novelty with a corpus",
        metric="perplexity",
        higher_is_better=False,
        needs=("causal",),
        measure=_measure,
    ),
)
