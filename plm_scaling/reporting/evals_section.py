"""The report's section on downstream tasks: conclusions computed from the rows, pictures, tables, alarms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from plm_scaling.core.units import format_count
from plm_scaling.evals.frontier import FrontierPoint
from plm_scaling.evals.results import ResultRow
from plm_scaling.evals.size_audit import audit_sizes
from plm_scaling.laws.interval import Interval
from plm_scaling.reporting.evals_view import TaskView, best_floor, task_views
from plm_scaling.reporting.figures import Section
from plm_scaling.reporting.frontier_figures import draw_frontier, frontier_axes
from plm_scaling.reporting.study import OBJECTIVES, Study
from plm_scaling.reporting.tables import Table
from plm_scaling.reporting.wording import join_words, number_interval

__all__ = ["conclusions", "evals_sections"]

_ABSENT: Final = "\u2013"
_MOST_RUNS: Final = 5
_MOST_PUBLISHED: Final = 6
_CHANCE: Final = 0.05


def evals_sections(study: Study) -> tuple[Section, ...]:
    """The section, where something was evaluated."""
    views = task_views(study)
    if not views:
        return ()
    panels = [
        draw_frontier(view.frontier, axis, f"evaluations-{k}-{axis}")
        for k, view in enumerate(views)
        for axis in _axes(view)
        if len(view.frontier.points) > 1
    ]
    return (
        Section(
            key="evaluations",
            short="Tasks",
            title="What models score on tasks",
            reading=_reading(study, views),
            panels=tuple(panels),
            tables=tuple(_tabulate(study, view) for view in views),
            points=tuple(sentence for view in views for sentence in conclusions(view)),
            alarms=_alarms(study, views),
        ),
    )


def _axes(view: TaskView) -> tuple[str, ...]:
    """Against the loss, and against size where published models or others stand beside the runs."""
    known = frontier_axes(view.frontier)
    chosen = [axis for axis in ("loss", "C") if axis in known]
    wider = any(point.source == "published" and point.N and not point.C for point in view.frontier.points)
    return tuple(dict.fromkeys([*chosen, *(["N"] if wider or not chosen else [])]))


def _reading(study: Study, views: Sequence[TaskView]) -> str:
    text = (
        "Bars and brackets are 95 % over the examples of a task; lines are least squares over the runs of one "
        "objective, whose losses compare among themselves only. Dashed lines are floors, which need no language model. "
    )
    if any(point.source == "published" for view in views for point in view.frontier.points):
        text += "Published scores were read, not computed here, and may be of other examples. "
    comparisons = sum(view.comparisons for view in views)
    if comparisons:
        text += (
            f"{comparisons} comparisons of runs with floors and random weights were made; at 5 % each, about "
            f"{max(1, round(comparisons * _CHANCE))} of them would look like a gain by chance. What is said of a task "
            "is therefore corrected for all its runs (Holm); differences paired by example are given by "
            "plm-scaling evaluate compare. "
        )
    parts = sum(view.parts for view in views)
    if parts:
        text += f"{parts} rows of parts and further metrics are not shown. "
    return text + f"A table shows the {_MOST_RUNS} runs of lowest loss on {study.validation} of each objective."


def conclusions(view: TaskView) -> tuple[str, ...]:
    """What a task says, a sentence each: of floors, of random weights, of the loss."""
    task, metric = view.frontier.task, view.frontier.metric
    name = task if task == metric else f"{task} ({metric})"
    said = [f"{name}: {_against_floors(view)}"] if view.runs else [f"{name}: no run of this study has answered."]
    better = "rises" if view.frontier.higher_is_better else "falls"
    worse = "falls" if view.frontier.higher_is_better else "rises"
    losses = {
        objective: [
            row.model.loss
            for row in view.runs
            if row.model.loss and row.model.objective == objective and row.model.name not in view.frontier.far
        ]
        for objective in OBJECTIVES
    }
    for objective, slope in view.frontier.slopes_of_loss.items():
        values = losses.get(objective, [])  # type: ignore[call-overload]
        seen = f"seen over {max(values) - min(values):.2g} nats, {len(values)} runs" if values else "models evaluated"
        sign = -1.0 if view.frontier.higher_is_better else 1.0
        ends = sorted((sign * slope.low, sign * slope.high))
        per = "per nat of lower loss"
        if ends[0] <= 0.0 <= ends[1]:
            raw = Interval(value=-slope.value, low=-slope.high, high=-slope.low)
            text = f"no detectable change with the loss, {number_interval(raw)} {per}"
        else:
            size = Interval(value=abs(slope.value), low=min(map(abs, ends)), high=max(map(abs, ends)))
            text = f"the metric {better if ends[0] > 0 else worse} by {number_interval(size)} {per}"
            text += "" if ends[0] > 0 else ", so a lower loss is worse here"
        said.append(f"{name}, {objective.upper()}: {text} ({seen}).")
    said += [
        f"{name}, {objective.upper()}: no slope on the loss ({why})."
        for objective, why in view.frontier.refused.items()
        if view.runs
    ]
    return tuple(said)


def _against_floors(view: TaskView) -> str:
    best, runs = view.best_run, len(view.runs)
    assert best is not None
    floor = best_floor(best)
    reached = f"the best of {runs} reaches {_value(best)}" if runs > 1 else f"it reaches {_value(best)}"
    if view.above_floor is None or floor is None:
        text = f"no floor was scored beside the runs; {reached}"
    elif view.above_floor == 0:
        beyond = "" if best.beats_floors() is False else "detectably "
        text = f"no run {beyond}beats the best floor, {floor.name} at {floor.value:.3f}; {reached}"
    else:
        text = f"{view.above_floor} of {runs} runs beat the best floor, {floor.name} at {floor.value:.3f}; {reached}"
    if view.above_control is None:
        return f"{text}. No random-weights control was asked, so a gain need not come from training."
    if view.above_control == 0:
        return f"{text}. No run is detectably better than random weights of its objective."
    return f"{text}. {view.above_control} of {runs} are better than the best random weights of their objective."


def _value(row: ResultRow) -> str:
    if row.low is None or row.high is None:
        return f"{row.value:.3f}"
    return number_interval(Interval(value=row.value, low=row.low, high=row.high))


def _tabulate(study: Study, view: TaskView) -> Table:
    rows = [_cells(row, "run of the study") for row in _chosen(view.runs)]
    rows += [_cells(row, _origin(row)) for row in view.others]
    controls = [c for objective in ("clm", "mlm", "none") if (c := _best_of(view.controls, objective))]
    rows += [_cells(row, f"random weights, best of {len(view.controls)}") for row in controls]
    any_row = view.best_run or view.rows[0]
    floor = best_floor(any_row)
    if floor is not None:
        bounds = {"low": floor.low, "high": floor.high}
        asked = any_row.model_copy(update={"value": floor.value, **bounds})
        what = "best floor, no language model"
        rows.append((floor.name, what, _ABSENT, _ABSENT, _ABSENT, _ABSENT, _value(asked), f"{any_row.n:,}"))
    sign = 1.0 if view.frontier.higher_is_better else -1.0
    published = [point for point in view.frontier.points if point.source == "published"]
    published.sort(key=lambda point: -sign * point.value)
    rows += [_published(point) for point in published[:_MOST_PUBLISHED]]
    ceiling = next((row.noise_ceiling for row in view.rows if row.noise_ceiling is not None), None)
    told = [
        f"{'higher' if view.frontier.higher_is_better else 'lower'} is better",
        *([f"{len(view.runs)} runs evaluated"] if len(view.runs) > _MOST_RUNS else []),
        *([f"best {_MOST_PUBLISHED} of {len(published)} published"] if len(published) > _MOST_PUBLISHED else []),
        *([f"noise ceiling {ceiling:.3f}"] if ceiling is not None else []),
    ]
    header = ("Model", "What it is", "Objective", "Protocol", "N", "Loss", f"{view.frontier.metric} (95 %)", "n")
    return Table(f"{view.frontier.task}: {', '.join(told)}", header, tuple(rows), 4)


def _chosen(runs: Sequence[ResultRow]) -> list[ResultRow]:
    """By loss, not by score: the best of many scores is partly luck."""
    found = []
    for objective in OBJECTIVES:
        mine = [row for row in runs if row.model.objective == objective]
        found += sorted(mine, key=lambda row: row.model.loss or 0.0)[:_MOST_RUNS]
    return found


def _best_of(rows: Sequence[ResultRow], objective: str) -> ResultRow | None:
    mine = [row for row in rows if row.model.objective == objective]
    return max(mine, key=lambda row: row.value if row.higher_is_better else -row.value, default=None)


def _origin(row: ResultRow) -> str:
    if row.model.family == "own":
        return "run of another study"
    return "known in closed form" if row.model.family == "double" else f"evaluated here, {row.model.origin}"


def _cells(row: ResultRow, what: str) -> tuple[str, ...]:
    objective = row.model.objective.upper() if row.model.objective != "none" else _ABSENT
    N = format_count(row.model.N) if row.model.N else _ABSENT
    loss = _ABSENT if row.model.loss is None else f"{row.model.loss:.3f}"
    return (row.model.name, what, objective, row.protocol, N, loss, _value(row), f"{row.n:,}")


def _published(point: FrontierPoint) -> tuple[str, ...]:
    N = format_count(point.N) if point.N else _ABSENT
    objective = point.objective.upper() or _ABSENT
    return (point.model, f"published, {point.status}", objective, _ABSENT, N, _ABSENT, f"{point.value:.3f}", _ABSENT)


def _alarms(study: Study, views: Sequence[TaskView]) -> tuple[str, ...]:
    """Sentences of tasks, of sizes that contradict each other, and of rows with the number of models they are of."""
    said = []
    for view in views:
        said += [f"{view.frontier.task}: {_capital(warning)}" for warning in view.frontier.warnings]
        of_rows = Counter(warning for row in view.rows for warning in dict.fromkeys(row.warnings))
        for warning, count in of_rows.items():
            whose = f"{count} of {len(view.rows)} models" if len(view.rows) > 1 else view.rows[0].model.name
            said.append(f"{view.frontier.task}, {whose}: {_capital(warning)}")
    tasks = {view.frontier.task for view in views}
    alarms = audit_sizes(row for row in study.scores if row.task in tasks)
    where: dict[str, list[str]] = {}
    for alarm in alarms:
        where.setdefault(f"{_capital(alarm.sentence)} ({alarm.code})", []).append(alarm.where)
    said += [f"{join_words(places)}: {sentence}" for sentence, places in where.items()]
    return tuple(dict.fromkeys(said))


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
