"""From files of proteins to a prepared corpus, in stages that can be broken off and gone on with.

reading     parse, tokenise, hash and filter each part of the input        parts/
checking    hash the files that several tasks read                         checksums/
comparing   find equal sequences, a range of hashes at a time              dedup/
placing     addresses of all rows, cuts between shards, random splits      layout/, split/base.u8
containing  fragments and reversals of other sequences (if asked for)      containment/
clustering  near-duplicates at 90 and 50 % identity (if asked for)         cluster/
splitting   hold out whole clusters, measure what leaks (if asked for)     split/split.u8
writing     shards and index                                               corpus/

All of it happens in a work folder beside the corpus, which gets its name only when it is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from data_prep.draft import Draft
from data_prep.inputs import InputSize, SourceInput, describe_inputs
from data_prep.plan import PART_BYTES, PrepPlan, PrepSpec, make_plan
from data_prep.progress import Progress, told_progress
from data_prep.publish import make_manifest
from data_prep.stages import STAGES, Stage
from data_prep.streams import BLOCK_BYTES
from data_prep.verify import verify_corpus
from data_prep.workplace import Workplace, disk_errors, workplace
from plm_scaling.core.errors import CorpusError, UnfinishedError
from plm_scaling.corpus.format import MANIFEST_NAME, Manifest
from plm_scaling.execution.inline import InlineExecutor
from plm_scaling.execution.local import LocalExecutor
from plm_scaling.execution.tasks import Executor, Task, TaskEvent

__all__ = [
    "InputSize",
    "PrepSpec",
    "Progress",
    "SourceInput",
    "describe_inputs",
    "prepare_corpus",
    "verify_corpus",
]

_NO_HOLD_OUT: Final[Mapping[str, Sequence[Path]]] = MappingProxyType({})


def prepare_corpus(
    inputs: Sequence[SourceInput],
    out: Path,
    spec: PrepSpec | None = None,
    *,
    hold_out: Mapping[str, Sequence[Path]] = _NO_HOLD_OUT,
    executor: Executor | None = None,
    block_bytes: int = BLOCK_BYTES,
    part_bytes: int = PART_BYTES,
    progress: Callable[[Progress], None] | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Turn protein sequences into a corpus: tokenised, de-duplicated, clustered if asked for, split, checked in.

    The same input gives the same bytes, whatever `block_bytes`, `part_bytes` and the executor. Memory does not grow
    with the input (but for clusters, which are found by an external program). A call that was killed is gone on with
    by the same call.

    Parameters
    ----------
    inputs : the sources in order of priority: of equal sequences the first is stored, the others are its copies.
    out : folder of the corpus; it appears when it is complete.
    spec : what decides the corpus' content.
    hold_out : name -> files; each set becomes the split and the source `heldout_NAME`. It comes before all inputs,
        so that every exact copy of its sequences leaves the training data.
    executor : where the tasks run; in this process, one after the other, unless said otherwise.
    block_bytes : text read at a time, in bytes.
    part_bytes : smallest stretch of a plain file that becomes a task of its own.
    progress : called now and then.
    overwrite : replace an older corpus at `out`.

    Raises
    ------
    ConfigError : names, shares or sizes that make no sense.
    CorpusError : an input that cannot be used, no sequence at all, or something in the way at `out`.
    """
    plan = make_plan(inputs, spec or PrepSpec(), hold_out=hold_out, block_bytes=block_bytes, part_bytes=part_bytes)
    told = progress or (lambda _: None)
    with disk_errors(out), workplace(out, plan, overwrite=overwrite) as place:
        for stage in STAGES.values():
            _run_stage(stage, place, plan, executor or InlineExecutor(), told)
            if stage.name == "comparing":
                _check_rows(Draft(place.folder))
        plan.check_inputs()
        manifest = make_manifest(Draft(place.folder), out.absolute().name)
        manifest.write(place.corpus / MANIFEST_NAME)
        place.publish()
    return manifest


def _run_stage(
    stage: Stage, place: Workplace, plan: PrepPlan, executor: Executor, told: Callable[[Progress], None]
) -> None:
    """Run what is missing of a stage."""
    draft = Draft(place.folder)
    missing = stage.missing(draft)
    if not missing:
        return
    total = {"reading": plan.bytes_total, "writing": 0}.get(stage.name, 0)
    if stage.name == "writing":
        total = draft.layout.shard_starts[-1]
    tasks = [
        Task(f"{stage.name}-{number:05d}", "data_prep.stages:run_task", (str(place.folder), stage.name, number))
        for number in missing
    ]
    if len(tasks) == 1 and isinstance(executor, LocalExecutor):
        executor = InlineExecutor()  # a pool would take longer to start than most such tasks take
    with told_progress(place.folder / "progress" / stage.name, total, stage.name, told):
        results = executor.run(tasks, _stop_at_first_error)
    failed = [result for result in results if not result.ok]
    if failed:
        raise UnfinishedError(
            f"{len(failed)} of {len(tasks)} tasks of the stage {stage.name!r} did not finish",
            where=failed[0].key,
            why=failed[0].reason,
            hint="run the same command again: what is done is kept",
        )


def _stop_at_first_error(event: TaskEvent) -> None:
    """A bad input will not get better: the other tasks need not be waited for. A killed task is another matter."""
    if event.result is not None and not event.result.ok and not event.result.killed:
        raise event.result.to_error()


def _check_rows(draft: Draft) -> None:
    if not draft.n_rows:
        last = draft.plan.sources[-1].files[-1].item
        dropped = sum(count.sequences for part in draft.parts for count in part.counts.dropped.values())
        raise CorpusError(
            "no sequences in any of the files",
            where=last,
            why=f"the filters dropped all {dropped:,}" if dropped else "",
        )
