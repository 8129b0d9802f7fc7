from __future__ import annotations

import io
import re
import time
from pathlib import Path

import pytest

from plm_scaling.cli import sweep_progress
from plm_scaling.cli.sweep_progress import SweepProgress
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import StatusFile
from plm_scaling.execution.local import TaskEvent


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def begin(runs: Path, name: str) -> None:
    status = StatusFile(status="running", step=25, n_steps=100, D=5_000, loss=2.5, tokens_per_s=1_000.0)
    status.write(RunFolder(runs / name).new_attempt().status_path)


def test_without_a_terminal_there_is_a_line_per_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin(tmp_path, "one")
    with SweepProgress(tmp_path) as progress:
        progress.on_event(TaskEvent("one", "started", 2, pid=1))
        progress.on_event(TaskEvent("one", "done", 2))
        progress.on_event(TaskEvent("two", "skipped", 2))
    # A quarter is done at 1,000 tokens/s: 15,000 tokens remain.
    assert capsys.readouterr().err.splitlines() == [
        "[1/2] one done after 0 s   25 %  loss 2.500  1k tokens/s  15 s left",
        "[2/2] two skipped after 0 s  starting",
    ]


def test_on_a_terminal_running_models_are_shown_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(sweep_progress, "REFRESH_S", 0.01)
    monkeypatch.setenv("TERM", "xterm")
    begin(tmp_path, "one")
    with SweepProgress(tmp_path) as progress:
        progress.on_event(TaskEvent("one", "started", 1, pid=1))
        deadline = time.monotonic() + 30
        while "one  " not in terminal.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
        shown = terminal.getvalue()
        progress.on_event(TaskEvent("one", "done", 1))
    assert re.search(r"one  +25 % .* 15 s left", re.sub(r"\x1b\[[0-9;?]*[a-z]", "", shown))
    assert "[1/1]" not in shown
    assert "[1/1] one done" in terminal.getvalue()
