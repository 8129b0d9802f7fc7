"""What an attempt writes while it runs: `metrics.jsonl` and, about once a second, `status.json`.

A line of `metrics.jsonl` with a `step` is a logged step. One without is a remark: `{"flag": ..., "remark": ...}`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from plm_scaling.core.run import RunStatus
from plm_scaling.core.run_folder import Attempt, RunFolder
from plm_scaling.core.run_order import StatusFile
from plm_scaling.training.meter import Meter
from plm_scaling.training.trackers import Trackers

__all__ = ["AttemptLog", "Progress", "remarked_flags"]

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
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._metrics = os.open(attempt.metrics_path, flags, 0o644) if attempt else None
        self._start: tuple[int, float] | None = None
        self._lap: tuple[int, float] = (0, 0.0)
        self._meter: Meter | None = None
        self._trackers: Trackers | None = None
        self.scoring_s = 0.0
        self.status = StatusFile(status="running", n_steps=n_steps, pid=os.getpid(), host=socket.gethostname())

    def __enter__(self) -> Self:
        self._write_status()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._trackers:
            self._trackers.close()
        if self._metrics is not None:
            os.close(self._metrics)
            self._metrics = None

    @property
    def attempt(self) -> Attempt | None:
        """Whose log this is; None in all processes of a run but the first."""
        return self._attempt

    def watch(self, meter: Meter, trackers: Trackers) -> None:
        """What turns tokens and seconds into speed, and where lines go besides; both from now on."""
        self._meter, self._trackers = meter, trackers

    @property
    def seconds(self) -> float:
        """Wall seconds of this attempt so far."""
        return time.perf_counter() - self._begin

    def is_due(self) -> bool:
        """Whether a second has passed since the last report."""
        return time.perf_counter() >= self._next

    def progress(self, step: int, D: int, loss: float | None = None) -> None:
        """Report where the run stands. The first report begins the time that speed is measured over.

        Parameters
        ----------
        step : steps completed.
        D : tokens seen.
        loss : at the last logged step, if it is known.
        """
        now = (D, self.seconds - self.scoring_s)
        if self._start is None:
            self._start = self._lap = now
        update = {"step": step, "D": D, "loss": self.status.loss if loss is None else loss}
        if self._lap[0] < D:
            update |= self._overall(now)
        self.status = self.status.model_copy(update=update)
        self._write_status()

    def _overall(self, now: tuple[int, float]) -> dict[str, float | None]:
        """Speed of this attempt."""
        tokens_per_s = _speed(self._start, now) if self._start else None
        return {"tokens_per_s": tokens_per_s, "mfu": self._meter.mfu(tokens_per_s) if self._meter else None}

    def speed(self, D: int) -> dict[str, float | None]:
        """What a line of metrics says of speed, since the line before, validation excluded; empty if nothing watches.

        Parameters
        ----------
        D : tokens seen, all of them done: nothing is still under way on a device.
        """
        if self._meter is None:
            return {}
        last, self._lap = self._lap, (D, self.seconds - self.scoring_s)
        line = self._meter.line(D, _speed(last, self._lap))
        self.status = self.status.model_copy(update={**self._overall(self._lap), "memory_bytes": line["memory_bytes"]})
        return line

    def metrics(self, **values: float | None) -> None:
        """Append a line of metrics. It survives the death of the process at once, that of the machine after `sync`."""
        line = {name: None if v is not None and not math.isfinite(v) else v for name, v in values.items()}
        self._append(line)
        if self._trackers:
            self._trackers.write(line)

    def warn(self, remark: str, flag: str = "") -> None:
        """Say something aloud: on standard error, which is an attempt's log in a sweep, and among the metrics.

        Parameters
        ----------
        flag : the record will carry it, however many attempts later the run ends.
        """
        if self._attempt is not None:
            print(f"{flag}: {remark}" if flag else remark, file=sys.stderr, flush=True)
            self._append({"flag": flag, "remark": remark})

    def _append(self, line: Mapping[str, Any]) -> None:
        """One call per line, and none or all of it: readers may look at any time, and a disk may be full."""
        if self._metrics is None:
            return
        data = (json.dumps(line, allow_nan=False) + "\n").encode("ascii")
        size = os.fstat(self._metrics).st_size
        try:
            written = os.write(self._metrics, data)
            if written < len(data):
                os.write(self._metrics, data[written:])
        except OSError:
            os.ftruncate(self._metrics, size)
            raise

    def sync(self) -> None:
        """Make the metrics as durable as the checkpoint about to be written."""
        if self._metrics is not None:
            os.fsync(self._metrics)

    def end(self, status: RunStatus, reason: str = "") -> None:
        """The last report of this attempt."""
        self.status = self.status.model_copy(update={"status": status, "reason": reason})
        self._write_status(last=True)

    def _write_status(self, *, last: bool = False) -> None:
        self.status = self.status.model_copy(update={"time": time.time(), "seconds": self.seconds})
        if self._attempt is None:
            return
        # A hint that is rewritten all the time: replaced as a whole, but not worth an fsync.
        path: Path = self._attempt.status_path
        tmp = path.with_name(".status.json.tmp")
        text = self.status.to_json()
        try:
            tmp.write_text(text)
            tmp.replace(path)
        except OSError:  # a full disk: the run does not need its status, but people want to know how it ended
            with contextlib.suppress(OSError):
                tmp.unlink(missing_ok=True)
                if last:
                    _overwrite(path, text)
        self._next = time.perf_counter() + _STATUS_EVERY_S
        if self._on_progress:
            self._on_progress(self.status)


def _speed(begin: tuple[int, float], end: tuple[int, float]) -> float | None:
    """Tokens per second between two (tokens, seconds)."""
    tokens, seconds = end[0] - begin[0], end[1] - begin[1]
    return tokens / seconds if tokens > 0 and seconds > 0 else None


def _overwrite(path: Path, text: str) -> None:
    """Write into the space that a file of one block already has."""
    with path.open("r+b", buffering=0) as handle:
        handle.write(text.encode().ljust(os.fstat(handle.fileno()).st_size))
        handle.truncate(len(text.encode()))


def remarked_flags(folder: RunFolder) -> tuple[str, ...]:
    """Flags of the remarks of all attempts, each once, in order."""
    found: dict[str, None] = {}
    for attempt in folder.attempts():
        if not attempt.metrics_path.is_file():
            continue
        for line in attempt.metrics_path.read_text(errors="replace").splitlines():
            try:
                value = json.loads(line)
            except ValueError:
                continue  # cut short by a kill
            if isinstance(value, dict) and value.get("flag"):
                found[str(value["flag"])] = None
    return tuple(found)
