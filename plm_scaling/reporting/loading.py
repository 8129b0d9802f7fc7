"""A study's folder -> `Study`. What is missing or damaged becomes a sentence, never a failure of the whole report."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import PlmScalingError, RecordError
from plm_scaling.core.records import Record
from plm_scaling.core.run import Objective, RunRecord
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_table import RunTable
from plm_scaling.corpus.format import MANIFEST_NAME, VAL_IID, Manifest
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.reporting.arms import comparison_pairs
from plm_scaling.reporting.study import OBJECTIVES, Curve, Study
from plm_scaling.sweeps.plan_records import SweepPlan
from plm_scaling.transfers.transfer_fit import TransferFit

__all__ = ["load_study"]

_R = TypeVar("_R", bound=Record)


def load_study(path: Path, *, validation: str = VAL_IID) -> Study:
    """Read plan.json, runs/, fit-clm.json, fit-mlm.json, transfer.json and corpus/manifest.json of a study.

    Parameters
    ----------
    path : the study's folder.
    validation : name of the validation set whose losses are reported.

    Raises
    ------
    RecordError : there is no such folder, or nothing in it that a report could show.
    """
    if not path.is_dir():
        raise RecordError("no study here", where=str(path), hint="give the folder that holds runs/ and fit-*.json")
    missing: list[str] = []
    plan = _optional(SweepPlan, path / "plan.json", "The plan", missing)
    laws: dict[Objective, LawFit] = {}
    for objective in OBJECTIVES:
        law = _optional(LawFit, path / f"fit-{objective}.json", f"The fit of {objective.upper()}", missing)
        if law is not None:
            laws[objective] = law
    transfer = _optional(TransferFit, path / "transfer.json", "The transfer analysis", missing)
    corpus = _corpus_folder(path, plan)
    manifest = _optional(Manifest, corpus / MANIFEST_NAME, "The corpus' manifest", missing)
    table = _collected(path, validation, missing)
    records = _records(path / "runs", (row.run_id for row in table), missing)
    if plan is None and not laws and transfer is None and not len(table):
        raise RecordError(
            "nothing to report yet",
            where=str(path),
            why=" ".join(missing),
            hint="plm-scaling run, then plm-scaling fit",
        )
    study = Study(
        name=plan.name if plan else path.resolve().name,
        table=table,
        records=records,
        curves=_curves(path / "runs", records),
        plan=plan,
        laws=laws,
        transfer=transfer,
        manifest=manifest,
        floors=_floors(corpus, records, missing) if manifest else {},
        missing=tuple(missing),
    )
    return dataclasses.replace(study, gaps=_gaps(path / "runs", comparison_pairs(study), validation))


def _optional(kind: type[_R], path: Path, what: str, missing: list[str]) -> _R | None:
    if not path.is_file():
        missing.append(f"{what} is missing ({path.name}).")
        return None
    try:
        return kind.read(path)
    except PlmScalingError as error:
        missing.append(f"{what} cannot be read: {error.what}.")
        return None


def _corpus_folder(path: Path, plan: SweepPlan | None) -> Path:
    named = path / plan.corpus if plan else path / "corpus"
    return named if (named / MANIFEST_NAME).is_file() else path / "corpus"


def _collected(path: Path, validation: str, missing: list[str]) -> RunTable:
    from plm_scaling.sweeps.runs import collect_runs

    try:
        if (path / "runs").is_dir():
            return collect_runs(path / "runs", validation=validation)
        for name in ("runs.parquet", "runs.csv"):
            if (path / name).is_file():
                return RunTable.read(path / name)
    except PlmScalingError as error:
        missing.append(f"The runs cannot be collected: {error.what}.")
        return RunTable(())
    missing.append("There are no runs (runs/).")
    return RunTable(())


def _records(runs: Path, ids: Iterable[str], missing: list[str]) -> dict[str, RunRecord]:
    records = {}
    for run_id in ids:
        try:
            record = RunFolder(runs / run_id).record()
        except PlmScalingError as error:
            missing.append(f"The record of run {run_id} cannot be read: {error.what}.")
            continue
        if record is not None:
            records[run_id] = record
    return records


def _curves(runs: Path, ids: Iterable[str]) -> dict[str, Curve]:
    """Curves of the runs that kept them; a damaged file costs its curve only."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    curves = {}
    for run_id in ids:
        try:
            columns = pq.read_table(RunFolder(runs / run_id).metrics_path, columns=["D", "loss", "val_loss"])
        except (OSError, pa.ArrowException, KeyError):
            continue
        D, loss, validation = (_floats(columns[name].to_pylist()) for name in ("D", "loss", "val_loss"))
        trained, scored = np.isfinite(loss), np.isfinite(validation)
        curves[run_id] = Curve(D[trained], loss[trained], D[scored], validation[scored])
    return curves


def _floats(values: list[float | None]) -> npt.NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _floors(corpus: Path, records: dict[str, RunRecord], missing: list[str]) -> dict[Objective, float]:
    """Entropy floors on the sequences the runs were scored on; needs the corpus itself, not its manifest only."""
    import pyarrow as pa

    from plm_scaling.corpus.floors import entropy_floors
    from plm_scaling.corpus.reader import Corpus
    from plm_scaling.corpus.validation import validation_rows

    if not records:
        return {}
    scored = max(record.config.validation_tokens for record in records.values())
    try:
        opened = Corpus.open(corpus)
        floors = entropy_floors(opened, validation_rows(opened, VAL_IID, scored))
    except (PlmScalingError, OSError, pa.ArrowException) as error:
        missing.append(f"The entropy floors cannot be computed: {getattr(error, 'what', error)}.")
        return {}
    return {"clm": floors.clm_per_token, "mlm": floors.mlm}


def _gaps(runs: Path, pairs: Iterable[tuple[str, str]], validation: str) -> dict[tuple[str, str], tuple[float, float]]:
    """Paired differences of the runs whose per-sequence losses are at hand."""
    from plm_scaling.sweeps.runs import paired_gap

    gaps = {}
    for first, second in pairs:
        try:
            gap, se = paired_gap(runs, first, second, validation)
        except (PlmScalingError, OSError):
            continue  # the difference is then shown with the seed noise only
        if math.isfinite(se):
            gaps[first, second] = gap, se
    return gaps
