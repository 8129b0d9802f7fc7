"""Classes of residues, such as secondary structure: a linear head on each residue's activations, beside its floors.

n: sequences, R: residues with a class, p: features, K: classes, W: letters of a window.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError
from plm_scaling.evals.adapters.base import Adapter
from plm_scaling.evals.bootstrap import bootstrap_metric
from plm_scaling.evals.data_alarms import table_alarms, token_alarms
from plm_scaling.evals.encodings import letter_matrix, one_hot
from plm_scaling.evals.long_embeddings import embed_any_length
from plm_scaling.evals.results import FloorScore
from plm_scaling.evals.ridge import fit_ridge
from plm_scaling.evals.supervised import random_weights_of
from plm_scaling.evals.tables import Part, ResidueTable, read_residue_table
from plm_scaling.evals.task import Answer, Asked, Scored, Task, answer_of

__all__ = ["TASKS", "ResidueRows", "residue_features", "residue_floors", "residue_head", "residue_rows", "task_rows"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_MOST: Final = 200_000
_AROUND: Final = 7
_CHUNK: Final = 256


@dataclass(frozen=True)
class ResidueRows:
    """The residues that a head learns from, chooses its penalty on, and is tested on.

    Attributes
    ----------
    sequences : n of them, with at least one residue each.
    owner, place : sequence and position of each residue, int64[R].
    label : its class, int64[R].
    part : train, validation or test, [R].
    """

    sequences: tuple[str, ...]
    owner: IntArray
    place: IntArray
    label: IntArray
    part: npt.NDArray[np.str_]

    def of(self, part: Part) -> IntArray:
        """Rows of a part."""
        return np.flatnonzero(self.part == part)


def residue_rows(table: ResidueTable, *, limit: int | None = None, most: int = _MOST, seed: int = 0) -> ResidueRows:
    """Residues with a class; of those that are learnt from a seeded sample.

    Parameters
    ----------
    limit : at most so many sequences of each part.
    most : residues that are learnt from; a tenth as many choose the penalty. All test residues are kept.

    Raises
    ------
    ConfigError : a part without residues: train and test are needed.
    """
    rng = np.random.default_rng(seed)
    parts = np.array(table.parts)
    chosen = np.concatenate(
        [np.sort(rng.permutation(np.flatnonzero(parts == part))[:limit]) for part in ("train", "validation", "test")]
    )
    label = np.concatenate([np.asarray(table.labels[k]) for k in chosen]) if len(chosen) else np.zeros(0, np.int64)
    lengths = [len(table.sequences[k]) for k in chosen]
    owner = np.repeat(np.arange(len(chosen)), lengths)
    place = np.concatenate([np.arange(length) for length in lengths]) if lengths else owner
    part = np.repeat(parts[chosen], lengths)
    kept = []
    for name, count in (("train", most), ("validation", most // 10), ("test", len(label))):
        rows = np.flatnonzero((part == name) & (label >= 0))
        if not len(rows) and name != "validation":
            raise ConfigError(f"no residue with a class to {name}", where=table.name)
        kept.append(np.sort(rng.permutation(rows)[:count]))
    rows = np.concatenate(kept)
    return ResidueRows(
        tuple(table.sequences[k] for k in chosen), owner[rows], place[rows], label[rows], part[rows].astype(np.str_)
    )


def residue_floors(rows: ResidueRows, *, seed: int = 0) -> dict[str, IntArray]:
    """Classes of the test residues by the commonest class, by the residue's letter, and by a window of 15 letters."""
    train, test = rows.of("train"), rows.of("test")
    windows = _windows(rows)
    common = int(np.bincount(rows.label[train]).argmax())
    letters = windows[:, _AROUND].astype(np.int64) + 1
    counts = np.zeros((letters.max() + 1, rows.label.max() + 1))
    np.add.at(counts, (letters[train], rows.label[train]), 1.0)
    by_letter = np.where(counts.sum(axis=1) > 0.0, counts.argmax(axis=1), common)
    return {
        "majority": np.full(len(test), common),
        "letter": by_letter[letters[test]],
        "window of 15": _linear(lambda which: one_hot(windows[which]), rows, centre=False, seed=seed),
    }


def residue_features(adapter: Adapter, rows: ResidueRows, *, layer: int = -1) -> npt.NDArray[np.float32]:
    """Activations of every residue, float32[R, p].

    Raises
    ------
    RefusedError : the model shows no activations.
    """
    features: npt.NDArray[np.float32] | None = None
    for begin in range(0, len(rows.sequences), _CHUNK):
        shown = embed_any_length(adapter, rows.sequences[begin : begin + _CHUNK], layer=layer, pool="none")
        which = np.flatnonzero((rows.owner >= begin) & (rows.owner < begin + _CHUNK))
        if features is None:
            features = np.empty((len(rows.owner), shown[0].shape[1]), dtype=np.float32)
        for row in which:
            features[row] = shown[rows.owner[row] - begin][rows.place[row]]
    assert features is not None
    return features


def residue_head(features: npt.NDArray[np.float32], rows: ResidueRows, *, seed: int = 0) -> IntArray:
    """Classes of the test residues by ridge on the activations of each, int64[test].

    Parameters
    ----------
    features : float32[R, p], `residue_features`.
    """
    train = rows.of("train")
    mean, scale = features[train].mean(axis=0), features[train].std(axis=0)
    scaled = (features - mean) / np.where(scale > 0.0, scale, 1.0)
    return _linear(lambda which: scaled[which], rows, centre=True, seed=seed)


def _linear(features: Callable[[IntArray], Any], rows: ResidueRows, *, centre: bool, seed: int) -> IntArray:
    """Ridge on indicators of the classes."""
    learnt = np.concatenate([rows.of("train"), rows.of("validation")])
    held = np.arange(len(rows.of("train")), len(learnt))
    classes = np.unique(rows.label[learnt])
    targets = (rows.label[learnt][:, None] == classes).astype(np.float64)
    fit = fit_ridge(features(learnt), targets, validation=held if len(held) else None, centre=centre, seed=seed)
    return np.asarray(classes[fit.predict(features(rows.of("test"))).argmax(axis=1)])


def _windows(rows: ResidueRows) -> npt.NDArray[np.int8]:
    """Letters around each residue, int8[R, 15]; -1 beyond the ends."""
    found = np.full((len(rows.owner), 2 * _AROUND + 1), -1, dtype=np.int8)
    for begin in range(0, len(rows.sequences), _CHUNK):
        letters = np.pad(
            letter_matrix(rows.sequences[begin : begin + _CHUNK]), ((0, 0), (_AROUND, _AROUND)), constant_values=-1
        )
        which = np.flatnonzero((rows.owner >= begin) & (rows.owner < begin + _CHUNK))
        columns = rows.place[which][:, None] + np.arange(2 * _AROUND + 1)
        found[which] = letters[(rows.owner[which] - begin)[:, None], columns]
    return found


def task_rows(task: Task, asked: Asked) -> ResidueRows:
    """The residues of a task.

    Raises
    ------
    ConfigError : its files are not there, or cannot be read.
    """
    return residue_rows(read_residue_table(task.paths(asked), name=task.name), limit=asked.limit, seed=asked.seed)


@lru_cache(maxsize=1)
def _prepared(
    paths: tuple[Path, ...], name: str, limit: int | None, draws: int, seed: int
) -> tuple[ResidueRows, tuple[FloorScore, ...]]:
    rows = residue_rows(read_residue_table(paths, name=name), limit=limit, seed=seed)
    return rows, tuple(_floor(rows, floor, found, draws, seed) for floor, found in residue_floors(rows).items())


def _floor(rows: ResidueRows, name: str, found: IntArray, draws: int, seed: int) -> FloorScore:
    test = rows.of("test")
    one = bootstrap_metric("accuracy", rows.label[test], found, clusters=_names(rows), draws=draws, seed=seed)
    return FloorScore(name=name, value=one.value, low=one.low, high=one.high)


def _names(rows: ResidueRows) -> Sequence[str]:
    return tuple(map(str, rows.owner[rows.of("test")]))


def _measure(task: Task, adapter: Adapter, asked: Asked) -> list[Answer]:
    started = time.perf_counter()
    rows, floors = _prepared(task.paths(asked), task.name, asked.limit, asked.resamples, asked.seed)
    control = random_weights_of(adapter, asked.seed)
    if control is not None:
        found = residue_head(residue_features(control, rows), rows, seed=asked.seed)
        floors = (*floors, _floor(rows, "random weights", found, asked.resamples, asked.seed))
    test = rows.of("test")
    tested = [rows.sequences[k] for k in np.unique(rows.owner[test])]
    alarms = (*token_alarms(adapter.info), *table_alarms(asked, task.name, tested))
    scored = Scored(
        truth=rows.label[test].astype(np.float64),
        scores=residue_head(residue_features(adapter, rows), rows, seed=asked.seed).astype(np.float64),
        protocol="residue embedding + ridge",
        clusters=tuple(_names(rows)),
        cluster_kind="sequence",
        n_train=len(rows.of("train")) + len(rows.of("validation")),
        floors=floors,
        tokens=float(sum(map(len, rows.sequences))),
        flags=(*(("NO_CONTROL",) if control is None else ()), *(alarm.code for alarm in alarms)),
        warnings=tuple(alarm.sentence for alarm in alarms),
    )
    return [answer_of(task, adapter, asked, scored, metric="accuracy", started=started)]


TASKS: Final[tuple[Task, ...]] = (
    Task(
        name="secondary_structure",
        kind="supervised",
        about="TAPE secondary structure, class of each residue",
        metric="accuracy",
        higher_is_better=True,
        needs=("embed",),
        measure=_measure,
        heads=("ridge",),
        files=tuple(f"secondary_structure.{part}.csv" for part in ("train", "valid", "test")),
    ),
)
