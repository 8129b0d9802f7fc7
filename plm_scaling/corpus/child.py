"""An external program that ends when we do, however we do."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

__all__ = ["run_child"]

# The program and what it starts are one process group. A watcher in that group waits on a pipe whose other end only we
# hold: when we die, even by SIGKILL, the pipe closes and the watcher kills the group.
_GUARD: Final = """
exec 3<&0
(read -r _ <&3; kill -KILL 0) >/dev/null 2>&1 &
watcher=$!
"$@" 3<&- </dev/null
code=$?
kill "$watcher"
exit "$code"
"""


def run_child(command: Sequence[str], log: Path, *, cwd: Path) -> int:
    """Run a program to its end; what it prints replaces the content of `log`.

    It ends with us: on any exception here (Ctrl-C), and when this process is killed.

    Returns
    -------
    int : its exit code, 128 + n if signal n killed it.
    """
    with log.open("wb") as out:
        child = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "sh", *command],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            start_new_session=True,
        )
        try:
            return child.wait()
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            raise
        finally:
            if child.stdin is not None:
                child.stdin.close()
