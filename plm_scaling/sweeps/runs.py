"""A runs folder -> `RunTable`, and per-sequence losses for paired comparisons. Files alone; complete runs alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import RecordError, RefusedError, did_you_mean
from plm_scaling.core.run import LedgerRow, RunRecord, ValidationLoss
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_row import RunRow, columns_of
from plm_scaling.core.run_table import RunTable
from plm_scaling.core.weight_identity import is_foreign
from plm_scaling.corpus.format import VAL_IID
from plm_scaling.corpus.val_losses import read_val
from plm_scaling.laws.clusters import ValidationClusters

__all__ = ["all_parameters", "collect_runs", "paired_gap", "read_clusters"]

Float = npt.NDArray[np.float64]


def collect_runs(runs_dir: Path, *, validation: str = VAL_IID) -> RunTable:
    """One row per complete run that was scored on `validation`, by run id.

    Raises
    ------
    RecordError : no such folder, a damaged record, or a set no run was scored on.
    """
    if not runs_dir.is_dir():
        raise RecordError("no runs folder here", where=str(runs_dir), hint="plm-scaling run PLAN")
    rows: list[RunRow] = []
    sets: set[str] = set()
    for folder, record in _complete(runs_dir):
        sets.update(loss.set_name for loss in record.validation)
        loss = _loss(record, validation)
        if loss is not None:
            rows.append(_row(folder, record, loss))
    if sets and not rows:
        raise RecordError(
            f"no run was scored on {validation!r}", where=str(runs_dir), hint=did_you_mean(validation, sets)
        )
    return RunTable(tuple(rows))


def all_parameters(runs_dir: Path) -> dict[str, int]:
    """Parameters with embedding and head of every complete run, by its id."""
    return {record.config.run_id: record.config.N_total for _, record in _complete(runs_dir)}


def _complete(runs_dir: Path) -> Iterator[tuple[RunFolder, RunRecord]]:
    for path in sorted(runs_dir.iterdir()):
        folder = RunFolder(path)
        record = folder.record() if path.is_dir() else None
        if record is not None and record.status == "complete":
            yield folder, record


def _loss(record: RunRecord, validation: str) -> ValidationLoss | None:
    return next((loss for loss in record.validation if loss.set_name == validation), None)


def _row(folder: RunFolder, record: RunRecord, loss: ValidationLoss) -> RunRow:
    config = record.config
    total = _ledger_total(record)
    # Distinct tokens of this run, whether or not a run it started from had seen them.
    unique = total.unique + total.seen_earlier if total else record.D_unique
    source = _source_of(folder, record)
    found = {
        "role": ",".join(_roles(folder, record)),
        "D": record.D,
        "loss": loss.per_token,
        "loss_se": loss.se,
        "D_unique": unique,
        "epochs": record.D / unique if unique else None,
        "seen_earlier": total.seen_earlier if total else None,
        "C_6nd": record.C_6nd,
        "C_exact": record.C_exact,
        "C_teacher": record.C_teacher,
        "device_s": record.device_s,
        "validation_id": loss.validation_id,
        "source_objective": record.source_objective or (source.config.objective if source else None),
        "N_source": record.N_source or (source.config.N if source else None),
        "D_source": record.D_source or (source.D if source else None),
        "C_source": record.C_source or (source.C_exact if source else None),
        "source_control": _control_of(source),
        "flags": ",".join(record.flags),
    }
    return RunRow.model_validate(columns_of(config) | found)


def _ledger_total(record: RunRecord) -> LedgerRow | None:
    return next((row for row in record.ledger if row.source == "*"), None)


def _roles(folder: RunFolder, record: RunRecord) -> tuple[str, ...]:
    """Roles when it was trained, and those later plans gave it."""
    try:
        later = folder.order().roles
    except RecordError:
        later = ()
    return tuple(dict.fromkeys((*record.roles, *later)))


def _control_of(source: RunRecord | None) -> str | None:
    """`shuffled` where the weights a run started from had seen nothing but residue-shuffled sequences."""
    return "shuffled" if source and all(stream.shuffled for stream in source.config.streams) else None


def _source_of(folder: RunFolder, record: RunRecord) -> RunRecord | None:
    if record.config.init_from is None or is_foreign(record.config.init_from):
        return None
    try:
        return folder.sibling(record.config.init_from).record()
    except RecordError:
        return None


def read_clusters(runs_dir: Path, run_ids: Sequence[str], validation: str = VAL_IID) -> ValidationClusters | None:
    """Losses of several runs by validation sequence; None where some lack them or were scored on other sequences."""
    try:
        losses = [read_val(runs_dir, run_id, validation) for run_id in run_ids]
    except RecordError:
        return None
    if not losses or any(
        not np.array_equal(a.row, losses[0].row) or not np.array_equal(a.n_targets, losses[0].n_targets) for a in losses
    ):
        return None
    sums = np.stack([a.loss_sum for a in losses])
    return ValidationClusters(tuple(run_ids), sums, losses[0].n_targets.astype(np.float64))


def paired_gap(runs_dir: Path, id_a: str, id_b: str, validation: str = VAL_IID) -> tuple[float, float]:
    """Loss of run a minus loss of run b in nats per token, and its standard error over sequences.

    The pairing removes what is common to both (which sequences were drawn); the seeds' noise remains.

    Raises
    ------
    RecordError : a run that is not complete, or has no losses on this set.
    RefusedError : the two losses are not of the same sequences, objective and masks.

    **Source:** Cochran 1977, Sampling Techniques, eq. 6.13: variance of a ratio of sums, applied to differences.
    """
    ids = [_validation_id(runs_dir, run_id, validation) for run_id in (id_a, id_b)]
    a, b = (read_val(runs_dir, run_id, validation) for run_id in (id_a, id_b))
    if ids[0] != ids[1] or not np.array_equal(a.row, b.row) or not np.array_equal(a.n_targets, b.n_targets):
        raise RefusedError(
            f"the losses of {id_a} and {id_b} on {validation} cannot be paired",
            where=str(runs_dir),
            why=f"their validation ids are {ids[0]} and {ids[1]}: other sequences, objective, context or masks",
        )
    difference = a.loss_sum - b.loss_sum
    total = float(a.n_targets.sum())
    gap = float(difference.sum()) / total
    n = len(difference)
    if n < 2:
        return gap, math.nan
    residual = difference - gap * a.n_targets
    return gap, math.sqrt(n / (n - 1) * float((residual**2).sum())) / total


def _validation_id(runs_dir: Path, run_id: str, validation: str) -> str:
    record = RunFolder(runs_dir / run_id).record()
    if record is None:
        raise RecordError("the run is not complete", where=str(runs_dir / run_id))
    loss = _loss(record, validation)
    if loss is None:
        names = [other.set_name for other in record.validation]
        raise RecordError(
            f"the run was not scored on {validation!r}",
            where=str(runs_dir / run_id),
            hint=did_you_mean(validation, names),
        )
    return loss.validation_id
