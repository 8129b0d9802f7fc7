"""Tasks about the likelihood of held-out proteins: site-conditional nats, and perplexities by protocol."""

from __future__ import annotations

import time
from functools import lru_cache, partial
from pathlib import Path
from typing import Final

import numpy as np

from plm_scaling.corpus.reader import Corpus
from plm_scaling.evals.adapters.base import Ability, Adapter, FloatArray
from plm_scaling.evals.fasta import read_fasta
from plm_scaling.evals.held_out import LossProtocol, held_out_losses
from plm_scaling.evals.perplexity import PerplexityBin, nearest_training, perplexity_by_identity
from plm_scaling.evals.site_nats import site_nats
from plm_scaling.evals.site_sample import sample_sites
from plm_scaling.evals.task import Answer, Asked, NoDataError, Scored, Task, answer_of, sample_rows

__all__ = ["TASKS"]

_SITES: Final = 8
_PROTOCOLS: Final[tuple[tuple[LossProtocol, Ability, str], ...]] = (
    ("clm", "causal", "held-out nats per residue, each given those before it"),
    ("mlm15", "masked", "held-out nats per masked residue, 15 % masked as in training"),
    ("mlm1", "masked", "held-out nats per residue, masked one at a time"),
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


def _perplexity(protocol: LossProtocol, task: Task, adapter: Adapter, asked: Asked) -> list[Answer]:
    """Mean loss of all held-out proteins, and, with a corpus, by identity to its training split."""
    started, sequences = time.perf_counter(), _sequences(task, asked)
    losses = held_out_losses(adapter, sequences, protocol)
    identity = None if asked.corpus is None else _identity(asked.corpus, tuple(sequences))
    table = perplexity_by_identity(losses, identity, draws=asked.resamples)
    return [
        answer_of(
            task,
            adapter,
            asked,
            _scored_bin(one, losses.key, losses.cost.tokens),
            value=one.nats,
            started=started,
            name=task.name if one.name == "all" else f"{task.name}/{one.name}",
        )
        for one in table.bins
        if one.nats is not None
    ]


@lru_cache(maxsize=1)
def _identity(path: Path, sequences: tuple[str, ...]) -> FloatArray:
    """To the training split of a corpus; the same for every model that was trained on it."""
    corpus = Corpus.open(path)
    return np.asarray(nearest_training(corpus, corpus.rows("train"), sequences).identity, dtype=np.float64)


def _scored_bin(one: PerplexityBin, key: str, tokens: int) -> Scored:
    nothing = np.zeros(one.sequences)
    return Scored(nothing, nothing, key, tokens=float(tokens), cluster_kind="sequence")


TASKS: Final = (
    Task(
        "site_nats", "likelihood", "-ln p(residue | all others) on fixed sites: one scale for all objectives",
        "site_nats", False, ("masked", "causal", "profile"), _site_nats,
    ),
    *(
        Task(f"perplexity.{protocol}", "likelihood", about, "nats", False, (ability,), partial(_perplexity, protocol))
        for protocol, ability, about in _PROTOCOLS
    ),
)  # fmt: skip
