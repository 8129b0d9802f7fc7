"""Floors: what a method without a language model reaches on the rows a model is tested on.

n: rows, K: classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError, RefusedError, did_you_mean
from plm_scaling.core.records import Record
from plm_scaling.evals import encodings
from plm_scaling.evals.bootstrap import bootstrap_metric
from plm_scaling.evals.heads import nearest_labels
from plm_scaling.evals.metrics import MetricName
from plm_scaling.evals.ridge import fit_ridge
from plm_scaling.evals.splits import Split, table_and_split
from plm_scaling.evals.tables import LabelledTable

if TYPE_CHECKING:
    from scipy import sparse

__all__ = [
    "EncodedTable",
    "FloorRow",
    "floor_names",
    "floor_scores",
    "floors",
    "floors_of_table",
    "measured_floor",
    "metric_of",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_MOST_CLASSES: Final = 50


@dataclass(frozen=True)
class EncodedTable:
    """A table with its encodings, each computed once."""

    table: LabelledTable

    @cached_property
    def letters(self) -> npt.NDArray[np.int8]:
        """int8[n, longest]."""
        return encodings.letter_matrix(self.table.sequences)

    @cached_property
    def sites(self) -> IntArray:
        """At which sequences differ."""
        return encodings.varied_sites(self.letters)

    @cached_property
    def one_hot(self) -> sparse.csr_array:
        """Of the varied sites."""
        return encodings.one_hot(self.letters[:, self.sites])

    @cached_property
    def pairwise(self) -> sparse.csr_array:
        """Of the varied sites and their pairs."""
        return encodings.pairwise_one_hot(self.letters[:, self.sites])

    @cached_property
    def composition(self) -> FloatArray:
        """Shares of the amino acids."""
        return encodings.composition(self.letters)

    @cached_property
    def kmers(self) -> sparse.csr_array:
        """Counts of words of three."""
        return encodings.kmer_counts(self.letters)

    @property
    def wild_type(self) -> str:
        """Of the length of all sequences.

        Raises
        ------
        RefusedError : none is known, or lengths differ.
        """
        wild = self.table.wild_type
        if wild is None:
            raise RefusedError("no wild type is known", hint="give it, as the table writes it")
        if any(len(sequence) != len(wild) for sequence in self.table.sequences):
            raise RefusedError("sequences are not all as long as the wild type", why="sites cannot be compared")
        return wild


@dataclass(frozen=True)
class _Rows:
    """What a floor may look at, and the rows it answers for; `held` are places in `train`."""

    data: EncodedTable
    train: IntArray
    test: IntArray
    held: IntArray | None
    seed: int

    @property
    def truth(self) -> FloatArray:
        return self.data.table.targets[self.train]

    @property
    def learnt(self) -> IntArray:
        """Rows of the table that a floor without a penalty learns from: what others are fitted to, not chosen on."""
        return self.train if self.held is None else np.delete(self.train, self.held)


class FloorRow(Record):
    """A floor's metric on the test rows of a split."""

    table: str
    split: str
    name: str
    metric: MetricName
    value: float | None
    """None where it has none here; `why` says so."""
    low: float | None = None
    high: float | None = None
    """95 %, by resampling of test rows."""
    n_train: int
    n_test: int
    why: str = ""
    merged: int = 0
    """Rows of the file that repeated a sequence: one row with the mean of their values, or dropped (classes)."""


def metric_of(table: LabelledTable) -> MetricName:
    """What a table's floors and models are measured by: rank correlation of values, accuracy of classes."""
    return "spearman" if table.kind == "values" else "accuracy"


def floor_names(table: LabelledTable) -> tuple[str, ...]:
    """The floors of a table of its kind, weakest first."""
    return tuple(_VALUE_FLOORS if table.kind == "values" else _CLASS_FLOORS)


def floor_scores(
    data: EncodedTable,
    name: str,
    train: IntArray,
    test: IntArray,
    *,
    validation: IntArray | None = None,
    seed: int = 0,
) -> FloatArray:
    """What a floor predicts for the test rows when fitted to the training rows, float64[test].

    Parameters
    ----------
    name : one of `floor_names`.
    train, test : rows of the table.
    validation : those of the training rows that choose a penalty; a seeded tenth without.

    Raises
    ------
    RefusedError : it does not exist for this table, such as mutation counts without a wild type.
    ConfigError : no floor of this name for this kind of table.
    """
    known: Mapping[str, Callable[[_Rows], FloatArray]] = _VALUE_FLOORS if data.table.kind == "values" else _CLASS_FLOORS
    if name not in known:
        raise ConfigError(f"no floor of {data.table.kind} is called {name!r}", hint=did_you_mean(name, known))
    held = None if validation is None else np.flatnonzero(np.isin(train, validation))
    return np.asarray(known[name](_Rows(data, train, test, held, seed)), dtype=np.float64)


def floors(
    table: LabelledTable | EncodedTable,
    split: Split,
    *,
    names: Sequence[str] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[FloorRow, ...]:
    """Every floor of a table on one split, with its interval; one that does not exist here says why.

    Parameters
    ----------
    names : some of `floor_names`; all of them by default.
    draws : of the interval.
    """
    data = table if isinstance(table, EncodedTable) else EncodedTable(table)
    chosen = names or floor_names(data.table)
    return tuple(measured_floor(data, split, name, draws=draws, seed=seed)[0] for name in chosen)


def floors_of_table(
    path: Path,
    *,
    sequence: str | None = None,
    target: str | None = None,
    split: str = "sampled",
    wild_type: str | None = None,
    classes: bool = False,
    validation: str | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[FloorRow, ...]:
    """The floors of any CSV; parameters and errors as `table_and_split`.

    Parameters
    ----------
    draws : of the intervals.
    """
    table, chosen = table_and_split(
        path,
        sequence=sequence,
        target=target,
        split=split,
        wild_type=wild_type,
        classes=classes,
        validation=validation,
    )
    return floors(table, chosen, draws=draws, seed=seed)


def measured_floor(
    data: EncodedTable, split: Split, name: str, *, draws: int = 1000, seed: int = 0
) -> tuple[FloorRow, FloatArray | None]:
    """One floor with its interval, and its predictions for the test rows, float64[test]; neither where it has none."""
    metric = metric_of(data.table)
    about: dict[str, Any] = {
        "table": data.table.name,
        "split": split.name,
        "name": name,
        "metric": metric,
        "n_train": len(split.train),
        "n_test": len(split.test),
        "merged": data.table.merged,
    }
    try:
        scores = floor_scores(data, name, split.train, split.test, validation=split.validation, seed=seed)
        found = bootstrap_metric(metric, data.table.targets[split.test], scores, draws=draws, seed=seed)
    except RefusedError as refusal:
        why = f"{refusal.what}: {refusal.why}" if refusal.why else refusal.what
        return FloorRow(**about, value=None, why=why), None
    return FloorRow(**about, value=found.value, low=found.low, high=found.high), scores


def _random(rows: _Rows) -> FloatArray:
    return np.random.default_rng([rows.seed, 1]).normal(size=len(rows.test))


def _mutations(rows: _Rows) -> FloatArray:
    return np.asarray(-encodings.mutation_counts(rows.data.letters[rows.test], rows.data.wild_type), dtype=np.float64)


def _blosum62(rows: _Rows) -> FloatArray:
    return encodings.blosum62_scores(rows.data.letters[rows.test], rows.data.wild_type)


def _ridge(rows: _Rows, features: Any, *, centre: bool) -> FloatArray:
    fit = fit_ridge(features[rows.train], rows.truth, validation=rows.held, centre=centre, seed=rows.seed)
    return fit.predict(features[rows.test])


def _composition(rows: _Rows) -> FloatArray:
    return _ridge(rows, rows.data.composition, centre=True)


def _one_hot(rows: _Rows) -> FloatArray:
    return _ridge(rows, rows.data.one_hot, centre=False)


def _pairwise(rows: _Rows) -> FloatArray:
    try:
        features = rows.data.pairwise
    except ConfigError as error:
        raise RefusedError(error.what, why=error.why) from None
    return _ridge(rows, features, centre=False)


def _majority(rows: _Rows) -> FloatArray:
    classes, counts = np.unique(rows.data.table.targets[rows.learnt], return_counts=True)
    return np.full(len(rows.test), classes[counts.argmax()])


def _random_class(rows: _Rows) -> FloatArray:
    """As often as in training."""
    return np.random.default_rng([rows.seed, 1]).choice(rows.data.table.targets[rows.learnt], size=len(rows.test))


def _nearest_composition(rows: _Rows) -> FloatArray:
    """By counts rather than shares: they know the length too, and find more folds."""
    learnt, test = (encodings.letter_counts(rows.data.letters[which]) for which in (rows.learnt, rows.test))
    return np.asarray(nearest_labels(learnt, rows.data.table.targets[rows.learnt], test, by="distance"))


def _nearest_words(rows: _Rows) -> FloatArray:
    train, test = encodings.tf_idf(rows.data.kmers[rows.learnt], rows.data.kmers[rows.test])
    return np.asarray(nearest_labels(train, rows.data.table.targets[rows.learnt], test))


def _one_hot_class(rows: _Rows) -> FloatArray:
    classes = np.unique(rows.truth)
    if len({len(sequence) for sequence in rows.data.table.sequences}) > 1:
        raise RefusedError("sequences have different lengths", why="sites cannot be compared")
    if len(classes) > _MOST_CLASSES:
        raise RefusedError(f"{len(classes)} classes", why=f"more than {_MOST_CLASSES} are not told apart by site")
    features = rows.data.one_hot
    fit = fit_ridge(
        features[rows.train],
        (rows.truth[:, None] == classes).astype(np.float64),
        validation=rows.held,
        centre=False,
        seed=rows.seed,
    )
    return np.asarray(classes[fit.predict(features[rows.test]).argmax(axis=1)])


_VALUE_FLOORS: Final[Mapping[str, Callable[[_Rows], FloatArray]]] = MappingProxyType(
    {
        "random": _random,
        "mutations": _mutations,
        "blosum62": _blosum62,
        "composition": _composition,
        "one-hot": _one_hot,
        "pairwise": _pairwise,
    }
)
_CLASS_FLOORS: Final[Mapping[str, Callable[[_Rows], FloatArray]]] = MappingProxyType(
    {
        "random": _random_class,
        "majority": _majority,
        "3-mers": _nearest_words,
        "composition": _nearest_composition,
        "one-hot": _one_hot_class,
    }
)
