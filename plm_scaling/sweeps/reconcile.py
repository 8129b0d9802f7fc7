"""Bring a runs folder to the state a plan asks for: train what is missing, leave the rest, say why for each run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from plm_scaling.core.errors import CorpusError, PlanError, RecordError, RunError, TakenOver, did_you_mean
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import Device, RunOrder
from plm_scaling.corpus.packing import open_windows
from plm_scaling.corpus.reader import Corpus
from plm_scaling.corpus.validation import validation_sets
from plm_scaling.execution.local import default_workers, run_tasks
from plm_scaling.execution.tasks import STOPPED, Cause, Executor, Keeper, Task, TaskEvent, TaskResult
from plm_scaling.sweeps.decisions import Decision, RunState, decide_all, needed_runs
from plm_scaling.sweeps.halting_report import HaltingReport
from plm_scaling.sweeps.plan_records import PlannedRun, SweepPlan

__all__ = ["RunOutcome", "SweepOutcome", "preloaded_modules", "run_plan"]

_HOPELESS: frozenset[Cause] = frozenset({"out of memory", "refused"})
"""Endings from outside that the next start would come to as well."""
TRAINER = "plm_scaling.training.__main__:run_one"
"""By name: sweeps start processes, they do not import torch."""


@dataclass(frozen=True)
class RunOutcome:
    """Where a run stands after `run_plan`, and why."""

    run_id: str
    state: RunState
    reason: str
    """Why it is not complete; in a dry run and for runs that were not started, why (not)."""
    start_reason: str = ""
    """Why it was started; empty if it was not."""


@dataclass(frozen=True)
class SweepOutcome:
    """All selected runs of a plan, in its order. Every run is complete, halted, failed or incomplete."""

    lines: tuple[RunOutcome, ...]
    dry_run: bool = False
    scripts: tuple[str, ...] = ()
    """In a dry run for a cluster, the batch scripts that would be submitted first."""
    halting: HaltingReport | None = None
    """What halting runs saved; None where it was not asked for."""

    @property
    def complete(self) -> tuple[str, ...]:
        """Ids of the runs that are complete now."""
        return tuple(line.run_id for line in self.lines if line.state == "complete")

    @property
    def failed(self) -> dict[str, str]:
        """Failed and diverged runs with their reasons; they do not start again by themselves."""
        return {line.run_id: line.reason for line in self.lines if line.state in ("failed", "diverged")}

    @property
    def halted(self) -> dict[str, str]:
        """Runs whose rest was found not to be worth its compute, with the reason."""
        return {line.run_id: line.reason for line in self.lines if line.state == "halted"}

    @property
    def incomplete(self) -> dict[str, str]:
        """Runs that are not complete, halted or failed, with the reason: interrupted, skipped, running elsewhere."""
        settled = {*self.complete, *self.halted, *self.failed}
        return {line.run_id: line.reason for line in self.lines if line.run_id not in settled}

    @property
    def started(self) -> dict[str, str]:
        """Runs that were started (or would be, in a dry run) and why."""
        return {line.run_id: line.start_reason for line in self.lines if line.start_reason}

    @property
    def skipped(self) -> dict[str, str]:
        """Runs that were not started and why."""
        return {line.run_id: line.reason for line in self.lines if not line.start_reason}

    @property
    def n_complete(self) -> int:
        """Number of complete runs."""
        return len(self.complete)

    @property
    def all_complete(self) -> bool:
        """Whether nothing is left to do: every run is complete, or was halted."""
        return self.n_complete + len(self.halted) == len(self.lines)

    @property
    def exit_code(self) -> int:
        """0 if every run is complete or halted, 3 if work is left."""
        return 0 if self.all_complete else 3


def run_plan(
    plan: SweepPlan,
    plan_path: Path,
    runs_dir: Path,
    *,
    workers: int | None = None,
    only: Sequence[str] = (),
    retry_failed: bool = False,
    max_attempts: int = 3,
    on_event: Callable[[TaskEvent], None] | None = None,
    dry_run: bool = False,
    threads: int = 1,
    device: Device = "auto",
    runs_per_device: int = 1,
    checkpoint_every_s: float = 30.0,
    executor: Executor | None = None,
    pauses: Mapping[str, float] | None = None,
    resume_halted: bool = False,
) -> SweepOutcome:
    """Train the runs of a plan that are not complete. Calling it again does what is left, and nothing twice.

    A run whose process is killed is resumed in the same call, up to `max_attempts` starts in all; a run that fails
    by itself is not. Neither stops the others; runs that start from it are skipped with the reason.

    Parameters
    ----------
    plan_path : the plan's file, which its corpus path is relative to.
    runs_dir : folder of the runs' folders.
    workers : processes at a time; None for one per `threads` cores.
    only : run ids or their first digits; the sources these runs start from are included.
    dry_run : decide, but write and start nothing.
    threads : CPU threads of a run that has not begun; a run that has keeps the number it began with.
    runs_per_device : runs that share a GPU, which is how their seconds on it are counted.
    executor : where the runs train, instead of `workers` processes here; `sweep_executor` makes one for Slurm.
    pauses : run id -> share of its steps at which it is to wait, with a checkpoint; others go to their ends.
    resume_halted : go on with runs that were halted.

    Raises
    ------
    PlanError : a plan that was edited, or an unknown id in `only`.
    CorpusError : the corpus is not there, or is not the one that was planned with.
    """
    chosen = _select(plan, only)
    runs_dir = runs_dir.resolve()
    folders = {run.run_id: RunFolder(runs_dir / run.run_id) for run in chosen}
    keeper = executor if isinstance(executor, Keeper) else None
    held = keeper.held() if keeper else frozenset[str]()
    pauses = pauses or {}
    options: dict[str, Any] = {"retry_failed": retry_failed, "max_attempts": max_attempts, "held": held}
    decisions = decide_all(chosen, folders, resume_halted=resume_halted, **options)
    for run_id in pauses.keys() & decisions.keys():
        decisions[run_id] = _until(decisions[run_id], folders[run_id], pauses[run_id])
    to_start = [run for run in chosen if decisions[run.run_id].start]
    corpus = _open_corpus(plan, plan_path) if to_start else None
    results: dict[str, TaskResult] = {}
    ids = {run.run_id for run in to_start}
    tasks = [_task(run, folders[run.run_id], ids) for run in to_start]
    if corpus is not None and not dry_run:
        circumstances = {"runs_per_device": runs_per_device, "checkpoint_every_s": checkpoint_every_s, "device": device}
        for run in to_start:
            pause = {"pause_share": pauses.get(run.run_id)}
            _write_order(folders[run.run_id], run, corpus, threads, circumstances | pause)
            folders[run.run_id].halted_path.unlink(missing_ok=True)
        _pack_windows(corpus, to_start)
        if executor is None:
            done = run_tasks(
                tasks,
                workers=workers or default_workers(threads),
                threads=threads,
                preload=preloaded_modules(),
                max_starts=max_attempts,
                on_event=on_event,
            )
        else:
            done = executor.run(tasks, on_event)
        results = {result.key: result for result in done}
    if not dry_run:
        _unite_roles(chosen, folders, decisions)
    lines = (
        _outcome(decisions[run.run_id], folders[run.run_id], results.get(run.run_id), pauses.get(run.run_id))
        for run in chosen
    )
    scripts = keeper.scripts(tasks) if keeper and dry_run else ()
    return SweepOutcome(tuple(lines), dry_run, tuple(scripts))


def preloaded_modules() -> tuple[str, ...]:
    """Imported once, ahead of many runs; pandas because pyarrow brings it in when a run writes its tables."""
    return TRAINER.partition(":")[0], "pandas"


def _select(plan: SweepPlan, only: Sequence[str]) -> list[PlannedRun]:
    """The plan's runs, or those named and what they start from, in the plan's order."""
    by_id = {run.run_id: run for run in plan.runs}
    for run in plan.runs:
        if run.config.run_id != run.run_id:
            raise PlanError(
                f"run {run.run_id} of the plan has a config with the id {run.config.run_id}",
                why="the plan's file was edited",
                hint="change the spec and plan again",
            )
    if not only:
        return list(plan.runs)
    wanted: set[str] = set()
    for name in only:
        found = [run_id for run_id in by_id if name and run_id.startswith(name)]
        if len(found) != 1:
            what = f"{len(found)} runs of the plan begin with {name!r}" if found else f"the plan has no run {name!r}"
            raise PlanError(what, where="--only", hint=did_you_mean(name, by_id))
        wanted.add(found[0])
    while more := {source for i in wanted for source in needed_runs(by_id[i].config) if source in by_id} - wanted:
        wanted |= more
    return [run for run in plan.runs if run.run_id in wanted]


def _until(decision: Decision, folder: RunFolder, share: float) -> Decision:
    """The decision about a run that is only wanted up to a share of its steps."""
    if not decision.start:
        return decision
    if decision.state == "interrupted" and folder.status().has_done(share):
        return replace(decision, start=False, reason=f"waits at {share:.0%} for a decision")
    return replace(decision, reason=f"{decision.reason}; up to {share:.0%}")


def _open_corpus(plan: SweepPlan, plan_path: Path) -> Corpus:
    corpus = Corpus.open((plan_path.resolve().parent / plan.corpus).resolve())
    if corpus.corpus_id != plan.corpus_id:
        raise CorpusError(
            "this is not the corpus the plan was made for",
            where=str(corpus.path),
            why=f"the plan wants {plan.corpus_id[:12]}, this one is {corpus.corpus_id[:12]}: its content changed",
            hint="plan again; finished runs of the old corpus are kept",
        )
    return corpus


def _write_order(
    folder: RunFolder, run: PlannedRun, corpus: Corpus, threads: int, circumstances: Mapping[str, Any]
) -> None:
    """Write `run.json` if it does not say this already."""
    old = _old_order(folder)
    if old is not None and old.config.run_id != run.run_id:
        raise RunError(
            f"run.json belongs to run {old.config.run_id}", where=str(folder.path), hint="delete this folder"
        )
    begun = old is not None and bool(folder.attempts())
    planned = {
        **circumstances,
        "config": run.config,
        "roles": _united(old.roles if old else (), run.roles),
        "corpus": os.path.relpath(corpus.path.resolve(), folder.path),
        # A resume with other threads or on another device would not be bit-exact.
        "threads": old.threads if old and begun else threads,
        "device": old.device if old and begun else circumstances["device"],
        "init_path": run.init_path,
        "teacher_path": run.teacher_path,
        "trunk": run.trunk,
        "keep_steps": tuple(sorted({*(old.keep_steps if old else ()), *run.keep_steps})),
    }
    # What no plan says (trackers, parallelism, ...) stays as it was written into the order.
    order = RunOrder.model_validate((old.model_dump() if old else {}) | planned)
    if order != old:
        # Two waits for the disk per run are most of what starting a short one costs; the plan holds what is in here.
        order.write(folder.order_path, durable=False)


def _old_order(folder: RunFolder) -> RunOrder | None:
    try:
        return folder.order()
    except RecordError:
        return None  # missing, or damaged: the plan says what belongs there


def _unite_roles(
    runs: Sequence[PlannedRun], folders: Mapping[str, RunFolder], decisions: Mapping[str, Decision]
) -> None:
    """A run that was complete before may have got a further role from this plan."""
    for run in runs:
        old = _old_order(folders[run.run_id])
        if old is None or decisions[run.run_id].state != "complete":
            continue
        roles = _united(old.roles, run.roles)
        if roles != old.roles:
            old.model_copy(update={"roles": roles}).write(folders[run.run_id].order_path)


def _united(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))


def _pack_windows(corpus: Corpus, runs: Sequence[PlannedRun]) -> None:
    """Pack what the runs will read, once, before processes wait for each other to do it."""
    pools = {(stream.model_copy(update={"weight": 1.0}), r.config.context) for r in runs for stream in r.config.streams}
    for stream, context in sorted(pools, key=lambda pool: (pool[0].to_json(), pool[1])):
        open_windows(corpus, stream, context)
    configs = {
        (c.context, c.validation_tokens, c.objective, c.mask_rate): c for c in (run.config for run in runs)
    }.values()
    for c in configs:
        validation_sets(corpus, c.context, c.validation_tokens, c.objective, c.mask_rate)


def _task(run: PlannedRun, folder: RunFolder, started: set[str]) -> Task:
    """After what it needs, and after its trunk, if these start too."""
    earlier = (*needed_runs(run.config), *([run.trunk] if run.trunk else []))
    after = tuple(i for i in earlier if i in started)
    return Task(run.run_id, TRAINER, (str(folder.path),), after, run.predicted_seconds)


def _outcome(decision: Decision, folder: RunFolder, result: TaskResult | None, pause: float | None) -> RunOutcome:
    """Where a run stands now: its files say so, the way its process ended only explains."""
    if result is None:
        start_reason = decision.reason if decision.start else ""
        return RunOutcome(decision.run_id, decision.state, decision.reason, start_reason)
    if result.status == "skipped":
        return RunOutcome(decision.run_id, "skipped", result.reason)
    status = folder.status()
    if status.status == "complete":
        return RunOutcome(decision.run_id, "complete", "", decision.reason)
    reason = status.reason or result.reason
    state: RunState = "diverged" if status.status == "diverged" else "failed"
    waits = result.ok and pause is not None and status.has_done(pause)
    if status.status == "interrupted" and (waits or result.exit_code == STOPPED):
        state = "interrupted"  # it was asked to stop, and did
    elif result.exit_code == TakenOver.exit_code:
        state, reason = "running", result.reason or "another process is training it"
    elif result.cause in _HOPELESS:
        reason = result.reason
        folder.condemn(reason)
    elif result.killed:
        state, reason = "interrupted", result.reason
    elif result.ok:
        reason = "the training process ended without an error, but left no record"
    return RunOutcome(decision.run_id, state, reason, decision.reason)
