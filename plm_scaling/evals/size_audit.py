"""Alarms that no single row of results can raise: models of one family and several sizes that contradict each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from plm_scaling.evals.alarms import Alarm, SizeScore, size_alarms
from plm_scaling.evals.results import ResultRow, latest_rows

__all__ = ["audit_sizes", "contradictions"]


def audit_sizes(rows: Iterable[ResultRow]) -> tuple[Alarm, ...]:
    """Compare the models of each family and objective that answered one question in one way, by their sizes.

    Controls with random weights and doubles are no family. What falls with size is asked of every metric, a sign that
    flips of correlations alone. Lower-is-better metrics count with their sign turned.
    """
    groups: dict[tuple[str, ...], list[SizeScore]] = defaultdict(list)
    for row in filter(_of_a_family, latest_rows(rows)):
        sign = 1.0 if row.higher_is_better else -1.0
        ends = [None if end is None else sign * end for end in (row.low, row.high)]
        low, high = ends if row.higher_is_better else reversed(ends)
        groups[_question(row)].append(SizeScore(row.model.name, float(row.model.N), sign * row.value, low, high))
    found: list[Alarm] = []
    for (task, metric, protocol, family, objective, *_), sizes in groups.items():
        raised = size_alarms(sizes, where=f"{task}, {metric}, {family} {objective}, {protocol}")
        found += [one for one in raised if one.code != "SIGN_FLIP" or metric in ("spearman", "pearson", "mcc")]
    return tuple(found)


def contradictions(row: ResultRow, rows: Iterable[ResultRow]) -> tuple[tuple[Alarm, ...], bool]:
    """What a row raises together with rows that are there already, and whether these raise the same without it."""
    if not _of_a_family(row):
        return (), False
    there = [one for one in rows if _question(one) == _question(row)]
    found = audit_sizes([*there, row])
    return found, {one.code for one in found} <= {one.code for one in audit_sizes(there)}


def _of_a_family(row: ResultRow) -> bool:
    return row.model.family != "double" and not row.model.origin.startswith("random") and row.model.N > 0


def _question(row: ResultRow) -> tuple[str, ...]:
    """Of one task, asked in one way of one family: task, metric, protocol, family and objective first."""
    named = (row.task, row.metric, row.protocol, row.model.family, row.model.objective)
    return (*named, row.data_sha256, row.head, *map(str, (row.task_version, row.limit, row.seed)))
