"""Tasks about the likelihood of held-out proteins: site-conditional nats, and perplexities by protocol."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from functools import lru_cache, partial
from typing import Final

import numpy as np

from plm_scaling.corpus.homology import cluster_sequences
from plm_scaling.corpus.reader import Corpus
from plm_scaling.corpus.relatives import MOST_HITS
from plm_scaling.evals.adapters.base import Ability, Adapter
from plm_scaling.evals.composition import corpus_composition
from plm_scaling.evals.data_alarms import contamination_of, model_alarms
from plm_scaling.evals.fasta import read_fasta
from plm_scaling.evals.held_out import LossProtocol, held_out_losses
from plm_scaling.evals.perplexity import nearest_training, perplexity_by_identity, training_rows
from plm_scaling.evals.results import FloorScore
from plm_scaling.evals.site_nats import site_nats
from plm_scaling.evals.site_sample import sample_sites
from plm_scaling.evals.task import Answer, Asked, NoDataError, Scored, Task, answer_of, sample_rows

__all__ = ["TASKS"]

_SITES: Final = 8
_WHOLE_SPLIT: Final = "Nobody here knows what the model was trained on: identities are to the corpus' training split."
_CROWDED: Final = (
    "{} of {} held-out proteins have {} relatives or more in the training split: one nearer still may not have been "
    "aligned, and the bin may be too low."
)
_ONE_FAMILY: Final = "sequence of one family"
_RELATIVES: Final = (
    "All held-out proteins are relatives at 50 % identity: intervals are over members of this one family."
)
_PROTOCOLS: Final[tuple[tuple[LossProtocol, tuple[Ability, ...], str], ...]] = (
    ("clm", ("causal", "total"), "held-out nats per residue, each given those before it"),
    ("mlm15", ("masked",), "held-out nats per masked residue, 15 % masked as in training"),
    ("mlm1", ("masked",), "held-out nats per residue, masked one at a time"),
)


def _sequences(task: Task, asked: Asked) -> list[str]:
    if asked.sequences is None:
        raise NoDataError(f"{task.name} needs held-out proteins", hint="--sequences FASTA")
    proteins = read_fasta(asked.sequences)
    return [proteins[k].sequence for k in sample_rows(len(proteins), asked)]


def _site_nats(task: Task, adapter: Adapter, asked: Asked) -> list[Answer]:
    """A fixed sample of sites of the held-out proteins, the same for every model."""
    started, sequences = time.perf_counter(), _sequences(task, asked)
    sample = sample_sites(sequences, per_sequence=_SITES, seed=asked.seed)
    clusters, kind = _clusters(tuple(sequences))
    found = site_nats(adapter, sequences, sample, clusters=clusters, draws=asked.resamples)
    alarms, floors = (*model_alarms(adapter, sequences), *contamination_of(asked, task.name, sequences)), []
    if asked.corpus is not None:
        corpus = Corpus.open(asked.corpus)
        composition = corpus_composition(corpus, training_rows(corpus, adapter)[0])
        floor = site_nats(composition, sequences, sample, clusters=clusters, draws=asked.resamples).mean
        floors.append(FloorScore(name="composition", value=floor.value, low=floor.low, high=floor.high))
    cut = (f"{found.cut} sites were read in a window of their protein.",) if found.cut else ()
    scored = Scored(
        truth=np.zeros(len(found.values)),
        scores=found.values,
        protocol=found.protocol,
        clusters=tuple(str(k) for k in found.clusters.tolist()),
        cluster_kind=kind,
        floors=tuple(floors),
        tokens=float(found.cost.tokens),
        warnings=(*cut, *_of_one_family(kind), *(alarm.sentence for alarm in alarms)),
        flags=(*("WINDOWS" for _ in cut), *(alarm.code for alarm in alarms)),
    )
    return [answer_of(task, adapter, asked, scored, value=found.mean, started=started)]


def _perplexity(protocol: LossProtocol, task: Task, adapter: Adapter, asked: Asked) -> list[Answer]:
    """Mean loss of all held-out proteins, and, with a corpus, by identity to what the model was trained on."""
    started, sequences = time.perf_counter(), _sequences(task, asked)
    losses = held_out_losses(adapter, sequences, protocol)
    (clusters, kind), identity, known, crowded = _clusters(tuple(sequences)), None, True, 0
    if asked.corpus is not None:
        corpus = Corpus.open(asked.corpus)
        rows, known = training_rows(corpus, adapter)
        near = nearest_training(corpus, rows, sequences, tell=asked.tell)
        identity, crowded = near.identity, int((near.crowded & ~near.is_copy).sum())
    alarms = (*model_alarms(adapter, sequences), *contamination_of(asked, task.name, sequences))
    doubts = {} if known else {"TRAINING_SET_ASSUMED": _WHOLE_SPLIT}
    if crowded:
        doubts["IDENTITY_LOWER_BOUND"] = _CROWDED.format(crowded, len(sequences), MOST_HITS)
    flags = (*(alarm.code for alarm in alarms), *doubts)
    warnings = (*_of_one_family(kind), *(alarm.sentence for alarm in alarms), *doubts.values())
    table = perplexity_by_identity(losses, identity, clusters=clusters, draws=asked.resamples)
    answers = []
    for one in table.bins:
        if one.nats is None:
            continue
        nothing = np.zeros(one.sequences)
        scored = Scored(
            nothing,
            nothing,
            losses.key,
            clusters=("",),
            cluster_kind=kind,
            tokens=float(losses.cost.tokens),
            flags=flags,
            warnings=warnings,
        )
        name = task.name if one.name == "all" else f"{task.name}/{one.name}"
        answer = answer_of(task, adapter, asked, scored, value=one.nats, started=started, name=name)
        answers.append(replace(answer, truth=None, scores=None))
    return answers


def _of_one_family(kind: str) -> tuple[str, ...]:
    return (_RELATIVES,) if kind == _ONE_FAMILY else ()


@lru_cache(maxsize=2)
def _clusters(sequences: tuple[str, ...]) -> tuple[list[int] | None, str]:
    """Relatives among the sequences, which are drawn together; every sequence by itself without MMseqs2.

    Where all are one family, too: its members are drawn, and what is said is about this family alone.
    """
    if shutil.which("mmseqs") is None:
        return None, "sequence"
    clusters = cluster_sequences(sequences).tolist()
    return (None, _ONE_FAMILY) if len(set(clusters)) < 2 else (clusters, "cluster at 50 % identity")


TASKS: Final = (
    Task(
        "site_nats", "likelihood", "-ln p(residue | all others) on fixed sites: one scale for all objectives",
        "site_nats", False, ("masked", "causal", "profile"), _site_nats,
    ),
    *(
        Task(f"perplexity.{protocol}", "likelihood", about, "nats", False, abilities, partial(_perplexity, protocol))
        for protocol, abilities, about in _PROTOCOLS
    ),
)  # fmt: skip
