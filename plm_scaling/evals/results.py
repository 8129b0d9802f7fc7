"""`ResultRow`: one number of one model on one task, with everything it rests on; kept as lines of JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, ValidationError

from plm_scaling.core.errors import RecordError
from plm_scaling.core.records import Record
from plm_scaling.evals.adapters.base import ModelInfo

__all__ = ["FloorScore", "ResultRow", "append_rows", "latest_rows", "read_rows"]


class FloorScore(Record):
    """What a method without a language model, or a control, reaches on the same rows."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


class ResultRow(Record):
    """A metric of a model on a task.

    Rows of different `protocol` are never compared: how a model was asked belongs to what was measured.
    """

    SCHEMA_VERSION: ClassVar[int] = 1
    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset({"wall_s", "tokens_per_s", "versions"})

    task: str
    task_version: int
    data_sha256: str
    """Of the files that were read."""
    model: ModelInfo
    protocol: str
    """How it was scored, or by which head: `masked_marginals`, `mean embedding + ridge`, ..."""
    metric: str
    higher_is_better: bool
    value: float
    low: float | None = None
    high: float | None = None
    """95 %, by resampling of what `clusters` names."""
    clusters: str = ""
    n: int
    """Examples the metric is over."""
    limit: int | None = None
    """Where a seeded sample of at most so many was asked about instead of all."""
    corpus_id: str = ""
    """Of the corpus that the test set was held against; empty where none was given."""
    n_train: int = 0
    resamples: int = 0
    seed: int = 0
    floors: tuple[FloorScore, ...] = ()
    references: tuple[FloorScore, ...] = ()
    """What natural proteins come to where no end of the scale is good: to be near, not to be beaten."""
    head: str = ""
    """What learns from the model, where the user named it; empty for the task's own."""
    noise_ceiling: float | None = None
    source: Literal["computed", "published"] = "computed"
    wall_s: float = 0.0
    tokens_per_s: float = 0.0
    versions: dict[str, str] = Field(default_factory=dict)
    flags: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, ...]:
        """What a later row of the same question replaces: task, data, weights, protocol, metric."""
        return (
            *(self.task, str(self.task_version), self.data_sha256, self.model.name, self.model.sha256),
            *(self.protocol, self.metric, str(self.limit), str(self.seed)),
        )

    def beats_floors(self) -> bool | None:
        """Whether it is better than every floor; None without floors."""
        if not self.floors:
            return None
        sign = 1.0 if self.higher_is_better else -1.0
        return all(sign * self.value > sign * floor.value for floor in self.floors)


def append_rows(path: Path, rows: Iterable[ResultRow]) -> None:
    """Add rows to a file of results, each written whole and kept by the disk before the next."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"schema_version": row.SCHEMA_VERSION, **json.loads(row.model_dump_json())}) for row in rows]
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        # A writer that was killed may have left half a line: it must not swallow the next one.
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        for k, line in enumerate(lines):
            os.write(descriptor, ("\n" * (torn and k == 0) + line + "\n").encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_rows(path: Path) -> list[ResultRow]:
    """All rows of a file, in the order they were written; lines that a killed writer left torn are passed over.

    Raises
    ------
    RecordError : missing, or a line of JSON that is no row.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise RecordError("no results here", where=str(path), hint="plm-scaling evaluate run ... -o FILE") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
        except json.JSONDecodeError:
            continue  # torn by a kill: its writer never said that it was kept
        rows.append(_row(data, f"{path}:{number}"))
    return rows


def _row(data: object, where: str) -> ResultRow:
    if not isinstance(data, dict) or int(data.get("schema_version", 0)) > ResultRow.SCHEMA_VERSION:
        raise RecordError("not a row this version reads", where=where, why="another kind of file, or a newer version")
    try:
        return ResultRow.model_validate({key: value for key, value in data.items() if key != "schema_version"})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise RecordError("not a row of results", where=where, why=f"{place}: {first['msg']}") from None


def latest_rows(rows: Iterable[ResultRow]) -> list[ResultRow]:
    """The last row of every question."""
    return list({row.key: row for row in rows}.values())
