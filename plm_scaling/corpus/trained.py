"""Which sequences a run was really trained on: those of its batches and of the runs it descends from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import PlanError
from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.weight_identity import is_foreign
from plm_scaling.corpus.batches import Batches
from plm_scaling.corpus.ledger import Phase
from plm_scaling.corpus.ledger_visits import Schedule, visit_chunks
from plm_scaling.corpus.reader import Corpus

__all__ = ["phases_of_run", "trained_rows"]


def trained_rows(corpus: Corpus, phases: Sequence[Phase]) -> npt.NDArray[np.int64]:
    """Records of which any part was in a batch, ascending int64[n]: a run of less than an epoch has not seen the split.

    Parameters
    ----------
    phases : (config, step) of each run of the lineage; `step` is the number of batches trained on.

    Raises
    ------
    PlanError : no phase, or a negative step. CorpusError : a phase was trained on another corpus.
    """
    if not phases or min(step for _, step in phases) < 0:
        raise PlanError("no run to look at", why="it takes at least one, with steps that are not negative")
    seen = np.zeros(len(corpus.length), dtype=np.bool_)
    for config, step in phases:
        for chunk in visit_chunks(Schedule.of(Batches(corpus, config)), step):
            seen[chunk.row] = True
    return np.flatnonzero(seen)


def phases_of_run(corpus: Corpus, run: Path) -> tuple[Phase, ...]:
    """A complete run and those it descends from, oldest first, each with all its batches, by their folders.

    Weights that were made elsewhere end the line: what they were trained on is not known here.

    Parameters
    ----------
    run : its folder, those of its ancestors beside it.

    Raises
    ------
    RecordError : a run of the line that is not there or cannot be read.
    CorpusError : trained on another corpus. PlanError : a run that descends from itself.
    """
    folder, configs = RunFolder(run), dict[str, RunConfig]()
    while True:
        config = folder.order().config
        if config.run_id in configs:
            raise PlanError(f"run {config.run_id} descends from itself", where=str(run))
        configs[config.run_id] = config
        if config.init_from is None or is_foreign(config.init_from):
            break
        folder = folder.sibling(config.init_from)
    return tuple((config, Batches(corpus, config).n_steps) for config in reversed(configs.values()))
