"""`Task`: a question that models are asked, with its data, its metric and the version of both."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError, RefusedError, did_you_mean
from plm_scaling.core.files import sha256_file, sha256_text
from plm_scaling.corpus.reader import Corpus
from plm_scaling.evals.adapters.base import Ability, Adapter
from plm_scaling.evals.bootstrap import Bootstrapped, bootstrap_metric
from plm_scaling.evals.metrics import MetricName
from plm_scaling.evals.results import FloorScore, ResultRow

__all__ = [
    "Answer",
    "Asked",
    "Kind",
    "NoDataError",
    "Scored",
    "Task",
    "answer_hash",
    "answer_of",
    "data_file",
    "data_files",
    "match_tasks",
    "package_versions",
    "sample_rows",
    "task_row",
]

Kind = Literal["likelihood", "zero-shot", "supervised", "structure", "generation"]
FloatArray = npt.NDArray[np.float64]
_SUFFIXES: Final = ("", ".gz")


class NoDataError(ConfigError):
    """What a task needs was not given, or does not lie where it was looked for."""


@dataclass(frozen=True)
class Asked:
    """What comes with the question.

    Attributes
    ----------
    data : folder of evaluation sets in their published layouts, searched to any depth.
    sequences : held-out proteins (FASTA), for tasks about likelihood.
    corpus : the prepared corpus the models were trained on, for audits and bins of identity.
    limit : at most so many examples, a seeded sample of them; None for all.
    resamples : draws of every interval.
    head : what learns from a model, of the heads a task has; None for the task's own. Other tasks pass it over.
    tell : called with a line before what takes long.
    """

    data: Path | None = None
    sequences: Path | None = None
    corpus: Path | None = None
    limit: int | None = None
    resamples: int = 1000
    seed: int = 0
    head: str | None = None
    tell: Callable[[str], None] = field(default=lambda _: None, repr=False, compare=False)

    @property
    def corpus_id(self) -> str:
        """Of the corpus; empty without one."""
        return "" if self.corpus is None else Corpus.open(self.corpus).corpus_id


@dataclass(frozen=True)
class Answer:
    """A row of results, and what it was computed from where models can be compared row by row."""

    row: ResultRow
    truth: FloatArray | None = None
    scores: FloatArray | None = None
    clusters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """A question.

    Attributes
    ----------
    name : `group.part`.
    about : one line for `evaluate ls`.
    needs : abilities, one of which a model must have.
    files : names of the files of its data as they are published, or a pattern for all that match; a .gz will do.
    version : raised when data, splits or scoring change what the number means.
    measure : model and question to answers.
    heads : that the user may choose from.
    beside : files that those of `files` name, as many as there are.
    """

    name: str
    kind: Kind
    about: str
    metric: str
    higher_is_better: bool
    needs: tuple[Ability, ...]
    measure: Callable[[Task, Adapter, Asked], list[Answer]] = field(repr=False)
    files: tuple[str, ...] = ()
    version: int = 1
    heads: tuple[str, ...] = ()
    beside: Callable[[Asked], tuple[Path, ...]] | None = field(default=None, repr=False)

    def can(self, adapter: Adapter) -> bool:
        """Whether the model has what it takes."""
        return not self.needs or bool(set(self.needs) & set(adapter.info.abilities))

    def head(self, asked: Asked) -> str:
        """What the user named, where it has heads to choose from; empty for its own.

        Raises
        ------
        RefusedError : it has others.
        """
        if not self.heads or asked.head is None:
            return ""
        if asked.head not in self.heads:
            raise RefusedError(f"{self.name} has no head {asked.head!r}", hint=", ".join(self.heads))
        return asked.head

    def paths(self, asked: Asked) -> tuple[Path, ...]:
        """Its files.

        Raises
        ------
        NoDataError : one is missing; names it and where it was looked for.
        """
        found: list[Path] = []
        for name in self.files:
            found += data_files(asked, name, self.name) if "*" in name else [data_file(asked, name, self.name)]
        return tuple(found)

    def data_sha256(self, asked: Asked) -> str:
        """Of the files it reads; empty where it reads none."""
        paths = [*self.paths(asked), *(self.beside(asked) if self.beside else ())]
        if not paths and asked.sequences is not None:
            paths.append(asked.sequences)
        return sha256_text(" ".join(sha256_file(path) for path in paths)) if paths else ""


def data_file(asked: Asked, name: str, task: str) -> Path:
    """A file of the evaluation sets by its published name, wherever it lies under the folder of data.

    Raises
    ------
    NoDataError : no folder was given, or the file is not in it.
    """
    if asked.data is None:
        raise NoDataError(f"{task} needs {name}", why="no folder of evaluation sets was given", hint="--data FOLDER")
    for suffix in _SUFFIXES:
        if found := sorted(path for path in asked.data.rglob(name + suffix) if path.is_file()):
            return found[0]
    raise NoDataError(
        f"{task} needs {name}",
        where=str(asked.data),
        why="no file of that name, plain or .gz, lies there",
        hint="docs/evaluation.md says where each set is published",
    )


def data_files(asked: Asked, pattern: str, task: str) -> list[Path]:
    """All files of the evaluation sets whose names match, by name; errors as `data_file`."""
    if asked.data is None:
        raise NoDataError(f"{task} needs {pattern}", why="no folder of evaluation sets was given", hint="--data FOLDER")
    found = sorted({path for suffix in _SUFFIXES for path in asked.data.rglob(pattern + suffix) if path.is_file()})
    if not found:
        raise NoDataError(f"{task} needs {pattern}", where=str(asked.data), why="no file of such a name lies there")
    return found


@dataclass(frozen=True)
class Scored:
    """Scores of a task's examples and how they came about.

    Attributes
    ----------
    truth, scores : float64[n].
    clusters : protein or family of every example, [n]; empty where they are independent.
    tokens : processed by the model.
    """

    truth: FloatArray
    scores: FloatArray
    protocol: str
    clusters: tuple[str, ...] = ()
    cluster_kind: str = ""
    n_train: int = 0
    floors: tuple[FloorScore, ...] = ()
    noise_ceiling: float | None = None
    tokens: float = 0.0
    flags: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def answer_of(
    task: Task,
    adapter: Adapter,
    asked: Asked,
    scored: Scored,
    *,
    metric: MetricName | None = None,
    value: Bootstrapped | None = None,
    started: float | None = None,
    name: str | None = None,
) -> Answer:
    """A row from scores: the metric with its interval, every hash, and what the task says of itself.

    Parameters
    ----------
    metric : of scores against truth; the task's own by default.
    value : instead, where the task has computed its metric and interval.
    started : `time.perf_counter()` at the beginning.
    name : of the row, where a task gives several.

    A metric that is not defined on these rows is refused by name (`RefusedError`).
    """
    chosen: MetricName = metric or task.metric  # type: ignore[assignment]
    if value is None:
        value = bootstrap_metric(
            chosen,
            scored.truth,
            scored.scores,
            clusters=scored.clusters or None,
            draws=asked.resamples,
            seed=asked.seed,
        )
    row = task_row(
        replace(task, name=name or task.name, metric=metric or task.metric),
        adapter,
        asked,
        value=value.value,
        ends=(value.low, value.high),
        n=len(scored.truth),
        protocol=scored.protocol,
        clusters=scored.cluster_kind if scored.clusters else "row",
        seconds=time.perf_counter() - started if started is not None else 0.0,
        tokens=scored.tokens,
        n_train=scored.n_train,
        floors=scored.floors,
        noise_ceiling=scored.noise_ceiling,
        flags=(*scored.flags, *value.flags),
        warnings=scored.warnings,
    )
    return Answer(row, scored.truth, scored.scores, scored.clusters)


def task_row(
    task: Task,
    adapter: Adapter,
    asked: Asked,
    *,
    value: float,
    ends: tuple[float | None, float | None],
    n: int,
    protocol: str,
    clusters: str,
    seconds: float = 0.0,
    tokens: float = 0.0,
    **said: Any,
) -> ResultRow:
    """A row with the hashes of model, data and corpus and the versions of what computed it.

    Parameters
    ----------
    value, ends : the number and its 95 %, by resampling of `clusters`.
    n : examples it is over. seconds, tokens : spent on it.
    said : other fields of `ResultRow`.
    """
    return ResultRow(
        task=task.name,
        task_version=task.version,
        data_sha256=task.data_sha256(asked),
        model=adapter.info,
        protocol=protocol,
        limit=asked.limit,
        corpus_id=asked.corpus_id,
        metric=task.metric,
        higher_is_better=task.higher_is_better,
        value=value,
        low=ends[0],
        high=ends[1],
        clusters=clusters,
        n=n,
        resamples=asked.resamples,
        seed=asked.seed,
        wall_s=seconds,
        tokens_per_s=tokens / seconds if seconds > 0 else 0.0,
        head=task.head(asked),
        versions=package_versions(),
        **said,
    )


def answer_hash(row: ResultRow) -> str:
    """Name of what is kept beside a row: the same question has the same."""
    return sha256_text(" ".join(row.key))[:32]


def package_versions() -> dict[str, str]:
    """Of what computes a row."""
    from importlib.metadata import version

    return {name: version(name) for name in ("plm-scaling", "torch", "numpy", "scipy")}


def sample_rows(count: int, asked: Asked) -> npt.NDArray[np.intp]:
    """Which examples are scored: all, or the first of a seeded order, in the order they stand."""
    if asked.limit is None or asked.limit >= count:
        return np.arange(count)
    if asked.limit < 1:
        raise ConfigError("a sample holds at least one example", why=f"got {asked.limit}")
    return np.sort(np.random.default_rng(asked.seed).permutation(count)[: asked.limit])


def match_tasks(patterns: Sequence[str], tasks: Sequence[Task]) -> tuple[Task, ...]:
    """Tasks whose names match any of the shell patterns, in their own order.

    Raises
    ------
    RefusedError : a pattern matches none.
    """
    names = [task.name for task in tasks]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            near = f"{did_you_mean(pattern, names)} " if get_close_matches(pattern, names, n=1) else ""
            raise RefusedError(
                f"no task is called {pattern!r}",
                why="neither a task nor a pattern that matches one, such as 'aav28.*' in quotes",
                hint=f"{near}plm-scaling evaluate ls lists all {len(names)}",
            )
    return tuple(task for task in tasks if any(fnmatch.fnmatch(task.name, pattern) for pattern in patterns))
