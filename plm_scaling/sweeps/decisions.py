"""Why a run starts, or why it does not: read from its folder alone, so that a rerun does what is left and no more."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from plm_scaling.core.errors import RecordError
from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import StatusFile
from plm_scaling.core.weight_identity import is_foreign
from plm_scaling.sweeps.plan_records import PlannedRun

__all__ = ["Decision", "RunState", "decide", "decide_all", "needed_runs"]

RunState = Literal["planned", "running", "interrupted", "halted", "failed", "diverged", "complete", "skipped"]


@dataclass(frozen=True)
class Decision:
    """Whether a run starts, where it stands before that, and the reason for the decision."""

    run_id: str
    start: bool
    state: RunState
    reason: str


def needed_runs(config: RunConfig) -> tuple[str, ...]:
    """Ids of the runs that have to be complete before this one begins: what it starts from, and its teacher."""
    named = (config.init_from, config.teacher)
    return tuple(dict.fromkeys(name for name in named if name is not None and not is_foreign(name)))


def decide(
    folder: RunFolder,
    *,
    retry_failed: bool,
    max_attempts: int,
    held: Collection[str] = (),
    resume_halted: bool = False,
) -> Decision:
    """What to do with one run; `held` are those that a dead controller left in a scheduler's hands.

    A run that has not begun or was interrupted starts. A failed or halted one starts only if asked to, a diverged one
    never: it is deterministic. One whose process was killed `max_attempts` times in a row, without getting any further,
    counts as failed.
    """
    run_id = folder.path.name
    try:
        record = folder.record()
    except RecordError as error:
        return Decision(run_id, False, "failed", f"record.json cannot be read ({error.what}): delete it to train again")
    if record is not None and record.status == "complete":
        return Decision(run_id, False, "complete", "already complete")
    status = folder.status()
    if status.status == "planned":
        return Decision(run_id, True, "planned", "not begun")
    if status.status == "running":
        if run_id in held:
            return Decision(run_id, True, "running", "its job goes on and is taken over")
        place = f"process {status.pid} on {status.host}" if status.pid else "another process"
        return Decision(run_id, False, "running", f"{place} is training it")
    if status.status == "diverged" or (record is not None and record.status == "diverged"):
        return Decision(run_id, False, "diverged", f"diverged and would again, lower lr_factor ({status.reason})")
    if status.status == "failed":
        return Decision(run_id, retry_failed, "failed", f"failed: {status.reason}")
    if status.status == "halted":
        return Decision(run_id, resume_halted, "halted", f"halted: {status.reason}")
    deaths = _deaths_on_the_spot(folder)
    if deaths >= max_attempts and not retry_failed:
        return Decision(run_id, False, "failed", f"killed {deaths} times in a row{_at(status)}")
    return Decision(run_id, True, "interrupted", f"interrupted{_at(status)}")


def decide_all(
    runs: Sequence[PlannedRun],
    folders: Mapping[str, RunFolder],
    *,
    retry_failed: bool,
    max_attempts: int,
    held: Collection[str] = (),
    resume_halted: bool = False,
) -> dict[str, Decision]:
    """Decisions by run id. A run is skipped where one it needs neither is complete nor starts, with that one's reason.

    A branch does not need its trunk: without the trunk's state it trains from scratch.
    """
    found: dict[str, Decision] = {}
    for run in runs:
        folder = folders[run.run_id]
        decision = decide(
            folder, retry_failed=retry_failed, max_attempts=max_attempts, held=held, resume_halted=resume_halted
        )
        for source_id in needed_runs(run.config) if decision.start else ():
            source = found.get(source_id) or decide(folder.sibling(source_id), retry_failed=False, max_attempts=0)
            if source_id not in found and source.start:
                reason = f"needs {source_id}, which is not complete and not part of this plan"
                decision = Decision(run.run_id, False, "skipped", reason)
            elif not source.start and source.state != "complete":
                decision = Decision(run.run_id, False, "skipped", f"needs {source_id}: {source.reason}")
        found[run.run_id] = decision
    return found


def _deaths_on_the_spot(folder: RunFolder) -> int:
    """Latest attempts that ended without a word (killed, out of memory, a lost machine), none further than the first.

    A run on machines that are taken away every few hours dies often and still comes to its end.
    """
    count, furthest = 0, 0
    for attempt in reversed(folder.attempts()):
        status = attempt.status()
        if status is not None and status.status != "running":
            break
        step = status.step if status else 0
        if count and step < furthest:
            break
        count, furthest = count + 1, max(furthest, step)
    return count


def _at(status: StatusFile) -> str:
    where = f" at step {status.step} of {status.n_steps}" if status.n_steps else ""
    return f"{where} ({status.reason})" if status.reason else where
