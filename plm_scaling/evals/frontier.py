"""`Frontier`: a metric against size, tokens, compute and loss, of models evaluated here and of published ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from plm_scaling.core.errors import RefusedError, did_you_mean
from plm_scaling.core.records import Record
from plm_scaling.evals.assays import load_assay_scores
from plm_scaling.evals.baselines import Baseline, load_baselines
from plm_scaling.evals.results import FloorScore, ResultRow, latest_rows, read_rows
from plm_scaling.evals.scored_models import load_scored_models
from plm_scaling.laws.interval import Interval
from plm_scaling.laws.lines import fitted_line

__all__ = ["Frontier", "FrontierPoint", "frontier_of", "frontier_of_rows", "loss_frontiers", "main_questions"]

_LEAST: Final = 3
"""Models on a line: with two there is no scatter about it."""
_FAR_SHARE: Final = 0.2
"""Largest share of models that a gap cuts off from the others."""
_FAR_GAP: Final = 0.8
"""Least share of the whole range that such a gap takes: models spread evenly leave none beyond 1 / (n - 1)."""


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
    family: str = ""
    """own for runs of ours and controls, esm2, progen2, hf, double; of published scores the maker's name."""


class Frontier(Record):
    """A metric of many models."""

    task: str
    metric: str
    higher_is_better: bool
    points: tuple[FrontierPoint, ...]
    """Computed ones first, by compute."""
    floors: tuple[FloorScore, ...] = ()
    slopes: dict[str, Interval] = Field(default_factory=dict)
    """Change of the metric per tenfold compute, by objective (of other families than ours by objective and family):
    models computed here, 95 % from their scatter about the line."""
    slopes_of_loss: dict[str, Interval] = Field(default_factory=dict)
    """Change of the metric per nat of loss, likewise."""
    far: tuple[str, ...] = ()
    """Models so far from the others in loss that they alone would make a slope; on no line."""
    refused: dict[str, str] = Field(default_factory=dict)
    """Why there is no slope of the loss, by objective."""
    flags: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def frontier_of(out: Path, task: str, metric: str | None = None) -> Frontier:
    """The frontier of one task in a file of results; errors see `api.evaluate_frontier`."""
    return frontier_of_rows(latest_rows(read_rows(out)), task, metric)


def frontier_of_rows(rows: Sequence[ResultRow], task: str, metric: str | None = None) -> Frontier:
    """The same of rows at hand, of which each is the last of its question."""
    chosen = [row for row in rows if row.task == task and (metric is None or row.metric == metric)]
    if not chosen:
        names = sorted({row.task for row in rows})
        raise RefusedError(
            f"no rows of {task!r} here", why=f"there are {', '.join(names)}", hint=did_you_mean(task, names)
        )
    name = chosen[0].metric
    chosen = [row for row in chosen if row.metric == name]
    computed = [_point(row) for row in chosen]
    computed.sort(key=lambda point: (point.control, point.C or 0.0, point.model))
    trained = [row for row in chosen if not row.model.origin.startswith("random")]
    flags, warnings = _doubts(chosen, trained)
    slopes, _, _ = _slopes(trained, "C")
    slopes_of_loss, refused, far = _slopes(trained, "loss")
    if far:
        losses = ", ".join(f"{row.model.loss:.3f}" for row in far)
        whose = ", ".join(row.model.name for row in far)
        flags = (*flags, "FAR_IN_LOSS")
        warnings = (
            *warnings,
            f"{whose}: so far from the other runs (loss {losses}) that alone they would make the slope, so they are on "
            "no line.",
        )
    return Frontier(
        task=task,
        metric=name,
        higher_is_better=chosen[0].higher_is_better,
        points=(*computed, *_published(task, name)),
        floors=max((row.floors for row in chosen), key=len),
        slopes=slopes,
        slopes_of_loss=slopes_of_loss,
        far=tuple(row.model.name for row in far),
        refused=refused,
        flags=flags,
        warnings=warnings,
    )


def loss_frontiers(rows: Sequence[ResultRow]) -> tuple[Frontier, ...]:
    """Frontiers of all tasks that enough models of one objective answered for a slope on their losses."""
    found = (frontier_of_rows(rows, task, metric) for task, metric in main_questions(rows))
    return tuple(one for one in found if one.slopes_of_loss)


def main_questions(rows: Iterable[ResultRow]) -> tuple[tuple[str, str], ...]:
    """(task, metric) that stands for each task: its first metric, over all parts where there is such a row."""
    found: dict[str, tuple[str, str]] = {}
    for row in rows:
        whole = row.task.partition("/")[0]
        if whole not in found or (row.task == whole and found[whole][0] != whole):
            found[whole] = (row.task, row.metric)
    return tuple(found.values())


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
        family=info.family,
    )


def _published(task: str, metric: str) -> list[FrontierPoint]:
    """What is published of a task, of a part of it (a function, a depth), or of one of ProteinGym's assays."""
    families = {model.name: family.name for family in load_scored_models().family for model in family.models}
    whole, _, part = task.partition("/")
    keys = [f"{task}.{metric}", *([f"{whole}.{metric}.{part}", f"proteingym.dms.{part}.{metric}"] if part else [])]
    rows = [row for row in load_baselines() if row.metric in keys] or _of_assay(whole, part, metric)
    found = [
        FrontierPoint(
            model=row.model,
            family=families.get(row.model, ""),
            objective=row.objective or "",
            source="published",
            status=row.status,
            N=row.params,
            D=row.tokens,
            C=row.flops,
            value=row.value,
        )
        for row in rows
    ]
    return sorted(found, key=lambda point: (point.C or math.inf, point.model))


def _of_assay(whole: str, part: str, metric: str) -> list[Baseline]:
    """The scores of an assay of models whose means are among the published ones, which say what they are."""
    table = load_assay_scores()
    if (whole, metric) != ("proteingym.subs", "spearman") or part not in table.assays:
        return []
    score = dict(zip(table.models, table.scores_MA[:, table.assays.index(part)].tolist(), strict=True))
    means = [row for row in load_baselines() if row.metric == f"{whole}.{metric}" and row.model in score]
    return [row.model_copy(update={"value": score[row.model], "stderr": None}) for row in means]


def _slopes(
    rows: list[ResultRow], axis: Literal["C", "loss"]
) -> tuple[dict[str, Interval], dict[str, str], list[ResultRow]]:
    """Slope of the metric on log10 C, or on the loss, of each family and objective; where refused, why; who is far off.

    Only models that were asked alike lie on one line; of several ways that of the most models counts.
    """
    families: dict[str, dict[tuple[object, ...], list[ResultRow]]] = {}
    for row in rows:
        if getattr(row.model, axis):
            own = row.model.family in ("own", "double")
            name = row.model.objective if own else f"{row.model.objective} {row.model.family}"
            alike = (_scale(row), row.data_sha256, row.limit, row.seed)
            families.setdefault(name, {}).setdefault(alike, []).append(row)
    found, refused, far = {}, {}, []
    for name, ways in sorted(families.items()):
        mine = max(ways.values(), key=len)
        x = np.array([math.log10(row.model.C or 1.0) if axis == "C" else row.model.loss or 0.0 for row in mine])
        near = _together(x)
        far += [row for row, kept in zip(mine, near, strict=True) if not kept]
        x, y = x[near], np.array([row.value for row in mine])[near]
        if len(np.unique(x)) < _LEAST:
            what = "losses" if axis == "loss" else "amounts of compute"
            refused[name] = f"{len(np.unique(x))} different {what} among the models, {_LEAST} are needed"
            continue
        value, (low, high) = fitted_line(x, y)
        assert low is not None
        assert high is not None
        found[name] = Interval(value=value, low=low, high=high)
    return found, refused, far


def _together(x: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which of n values are not cut off, a fifth of them or fewer, by a gap of most of the whole range."""
    order = np.sort(x)
    gaps = np.diff(order)
    if not len(gaps) or gaps.max() <= _FAR_GAP * (order[-1] - order[0]):
        return np.ones(len(x), dtype=bool)
    cut = int(gaps.argmax())
    below = x <= order[cut]
    few = below if below.mean() < 0.5 else ~below
    return np.ones(len(x), dtype=bool) if few.mean() > _FAR_SHARE else ~few


def _scale(row: ResultRow) -> str:
    """Rows with another one were scored in another way; of site nats only the letters count: all ways agree."""
    if row.metric != "site_nats":
        return row.protocol
    return "".join(part for part in row.protocol.split("/") if part.startswith("letters"))


def _doubts(rows: list[ResultRow], trained: list[ResultRow]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    found: dict[str, str] = {}
    if len({_scale(row) for row in rows if not row.model.origin.startswith("random")}) > 1:
        found["MIXED_PROTOCOLS"] = "models were scored in different ways: see the protocol of each before you compare."
    if len({row.data_sha256 for row in rows}) > 1:
        found["MIXED_DATA"] = "rows are of different files of data."
    if len({(row.limit, row.seed) for row in rows}) > 1:
        found["MIXED_SAMPLES"] = "rows are of different samples of the examples."
    if not any(row.model.origin.startswith("random") for row in rows):
        found["NO_CONTROL"] = (
            "no random-weights control is among them: a gain over floors need not come from pre-training."
        )
    if trained and all(row.beats_floors() is False for row in trained):
        found["FLOORS_WIN"] = "no model beats the best floor on the same rows."
    return tuple(found), tuple(found.values())
