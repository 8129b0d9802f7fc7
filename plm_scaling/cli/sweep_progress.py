"""A live screen of a sweep on stderr: one bar for the sweep, one line per running model."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.units import format_count

if TYPE_CHECKING:
    from plm_scaling.execution.local import TaskEvent

__all__ = ["SweepProgress"]

REFRESH_S = 1.0


class SweepProgress:
    """Shows progress while the sweep's tasks run; on a terminal a live display, elsewhere one line per event."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self.live = sys.stderr.isatty()
        self.running: dict[str, float] = {}
        self.done = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._display: Any = None

    def __enter__(self) -> Self:
        if self.live:
            from rich.console import Console
            from rich.live import Live

            self._display = Live(console=Console(stderr=True), refresh_per_second=2, transient=True)
            self._display.start()
            self._thread = threading.Thread(target=self._refresh, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()
            self._display.stop()

    def on_event(self, event: TaskEvent) -> None:
        """Take note of a started or finished task."""
        if event.kind == "started":
            self.running[event.key] = time.monotonic()
            return
        now = time.monotonic()
        took = now - self.running.pop(event.key, now)
        self.done += 1
        line = self._line(event.key)
        text = f"[{self.done}/{event.total}] {event.key} {event.kind} after {took:.0f} s  {line}"
        if self.live:
            self._display.console.print(text, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def _refresh(self) -> None:
        while not self._stop.wait(REFRESH_S):
            self._display.update("\n".join(f"  {key}  {self._line(key)}" for key in sorted(self.running)))

    def _line(self, key: str) -> str:
        status = RunFolder(self.runs / key).status()
        if status is None or not status.n_steps:
            return "starting"
        share = 100 * status.step / status.n_steps
        speed = status.tokens_per_s or 0.0
        left = (status.n_steps - status.step) / max(1, status.step) * status.D / speed if speed and status.step else 0
        loss = f"loss {status.loss:.3f}  " if status.loss is not None else ""
        return f"{share:3.0f} %  {loss}{format_count(speed)} tokens/s  {left:.0f} s left"
