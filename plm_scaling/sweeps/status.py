"""Where every run of a folder stands, from files alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from plm_scaling.core.errors import RecordError
from plm_scaling.core.run import RunConfig, RunStatus
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import StatusFile
from plm_scaling.corpus.format import VAL_IID
from plm_scaling.sweeps.plan_records import SweepPlan
from plm_scaling.sweeps.sizes import size_text

__all__ = ["RunLine", "sweep_status"]


@dataclass(frozen=True)
class RunLine:
    """One run on the screen."""

    run_id: str
    status: RunStatus
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
    seconds_left: float | None = None
    attempts: int = 0
    reason: str = ""
    """Why it stopped, if it did before its end."""


def sweep_status(runs_dir: Path, plan: SweepPlan | None = None) -> list[RunLine]:
    """One line per run: those of the plan in its order, then others found in the folder by id.

    A folder that cannot be read becomes a failed line with the reason. Nothing is written.
    """
    planned = {run.run_id: run for run in plan.runs} if plan else {}
    present = (
        sorted(path.name for path in runs_dir.iterdir() if (path / "run.json").is_file()) if runs_dir.is_dir() else []
    )
    lines = []
    for run_id in (*planned, *(name for name in present if name not in planned)):
        run = planned.get(run_id)
        lines.append(_line(RunFolder(runs_dir / run_id), run.config if run else None, run.roles if run else ()))
    return lines


def _line(folder: RunFolder, config: RunConfig | None, roles: tuple[str, ...]) -> RunLine:
    run_id = folder.path.name
    try:
        if folder.order_path.is_file():
            order = folder.order()
            config, roles = order.config, tuple(dict.fromkeys((*roles, *order.roles)))
        status = folder.status()
        record = folder.record()
    except RecordError as error:
        return RunLine(run_id, "failed", ",".join(roles), reason=str(error).replace("\n", " "))
    assert config is not None  # the folder has an order, or the plan has the run
    losses = {loss.set_name: loss.per_token for loss in record.validation} if record else {}
    running = status.status == "running"
    return RunLine(
        run_id=run_id,
        status=status.status,
        roles=",".join(roles),
        objective=config.objective,
        shape=size_text(config.shape),
        N=config.N,
        D=config.D,
        step=record.steps if record else status.step,
        n_steps=record.steps if record else status.n_steps,
        loss=status.loss,
        val_loss=losses.get(VAL_IID),
        tokens_per_s=record.tokens_per_s if record else status.tokens_per_s,
        seconds_left=_seconds_left(status, config) if running else None,
        attempts=len(folder.attempts()),
        reason="" if status.status in ("complete", "running") else status.reason,
    )


def _seconds_left(status: StatusFile, config: RunConfig) -> float | None:
    if not status.tokens_per_s:
        return None
    return max(0.0, (config.D - status.D) / status.tokens_per_s)
