"""`Study`: everything a report is drawn from, as one value. Nothing is read or computed here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from plm_scaling.core.run import Objective, RunRecord
from plm_scaling.core.run_table import RunTable
from plm_scaling.corpus.format import TRAIN, Manifest
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.sweeps.plan_records import SweepPlan
from plm_scaling.transfers.transfer_fit import TransferFit

__all__ = ["OBJECTIVES", "Curve", "Study"]

OBJECTIVES: tuple[Objective, ...] = ("clm", "mlm")


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
    table: RunTable = field(default_factory=lambda: RunTable(()))
    records: Mapping[str, RunRecord] = field(default_factory=dict)
    """By run id."""
    curves: Mapping[str, Curve] = field(default_factory=dict)
    """By run id."""
    plan: SweepPlan | None = None
    laws: Mapping[Objective, LawFit] = field(default_factory=dict)
    transfer: TransferFit | None = None
    manifest: Manifest | None = None
    floors: Mapping[Objective, float] = field(default_factory=dict)
    """Loss of residue frequencies alone on the validation set, nats per token."""
    gaps: Mapping[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    """(run, reference run) -> paired difference of their losses and its standard error over sequences, nats."""
    missing: tuple[str, ...] = ()

    @property
    def unique_train_tokens(self) -> int | None:
        """Distinct training tokens of the corpus."""
        splits = self.manifest.splits if self.manifest else ()
        return next((split.tokens for split in splits if split.name == TRAIN), None)

    def noise_sd(self, objective: str) -> float | None:
        """Standard deviation of the loss between seeds at equal settings, nats."""
        fits = [law for name, law in self.laws.items() if name == objective]
        return fits[0].noise_sd if fits else None

    def validation_sets(self) -> tuple[str, ...]:
        """Names of the validation sets, in the order of the records."""
        names = (loss.set_name for record in self.records.values() for loss in record.validation)
        return tuple(dict.fromkeys(names))
