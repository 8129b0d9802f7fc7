"""What an attempt writes while it runs: `metrics.jsonl` and, about once a second, `status.json`."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TextIO

from plm_scaling.core.run import RunStatus
from plm_scaling.core.run_folder import Attempt
from plm_scaling.core.run_order import StatusFile

__all__ = ["AttemptLog", "Progress"]

Progress = Callable[[StatusFile], None]

_STATUS_EVERY_S: Final = 1.0


class AttemptLog:
    """Writes one attempt's files; a context manager.

    Parameters
    ----------
    attempt : its folder; None writes nothing (all processes of a run but the first).
    n_steps : steps of the whole run.
    on_progress : called with every status written.
    """

    def __init__(self, attempt: Attempt | None, n_steps: int, on_progress: Progress | None = None) -> None:
        self._attempt, self._on_progress = attempt, on_progress
        self._begin = time.perf_counter()
        self._next = self._begin
        self._metrics: TextIO | None = attempt.metrics_path.open("a", encoding="ascii") if attempt else None
        self._first_D: int | None = None
        self.scoring_s = 0.0
        self.status = StatusFile(status="running", n_steps=n_steps, pid=os.getpid(), host=socket.gethostname())

    def __enter__(self) -> Self:
        self._write_status()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._metrics:
            self._metrics.close()

    @property
    def seconds(self) -> float:
        """Wall seconds of this attempt so far."""
        return time.perf_counter() - self._begin

    def is_due(self) -> bool:
        """Whether a second has passed since the last report."""
        return time.perf_counter() >= self._next

    def progress(self, step: int, D: int, loss: float | None = None) -> None:
        """Report where the run stands.

        Parameters
        ----------
        step : steps completed.
        D : tokens seen.
        loss : at the last logged step, if it is known.
        """
        first = self._first_D = D if self._first_D is None else self._first_D
        seconds = self.seconds - self.scoring_s
        self.status = self.status.model_copy(
            update={
                "step": step,
                "D": D,
                "loss": self.status.loss if loss is None else loss,
                "tokens_per_s": (D - first) / seconds if seconds > 0 and first < D else None,
            }
        )
        self._write_status()

    def metrics(self, **values: float | None) -> None:
        """Append a line of metrics. It survives the death of the process at once, that of the machine after `sync`."""
        if self._metrics:
            self._metrics.write(json.dumps(values) + "\n")
            self._metrics.flush()

    def sync(self) -> None:
        """Make the metrics as durable as the checkpoint about to be written."""
        if self._metrics:
            os.fsync(self._metrics.fileno())

    def end(self, status: RunStatus, reason: str = "") -> None:
        """The last report of this attempt."""
        self.status = self.status.model_copy(update={"status": status, "reason": reason})
        self._write_status()

    def _write_status(self) -> None:
        self.status = self.status.model_copy(update={"time": time.time(), "seconds": self.seconds})
        if self._attempt is None:
            return
        # A hint that is rewritten all the time: replaced as a whole, but not worth an fsync.
        path: Path = self._attempt.status_path
        tmp = path.with_name(".status.json.tmp")
        tmp.write_text(self.status.to_json())
        tmp.replace(path)
        self._next = time.perf_counter() + _STATUS_EVERY_S
        if self._on_progress:
            self._on_progress(self.status)
