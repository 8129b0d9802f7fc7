"""Tasks in which a head learns from a model's activations: variant libraries, folds, fluorescence, stability."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Final, cast, get_args

import numpy as np

from plm_scaling.core.errors import ConfigError, RefusedError, did_you_mean
from plm_scaling.evals.adapters.base import Adapter
from plm_scaling.evals.data_alarms import table_alarms, token_alarms
from plm_scaling.evals.floors import EncodedTable, metric_of
from plm_scaling.evals.results import FloorScore
from plm_scaling.evals.splits import Split, find_split, own_split
from plm_scaling.evals.supervised import (
    POOLED,
    Head,
    Pooling,
    ProbeRow,
    SupervisedTable,
    default_head,
    floor_rows,
    supervised_table,
)
from plm_scaling.evals.tables import LabelledTable, read_aav28, read_flip, read_tape
from plm_scaling.evals.task import Answer, Asked, Scored, Task, answer_of

__all__ = ["TASKS", "task_table"]

_AAV: Final = "aav_capsid_28mer.csv"
_AAV_SPLITS: Final = ("sampled", "low_vs_high", "one_vs_many", "two_vs_many", "seven_vs_many")
_FLIP: Final = {
    "gb1": ("one_vs_rest", "two_vs_rest", "three_vs_rest", "low_vs_high", "sampled"),
    "aav": ("des_mut", "mut_des", "one_vs_many", "two_vs_many", "seven_vs_many", "low_vs_high", "sampled"),
}

Reader = Callable[[tuple[Path, ...]], LabelledTable]


def _aav28(paths: tuple[Path, ...]) -> LabelledTable:
    return read_aav28(paths[0])


def _flip(paths: tuple[Path, ...]) -> LabelledTable:
    return read_flip(paths[0])


def _folds(paths: tuple[Path, ...]) -> LabelledTable:
    return read_tape(paths, kind="classes", name="fold")


def _values(paths: tuple[Path, ...]) -> LabelledTable:
    return read_tape(paths, kind="values", name=paths[0].name.split(".")[0])


@lru_cache(maxsize=1)
def _prepared(
    paths: tuple[Path, ...], read: Reader, split: str, limit: int | None, draws: int, seed: int
) -> tuple[EncodedTable, Split, tuple[ProbeRow, ...]]:
    """A table, its split and its floors: the same for every model, and they take longer than a small model."""
    data, chosen = _read(paths, read, split, limit, seed)
    return data, chosen, floor_rows(data, chosen, draws=draws, seed=seed)


def _read(
    paths: tuple[Path, ...], read: Reader, split: str, limit: int | None, seed: int
) -> tuple[EncodedTable, Split]:
    table = read(paths)
    if limit is not None and limit < len(table):
        table = table.take(_sampled_rows(table, limit, seed))
    return EncodedTable(table), own_split(table, split) if read is _flip else find_split(table, split)


def task_table(name: str, asked: Asked) -> tuple[EncodedTable, Split]:
    """The table of a supervised task and its split.

    Raises
    ------
    ConfigError : no such task, or its files are not there.
    """
    tasks = {task.name: task for task in TASKS}
    if name not in tasks:
        raise ConfigError(f"no supervised task is called {name!r}", hint=did_you_mean(name, tasks))
    asks = tasks[name].measure
    assert isinstance(asks, partial)
    chosen: tuple[Reader, str] = (asks.keywords["read"], asks.keywords["split"])
    return _read(tasks[name].paths(asked), *chosen, asked.limit, asked.seed)


def _sampled_rows(table: LabelledTable, limit: int, seed: int) -> np.ndarray:
    """A seeded sample, and the wild type, beside which values are high or low."""
    order = np.random.default_rng(seed).permutation(len(table))
    if table.wild_type in table.sequences:
        wild = table.sequences.index(str(table.wild_type))
        order = np.concatenate([[wild], order[order != wild]])
    return np.sort(order[:limit])


def _measure(task: Task, adapter: Adapter, asked: Asked, *, read: Reader, split: str) -> list[Answer]:
    """A head on the pooled activations, and on those of each site where sequences are variants of one.

    A convolution needs sites; a model that is trained itself answers once.
    """
    head = cast("Head | None", task.head(asked) or None)
    data, chosen, floors = _prepared(task.paths(asked), read, split, asked.limit, asked.resamples, asked.seed)
    aligned = data.table.kind == "values" and len({len(one) for one in data.table.sequences}) == 1
    poolings: tuple[Pooling, ...] = ("mean", "sites") if aligned else ("mean",)
    if head in ("lora", "full"):
        poolings = ("mean",)
    elif head == "cnn":
        poolings = ("sites",)
    answers = []
    for pooling in poolings:
        started = time.perf_counter()
        found = supervised_table(
            adapter, data, chosen, pooling=pooling, head=head, floors=floors, draws=asked.resamples, seed=asked.seed
        )
        protocol = _protocol(head or default_head(data), pooling)
        answers.append(_answer(task, adapter, asked, found, data, chosen, protocol, started))
    return answers


def _protocol(head: Head, pooling: Pooling) -> str:
    if head == "lora" or head == "full":
        from plm_scaling.evals.finetuning import TuningChoice

        return TuningChoice(head).protocol
    return f"{POOLED[pooling]} + {head}"


def _answer(
    task: Task,
    adapter: Adapter,
    asked: Asked,
    found: SupervisedTable,
    data: EncodedTable,
    split: Split,
    protocol: str,
    started: float,
) -> Answer:
    if found.model.value is None or found.model.scores is None:
        raise RefusedError(f"{task.name} of {adapter.info.name} is not defined", why=found.model.why)
    beside = [(row.name, row) for row in found.floors]
    if found.control is not None:
        beside.append(("random weights", found.control))
    flags, warnings = _doubts(found)
    tested = [data.table.sequences[k] for k in split.test]
    alarms = (
        *token_alarms(adapter.info),
        *table_alarms(asked, task.name, tested, wild_type=data.table.wild_type),
    )
    scored = Scored(
        truth=data.table.targets[split.test],
        scores=found.model.scores,
        protocol=protocol,
        n_train=len(split.train),
        floors=tuple(
            FloorScore(name=name, value=row.value, low=row.low, high=row.high)
            for name, row in beside
            if row.value is not None
        ),
        tokens=float(sum(len(one) for one in data.table.sequences)),
        flags=(*flags, *(alarm.code for alarm in alarms)),
        warnings=(
            *(f"{task.name}, {adapter.info.name}, {protocol}: {said}" for said in warnings),
            *(alarm.sentence for alarm in alarms),
        ),
    )
    return answer_of(task, adapter, asked, scored, metric=metric_of(data.table), started=started)


def _doubts(found: SupervisedTable) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Whether the number says anything of pre-training, in flags and in words."""
    if found.control is None:
        return ("NO_CONTROL",), (
            "no random weights of this architecture can be drawn: nothing says what training adds.",
        )
    if found.over_control is not None and found.over_control.low <= 0.0:
        return ("NOT_ABOVE_RANDOM_WEIGHTS",), (
            f"random weights under the same head reach {found.control.value:.3f}: "
            "the difference is no evidence that pre-training helps.",
        )
    return (), ()


def _task(
    name: str, about: str, files: tuple[str, ...], read: Reader, split: str = "own", metric: str = "spearman"
) -> Task:
    return Task(
        name=name,
        kind="supervised",
        about=about,
        metric=metric,
        higher_is_better=True,
        needs=("embed",),
        measure=partial(_measure, read=read, split=split),
        files=files,
        heads=get_args(Head),
    )


def _parts(name: str) -> tuple[str, ...]:
    return tuple(f"{name}.{part}.csv" for part in ("train", "valid", "test"))


TASKS: Final[tuple[Task, ...]] = (
    *(_task(f"aav28.{split}", f"AAV2 capsid 28-mers, {split}", (_AAV,), _aav28, split) for split in _AAV_SPLITS),
    *(
        _task(f"flip.{family}.{split}", f"FLIP {family.upper()}, {split}", (f"*{family}/{split}.csv",), _flip, split)
        for family, splits in _FLIP.items()
        for split in splits
    ),
    _task("fold", "TAPE remote homology, 1,195 folds", _parts("remote_homology"), _folds, metric="accuracy"),
    _task("fluorescence", "TAPE fluorescence of GFP variants", _parts("fluorescence"), _values),
    _task("stability", "TAPE stability of small domains", _parts("stability"), _values),
)
