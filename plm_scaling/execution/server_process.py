"""The caller's end of the task server: starts it, talks to it, and leaves no process behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

__all__ = ["ServerProcess", "exit_text"]

_THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_PATIENCE_S = 5.0
"""Beyond the tasks' grace period, for the server itself to end."""
_SERVER: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from plm_scaling.execution import task_server; task_server.main()"
)


def exit_text(code: int) -> str:
    """An exit code, or the signal behind a negative one, in words."""
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"killed by {name}" + (" (by hand, or out of memory)" if -code == signal.SIGKILL else "")


class ServerProcess:
    """The task server's process, its commands and events; a context that leaves no process behind."""

    def __init__(self, threads: int, preload: Sequence[str], grace_s: float) -> None:
        self._grace_s = grace_s
        self._pids: dict[str, int] = {}
        self.gone = self.answered = False
        path = [entry or os.getcwd() for entry in sys.path]
        command = [sys.executable, "-c", _SERVER, json.dumps(path), json.dumps(list(preload)), str(grace_s)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | dict.fromkeys(_THREAD_VARIABLES, str(threads)),
            start_new_session=True,  # the terminal's Ctrl-C reaches the caller alone, who then ends the tasks in order
        )

    def start(self, key: str, target: str, args: Sequence[Any]) -> None:
        """Ask for a task; a server that is gone is noticed by `next_event`."""
        assert self._process.stdin is not None
        line = json.dumps({"start": key, "target": target, "args": list(args)})
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def next_event(self) -> dict[str, Any] | None:
        """The next event, waiting for it; None when the server is gone."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            self.gone = True
            return None
        self.answered = True
        event: dict[str, Any] = json.loads(line)
        if "started" in event:
            self._pids[event["started"]] = event["pid"]
        else:
            self._pids.pop(event["ended"], None)
        return event

    def exit_text(self) -> str:
        """How the server's process ended."""
        return exit_text(self._process.wait())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(self._grace_s + _PATIENCE_S)
        except BaseException as trouble:  # out of patience, or a second Ctrl-C: no more grace
            self._kill()
            if not isinstance(trouble, subprocess.TimeoutExpired):
                raise
        finally:
            self._process.stdout.close()

    def _kill(self) -> None:
        # The server alone reaps the tasks, so while it lives their ids are theirs.
        for pid in self._pids.values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
