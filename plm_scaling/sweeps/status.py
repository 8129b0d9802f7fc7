"""Where every run of a folder stands, from files alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from plm_scaling.core.errors import RecordError
from plm_scaling.core.run import RunConfig, RunRecord, RunStatus
from plm_scaling.core.run_folder import Attempt, RunFolder
from plm_scaling.core.run_order import RunOrder, StatusFile
from plm_scaling.corpus.format import VAL_IID
from plm_scaling.sweeps.decisions import needed_runs
from plm_scaling.sweeps.plan_records import PlannedRun, SweepPlan
from plm_scaling.sweeps.run_log import has_flag, last_error_line, last_metrics
from plm_scaling.sweeps.sizes import size_text

__all__ = ["LineState", "RunLine", "sweep_status"]

LineState = RunStatus | Literal["damaged"]
"""`damaged`: a file of the run cannot be read; the reason says which, and what to do."""

BRANCHED: Final = "BRANCHED"
"""Flag of a run that took its first steps over from its trunk."""


@dataclass(frozen=True)
class RunLine:
    """One run on the screen."""

    run_id: str
    status: LineState
    roles: str = ""
    """Comma-separated."""
    objective: str = ""
    shape: str = ""
    """Layers x width, and heads and architecture where they are not the usual ones."""
    N: int | None = None
    D: int | None = None
    """Training tokens planned."""
    step: int = 0
    n_steps: int = 0
    loss: float | None = None
    """Last training loss, nats per target."""
    val_loss: float | None = None
    """Loss on `val_iid` at the end, nats per token."""
    tokens_per_s: float | None = None
    mfu: float | None = None
    """Exact FLOP/s over the measured peak, of a running run so far; None where no peak was measured."""
    seconds_left: float | None = None
    attempts: int = 0
    reason: str = ""
    """Why it stopped, if it did before its end; what a run waits for that has not begun."""
    last_error: str = ""
    """Of a run that stopped: the last line of its log that speaks of an error."""
    D_done: int = 0
    """Tokens trained on so far; what a branch took over from its trunk is not counted."""
    D_unique: int = 0
    """Distinct ones of them. Without a record: all until the planned streams have been seen once."""
    C_exact: float = 0.0
    """Exact FLOPs spent so far; without a record by the mean cost of a token."""
    C_planned: float | None = None
    """Exact FLOPs of the whole run; None where neither a plan nor the run's own files say."""
    device_s: float = 0.0
    """Seconds of all devices so far, all attempts; of runs that share a device, this one's part."""


def sweep_status(runs_dir: Path, plan: SweepPlan | None = None) -> list[RunLine]:
    """One line per run: those of the plan in its order, then others found in the folder by id.

    A folder that cannot be read becomes a `damaged` line with the reason. Nothing is written.
    """
    planned = {run.run_id: run for run in plan.runs} if plan else {}
    present = _present(runs_dir)
    lines = [_line(RunFolder(runs_dir / run_id), run, run_id in present) for run_id, run in planned.items()]
    lines += [_line(RunFolder(runs_dir / name), None, True) for name in sorted(present) if name not in planned]
    return _waiting(lines, planned)


def _present(runs_dir: Path) -> set[str]:
    """Folders that hold a run, or what is left of one."""
    try:
        entries = list(runs_dir.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return set()
    return {
        entry.name
        for entry in entries
        if any((entry / name).exists() for name in ("run.json", "record.json", "attempts"))
    }


def _line(folder: RunFolder, run: PlannedRun | None, present: bool) -> RunLine:
    """One run; whatever is wrong with its files is said in the line."""
    begun = _planned_line(folder.path.name, run.config, run.roles) if run else RunLine(folder.path.name, "planned")
    if run:
        begun = replace(begun, C_planned=run.C_exact * run.computed_share)
    if not present:
        return begun
    try:
        order = folder.order() if folder.order_path.is_file() else None
        record = folder.record()
        config = order.config if order else record.config if record else run.config if run else None
        if config is None:
            return replace(begun, status="damaged", reason="run.json is missing")
        roles = dict.fromkeys((*(run.roles if run else ()), *(order.roles if order else ())))
        begun = replace(_planned_line(folder.path.name, config, tuple(roles)), C_planned=begun.C_planned)
        if record is not None:
            return _complete(begun, record, folder, run)
        return _unfinished(begun, folder, config, order, run)
    except (RecordError, OSError) as error:
        if not folder.path.is_dir():
            return begun  # deleted while we looked
        return replace(begun, status="damaged", reason=str(error).replace("\n", " "))


def _planned_line(run_id: str, config: RunConfig, roles: Sequence[str]) -> RunLine:
    shape = config.shape
    return RunLine(
        run_id,
        "planned",
        roles=",".join(roles),
        objective=config.objective,
        shape=size_text(shape),
        N=shape.N,
        D=config.D,
    )


def _complete(line: RunLine, record: RunRecord, folder: RunFolder, run: PlannedRun | None) -> RunLine:
    attempts = folder.attempts()
    last = attempts[-1].status() if attempts else None
    own = run.computed_share if run and BRANCHED in record.flags else 1.0
    return replace(
        line,
        status="complete",
        step=record.steps,
        n_steps=record.steps,
        loss=last.loss if last else None,
        val_loss=next((loss.per_token for loss in record.validation if loss.set_name == VAL_IID), None),
        tokens_per_s=record.tokens_per_s,
        mfu=record.mfu,
        attempts=len(attempts),
        D_done=round(record.D * own),
        D_unique=min(record.D_unique, round(record.D * own)),
        C_exact=record.C_exact * own,
        C_planned=record.C_exact * own,
        device_s=record.device_s,
    )


def _unfinished(
    line: RunLine, folder: RunFolder, config: RunConfig, order: RunOrder | None, run: PlannedRun | None
) -> RunLine:
    status, attempts = folder.status(), folder.attempts()
    reports = [report for attempt in attempts if (report := attempt.status())]
    logged = next((found for attempt in reversed(attempts) if (found := last_metrics(attempt))), {})
    D_done = max(status.D, _whole(logged.get("D")))
    begin = _begin_tokens(run, attempts)
    per_token = _flops_per_token(logged, line, config)
    running = status.status == "running"
    stopped = status.status in ("failed", "diverged", "interrupted") and bool(attempts)
    reason = "" if running else status.reason
    if stopped and attempts[-1].status() is None and attempts[-1].status_path.exists():
        reason = f"{reason or 'stopped'}; its status.json cannot be read"
    shared = order.runs_per_device if order else 1
    unique = run.unique_tokens if run else None
    return replace(
        line,
        status=status.status,
        step=status.step,
        n_steps=status.n_steps,
        loss=status.loss,
        tokens_per_s=status.tokens_per_s,
        mfu=status.mfu,
        seconds_left=_seconds_left(status, config) if running else None,
        attempts=len(attempts),
        reason=reason,
        last_error=last_error_line(attempts[-1]) if stopped else "",
        D_done=max(0, D_done - begin),
        D_unique=max(0, min(D_done, unique if unique is not None else D_done) - begin),
        C_exact=per_token * max(0, D_done - begin),
        C_planned=line.C_planned if line.C_planned is not None else per_token * config.D,
        device_s=sum(report.seconds for report in reports) / shared,
    )


def _begin_tokens(run: PlannedRun | None, attempts: Sequence[Attempt]) -> int:
    """Tokens that a branch took over from its trunk, if it says so."""
    if run is None or not run.begin_step or not any(has_flag(attempt, BRANCHED) for attempt in attempts[:1]):
        return 0
    return run.config.D - run.D_computed


def _flops_per_token(logged: dict[str, Any], line: RunLine, config: RunConfig) -> float:
    """Exact training FLOPs of a token, as the run logs them, else as planned, else 6 N."""
    flops, D = logged.get("flops"), logged.get("D")
    if isinstance(flops, int | float) and isinstance(D, int | float) and D > 0 and 0 < flops < 1e40:
        return flops / D
    if line.C_planned is not None:
        return line.C_planned / config.D
    return 6.0 * config.N


def _whole(value: object) -> int:
    return int(value) if isinstance(value, int | float) and 0 <= value < 1e18 else 0


def _seconds_left(status: StatusFile, config: RunConfig) -> float | None:
    if not status.tokens_per_s:
        return None
    return max(0.0, (config.D - status.D) / status.tokens_per_s)


def _waiting(lines: list[RunLine], planned: dict[str, PlannedRun]) -> list[RunLine]:
    """The lines, those that have not begun with what they wait for."""
    states = {line.run_id: line.status for line in lines}

    def told(line: RunLine) -> RunLine:
        run = planned.get(line.run_id)
        if run is None or line.status != "planned":
            return line
        missing = [other for other in needed_runs(run.config) if states.get(other) != "complete"]
        waits = ", ".join(f"{other} ({states.get(other, 'not planned here')})" for other in missing)
        return replace(line, reason=f"waits for {waits}") if missing else line

    return [told(line) for line in lines]
