"""`PairedRow`: one model against another on the same examples of one task."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError, RefusedError, did_you_mean
from plm_scaling.core.records import Record
from plm_scaling.evals.bootstrap import Bootstrapped, Comparison, compare_models, holm, paired_mean_difference
from plm_scaling.evals.metrics import METRICS, MetricName
from plm_scaling.evals.results import ResultRow, latest_rows, read_rows
from plm_scaling.evals.run_tasks import has_scores, load_scores

__all__ = ["PairedRow", "paired_rows"]

FloatArray = npt.NDArray[np.float64]


class PairedRow(Record):
    """A difference."""

    task: str
    metric: str
    model: str
    against: str
    value: float
    value_against: float
    difference: Bootstrapped
    p_holm: float
    """Two-sided, corrected for all models that the task compares."""
    note: str
    protocol: str = ""
    protocol_against: str = ""

    @property
    def comparable(self) -> bool:
        """Whether one scale was made for both ways of asking: of a residue given all others, however it is reached."""
        return self.protocol == self.protocol_against or self.metric == "site_nats"


def paired_rows(out: Path, against: str, *, tasks: Sequence[str] = ("*",), seed: int = 0) -> list[PairedRow]:
    """Every model against one of them, by tasks and data that both answered; errors see `api.evaluate_compare`."""
    rows = [row for row in latest_rows(read_rows(out)) if any(fnmatch.fnmatch(row.task, one) for one in tasks)]
    names = sorted({row.model.name for row in rows})
    if against not in names:
        raise ConfigError(f"{against!r} has no row in {out}", hint=did_you_mean(against, names) or ", ".join(names))
    found = []
    for row in rows:
        if row.model.name == against:
            others = _asked_alike([one for one in rows if one.model.name != against and _same_question(one, row)], row)
            if any(has_scores(out, one) for one in (row, *others)):  # none has for what is not paired: perplexities
                found += _against(out, row, others, seed)
    if not found:
        raise RefusedError(
            f"nothing to compare {against} with",
            why="no other model answered the same questions on the same data, with scores kept beside the file",
            hint="perplexities are not compared in pairs, site_nats are; scores that were lost: evaluate run --again",
        )
    return found


def _same_question(one: ResultRow, other: ResultRow) -> bool:
    return all(
        getattr(one, name) == getattr(other, name)
        for name in ("task", "task_version", "data_sha256", "metric", "limit", "seed", "head")
    )


def _asked_alike(others: Sequence[ResultRow], row: ResultRow) -> list[ResultRow]:
    """One row of each model: that of the same protocol where there is one."""
    found = {one.model.name: one for one in others}
    return list((found | {one.model.name: one for one in others if one.protocol == row.protocol}).values())


def _against(out: Path, row: ResultRow, others: Sequence[ResultRow], seed: int) -> list[PairedRow]:
    truth, scores, clusters = load_scores(out, row)
    columns = {row.model.name: scores}
    kept = []
    for other in others:
        theirs, column, their_clusters = load_scores(out, other)
        if not np.array_equal(theirs, truth) or their_clusters != clusters:
            raise RefusedError(
                f"{other.model.name} and {row.model.name} answered other examples of {row.task}",
                why="their files of scores hold other measurements, or other proteins",
                hint="plm-scaling evaluate run ... --again for both",
            )
        columns[other.model.name] = column
        kept.append(other)
    if not kept:
        return []
    compared = _compared(row.metric, truth, columns, row.model.name, clusters, seed)
    by_name = {other.model.name: other for other in kept}
    return [
        PairedRow(
            task=row.task,
            metric=row.metric,
            model=one.model,
            against=row.model.name,
            value=by_name[one.model].value,
            value_against=row.value,
            difference=one.difference,
            p_holm=one.p_holm,
            note=one.note,
            protocol=by_name[one.model].protocol,
            protocol_against=row.protocol,
        )
        for one in compared
    ]


def _compared(
    metric: str,
    truth: FloatArray,
    columns: Mapping[str, FloatArray],
    against: str,
    clusters: Sequence[str],
    seed: int,
) -> tuple[Comparison, ...]:
    """Differences of a metric of scores against truth; of what is a mean over examples, of these means.

    Examples without a truth of their own (all 0) are such: assays, each with the metric of its variants.
    """
    if metric in METRICS and truth.any():
        named: MetricName = metric  # type: ignore[assignment]
        return compare_models(named, truth, columns, against, clusters=clusters or None, seed=seed)
    others = [name for name in columns if name != against]
    found = [
        paired_mean_difference(columns[name], columns[against], clusters=clusters or None, seed=seed) for name in others
    ]
    return tuple(
        Comparison(model=name, difference=one, p_holm=p, note=f"{name} less {against}, mean over {len(truth)} examples")
        for name, one, p in zip(others, found, holm([one.p_value or 0.0 for one in found]), strict=True)
    )
