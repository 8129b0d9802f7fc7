"""The tasks of a preparation. Each leaves a mark when it is done, so that a restart does only what is missing.

A task is a function of the work folder and a number; it runs in this process, in a pool, or as a batch job. Its mark
is written after everything else it writes, and a task that runs twice writes the same bytes twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from data_prep.dedup import count_shared_names, find_copies, write_pairs
from data_prep.draft import Draft
from data_prep.keys import KeyReader, bucket_ranges
from data_prep.layout import decide_layout
from data_prep.parts import part_folder
from data_prep.progress import Ticker
from data_prep.tokenise import checksum_file, tokenise_part
from data_prep.workplace import disk_errors
from data_prep.writing import write_shard
from plm_scaling.core.records import Record

__all__ = ["STAGES", "DedupCounts", "Stage", "run_task"]

_ROWS_PER_DEDUP_TASK: Final = 1 << 23


class DedupCounts(Record):
    """What one task found in its buckets."""

    copies: int
    shared_names: tuple[int, ...]
    """Per source."""


@dataclass(frozen=True)
class Stage:
    """A kind of task.

    Attributes
    ----------
    name : of the stage, as `Progress` names it.
    count : how many tasks there are, given the work folder after all earlier stages.
    run : does one task.
    mark : the file that says that a task is done.
    """

    name: str
    count: Callable[[Draft], int]
    run: Callable[[Draft, int, Ticker], None]
    mark: Callable[[Path, int], Path]

    def missing(self, draft: Draft) -> list[int]:
        """Tasks without a mark."""
        return [number for number in range(self.count(draft)) if not self.mark(draft.folder, number).is_file()]


def run_task(folder: str, stage: str, number: int) -> None:
    """Do one task of a stage in a work folder, unless it is done already."""
    draft, chosen = Draft(Path(folder)), STAGES[stage]
    if chosen.mark(draft.folder, number).is_file():
        return
    with disk_errors(draft.folder):
        ticker = Ticker(draft.folder / "progress" / stage, f"{number:05d}")
        chosen.run(draft, number, ticker)
        ticker.close()


def _checksum(draft: Draft, number: int, ticker: Ticker) -> None:
    del ticker
    source, file = draft.plan.stretched[number]
    checksum_file(draft.plan.sources[source].files[file]).write(_mark("checksums")(draft.folder, number))


def _dedup_ranges(draft: Draft) -> list[tuple[int, int]]:
    return list(bucket_ranges(draft.n_rows, _ROWS_PER_DEDUP_TASK))


def _deduplicate(draft: Draft, number: int, ticker: Ticker) -> None:
    del ticker
    buckets = _dedup_ranges(draft)[number]
    folders = [part_folder(draft.folder, part) for part in range(len(draft.parts))]
    hashes = [KeyReader(folder / "hashes", 2) for folder in folders]
    mark = _mark("dedup")(draft.folder, number)
    mark.parent.mkdir(exist_ok=True)
    copies = write_pairs(find_copies(hashes, draft.first_rows[:-1], *buckets), mark.with_suffix(".i64"))
    shared = []
    for source in range(len(draft.plan.sources)):
        own = [folder for folder, part in zip(folders, draft.plan.parts, strict=True) if part.source == source]
        shared.append(count_shared_names([KeyReader(folder / "names", 2) for folder in own], *buckets) if own else 0)
    DedupCounts(copies=copies, shared_names=tuple(shared)).write(mark)


def _layout(draft: Draft, number: int, ticker: Ticker) -> None:
    del number, ticker
    decide_layout(draft)


def _contain(draft: Draft, number: int, ticker: Ticker) -> None:
    from data_prep.containment import containment

    del ticker
    folder = draft.folder / "containment"
    folder.mkdir(exist_ok=True)
    containment(draft.first_sequences, folder).write(_mark("containment")(draft.folder, number))


def _cluster(draft: Draft, number: int, ticker: Ticker) -> None:
    from data_prep.homologs import cluster_stage

    del number, ticker
    cluster_stage(draft)


def _split(draft: Draft, number: int, ticker: Ticker) -> None:
    from data_prep.homologs import split_stage

    del number, ticker
    split_stage(draft)


def _write(draft: Draft, number: int, ticker: Ticker) -> None:
    write_shard(draft, number, ticker).write(_mark("written")(draft.folder, number))


def _mark(folder: str) -> Callable[[Path, int], Path]:
    return lambda work, number: work / folder / f"{number:05d}.json"


def _has_clusters(draft: Draft) -> int:
    return int(draft.plan.spec.cluster != "none")


STAGES: Final = {
    stage.name: stage
    for stage in (
        Stage(
            "reading",
            lambda draft: len(draft.plan.parts),
            tokenise_part,
            lambda work, number: part_folder(work, number) / "part.json",
        ),
        Stage("checking", lambda draft: len(draft.plan.stretched), _checksum, _mark("checksums")),
        Stage("comparing", lambda draft: len(_dedup_ranges(draft)), _deduplicate, _mark("dedup")),
        Stage("placing", lambda _: 1, _layout, lambda work, _: work / "layout.json"),
        Stage("containing", lambda draft: int(draft.plan.spec.containment), _contain, _mark("containment")),
        Stage("clustering", _has_clusters, _cluster, lambda work, _: work / "cluster.json"),
        Stage("splitting", _has_clusters, _split, lambda work, _: work / "split.json"),
        Stage("writing", lambda draft: len(draft.layout.shard_rows) - 1, _write, _mark("written")),
    )
}
"""In the order in which they run."""
