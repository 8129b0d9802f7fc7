"""Tasks put to models one after the other; what is done is kept at once, and not done again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import PlmScalingError, RecordError
from plm_scaling.core.files import writing_atomic
from plm_scaling.evals.adapters.base import Adapter
from plm_scaling.evals.results import ResultRow, append_rows, read_rows
from plm_scaling.evals.size_audit import contradictions
from plm_scaling.evals.task import Answer, Asked, NoDataError, Task, answer_hash

__all__ = ["Step", "has_scores", "keep_answers", "load_scores", "run_tasks"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Step:
    """What became of one task and one model."""

    model: str
    task: str
    outcome: str
    """done, kept (it was there), cannot (the model lacks the ability), no data, or failed."""
    rows: tuple[ResultRow, ...] = ()
    why: str = ""


def run_tasks(
    models: Iterable[Callable[[], Adapter]],
    tasks: Sequence[Task],
    asked: Asked,
    out: Path,
    *,
    again: bool = False,
    told: Callable[[Step], None] = lambda _: None,
) -> list[Step]:
    """Every task for every model, rows appended to `out`, scores row by row beside it for comparisons.

    Parameters
    ----------
    models : openers, so that one model is in memory at a time.
    again : also what `out` already answers for the same data, weights and seed.
    told : called after each step.

    A task that fails for one model is reported as failed with its reason, and the others go on.
    """
    there = read_rows(out) if out.exists() else []
    known = [] if again else list(there)
    steps = []
    for opened in models:
        adapter = opened()
        for task in tasks:
            step = _step(task, adapter, asked, out, known, there)
            there += step.rows if step.outcome == "done" else ()
            steps.append(step)
            told(step)
    return steps


def _step(
    task: Task, adapter: Adapter, asked: Asked, out: Path, known: Sequence[ResultRow], there: Sequence[ResultRow]
) -> Step:
    info = adapter.info
    if not task.can(adapter):
        why = f"needs {' or '.join(task.needs)}; it has {', '.join(info.abilities) or 'none'}"
        return Step(info.name, task.name, "cannot", why=why)
    try:
        if rows := _already(task, adapter, asked, known):
            return Step(info.name, task.name, "kept", rows)
        answers = [_beside_other_sizes(answer, there) for answer in task.measure(task, adapter, asked)]
    except NoDataError as error:
        return Step(info.name, task.name, "no data", why=str(error))
    except PlmScalingError as error:
        return Step(info.name, task.name, "failed", why=str(error))
    keep_answers(out, answers)
    return Step(info.name, task.name, "done", tuple(answer.row for answer in answers))


def _already(task: Task, adapter: Adapter, asked: Asked, known: Sequence[ResultRow]) -> tuple[ResultRow, ...]:
    """Rows of the same task, version, data, sample, corpus, resamples, weights, seed and head."""
    info = adapter.info
    version, data = task.version, task.data_sha256(asked)
    wanted = (version, data, asked.limit, asked.corpus_id, asked.resamples, asked.seed, task.head(asked))
    return tuple(
        row
        for row in known
        if (row.task == task.name or row.task.startswith(f"{task.name}/"))
        and wanted == (row.task_version, row.data_sha256, row.limit, row.corpus_id, row.resamples, row.seed, row.head)
        and (row.model.name, row.model.sha256) == (info.name, info.sha256)
    )


def _beside_other_sizes(answer: Answer, there: Sequence[ResultRow]) -> Answer:
    """With alarms about models of its family and other sizes in the file; their sentence where they are new."""
    alarms, known = contradictions(answer.row, there)
    if not alarms:
        return answer
    flags = (*answer.row.flags, *(alarm.code for alarm in alarms))
    said = () if known else tuple(f"{alarm.where}: {alarm.sentence}" for alarm in alarms)
    return replace(
        answer, row=answer.row.model_copy(update={"flags": flags, "warnings": (*answer.row.warnings, *said)})
    )


def keep_answers(out: Path, answers: Sequence[Answer]) -> None:
    """Append the rows of answers to a file of results, after the scores behind them."""
    for answer in answers:
        _save_scores(out, answer)
    append_rows(out, [answer.row for answer in answers])


def _save_scores(out: Path, answer: Answer) -> None:
    if answer.truth is None or answer.scores is None:
        return
    path = _scores_path(out, answer.row)
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing_atomic(path) as handle:
        np.savez_compressed(handle, truth=answer.truth, scores=answer.scores, clusters=np.array(answer.clusters))


def _scores_path(out: Path, row: ResultRow) -> Path:
    return out.with_name(f"{out.stem}.scores") / f"{answer_hash(row)}.npz"


def has_scores(out: Path, row: ResultRow) -> bool:
    """Whether the scores behind a row were kept."""
    return _scores_path(out, row).exists()


def load_scores(out: Path, row: ResultRow) -> tuple[FloatArray, FloatArray, tuple[str, ...]]:
    """Truth and scores float64[n] of a row, and the cluster of every example ([] where rows are drawn).

    Raises
    ------
    RecordError : they were not kept, or the file is damaged.
    """
    path = _scores_path(out, row)
    try:
        with np.load(path, allow_pickle=False) as kept:
            return kept["truth"], kept["scores"], tuple(kept["clusters"].tolist())
    except FileNotFoundError:
        raise RecordError(
            f"the scores behind {row.task} of {row.model.name} are not there",
            where=str(path),
            hint="evaluate run --again",
        ) from None
    except (OSError, ValueError, KeyError) as error:
        raise RecordError("scores that cannot be read", where=str(path), why=str(error)) from None
