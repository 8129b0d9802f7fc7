"""Metric against the number of labels, for models, random weights and floors, and where pre-training stops paying.

m: numbers of labels, s: seeds, n: rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.core.records import Record
from plm_scaling.evals.adapters.base import Adapter, Float32Array, ModelInfo
from plm_scaling.evals.floors import EncodedTable, floor_names, floor_scores, metric_of
from plm_scaling.evals.metrics import MetricName, measure
from plm_scaling.evals.splits import Split
from plm_scaling.evals.supervised import (
    POOLED,
    FeatureHead,
    Pooling,
    default_head,
    embed_table,
    head_scores,
    random_weights_of,
)

__all__ = [
    "Crossing",
    "LabelCurve",
    "LabelEfficiency",
    "Method",
    "find_crossing",
    "label_counts",
    "label_curves",
    "label_efficiency",
    "nested_rows",
    "with_controls",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Role = Literal["model", "control", "floor"]

_LEAST: Final = 10
_PER_DECADE: Final = 4
_DRAWS: Final = 500


class LabelCurve(Record):
    """One method at every number of labels."""

    name: str
    role: Role
    labels: tuple[int, ...]
    values: tuple[tuple[float | None, ...], ...]
    """By seed, then by number of labels, [s][m]; None where the metric is not defined."""
    model: ModelInfo | None = None
    """Of a model or control."""
    controls: tuple[str, ...] = ()
    """Of a model: the curves of its own random weights."""
    why: str = ""
    """Of a floor: why it has no value at some number of labels, or at any."""

    @property
    def means(self) -> tuple[float | None, ...]:
        """Mean over the seeds with a value, [m]."""
        return tuple(None if math.isnan(value) else float(value) for value in _mean(_array(self.values)))

    @property
    def spread(self) -> tuple[float | None, ...]:
        """Standard deviation between seeds, [m]; None where fewer than two have a value."""
        table = _array(self.values)
        return tuple(float(np.nanstd(column, ddof=1)) if (~np.isnan(column)).sum() > 1 else None for column in table.T)


class Crossing(Record):
    """Up to how many labels one method beats another."""

    name: str
    against: str
    """What it is compared with: a method, or `best floor`."""
    verdict: Literal["stops", "never", "always"]
    """stops: ahead up to `labels`; never: ahead at no number of labels; always: still ahead with all."""
    labels: float | None
    """Where the curves cross for good, between two numbers of labels on a logarithmic scale."""
    low: float | None
    high: float | None
    """95 %, by drawing seeds anew; open ends are None: there the curves do not cross within the table."""
    chance: float
    """Share of draws with this verdict."""
    text: str


class LabelEfficiency(Record):
    """Curves on one split, all tested on the same rows."""

    table: str
    split: str
    metric: MetricName
    n_test: int
    labels: tuple[int, ...]
    seeds: int
    curves: tuple[LabelCurve, ...]
    crossings: tuple[Crossing, ...]
    unit: Literal["rows", "sequences"] = "rows"
    """What one label is: a row's value or class, or the classes of all residues of a sequence."""
    protocol: str = ""
    """How models are asked: activations and head."""
    head: str = ""
    """Where the user named it."""
    task: str = ""
    task_version: int = 1
    data_sha256: str = ""
    """Of the files of the table."""
    limit: int | None = None
    """Where a seeded sample of at most so many of its rows was taken."""
    merged: int = 0
    """Rows of the file that repeated a sequence: one row with the mean of their values, or dropped (classes)."""

    def curve(self, name: str) -> LabelCurve:
        """The curve of a model or floor.

        Raises
        ------
        ConfigError : there is none of this name.
        """
        for one in self.curves:
            if one.name == name:
                return one
        raise ConfigError(f"no curve is called {name!r}", hint=", ".join(one.name for one in self.curves))


def label_counts(most: int, *, least: int = _LEAST, per_decade: int = _PER_DECADE) -> tuple[int, ...]:
    """Numbers of labels from `least` to `most`, evenly on a logarithmic scale, both ends among them.

    Raises
    ------
    RefusedError : fewer labels than `least`.
    """
    if most < least:
        raise RefusedError(f"{most} labels", why=f"a curve begins at {least}", hint="a larger table, or another split")
    steps = max(1, round(per_decade * math.log10(most / least)))
    return tuple(sorted({round(least * (most / least) ** (k / steps)) for k in range(steps + 1)}))


def nested_rows(train: IntArray, labels: Sequence[int], seed: int) -> tuple[IntArray, ...]:
    """A seeded sample of the training rows for every number of labels, each holding the smaller ones."""
    order = np.random.default_rng([seed, 11]).permutation(train)
    return tuple(np.sort(order[:count]) for count in labels)


def label_efficiency(
    data: EncodedTable,
    split: Split,
    adapters: Sequence[Adapter] = (),
    *,
    controls: Sequence[Adapter] | None = None,
    floors: Sequence[str] | None = None,
    labels: Sequence[int] | None = None,
    seeds: int = 5,
    pooling: Pooling = "mean",
    head: FeatureHead | None = None,
    most_test: int = 5000,
) -> LabelEfficiency:
    """Every method on the same nested samples of labels, tested on the same rows.

    Parameters
    ----------
    adapters : models; what they show of each row is computed once for all numbers of labels and seeds.
    controls : random weights that every model is held against; by default its own, drawn anew where they are ours to
        draw.
    floors : some of `floor_names`; all of them by default.
    labels : numbers of labels; by default 10 to all training rows, four per decade.
    seeds : samples of labels.
    head, pooling : as `supervised_table`. Penalties are chosen among the labels of each sample, never beyond them.
    most_test : rows that are tested on, a seeded sample of the split's.

    Raises
    ------
    RefusedError : fewer than 10 training rows, or a model that shows no activations.
    """
    test = np.sort(np.random.default_rng(17).permutation(split.test)[:most_test])
    chosen = head or default_head(data)

    def methods() -> Iterator[Method]:
        for one, role, own in with_controls(adapters, controls):
            features = embed_table(one, data, split, pooling=pooling)
            yield Method(one.info.name, role, partial(_head_value, features, data, test, chosen), one.info, own)
        for name in floor_names(data.table) if floors is None else floors:
            yield Method(name, "floor", partial(_floor_value, name, data, test))

    return label_curves(
        methods(),
        split.train,
        labels=labels,
        seeds=seeds,
        table=data.table.name,
        split=split.name,
        metric=metric_of(data.table),
        n_test=len(test),
        merged=data.table.merged,
        protocol=f"{POOLED[pooling]} + {chosen}",
        head=head or "",
    )


@dataclass(frozen=True)
class Method:
    """What learns from labels.

    Attributes
    ----------
    value : of the metric on the test rows, from labelled units and the seed of their sample; a floor that does not
        exist there refuses.
    controls : of a model, names of its random weights.
    """

    name: str
    role: Role
    value: Callable[[IntArray, int], float | None]
    model: ModelInfo | None = None
    controls: tuple[str, ...] = ()


def label_curves(
    methods: Iterable[Method], train: IntArray, *, labels: Sequence[int] | None, seeds: int, **about: Any
) -> LabelEfficiency:
    """Curves of methods on the same nested samples of `train`; numbers of labels and errors as `label_efficiency`.

    Parameters
    ----------
    about : other fields of `LabelEfficiency`.
    """
    counts = tuple(sorted(set(labels))) if labels is not None else label_counts(len(train))
    if max(counts) > len(train) or min(counts) < 3 or seeds < 1:
        raise ConfigError(
            f"{min(counts)} to {max(counts)} labels and {seeds} seeds of {len(train)} training rows",
            hint="numbers from 3 to all of them, and at least one seed",
        )
    samples = [nested_rows(train, counts, seed) for seed in range(seeds)]
    curves = [_curve(method, counts, samples) for method in methods]
    return LabelEfficiency(labels=counts, seeds=seeds, curves=tuple(curves), crossings=_crossings(curves), **about)


def _curve(method: Method, labels: tuple[int, ...], samples: Sequence[Sequence[IntArray]]) -> LabelCurve:
    """What a method reaches; a floor that does not exist for a sample has no value there, and says why."""
    reasons = []

    def value(rows: IntArray, seed: int) -> float | None:
        try:
            return method.value(rows, seed)
        except RefusedError as refusal:
            if method.role != "floor":
                raise
            reasons.append(f"{refusal.what}: {refusal.why}" if refusal.why else refusal.what)
            return None

    values = tuple(tuple(value(rows, seed) for rows in nested) for seed, nested in enumerate(samples))
    why = "; ".join(dict.fromkeys(reasons))
    about = {"role": method.role, "model": method.model, "controls": method.controls}
    return LabelCurve(name=method.name, labels=labels, values=values, why=why, **about)


def with_controls(
    adapters: Sequence[Adapter], controls: Sequence[Adapter] | None
) -> list[tuple[Adapter, Role, tuple[str, ...]]]:
    """Models with the names of their controls, then these: those given, or random weights of all that can be drawn."""
    if controls is None:
        own = [[drawn] if (drawn := random_weights_of(adapter)) else [] for adapter in adapters]
        drawn_once = [one for some in own for one in some]
    else:
        own, drawn_once = [list(controls)] * len(adapters), list(controls)
    models: list[tuple[Adapter, Role, tuple[str, ...]]] = [
        (adapter, "model", tuple(one.info.name for one in mine)) for adapter, mine in zip(adapters, own, strict=True)
    ]
    return models + [(control, "control", ()) for control in drawn_once]


def _head_value(
    features: Float32Array, data: EncodedTable, test: IntArray, head: FeatureHead, train: IntArray, seed: int
) -> float | None:
    if data.table.kind == "classes" and len(np.unique(data.table.targets[train])) < 2:
        return _measured(data, test, np.full(len(test), data.table.targets[train[0]]))
    return _measured(data, test, head_scores(features, data, Split("labels", train, test), head=head, seed=seed))


def _floor_value(name: str, data: EncodedTable, test: IntArray, train: IntArray, seed: int) -> float | None:
    return _measured(data, test, floor_scores(data, name, train, test, seed=seed))


def _measured(data: EncodedTable, test: IntArray, scores: FloatArray) -> float | None:
    """The metric; a constant orders nothing, so its rank correlation counts as 0."""
    found = measure(metric_of(data.table), data.table.targets[test], scores)
    return 0.0 if "constant_scores" in found.flags else found.value


def _crossings(curves: Sequence[LabelCurve]) -> tuple[Crossing, ...]:
    """Every model and control against the best floor, and every model against its own random weights."""
    floors = [one for one in curves if one.role == "floor" and None not in one.means]
    found = []
    for one in curves:
        if one.role != "floor" and floors:
            found.append(find_crossing(one, floors, "best floor"))
        likes = [other for other in curves if other.role == "control" and other.name in one.controls]
        found += [find_crossing(one, [other], other.name) for other in likes]
    return tuple(found)


def find_crossing(one: LabelCurve, others: Sequence[LabelCurve], against: str) -> Crossing:
    """Up to how many labels the mean of one curve is above the highest mean of others, for the last time.

    Parameters
    ----------
    others : at the same numbers of labels, on the same samples seed by seed.
    against : what the others are called together.

    The interval is over samples of labels, drawn anew with replacement; the test rows are the same throughout, so
    what another test set would change is not in it.

    Raises
    ------
    ConfigError : curves of other labels or seeds, or no other curve.
    """
    if not others or any((o.labels, len(o.values)) != (one.labels, len(one.values)) for o in others):
        raise ConfigError(
            f"{one.name} and {against} cannot be compared", why="they need the same numbers of labels and samples"
        )
    ours = _array(one.values)
    theirs = np.stack([_array(other.values) for other in others])
    verdict, labels = _last_lead(one.labels, _mean(ours) - np.nanmax(_mean(theirs), axis=0))
    seeds = len(ours)
    draws = np.random.default_rng(23).integers(0, seeds, (_DRAWS, seeds))
    drawn = [_last_lead(one.labels, _mean(ours[d]) - np.nanmax(_mean(theirs[:, d]), axis=0)) for d in draws]
    place = np.sort([{"never": 0.0, "always": math.inf}.get(kind, at) for kind, at in drawn])
    low, high = (float(place[int(share * (_DRAWS - 1))]) for share in (0.025, 0.975))
    chance = sum(kind == verdict for kind, _ in drawn) / _DRAWS
    crossing = Crossing(
        name=one.name,
        against=against,
        verdict=verdict,
        labels=labels if verdict == "stops" else None,
        low=low if low > 0.0 and math.isfinite(low) else None,
        high=high if high > 0.0 and math.isfinite(high) else None,
        chance=chance,
        text="",
    )
    return crossing.model_copy(update={"text": _sentence(crossing, one.labels, seeds)})


def _sentence(crossing: Crossing, labels: Sequence[int], seeds: int) -> str:
    who = f"{crossing.name} beats {crossing.against}"
    if crossing.verdict == "never":
        text = f"{crossing.name} is not above {crossing.against} at any of {labels[0]:,} to {labels[-1]:,} labels."
    elif crossing.verdict == "always":
        text = f"{who} up to all {labels[-1]:,} labels of the table."
    else:
        low = f"{crossing.low:,.0f}" if crossing.low is not None else f"below {labels[0]:,}"
        high = f"{crossing.high:,.0f}" if crossing.high is not None else f"above {labels[-1]:,}"
        text = f"{who} up to about {crossing.labels:,.0f} labels (95 %: {low} to {high})."
    if seeds < 2:
        text += " One sample of labels: nothing says how far that would differ with another."
    return text


def _last_lead(labels: Sequence[int], lead_m: FloatArray) -> tuple[Literal["stops", "never", "always"], float]:
    """Where the lead turns negative for the last time, on a logarithmic scale of labels."""
    ahead = np.flatnonzero(lead_m > 0.0)
    if not len(ahead):
        return "never", 0.0
    last = int(ahead[-1])
    if last == len(lead_m) - 1:
        return "always", math.inf
    share = lead_m[last] / (lead_m[last] - lead_m[last + 1])
    return "stops", float(labels[last] * (labels[last + 1] / labels[last]) ** share)


def _array(values: Sequence[Sequence[float | None]]) -> FloatArray:
    return np.array([[math.nan if value is None else value for value in row] for row in values], dtype=np.float64)


def _mean(values: FloatArray) -> FloatArray:
    """Over the seeds, the last axis but one; nan where no seed has a value."""
    known = ~np.isnan(values)
    count = known.sum(axis=-2)
    total = np.where(known, values, 0.0).sum(axis=-2)
    return np.asarray(np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0))
