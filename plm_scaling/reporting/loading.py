"""A study's folder -> `Study`. What is missing or damaged becomes a sentence, never a failure of the whole report."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import PlmScalingError, RecordError
from plm_scaling.core.records import Record
from plm_scaling.core.run import Objective, RunRecord
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_table import RunTable
from plm_scaling.corpus.format import MANIFEST_NAME, VAL_IID, Manifest
from plm_scaling.corpus.statistics import CorpusStatistics, corpus_statistics
from plm_scaling.evals.results import ResultRow, latest_rows, read_rows
from plm_scaling.laws.group_fit import GroupFit
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.reporting.arms import Arm, repeat_series
from plm_scaling.reporting.mixtures import diversity_groups, diversity_sources
from plm_scaling.reporting.study import OBJECTIVES, SET_PART, Curve, Study, on_set, source_set
from plm_scaling.sizing.allocation_record import AllocationPlan
from plm_scaling.sizing.recommendation import Recommendation
from plm_scaling.sizing.spending_view import SpendingView
from plm_scaling.sweeps.plan_records import SweepPlan
from plm_scaling.sweeps.seal_records import read_seals, seals_path
from plm_scaling.sweeps.seal_scores import SealScore, score_seals
from plm_scaling.transfers.transfer_fit import TransferFit

__all__ = ["comparison_pairs", "load_study"]

_R = TypeVar("_R", bound=Record)
_MOST_SEQUENCES: Final = 1_000_000
_MOST_TOKENS: Final = 500_000_000
"""Larger corpora would take longer to read than the rest of the page to draw (some 5 s)."""


def load_study(path: Path, *, validation: str = VAL_IID, evals: Sequence[Path] = ()) -> Study:
    """Read plan.json with its seals, runs/, fit-*.json, transfer.json, size.json, spend.json, evals/ and the corpus.

    Parameters
    ----------
    path : the study's folder.
    validation : name of the validation set whose losses are reported.
    evals : files of results of evaluations; by default all of evals/*.jsonl in the folder.

    Raises
    ------
    RecordError : there is no such folder, nothing in it that a report could show, no run was scored on a set
        other than the default that was asked for, or a file of `evals` cannot be read.
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
    sizing = _unasked(Recommendation, path / "size.json", "The answer of size", missing)
    spending = _unasked(SpendingView, path / "spend.json", "The answer of spend", missing)
    allocation = _unasked(AllocationPlan, path / "allocation.json", "The split of the allocation", missing)
    corpus = _corpus_folder(path, plan)
    manifest = _optional(Manifest, corpus / MANIFEST_NAME, "The corpus' manifest", missing)
    table = _collected(path, validation, missing)
    records = _records(path / "runs", (row.run_id for row in table), missing)
    scores = _scores(path, evals, missing)
    if not any((plan, laws, transfer, sizing, scores, len(table))):
        raise RecordError(
            "nothing to report yet",
            where=str(path),
            why=" ".join(missing),
            hint="plm-scaling run, then plm-scaling fit",
        )
    study = Study(
        name=plan.name if plan else path.resolve().name,
        validation=validation,
        table=table,
        records=records,
        curves=_curves(path / "runs", records),
        plan=plan,
        laws=laws,
        transfer=transfer,
        sizing=sizing,
        spending=spending,
        allocation=allocation,
        scores=scores,
        groups=_groups(path, missing),
        sealed=_sealed(path, missing),
        manifest=manifest,
        statistics=_statistics(corpus, manifest) if manifest else None,
        floors=_floors(corpus, records, validation, missing) if manifest else {},
        missing=tuple(missing),
    )
    return dataclasses.replace(study, gaps=_gaps(path / "runs", study))


def _optional(kind: type[_R], path: Path, what: str, missing: list[str]) -> _R | None:
    if not path.is_file():
        missing.append(f"{what} is missing ({path.name}).")
        return None
    try:
        return kind.read(path)
    except PlmScalingError as error:
        missing.append(f"{what} cannot be read: {error.what}.")
        return None


def _unasked(kind: type[_R], path: Path, what: str, missing: list[str]) -> _R | None:
    """As `_optional`, of what no study needs: only a file that cannot be read is worth a sentence."""
    return _optional(kind, path, what, missing) if path.is_file() else None


def _groups(path: Path, missing: list[str]) -> dict[Objective, GroupFit]:
    found: dict[Objective, GroupFit] = {}
    for objective in OBJECTIVES:
        named = f"The fit of {objective.upper()} by group"
        fit = _unasked(GroupFit, path / f"groups-{objective}.json", named, missing)
        if fit is not None:
            found[objective] = fit
    return found


def _sealed(path: Path, missing: list[str]) -> tuple[SealScore, ...]:
    """Sealed predictions and their scores; of a broken seal only that it is broken."""
    try:
        return score_seals(read_seals(seals_path(path / "plan.json")), path / "runs")
    except PlmScalingError as error:
        missing.append(f"The sealed predictions cannot be scored: {error.what} ({error.why or error.where}).")
        return ()


def _scores(path: Path, named: Sequence[Path], missing: list[str]) -> tuple[ResultRow, ...]:
    rows = [row for file in named for row in read_rows(file)]
    for file in () if named else sorted((path / "evals").glob("*.jsonl")):
        try:
            rows += read_rows(file)
        except (PlmScalingError, OSError, UnicodeDecodeError) as error:
            missing.append(f"evals/{file.name} cannot be read: {getattr(error, 'what', error)}.")
    return tuple(latest_rows(rows))


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
                if validation != VAL_IID:
                    raise RecordError(
                        "a table of runs holds the losses of one validation set only",
                        where=str(path / name),
                        hint=f"leave out --validation {validation}, or give a study with its runs folder",
                    )
                return RunTable.read(path / name)
    except PlmScalingError as error:
        if validation != VAL_IID:  # asked for by name: a page without its runs is no answer
            raise
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


def _floors(corpus: Path, records: dict[str, RunRecord], validation: str, missing: list[str]) -> dict[Objective, float]:
    """Entropy floors on the sequences the runs were scored on; needs the corpus itself, not its manifest only."""
    import pyarrow as pa

    from plm_scaling.corpus.floors import entropy_floors
    from plm_scaling.corpus.reader import Corpus
    from plm_scaling.corpus.validation import validation_rows

    if not records:
        return {}
    scored = max(record.config.validation_tokens for record in records.values())
    split, _, source = validation.partition(SET_PART)
    try:
        opened = Corpus.open(corpus)
        rows = validation_rows(opened, split, scored)
        if source:
            rows = rows[opened.source[rows] == opened.source_ids((source,))[0]]
        floors = entropy_floors(opened, rows)
    except (PlmScalingError, OSError, pa.ArrowException) as error:
        missing.append(f"The entropy floors cannot be computed: {getattr(error, 'what', error)}.")
        return {}
    return {"clm": floors.clm_per_token, "mlm": floors.mlm}


def _statistics(corpus: Path, manifest: Manifest) -> CorpusStatistics | None:
    """Statistics of a corpus that is whole and small; `prep stats --pictures` shows those of a large one."""
    import pyarrow as pa

    from plm_scaling.corpus.reader import Corpus

    if not manifest.index or manifest.n_sequences > _MOST_SEQUENCES or manifest.unique_tokens > _MOST_TOKENS:
        return None
    try:
        return corpus_statistics(Corpus.open(corpus))
    except (PlmScalingError, OSError, pa.ArrowException):
        return None  # the page shows what the manifest says


def comparison_pairs(study: Study) -> tuple[tuple[str, str], ...]:
    """(run, reference run) of every difference the report states, for pairing over validation sequences."""
    groups: list[tuple[Arm | None, tuple[Arm, ...]]] = []
    groups += [(series.reference, series.arms) for series in repeat_series(study)]
    groups += [(group.reference, group.arms) for group in diversity_groups(study)]
    pairs = [
        (row.run_id, other.run_id)
        for reference, arms in groups
        if reference is not None
        for arm in arms
        for row in arm.rows
        for other in reference.rows
    ]
    return tuple(dict.fromkeys(pairs))


def _gaps(runs: Path, study: Study) -> dict[tuple[str, str, str], tuple[float, float]]:
    """Paired differences of the runs whose per-sequence losses are at hand, on the page's set and its parts."""
    from plm_scaling.sweeps.runs import paired_gap

    parts = (source_set(study, source) for source in diversity_sources(study))
    sets = [study.validation, *(part for part in parts if part)]
    gaps = {}
    for name, first, second in ((one, *pair) for one in sets for pair in comparison_pairs(on_set(study, one))):
        try:
            gap, se = paired_gap(runs, first, second, name)
        except (PlmScalingError, OSError):
            continue  # the difference is then shown with the seed noise only
        if math.isfinite(se):
            gaps[name, first, second] = gap, se
    return gaps
