"""Supervised tasks as curves over the number of labels, and these curves as rows of results.

m: numbers of labels, s: seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError
from plm_scaling.evals import residue_tasks, supervised_tasks
from plm_scaling.evals.adapters.base import Adapter
from plm_scaling.evals.bootstrap import bootstrap_mean
from plm_scaling.evals.label_efficiency import (
    LabelCurve,
    LabelEfficiency,
    Method,
    label_curves,
    label_efficiency,
    with_controls,
)
from plm_scaling.evals.residue_tasks import ResidueRows, residue_features, residue_floors, residue_head
from plm_scaling.evals.results import FloorScore, ResultRow
from plm_scaling.evals.supervised import FeatureHead, Pooling
from plm_scaling.evals.supervised_tasks import task_table
from plm_scaling.evals.task import Answer, Asked, package_versions

__all__ = ["label_answers", "labels_of_task", "residue_label_efficiency"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
_UNITS: Final = {"rows": "labels", "sequences": "labelled sequences"}


def labels_of_task(
    name: str,
    asked: Asked,
    adapters: Sequence[Adapter],
    *,
    controls: Sequence[Adapter] | None = None,
    floors: Sequence[str] | None = None,
    labels: Sequence[int] | None = None,
    seeds: int = 5,
    pooling: Pooling = "mean",
    head: FeatureHead | None = None,
) -> LabelEfficiency:
    """Any supervised task as a curve, with the hash of its data; of classes by residue, labels are whole sequences.

    Parameters
    ----------
    others : as `label_efficiency`.

    Raises
    ------
    ConfigError : no such task, no such floor or head of it, or its files are not there.
    RefusedError : fewer than 10 labels, or a model that shows no activations.
    """
    chosen: dict[str, Any] = {"controls": controls, "floors": floors, "labels": labels, "seeds": seeds}
    by_residue = {task.name: task for task in residue_tasks.TASKS}
    if name in by_residue:
        if head not in (None, "ridge") or pooling != "mean":
            raise ConfigError(f"{head or pooling} for {name}", why="each residue has a class", hint="ridge on residues")
        task = by_residue[name]
        rows = residue_tasks.task_rows(task, asked)
        found = residue_label_efficiency(rows, adapters, table=name, **chosen)
    else:
        data, split = task_table(name, asked)
        task = next(one for one in supervised_tasks.TASKS if one.name == name)
        found = label_efficiency(data, split, adapters, pooling=pooling, head=head, **chosen)
    about = {"task": name, "task_version": task.version, "data_sha256": task.data_sha256(asked), "limit": asked.limit}
    return found.model_copy(update=about)


def residue_label_efficiency(
    rows: ResidueRows,
    adapters: Sequence[Adapter] = (),
    *,
    table: str,
    controls: Sequence[Adapter] | None = None,
    floors: Sequence[str] | None = None,
    labels: Sequence[int] | None = None,
    seeds: int = 5,
) -> LabelEfficiency:
    """The same for classes of residues: a label is what a sequence of the training or validation part holds of them.

    Raises
    ------
    ConfigError : no floor of this name, or numbers of labels as `label_efficiency`.
    """
    test = rows.of("test")
    train = np.unique(rows.owner[rows.part != "test"])
    known = tuple(residue_floors(_labelled(rows, train)[0]))
    if missing := [name for name in floors or () if name not in known]:
        raise ConfigError(f"no floor of residues is called {missing[0]!r}", hint=", ".join(known))

    def methods() -> Iterator[Method]:
        for one, role, own in with_controls(adapters, controls):
            yield Method(one.info.name, role, partial(_residue_value, rows, residue_features(one, rows)), one.info, own)
        for name in floors or known:
            yield Method(name, "floor", partial(_residue_floor, rows, name))

    return label_curves(
        methods(),
        train,
        labels=labels,
        seeds=seeds,
        table=table,
        split="own",
        metric="accuracy",
        n_test=len(test),
        unit="sequences",
        protocol="residue embedding + ridge",
    )


def _labelled(rows: ResidueRows, sequences: IntArray) -> tuple[ResidueRows, IntArray]:
    """Residues of some sequences to learn from, and those that are tested on; and which rows these are."""
    test = rows.part == "test"
    kept = np.flatnonzero(test | np.isin(rows.owner, sequences))
    part = np.where(test[kept], "test", "train").astype(np.str_)
    return ResidueRows(rows.sequences, rows.owner[kept], rows.place[kept], rows.label[kept], part), kept


def _residue_value(rows: ResidueRows, features: npt.NDArray[np.float32], train: IntArray, seed: int) -> float:
    some, kept = _labelled(rows, train)
    found = residue_head(features[kept], some, seed=seed)
    return float((found == some.label[some.of("test")]).mean())


def _residue_floor(rows: ResidueRows, name: str, train: IntArray, seed: int) -> float:
    some, _ = _labelled(rows, train)
    return float((residue_floors(some, seed=seed)[name] == some.label[some.of("test")]).mean())


def label_answers(found: LabelEfficiency) -> list[Answer]:
    """A row for every model and control at every number of labels: the mean over samples of labels, floors beside.

    The task is `labels.TASK/m`. The interval is over samples of labels; the values of the samples are the scores that
    are kept, so that models are compared in pairs on the same samples.
    """
    known = [one for one in found.curves if one.model is not None]
    return [
        _answer(found, curve, place)
        for place in range(len(found.labels))
        for curve in known
        if curve.means[place] is not None
    ]


def _answer(found: LabelEfficiency, curve: LabelCurve, place: int) -> Answer:
    assert curve.model is not None
    count = found.labels[place]
    values = np.array([one for one in (row[place] for row in curve.values) if one is not None], dtype=np.float64)
    ends = bootstrap_mean(values) if len(values) > 1 else None
    beside = [one for one in found.curves if one.role == "floor" or one.name in curve.controls]
    means = [(one.name, one.means[place]) for one in beside]
    row = ResultRow(
        task=f"labels.{found.task or f'{found.table}.{found.split}'}/{count}",
        task_version=found.task_version,
        data_sha256=found.data_sha256,
        model=curve.model,
        protocol=f"{found.protocol}, mean of {found.seeds} samples of {count} {_UNITS[found.unit]}",
        metric=found.metric,
        higher_is_better=True,
        value=float(values.mean()),
        low=None if ends is None else ends.low,
        high=None if ends is None else ends.high,
        clusters="sample of labels",
        n=found.n_test,
        n_train=count,
        limit=found.limit,
        resamples=0 if ends is None else ends.draws,
        floors=tuple(FloorScore(name=name, value=mean) for name, mean in means if mean is not None),
        head=found.head,
        versions=package_versions(),
        flags=() if any(one.role == "control" for one in found.curves) else ("NO_CONTROL",),
    )
    whole = len(values) == found.seeds
    return Answer(row, np.zeros(len(values)), values) if whole else Answer(row)
