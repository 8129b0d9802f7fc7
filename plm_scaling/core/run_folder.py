"""A run's folder: names of its files, and readers. Training writes it, sweeps and reports read it. No torch.

runs/ID/run.json                 `RunOrder`
runs/ID/attempts/K/status.json   `StatusFile` of attempt K (0001, 0002, ...)
runs/ID/attempts/K/metrics.jsonl one line per logged step; one writer per file, a torn last line is skipped
runs/ID/attempts/K/log           what the process printed
runs/ID/owner                    number of the attempt that may write the files below, and a token: the latest to begin
runs/ID/checkpoint/              step-*.safetensors (the last two), final.safetensors (weights only),
                                 kept-*.safetensors (for other runs to branch from), step-*.damaged; of a sharded run
                                 step-*.dcp/, kept-*.dcp/, damaged-*.dcp/ (DCP's files, and complete.json, written last)
runs/ID/metrics.parquet          the attempts' lines merged, the last attempt wins per step
runs/ID/val.parquet              loss of every validation sequence
runs/ID/halted.json              `Halt`: why a paused run was not worth its rest
runs/ID/record.json              `RunRecord`, written last: a run without it is not complete
runs/ID/lock                     held by the running process; the operating system frees it when the process dies
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plm_scaling.core.errors import RecordError, TakenOver
from plm_scaling.core.files import write_atomic
from plm_scaling.core.halt import Halt
from plm_scaling.core.run import RunRecord
from plm_scaling.core.run_order import RunOrder, StatusFile

__all__ = ["Attempt", "RunFolder"]

_LOCK_PATIENCE_S = 2.0  # a reader's probe holds the lock for microseconds


@dataclass(frozen=True)
class Attempt:
    """One attempt's folder. Only the attempt itself writes there."""

    path: Path
    token: str = ""
    """What it wrote into `owner` when it began; empty for an attempt that is only looked at."""

    @property
    def number(self) -> int:
        """1 for the first attempt."""
        return int(self.path.name)

    @property
    def status_path(self) -> Path:
        """`status.json`."""
        return self.path / "status.json"

    @property
    def metrics_path(self) -> Path:
        """`metrics.jsonl`."""
        return self.path / "metrics.jsonl"

    @property
    def log_path(self) -> Path:
        """What the process printed."""
        return self.path / "log"

    def status(self) -> StatusFile | None:
        """The last report; None if the attempt died before its first one."""
        try:
            return StatusFile.read(self.status_path)
        except RecordError:
            return None

    def metrics(self) -> list[dict[str, Any]]:
        """The logged lines; a line cut short by a kill is skipped."""
        if not self.metrics_path.is_file():
            return []
        lines = []
        for line in self.metrics_path.read_text(errors="replace").splitlines():
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict) and "step" in value:
                lines.append(value)
        return lines


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run."""

    path: Path

    @classmethod
    def holding(cls, path: Path) -> RunFolder | None:
        """The run that `path` is the folder of, or the final weights; None for anything else."""
        for folder in (cls(path), cls(path.parent.parent)):
            if folder.order_path.is_file() and path in (folder.path, folder.weights_path):
                return folder
        return None

    @property
    def order_path(self) -> Path:
        """`run.json`."""
        return self.path / "run.json"

    @property
    def record_path(self) -> Path:
        """`record.json`, written last."""
        return self.path / "record.json"

    @property
    def halted_path(self) -> Path:
        """`halted.json`."""
        return self.path / "halted.json"

    @property
    def metrics_path(self) -> Path:
        """`metrics.parquet`: step, D, loss, lr, grad_norm, val_loss, and what was measured: speed, memory, FLOPs."""
        return self.path / "metrics.parquet"

    @property
    def val_path(self) -> Path:
        """`val.parquet`: set, row, loss_sum, n_targets, residue_loss_sum, n_residue_targets."""
        return self.path / "val.parquet"

    @property
    def checkpoint_path(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoint"

    @property
    def weights_path(self) -> Path:
        """Final weights of a complete run."""
        return self.checkpoint_path / "final.safetensors"

    def order(self) -> RunOrder:
        """What the run was told to do.

        Raises
        ------
        RecordError : no `run.json`, or a damaged one.
        """
        return RunOrder.read(self.order_path)

    def record(self) -> RunRecord | None:
        """What the run left behind; None while it is not complete."""
        return RunRecord.read(self.record_path) if self.record_path.is_file() else None

    def halt(self) -> Halt | None:
        """Why the rest of the run was not worth its compute; None for a run that is complete, or was not halted."""
        if self.record_path.is_file() or not self.halted_path.is_file():
            return None
        return Halt.read(self.halted_path)

    def attempts(self) -> tuple[Attempt, ...]:
        """All attempts, oldest first."""
        folder = self.path / "attempts"
        if not folder.is_dir():
            return ()
        return tuple(Attempt(path) for path in sorted(folder.iterdir()) if path.name.isdigit())

    def condemn(self, reason: str) -> bool:
        """Have a run whose process is gone count as failed, for a reason that only others know; False if one trains it.

        A process that was killed for its memory cannot say so, and starting it again would end the same way.
        """
        attempts = self.attempts()
        if not attempts:
            return False
        try:
            with self.locked():
                last = attempts[-1].status() or StatusFile(status="failed")
                last.model_copy(update={"status": "failed", "reason": reason}).write(attempts[-1].status_path)
        except TakenOver:
            return False
        return True

    @property
    def owner_path(self) -> Path:
        """`owner`: which attempt may write what all attempts share."""
        return self.path / "owner"

    def new_attempt(self) -> Attempt:
        """Make the next attempt's folder, and make it the owner of the run. Call it only while holding the lock.

        Where the lock is worth nothing (a network file system without locks, a lost node that comes back), two may
        come here at once: they get folders of their own, and the last to write `owner` has the run.
        """
        (self.path / "attempts").mkdir(parents=True, exist_ok=True)
        while True:
            attempts = self.attempts()
            path = self.path / "attempts" / f"{attempts[-1].number + 1 if attempts else 1:04d}"
            try:
                path.mkdir()
            except FileExistsError:
                continue
            token = f"{path.name} {secrets.token_hex(8)}"
            write_atomic(path / "owner", token)  # by way of a name that no other process has
            (path / "owner").replace(self.owner_path)
            return Attempt(path, token)

    def check_owner(self, attempt: Attempt) -> None:
        """Make sure that an attempt still has the run; to be asked ahead of every write of what attempts share.

        Raises
        ------
        TakenOver : a later attempt has begun, or the run's folder was deleted.
        """
        try:
            owner = self.owner_path.read_text()
        except FileNotFoundError:
            owner = ""
        if owner == attempt.token:
            return
        raise TakenOver(
            f"attempt {attempt.number} of this run was overtaken and has stopped",
            where=str(self.path),
            why=f"attempt {int(owner.split()[0])} has begun since" if owner else "its folder was deleted",
            hint="nothing: the other one goes on" if owner else "run the plan again to train it anew",
        )

    def status(self) -> StatusFile:
        """Where the run stands, from its files: `running` only while a process holds the lock."""
        attempts = self.attempts()
        last = attempts[-1].status() if attempts else None
        if self.record_path.is_file():
            return (last or StatusFile(status="complete")).model_copy(update={"status": "complete"})
        if not attempts:
            return StatusFile(status="running" if self.is_running() else "planned")
        last = last or StatusFile(status="running")
        if self.halted_path.is_file() and last.status in ("interrupted", "running") and not self.is_running():
            halt = self.halt()
            return last.model_copy(update={"status": "halted", "reason": halt.reason if halt else ""})
        if last.status in ("running", "complete") and not self.is_running():
            return last.model_copy(update={"status": "interrupted", "reason": last.reason or "the process is gone"})
        return last

    def metrics(self) -> list[dict[str, Any]]:
        """Logged lines of all attempts by step; a step logged twice counts as the last attempt wrote it."""
        merged = {line["step"]: line for attempt in self.attempts() for line in attempt.metrics()}
        return [merged[step] for step in sorted(merged)]

    def latest_metrics(self) -> dict[str, Any] | None:
        """The last logged line, None before the first."""
        lines = self.metrics()
        return lines[-1] if lines else None

    def sibling(self, run_id: str) -> RunFolder:
        """Another run of the same study, by id (`init_from`)."""
        return RunFolder(self.path.parent / run_id)

    def is_running(self) -> bool:
        """Whether a live process holds the lock."""
        try:
            handle = os.open(self.path / "lock", os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(handle)
        return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's lock, so that of two starters only one writes.

        Raises
        ------
        TakenOver : another process holds it.
        """
        handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _take(handle, self.path)
            yield
        finally:
            os.close(handle)


def _take(handle: int, path: Path) -> None:
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            if time.monotonic() > deadline:
                raise TakenOver(
                    "another process is training this run",
                    where=str(path),
                    hint="wait for it, or stop it; `plm-scaling status` shows its pid and host",
                ) from None
            time.sleep(0.05)
