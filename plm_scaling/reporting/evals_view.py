"""`TaskView`: what models scored on one task, and how the study's runs stand against floors and random weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from plm_scaling.evals.bootstrap import holm
from plm_scaling.evals.frontier import Frontier, frontier_of_rows, main_questions
from plm_scaling.evals.results import FloorScore, ResultRow
from plm_scaling.laws.interval import Interval
from plm_scaling.reporting.study import Study
from plm_scaling.reporting.wording import interval_se, join_words

__all__ = ["TaskView", "best_floor", "is_control", "summary", "task_views"]

_LEVEL = 0.05


@dataclass(frozen=True)
class TaskView:
    """One task's main metric.

    Parameters
    ----------
    runs : of this study. others : evaluated beside them, weights from elsewhere. controls : random weights.
    above_floor, above_control : runs better than the best floor of their row, and than the best control of their
        objective asked alike, after Holm's correction; None where there is nothing to compare with.
    parts : rows of parts and further metrics, which are not shown.
    """

    frontier: Frontier
    runs: tuple[ResultRow, ...]
    others: tuple[ResultRow, ...]
    controls: tuple[ResultRow, ...]
    above_floor: int | None
    above_control: int | None
    parts: int

    @property
    def rows(self) -> tuple[ResultRow, ...]:
        """All of them."""
        return (*self.runs, *self.others, *self.controls)

    @property
    def best_run(self) -> ResultRow | None:
        """The run that scores best."""
        return _best(self.runs)

    @property
    def comparisons(self) -> int:
        """How many were made between runs and floors or controls."""
        return len(self.runs) * ((self.above_floor is not None) + (self.above_control is not None))


def is_control(row: ResultRow) -> bool:
    """Whether its weights are random."""
    return row.model.origin.startswith("random")


def best_floor(row: ResultRow) -> FloorScore | None:
    """The best of what needs no language model, on the same examples."""
    sign = 1.0 if row.higher_is_better else -1.0
    return max(row.floors, key=lambda floor: sign * floor.value, default=None)


def task_views(study: Study) -> tuple[TaskView, ...]:
    """The tasks of the study's evaluations, in the order they were asked; losses are those of the page's set."""
    losses = {row.run_id: row.loss for row in study.table}
    rows = [_with_loss(row, losses.get(row.model.name)) for row in study.scores]
    views = []
    for task, metric in main_questions(rows):
        mine = [row for row in rows if (row.task, row.metric) == (task, metric)]
        whole = task.partition("/")[0]
        controls = tuple(row for row in mine if is_control(row))
        runs = tuple(row for row in mine if row.model.name in losses and not is_control(row))
        others = tuple(row for row in mine if row not in controls and row not in runs)
        views.append(
            TaskView(
                frontier=frontier_of_rows(rows, task, metric),
                runs=runs,
                others=others,
                controls=controls,
                above_floor=_better((row, best_floor(row)) for row in runs),
                above_control=_better((row, _control_of(row, controls)) for row in runs),
                parts=sum(row.task.partition("/")[0] == whole for row in rows) - len(mine),
            )
        )
    return tuple(views)


def _with_loss(row: ResultRow, loss: float | None) -> ResultRow:
    """A run of another study has no loss that could stand beside this one's."""
    return row.model_copy(update={"model": row.model.model_copy(update={"loss": loss})})


def _best(rows: Sequence[ResultRow]) -> ResultRow | None:
    sign = 1.0 if rows and rows[0].higher_is_better else -1.0
    return max(rows, key=lambda row: sign * row.value, default=None)


def _control_of(row: ResultRow, controls: Sequence[ResultRow]) -> ResultRow | None:
    """The best random weights of the same objective on the same sample, whatever their shape."""
    key = (row.model.objective, row.data_sha256, row.limit, row.seed)
    return _best([c for c in controls if (c.model.objective, c.data_sha256, c.limit, c.seed) == key])


def _better(pairs: Iterable[tuple[ResultRow, FloorScore | ResultRow | None]]) -> int | None:
    """How many rows are better than what they are held against, Holm's correction over all; None where none can be.

    Errors are added in quadrature as if independent. Both are of the same examples, on which good answers go together:
    that is nearly always too wide, and the paired comparison is `evals.pairs`.
    """
    p_values = []
    for row, other in pairs:
        if other is None or row.low is None or row.high is None:
            continue
        variance = _variance(row) + _variance(other)
        gap = (row.value - other.value) * (1.0 if row.higher_is_better else -1.0)
        p_values.append(0.5 * math.erfc(gap / math.sqrt(2 * variance)) if variance > 0 else float(gap <= 0))
    return sum(p < _LEVEL for p in holm(p_values)) if p_values else None


def _variance(scored: FloorScore | ResultRow) -> float:
    if scored.low is None or scored.high is None:
        return 0.0
    return interval_se(Interval(value=scored.value, low=scored.low, high=scored.high)) ** 2


def summary(views: Sequence[TaskView]) -> tuple[str, ...]:
    """All tasks in two sentences: where runs beat the floors, and where a lower loss goes with a better score."""
    won = [view.frontier.task for view in views if view.above_floor]
    lost = [view.frontier.task for view in views if view.above_floor == 0]
    said = []
    if won:
        said.append(f"Some run beats the best floor without a language model on {join_words(won)}.")
    if lost:
        said.append(f"No run detectably beats the best floor on {join_words(lost)}.")
    moves: dict[str, list[str]] = {}
    for view in views:
        for objective, slope in view.frontier.slopes_of_loss.items():
            sign = -1.0 if view.frontier.higher_is_better else 1.0
            ends = sorted((sign * slope.low, sign * slope.high))
            what = "a better score" if ends[0] > 0 else "a worse score" if ends[1] < 0 else "no detectable change"
            moves.setdefault(what, []).append(f"{view.frontier.task} ({objective.upper()})")
    if moves:
        parts = (f"{what} on {join_words(where)}" for what, where in sorted(moves.items()))
        said.append(f"Among the runs a lower loss goes with {'; with '.join(parts)}.")
    return tuple(said)
