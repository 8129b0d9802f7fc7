"""`Frontier`: a metric against size, tokens, compute and loss, of models evaluated here and of published ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final, Literal

import numpy as np
from pydantic import Field

from plm_scaling.core.errors import RefusedError, did_you_mean
from plm_scaling.core.records import Record
from plm_scaling.evals.baselines import load_baselines
from plm_scaling.evals.results import FloorScore, ResultRow, latest_rows, read_rows
from plm_scaling.laws.interval import Interval

__all__ = ["Frontier", "FrontierPoint", "frontier_of"]

_LEAST: Final = 4
_DRAWS: Final = 2000


class FrontierPoint(Record):
    """One model."""

    model: str
    objective: str
    source: Literal["computed", "published"]
    status: str = ""
    """Of a published score: read, measured or unverified."""
    N: float | None = None
    D: float | None = None
    C: float | None = None
    """6 N D."""
    loss: float | None = None
    """Validation loss of its run, nats per token; compares within one objective and validation set."""
    value: float
    low: float | None = None
    high: float | None = None
    protocol: str = ""
    control: bool = False
    """Random weights."""


class Frontier(Record):
    """A metric of many models."""

    task: str
    metric: str
    higher_is_better: bool
    points: tuple[FrontierPoint, ...]
    """Computed ones first, by compute."""
    floors: tuple[FloorScore, ...] = ()
    slopes: dict[str, Interval] = Field(default_factory=dict)
    """Change of the metric per tenfold compute, by objective: models computed here, resampled for 95 %."""
    slopes_of_loss: dict[str, Interval] = Field(default_factory=dict)
    """Change of the metric per nat of loss, by objective."""
    flags: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def frontier_of(out: Path, task: str, metric: str | None = None) -> Frontier:
    """The frontier of one task in a file of results; errors see `api.evaluate_frontier`."""
    rows = latest_rows(read_rows(out))
    chosen = [row for row in rows if row.task == task and (metric is None or row.metric == metric)]
    if not chosen:
        names = sorted({row.task for row in rows})
        raise RefusedError(
            f"no rows of {task!r} here", why=f"there are {', '.join(names)}", hint=did_you_mean(task, names)
        )
    name = chosen[0].metric
    computed = [_point(row) for row in chosen if row.metric == name]
    computed.sort(key=lambda point: (point.control, point.C or 0.0, point.model))
    trained = [point for point in computed if not point.control]
    flags, warnings = _doubts(chosen, trained)
    return Frontier(
        task=task,
        metric=name,
        higher_is_better=chosen[0].higher_is_better,
        points=(*computed, *_published(f"{task}.{name}")),
        floors=max((row.floors for row in chosen), key=len),
        slopes=_slopes(trained, "C"),
        slopes_of_loss=_slopes(trained, "loss"),
        flags=flags,
        warnings=warnings,
    )


def _point(row: ResultRow) -> FrontierPoint:
    info = row.model
    return FrontierPoint(
        model=info.name,
        objective=info.objective,
        source=row.source,
        N=info.N or None,
        D=info.D,
        C=info.C,
        loss=info.loss,
        value=row.value,
        low=row.low,
        high=row.high,
        protocol=row.protocol,
        control=info.origin.startswith("random"),
    )


def _published(key: str) -> list[FrontierPoint]:
    found = [
        FrontierPoint(
            model=row.model,
            objective=row.objective or "",
            source="published",
            status=row.status,
            N=row.params,
            D=row.tokens,
            C=row.flops,
            value=row.value,
        )
        for row in load_baselines()
        if row.metric == key
    ]
    return sorted(found, key=lambda point: (point.C or math.inf, point.model))


def _slopes(points: list[FrontierPoint], axis: Literal["C", "loss"]) -> dict[str, Interval]:
    """Least-squares slope of the metric on log10 C, or on the loss, models resampled."""
    found = {}
    for objective in sorted({point.objective for point in points}):
        mine = [point for point in points if point.objective == objective and getattr(point, axis)]
        x = np.array([math.log10(p.C or 1.0) if axis == "C" else p.loss or 0.0 for p in mine])
        y = np.array([point.value for point in mine])
        if len(np.unique(x)) < _LEAST:
            continue
        pick = np.random.default_rng(0).integers(0, len(x), (_DRAWS, len(x)))
        spread = x[pick] - x[pick].mean(axis=1, keepdims=True)
        some = (spread**2).sum(axis=1) > 0
        slopes = (spread * y[pick]).sum(axis=1)[some] / (spread**2).sum(axis=1)[some]
        value = float(np.polyfit(x, y, 1)[0])
        low, high = np.quantile(slopes, [0.025, 0.975]).tolist()
        found[objective] = Interval(value=value, low=min(low, value), high=max(high, value))
    return found


def _scale(row: ResultRow) -> str:
    """Rows with another one were scored in another way; of site nats only the letters count: all ways agree."""
    if row.metric != "site_nats":
        return row.protocol
    return "".join(part for part in row.protocol.split("/") if part.startswith("letters"))


def _doubts(rows: list[ResultRow], trained: list[FrontierPoint]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    found: dict[str, str] = {}
    if len({_scale(row) for row in rows if not row.model.origin.startswith("random")}) > 1:
        found["MIXED_PROTOCOLS"] = "models were scored in different ways: see the protocol of each before you compare."
    if len({row.data_sha256 for row in rows}) > 1:
        found["MIXED_DATA"] = "rows are of different files of data."
    if not any(row.model.origin.startswith("random") for row in rows):
        found["NO_CONTROL"] = (
            "no random-weights control is among them: a gain over floors need not come from pre-training."
        )
    beaten = [row for row in rows if row.beats_floors() is False and not row.model.origin.startswith("random")]
    if beaten and len(beaten) == len(trained):
        found["FLOORS_WIN"] = "no model beats the best floor on the same rows."
    return tuple(found), tuple(found.values())
