"""Perplexity of held-out sequences by their identity to what a model was really trained on. n sequences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError, CorpusError, RecordError
from plm_scaling.core.records import Record
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.corpus.format import IDENTITY_EDGES, TRAIN, VAL_IID
from plm_scaling.corpus.ledger import Phase
from plm_scaling.corpus.nearest import Nearest
from plm_scaling.corpus.reader import Corpus
from plm_scaling.corpus.relatives import find_relatives
from plm_scaling.corpus.trained import phases_of_run, trained_rows
from plm_scaling.corpus.val_losses import read_val
from plm_scaling.evals.adapters.asking import residue_ids
from plm_scaling.evals.adapters.base import Adapter, ModelInfo
from plm_scaling.evals.bootstrap import Bootstrapped, bootstrap_mean
from plm_scaling.evals.held_out import HeldOutLosses

__all__ = [
    "IDENTITY_BINS",
    "PerplexityBin",
    "PerplexityTable",
    "losses_of_run",
    "nearest_training",
    "perplexity_by_identity",
    "training_rows",
]

Int = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

IDENTITY_BINS: Final = ("< .3", ".3-.5", ".5-.9", "> .9")
"""Of the nearest training sequence at coverage .8; an edge belongs to the bin above it."""
_ALL: Final = "all"


class PerplexityBin(Record):
    """Sequences of one range of identity."""

    name: str
    """One of `IDENTITY_BINS`, or `all`."""
    sequences: int
    targets: int
    clusters: int
    """Of sequences alike at 50 % identity, which are drawn together."""
    nats: Bootstrapped | None = None
    """Mean loss per target; None with fewer than two clusters."""
    perplexity: float | None = None
    low: float | None = None
    high: float | None = None
    """exp of the mean and of the ends of its interval."""


class PerplexityTable(Record):
    """Perplexities of one model under one protocol."""

    model: ModelInfo
    key: str
    """The protocol with all that changes its numbers: perplexities of different keys are never compared."""
    bins: tuple[PerplexityBin, ...]
    """All sequences first."""

    def of(self, identity: str) -> PerplexityBin:
        """A bin by its name; of no sequence if there is none."""
        found = [one for one in self.bins if one.name == identity]
        return found[0] if found else PerplexityBin(name=identity, sequences=0, targets=0, clusters=0)


def perplexity_by_identity(
    losses: HeldOutLosses,
    identity: npt.ArrayLike | None = None,
    *,
    clusters: Sequence[int] | None = None,
    draws: int = 1000,
) -> PerplexityTable:
    """Perplexity of all sequences, and of those of each range of identity to the training set.

    The mean is over targets, so that long sequences count for more; intervals draw clusters of sequences.

    Parameters
    ----------
    identity : float[n], to the nearest training sequence, 0 where there is none (`nearest_training`).
    clusters : int[n], of `corpus.homology.cluster_sequences`; every sequence for itself without.

    Raises
    ------
    ConfigError : identities or clusters of another number of sequences, or an identity outside [0, 1].
    """
    n = len(losses)
    owner = np.arange(n) if clusters is None else np.asarray(clusters)
    near = None if identity is None else np.asarray(identity, dtype=np.float32)
    if len(owner) != n or (near is not None and (near.shape != (n,) or not ((near >= 0) & (near <= 1)).all())):
        raise ConfigError(
            f"{n} sequences need as many clusters and identities",
            why="each sequence has one cluster, and an identity between 0 and 1",
        )
    rows = [_bin(losses, _ALL, np.ones(n, dtype=bool), owner, draws)]
    if near is not None:
        number = np.digitize(near, np.array(IDENTITY_EDGES, dtype=np.float32))
        rows += [_bin(losses, name, number == k, owner, draws) for k, name in enumerate(IDENTITY_BINS)]
    return PerplexityTable(model=losses.info, key=losses.key, bins=tuple(row for row in rows if row.sequences))


def _bin(
    losses: HeldOutLosses, name: str, chosen: npt.NDArray[np.bool_], owner: npt.NDArray[np.int64], draws: int
) -> PerplexityBin:
    here = chosen & (losses.targets > 0)
    count = losses.targets[here]
    row = PerplexityBin(
        name=name,
        sequences=int(here.sum()),
        targets=int(count.sum()),
        clusters=len(np.unique(owner[here])),
    )
    if row.clusters < 2:
        return row
    nats = bootstrap_mean(losses.sums[here] / count, weights=count, clusters=owner[here].tolist(), draws=draws)
    ends = {
        name: math.exp(value) for name, value in (("perplexity", nats.value), ("low", nats.low), ("high", nats.high))
    }
    return row.model_copy(update={"nats": nats, **ends})


def nearest_training(
    corpus: Corpus,
    phases: Sequence[Phase] | Int,
    sequences: Sequence[str],
    *,
    threads: int | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Nearest:
    """The most identical training sequence to each held-out one, by MMseqs2 at coverage .8.

    The whole training split is searched, once for all runs (`corpus.relatives`): a run takes from it what it has seen.

    Parameters
    ----------
    phases : (config, step) of the run and those it descends from, oldest first: only what their batches held counts,
        which is less than the split for a run of less than an epoch. Or int64[m], records of the training split.
    tell : called before a search, which takes minutes on a large corpus.

    Raises
    ------
    CorpusError : MMseqs2 is not installed, or failed; a phase was trained on another corpus.
    """
    rows = phases if isinstance(phases, np.ndarray) else trained_rows(corpus, phases)
    tokens = [residue_ids(sequence).astype(np.uint8) for sequence in sequences]
    found = find_relatives(corpus, tokens, threads=threads, tell=tell).nearest(rows)
    if not found.tool:
        raise CorpusError(
            "no identities without MMseqs2",
            why="only exact copies were looked for, and the bins need the nearest relatives",
            hint="install it (apt install mmseqs2), or ask for perplexity without bins",
        )
    return found


def training_rows(corpus: Corpus, adapter: Adapter, *, split: str = TRAIN) -> tuple[Int, bool]:
    """Records a model was trained on, int64[m], and whether they are known.

    Of a run on this corpus they are those of its batches and of the runs it descends from; of any other model nobody
    knows here, and the whole split stands for them.

    Raises
    ------
    RecordError : a run of the line that is not there. PlanError : no such split.
    """
    run: Path | None = getattr(adapter, "run", None)
    if run is not None and RunFolder(run).order().config.corpus_id == corpus.corpus_id:
        return trained_rows(corpus, phases_of_run(corpus, run)), True
    return corpus.rows(split), False


def losses_of_run(run: Path, info: ModelInfo, *, validation: str = VAL_IID) -> tuple[HeldOutLosses, Int]:
    """What a run's own validation has measured already, and the records of the corpus it is of, int64[n] rising.

    Its protocol is that of training (packed windows, masks by record, all letters): a key of its own.

    Parameters
    ----------
    run : the run's folder. info : its adapter's.
    validation : name of the set.

    Raises
    ------
    RecordError : the run is not complete, or was not scored on this set.
    """
    found = read_val(run.parent, run.name, validation)
    record = RunFolder(run).record()
    if record is None:
        raise RecordError(
            "no record of this run", where=str(run), why="it is not complete", hint="plm-scaling run PLAN"
        )
    (scored,) = [loss for loss in record.validation if loss.set_name == validation]
    protocol = "mlm15" if record.config.objective == "mlm" else "clm"
    key = f"{protocol}/as in training, validation {scored.validation_id}/letters raw"
    return HeldOutLosses(info, key, found.loss_sum, found.n_targets), found.row
