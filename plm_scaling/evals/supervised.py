"""What a model's activations know of a table's targets: a head on frozen embeddings, beside floors and a control.

A head on random weights is the control: what it reaches is the architecture's and the head's, not pre-training's.

n: rows, S: varied sites, D: width, p: features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.evals.adapters.base import Adapter, Float32Array
from plm_scaling.evals.bootstrap import Bootstrapped, bootstrap_metric, paired_difference
from plm_scaling.evals.embedding_cache import uncached
from plm_scaling.evals.floors import EncodedTable, floor_names, measured_floor, metric_of
from plm_scaling.evals.heads import fit_logistic, nearest_labels
from plm_scaling.evals.long_embeddings import embed_any_length
from plm_scaling.evals.metrics import MetricName
from plm_scaling.evals.ridge import fit_ridge, held_out_rows
from plm_scaling.evals.splits import Split

__all__ = [
    "POOLED",
    "FeatureHead",
    "Head",
    "Pooling",
    "ProbeRow",
    "SupervisedTable",
    "default_head",
    "embed_table",
    "floor_rows",
    "head_scores",
    "random_weights_of",
    "supervised_table",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Pooling = Literal["mean", "sites"]
"""mean: over all residues; sites: of each varied site, side by side, for sequences of one length."""
FeatureHead = Literal["ridge", "logistic", "nearest"]
"""On activations that are computed once."""
Head = Literal["ridge", "logistic", "nearest", "cnn", "lora", "full"]
"""cnn: over the activations of the varied sites; lora, full: the model itself is trained (`finetuning.tune`)."""
POOLED: Final[dict[Pooling, str]] = {"mean": "mean embedding", "sites": "embeddings of the varied sites"}
"""In words, for rows of results."""

_CHUNK: Final = 1024
_WIDEST: Final = 2048
_LEAST_WIDTH: Final = 16
_MOST_CLASSES: Final = 50


@dataclass(frozen=True)
class ProbeRow:
    """One line of a table.

    Attributes
    ----------
    name : of the model or floor.
    role : model, control (random weights), or floor.
    metric : what `value` is.
    value : None where it is not defined; `why` says so.
    low, high : 95 %, by resampling of test rows.
    scores : predictions for the test rows, float64[n_test].
    """

    name: str
    role: Literal["model", "control", "floor"]
    metric: MetricName
    value: float | None
    low: float | None
    high: float | None
    n_train: int
    n_test: int
    scores: FloatArray | None = None
    why: str = ""


@dataclass(frozen=True)
class SupervisedTable:
    """A model with its control and all floors on the same rows.

    Attributes
    ----------
    model : its row.
    control : random weights under the same head; None where the model's weights cannot be drawn anew.
    floors : weakest first, as `floor_names`.
    over_control, over_floor : the model's metric less that of its control and of the best floor, on the same rows;
        None where there is none.
    """

    model: ProbeRow
    control: ProbeRow | None
    floors: tuple[ProbeRow, ...]
    over_control: Bootstrapped | None
    over_floor: Bootstrapped | None

    @property
    def rows(self) -> tuple[ProbeRow, ...]:
        """All of them, the model first."""
        return (self.model, *(() if self.control is None else (self.control,)), *self.floors)

    @property
    def best_floor(self) -> ProbeRow | None:
        """The floor of the highest value; None where none is defined."""
        known = [row for row in self.floors if row.value is not None]
        return max(known, key=lambda row: row.value or 0.0) if known else None


def supervised_table(
    adapter: Adapter,
    data: EncodedTable,
    split: Split,
    *,
    control: Adapter | None = None,
    pooling: Pooling = "mean",
    head: Head | None = None,
    layer: int = -1,
    floors: tuple[ProbeRow, ...] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> SupervisedTable:
    """A head on a model's embeddings beside the same head on random weights and beside every floor.

    Parameters
    ----------
    control : random weights; by default drawn anew for models of ours, ESM-2 and ProGen2.
    pooling, layer : which activations; -1 is the last layer.
    head : by default ridge for values, logistic for up to 50 classes and ridge on indicators of more; the same for
        the control.
    floors : of the same rows, where they are known already (`floor_rows`).
    draws : of every interval.

    Raises
    ------
    RefusedError : the model shows no activations, or sites of sequences of different lengths are asked for.
    """
    head = head or default_head(data)
    control = random_weights_of(adapter, seed) if control is None else control
    rows: list[ProbeRow] = []
    for one, role in ((adapter, "model"), (control, "control")):
        if one is not None:
            scores = _scores(one, data, split, pooling, layer, head, seed)
            rows.append(_row(data, split, one.info.name, role, scores, draws, seed))
    found = floor_rows(data, split, draws=draws, seed=seed) if floors is None else floors
    alone = SupervisedTable(rows[0], rows[1] if len(rows) > 1 else None, found, None, None)
    return SupervisedTable(
        alone.model,
        alone.control,
        found,
        _difference(data, split, alone.model, alone.control, draws, seed),
        _difference(data, split, alone.model, alone.best_floor, draws, seed),
    )


def _scores(
    adapter: Adapter, data: EncodedTable, split: Split, pooling: Pooling, layer: int, head: Head, seed: int
) -> FloatArray:
    if head == "lora" or head == "full":
        from plm_scaling.evals.finetuning import TuningChoice, tune

        return tune(adapter, data, split, TuningChoice(head), seed=seed).scores
    if head == "cnn":
        features = embed_table(adapter, data, split, pooling="sites", layer=layer)
        return cnn_scores(features, data, split, seed=seed)
    features = embed_table(adapter, data, split, pooling=pooling, layer=layer)
    return head_scores(features, data, split, head=head, seed=seed)


def cnn_scores(features: Float32Array, data: EncodedTable, split: Split, *, seed: int = 0) -> FloatArray:
    """Predictions of a small convolutional network over the varied sites, float64[test].

    Parameters
    ----------
    features : float32[n, S d], `embed_table` by sites; standardised over the training rows.

    Raises
    ------
    RefusedError : classes. ConfigError : fewer than 30 training rows.
    """
    if data.table.kind == "classes":
        raise RefusedError("a convolutional head for classes", where=data.table.name, hint="logistic, lora or full")
    from plm_scaling.evals.cnn import fit_cnn

    train = split.train
    held = None if split.validation is None else np.flatnonzero(np.isin(train, split.validation))
    mean, scale = _standard(features, train)
    standard = ((features - mean) / scale).astype(np.float32).reshape(len(features), len(data.sites), -1)
    fit = fit_cnn(standard[train], data.table.targets[train], validation=held, seed=seed)
    return fit.predict(standard[split.test])


def _standard(features: Float32Array, train: IntArray) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation over the training rows, float64[p]; inf where nothing varies."""
    mean = features[train].mean(axis=0, dtype=np.float64)
    scale = features[train].std(axis=0, dtype=np.float64)
    scale[scale < 1e-6 * max(float(scale.max(initial=0.0)), 1e-30)] = np.inf
    return mean, scale


def floor_rows(data: EncodedTable, split: Split, *, draws: int = 1000, seed: int = 0) -> tuple[ProbeRow, ...]:
    """Every floor of a table with its predictions, weakest first; one that does not exist here says why."""
    return tuple(_floor_row(data, split, name, draws, seed) for name in floor_names(data.table))


def default_head(data: EncodedTable) -> FeatureHead:
    """Ridge for values, logistic for classes, ridge on their indicators where they are more than 50."""
    few = len(np.unique(data.table.targets)) <= _MOST_CLASSES
    return "logistic" if data.table.kind == "classes" and few else "ridge"


def embed_table(
    adapter: Adapter, data: EncodedTable, split: Split, *, pooling: Pooling = "mean", layer: int = -1
) -> Float32Array:
    """Embeddings of all rows, float32[n, D] pooled, [n, S d] by site.

    Activations of a site are cut to the d leading principal components of up to 1024 training sequences, so that all
    sites together have at most 2048 columns (and each at least 16): heads stay as wide as for pooled embeddings.

    Raises
    ------
    RefusedError : the model shows no activations, or sites of sequences of different lengths are asked for.
    """
    sequences = data.table.sequences
    if pooling == "mean":
        starts = range(0, len(sequences), _CHUNK)
        parts = (embed_any_length(adapter, sequences[k : k + _CHUNK], layer=layer) for k in starts)
        return np.stack([one for part in parts for one in part])
    if len({len(sequence) for sequence in sequences}) > 1:
        raise RefusedError(
            "activations by site of sequences of different lengths",
            where=data.table.name,
            why="their sites do not correspond",
            hint="mean pooling",
        )
    first = [sequences[k] for k in split.train[:_CHUNK]]
    shown = embed_any_length(adapter, first, layer=layer, pool="none")
    basis = _basis(np.concatenate([one[data.sites] for one in shown]), data)
    found = np.empty((len(sequences), len(data.sites) * basis.shape[1]), dtype=np.float32)
    for k in range(0, len(sequences), _CHUNK):
        chunk = embed_any_length(adapter, sequences[k : k + _CHUNK], layer=layer, pool="none")
        for row, one in enumerate(chunk, start=k):
            found[row] = (one[data.sites] @ basis).ravel()
    return found


def _basis(activations: Float32Array, data: EncodedTable) -> Float32Array:
    """Leading principal directions, float32[D, d]; all of them as they are where they fit."""
    D = activations.shape[1]
    d = min(D, max(_LEAST_WIDTH, _WIDEST // max(len(data.sites), 1)))
    if d == D:
        return np.eye(D, dtype=np.float32)
    centred = activations.astype(np.float64) - activations.mean(axis=0, dtype=np.float64)
    _, vector = np.linalg.eigh(centred.T @ centred)
    return np.asarray(vector[:, ::-1][:, :d], dtype=np.float32)


def head_scores(
    features: Float32Array, data: EncodedTable, split: Split, *, head: FeatureHead = "ridge", seed: int = 0
) -> FloatArray:
    """Predictions of a head for the test rows, float64[test]: values, or classes.

    Parameters
    ----------
    features : [n, p] of all rows of the table; standardised over the training rows.
    head : ridge (of indicators, for classes), logistic or nearest (by angle).

    Raises
    ------
    ConfigError : logistic or nearest of values.
    """
    targets, train = data.table.targets, split.train
    if data.table.kind == "values" and head != "ridge":
        raise ConfigError(f"{head} of values", why="it names classes", hint="ridge")
    held = None if split.validation is None else np.flatnonzero(np.isin(train, split.validation))
    mean, scale = _standard(features, train)
    X, X_test = (features[train] - mean) / scale, (features[split.test] - mean) / scale
    if data.table.kind == "values":
        return fit_ridge(X, targets[train], validation=held, seed=seed).predict(X_test)
    if head == "nearest":
        return np.asarray(nearest_labels(X, targets[train], X_test))
    classes, place = np.unique(targets[train], return_inverse=True)
    if head == "logistic":
        chosen = held_out_rows(len(train), seed) if held is None else held
        return np.asarray(classes[fit_logistic(X, place, chosen)[0].predict(X_test)])
    fit = fit_ridge(X, (place[:, None] == np.arange(len(classes))).astype(np.float64), validation=held, seed=seed)
    return np.asarray(classes[fit.predict(X_test).argmax(axis=1)])


def random_weights_of(adapter: Adapter, seed: int = 0) -> Adapter | None:
    """The same architecture with weights drawn anew, or None where it is not ours to draw."""
    from plm_scaling.evals.adapters.own import OwnModel
    from plm_scaling.evals.adapters.own_models import random_control

    inner = uncached(adapter)
    return random_control(inner, seed=seed) if isinstance(inner, OwnModel) else None


def _row(data: EncodedTable, split: Split, name: str, role: Any, scores: FloatArray, draws: int, seed: int) -> ProbeRow:
    metric, truth = metric_of(data.table), data.table.targets[split.test]
    sizes = (len(split.train), len(split.test))
    try:
        found = bootstrap_metric(metric, truth, scores, draws=draws, seed=seed)
    except RefusedError as refusal:
        return ProbeRow(name, role, metric, None, None, None, *sizes, scores, refusal.why)
    return ProbeRow(name, role, metric, found.value, found.low, found.high, *sizes, scores)


def _floor_row(data: EncodedTable, split: Split, name: str, draws: int, seed: int) -> ProbeRow:
    row, scores = measured_floor(data, split, name, draws=draws, seed=seed)
    ends = (row.value, row.low, row.high)
    return ProbeRow(name, "floor", row.metric, *ends, row.n_train, row.n_test, scores, row.why)


def _difference(
    data: EncodedTable, split: Split, model: ProbeRow, other: ProbeRow | None, draws: int, seed: int
) -> Bootstrapped | None:
    if other is None or model.value is None or other.value is None:
        return None
    assert model.scores is not None
    assert other.scores is not None
    truth = data.table.targets[split.test]
    return paired_difference(model.metric, truth, model.scores, other.scores, draws=draws, seed=seed)
