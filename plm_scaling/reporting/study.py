"""`Study`: everything a report is drawn from, as one value; `on_set` is the same study seen on another set."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from plm_scaling.core.run import Objective, RunRecord
from plm_scaling.core.run_table import RunTable
from plm_scaling.corpus.format import TRAIN, VAL_IID, Manifest
from plm_scaling.corpus.statistics import CorpusStatistics
from plm_scaling.evals.results import ResultRow
from plm_scaling.laws.group_fit import GroupFit
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.laws.noise import law_runs, pooled_seed_noise
from plm_scaling.sizing.allocation_record import AllocationPlan
from plm_scaling.sizing.recommendation import Recommendation
from plm_scaling.sizing.spending_view import SpendingView
from plm_scaling.sweeps.plan_records import SweepPlan
from plm_scaling.sweeps.seal_scores import SealScore
from plm_scaling.transfers.transfer_fit import TransferFit, TransferPair

__all__ = [
    "OBJECTIVES",
    "SET_PART",
    "WEAK_ROW",
    "Curve",
    "Study",
    "fitted_set",
    "is_on_page",
    "on_set",
    "pair_set",
    "source_set",
    "weak_exponents",
]

OBJECTIVES: tuple[Objective, ...] = ("clm", "mlm")
WEAK_ROW = frozenset({"SHALLOW_MINIMUM", "OPEN_INTERVAL"})
"""Row flags of a minimum that noise may have made."""
SET_PART = "@"
"""Between a validation set's name and the source whose sequences are taken from it."""


@dataclass(frozen=True)
class Curve:
    """Training and validation loss of one run along its tokens.

    Parameters
    ----------
    D, loss : tokens seen and training loss in nats, float64[n_logged].
    validation_D, validation_loss : the same on `val_iid`, float64[n_evaluations].
    """

    D: npt.NDArray[np.float64]
    loss: npt.NDArray[np.float64]
    validation_D: npt.NDArray[np.float64]
    validation_loss: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Study:
    """A study's results; every part may be missing, and `missing` says in a sentence which and why."""

    name: str
    validation: str = VAL_IID
    """The validation set whose losses the table, the floors and the page hold."""
    table: RunTable = field(default_factory=lambda: RunTable(()))
    records: Mapping[str, RunRecord] = field(default_factory=dict)
    """By run id."""
    curves: Mapping[str, Curve] = field(default_factory=dict)
    """By run id."""
    plan: SweepPlan | None = None
    laws: Mapping[Objective, LawFit] = field(default_factory=dict)
    transfer: TransferFit | None = None
    sizing: Recommendation | None = None
    """What `size` answered for a budget: size.json."""
    spending: SpendingView | None = None
    """What `spend` said of the same budget: spend.json."""
    allocation: AllocationPlan | None = None
    """How an allocation is to be split: allocation.json."""
    scores: tuple[ResultRow, ...] = ()
    """What models scored on tasks, the last row of every question: evals/*.jsonl."""
    groups: Mapping[Objective, GroupFit] = field(default_factory=dict)
    """The laws of groups of sequences: groups-clm.json, groups-mlm.json."""
    sealed: tuple[SealScore, ...] = ()
    """What was predicted of runs before they were made, and what became of it: plan.sealed.json."""
    manifest: Manifest | None = None
    statistics: CorpusStatistics | None = None
    """Of the corpus, where it is at hand and small enough to be read for a page."""
    floors: Mapping[Objective, float] = field(default_factory=dict)
    """Loss of residue frequencies alone on the validation set, nats per token."""
    gaps: Mapping[tuple[str, str, str], tuple[float, float]] = field(default_factory=dict)
    """(set, run, reference run) -> paired difference of their losses and its standard error over sequences, nats."""
    missing: tuple[str, ...] = ()

    @property
    def unique_train_tokens(self) -> int | None:
        """Distinct training tokens of the corpus."""
        splits = self.manifest.splits if self.manifest else ()
        return next((split.tokens for split in splits if split.name == TRAIN), None)

    def noise_sd(self, objective: Objective) -> float | None:
        """Standard deviation of the loss between seeds at equal settings on this set, nats; None if unknown."""
        law = self.laws.get(objective)
        if law is not None and is_on_page(self, law):
            return law.noise_sd
        pooled = pooled_seed_noise(law_runs(self.table, objective))
        return pooled.sd if pooled else None

    @property
    def only_source(self) -> str | None:
        """The source whose sequences alone the page's set holds; None for a whole set."""
        return self.validation.partition(SET_PART)[2] or None

    def validation_sets(self) -> tuple[str, ...]:
        """Names of the whole validation sets, in the order of the records; their parts by source are left out."""
        names = (loss.set_name for record in self.records.values() for loss in record.validation)
        return tuple(dict.fromkeys(name for name in names if SET_PART not in name))


def source_set(study: Study, source: str) -> str | None:
    """Name of the part of the page's set that comes from `source`; None where no run was scored on it."""
    name = f"{study.validation}{SET_PART}{source}"
    scored = (loss.set_name for record in study.records.values() for loss in record.validation)
    return name if name in scored else None


def on_set(study: Study, name: str) -> Study:
    """The study with the losses of another validation set; runs that were not scored on it leave the table."""
    if name == study.validation:
        return study
    rows = []
    for row in study.table:
        record = study.records.get(row.run_id)
        loss = next((loss for loss in record.validation if loss.set_name == name), None) if record else None
        if loss is not None:
            scored = {"loss": loss.per_token, "loss_se": loss.se, "validation_id": loss.validation_id}
            rows.append(row.model_copy(update=scored))
    return dataclasses.replace(study, validation=name, table=RunTable(tuple(rows)), floors={})


def is_on_page(study: Study, law: LawFit) -> bool:
    """Whether a law was fitted to losses on the page's validation set, as far as the ids tell."""
    ids = {row.validation_id for row in study.table.of(law.objective)} - {None}
    return law.validation_id is None or not ids or law.validation_id in ids


def fitted_set(study: Study, law: LawFit) -> str | None:
    """Name of the validation set a law was fitted on; None where no run's record knows its id."""
    if is_on_page(study, law):
        return study.validation
    losses = (loss for record in study.records.values() for loss in record.validation)
    return next((loss.set_name for loss in losses if loss.validation_id == law.validation_id), None)


def pair_set(study: Study, pair: TransferPair) -> str:
    """Name of the validation set a transfer pair was judged on: the one on which its scratch run has that loss."""
    record = study.records.get(pair.scratch_run_id)
    losses = record.validation if record else ()
    same = [loss.set_name for loss in losses if math.isclose(loss.per_token, pair.loss_scratch, rel_tol=1e-9)]
    return same[0] if same and study.validation not in same else study.validation


def weak_exponents(law: LawFit) -> bool:
    """Whether the exponents rest on minima that noise may have made: fewer than two budgets have a clear one."""
    rows = law.isoflop.rows if law.isoflop else ()
    clear = [row for row in rows if row.N_opt and not WEAK_ROW & set(row.flags)]
    return "WEAK_MINIMA" in law.flags or bool(law.isoflop and "WEAK_MINIMA" in law.isoflop.flags) or len(clear) < 2
