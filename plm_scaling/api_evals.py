"""The verbs about downstream evaluation; part of `plm_scaling.api`, where they are found with the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plm_scaling.evals.floors import FloorRow
    from plm_scaling.evals.frontier import Frontier
    from plm_scaling.evals.pairs import PairedRow
    from plm_scaling.evals.run_tasks import Step
    from plm_scaling.evals.task import Task
    from plm_scaling.evals.trust import TrustCheck

__all__ = [
    "evaluate_compare",
    "evaluate_curves",
    "evaluate_floors",
    "evaluate_frontier",
    "evaluate_ls",
    "evaluate_run",
    "evaluate_validate",
]


def evaluate_ls() -> tuple[Task, ...]:
    """Every task there is, in the order they are best asked."""
    from plm_scaling.evals.tasks import all_tasks

    return all_tasks()


def evaluate_run(
    models: Sequence[str | Path],
    *,
    out: str | Path,
    tasks: Sequence[str] = ("*",),
    data: str | Path | None = None,
    sequences: str | Path | None = None,
    corpus: str | Path | None = None,
    limit: int | None = None,
    resamples: int = 1000,
    seed: int = 0,
    head: str | None = None,
    control: bool = True,
    again: bool = False,
    cache: str | Path | None = None,
    told: Callable[[Step], None] = lambda _: None,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Step]:
    """Put tasks to models; every answer is a line of `out`, written as soon as it is there.

    Parameters
    ----------
    models : see `evals.adapters.opening`; a folder of runs stands for all complete runs in it.
    tasks : names or shell patterns (`aav28.*`).
    data, sequences, corpus, limit, resamples, seed, head : see `evals.task.Asked`.
    control : also the same shape with random weights, for every model that has weights.
    again : also what `out` answers already.
    cache : folder in which embeddings are kept, for later calls and other processes.
    told : called after each task of each model.
    tell : called with a line before what takes long: a search of a large corpus.

    Raises
    ------
    RefusedError : no task of that name. CheckpointError : weights that cannot be read.
    ConfigError : a model that cannot be found, or numbers that cannot be.
    """
    from plm_scaling.evals.model_lists import model_openers
    from plm_scaling.evals.run_tasks import run_tasks
    from plm_scaling.evals.task import Asked, match_tasks
    from plm_scaling.evals.tasks import all_tasks

    chosen = match_tasks(tasks, all_tasks())
    asked = Asked(
        data=None if data is None else Path(data),
        sequences=None if sequences is None else Path(sequences),
        corpus=None if corpus is None else Path(corpus),
        limit=limit,
        resamples=resamples,
        seed=seed,
        head=head,
        tell=tell,
    )
    kept = None if cache is None else Path(cache)
    openers = model_openers(models, control=control, seed=seed, cache=kept)
    return run_tasks(openers, chosen, asked, Path(out), again=again, told=told)


def evaluate_compare(out: str | Path, against: str, *, tasks: Sequence[str] = ("*",), seed: int = 0) -> list[PairedRow]:
    """Every model of a file of results against one of them, on the same examples, task by task.

    Raises
    ------
    RecordError : no such file, or scores that were not kept. ConfigError : no such model in it.
    """
    from plm_scaling.evals.pairs import paired_rows

    return paired_rows(Path(out), against, tasks=tasks, seed=seed)


def evaluate_frontier(
    out: str | Path,
    task: str,
    *,
    metric: str | None = None,
    table: str | Path | None = None,
    picture: str | Path | None = None,
) -> Frontier:
    """A metric of the models of a file, and of the published ones, against N, D, FLOPs and loss.

    Parameters
    ----------
    table : also written, as CSV loss,metric,objective[,model,low,high] of the runs and of public models beside them:
        what `spend(metric_table=...)` maps losses with.
    picture : also drawn, as .svg, .png or .pdf.

    Raises
    ------
    RecordError : no such file. RefusedError : it has no such task. ConfigError : a table without a run in it.
    """
    from plm_scaling.evals.frontier import frontier_of
    from plm_scaling.evals.metric_table import rows_of_frontier, write_metric_table

    found = frontier_of(Path(out), task, metric)
    if table is not None:
        write_metric_table(Path(table), rows_of_frontier(found))
    if picture is not None:
        from plm_scaling.reporting.frontier_figures import write_frontier_figure

        write_frontier_figure(found, Path(picture))
    return found


def evaluate_curves(
    out: str | Path, *, tasks: Sequence[str] = ("*",), picture: str | Path | None = None
) -> tuple[Frontier, ...]:
    """Metric against loss of the runs of a file of results, for each task that three of one objective answered alike.

    Parameters
    ----------
    tasks : names or shell patterns.
    picture : also drawn, a panel for each task, as .svg, .png or .pdf.

    Raises
    ------
    RecordError : no such file. RefusedError : a picture was asked for, and there is no such task.
    """
    from fnmatch import fnmatch

    from plm_scaling.core.errors import RefusedError
    from plm_scaling.evals.frontier import loss_frontiers
    from plm_scaling.evals.results import latest_rows, read_rows

    rows = latest_rows(read_rows(Path(out)))
    found = loss_frontiers([row for row in rows if any(fnmatch(row.task.partition("/")[0], one) for one in tasks)])
    if picture is not None:
        if not found:
            raise RefusedError(
                "no curve of a metric against loss to draw",
                why="no task was answered alike by 3 runs of one objective whose losses differ",
                hint="evaluate run on a folder of runs of one sweep",
            )
        from plm_scaling.reporting.frontier_figures import write_curves_figure

        write_curves_figure(found, Path(picture))
    return found


def evaluate_floors(
    csv: str | Path,
    *,
    sequence: str | None = None,
    target: str | None = None,
    split: str = "sampled",
    wild_type: str | None = None,
    classes: bool = False,
    validation: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[FloorRow, ...]:
    """What needs no language model on any table of sequences with a measurement each: what a model has to beat.

    Parameters
    ----------
    sequence, target : columns; the usual names by default.
    split : a column of the table, or `sampled` (by hash), `low_vs_high`, `two_vs_many` (by mutations), ...
    wild_type : sequence that variants are compared with.
    classes : targets are classes, measured by accuracy, instead of values, by rank correlation.
    validation : column whose `True` marks training rows that choose the penalty.
    resamples : draws of the intervals.

    Raises
    ------
    ConfigError : a table or a column that cannot be used, by line. RefusedError : too few rows to train or test on.
    """
    from plm_scaling.evals.floors import floors_of_table

    chosen = {"sequence": sequence, "target": target, "split": split, "wild_type": wild_type, "validation": validation}
    return floors_of_table(Path(csv), classes=classes, draws=resamples, seed=seed, **chosen)  # type: ignore[arg-type]


def evaluate_validate(told: Callable[[TrustCheck], None] = lambda _: None) -> list[TrustCheck]:
    """What must hold before a score means anything, on models whose answers are known; in seconds, without weights.

    Parameters
    ----------
    told : called after each check.
    """
    from plm_scaling.evals.trust import trust_checks

    return trust_checks(told)
