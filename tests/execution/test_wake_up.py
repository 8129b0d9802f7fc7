"""A task that ends while the server is looking after another one is not forgotten."""

from __future__ import annotations

import json
import os
import select
import time

import pytest

from plm_scaling.execution import task_server


def test_a_task_that_ends_at_the_worst_moment_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draining and reaping take longer than the next task: its end falls between the two."""
    drain, reap = task_server._drain, task_server._reap

    def slow_drain(descriptor: int) -> None:
        time.sleep(0.4)
        drain(descriptor)

    def slow_reap(state: task_server._State, *, forward: bool) -> None:
        reap(state, forward=forward)
        time.sleep(0.4)

    monkeypatch.setattr(task_server, "_drain", slow_drain)
    monkeypatch.setattr(task_server, "_reap", slow_reap)
    (commands, tell), (hear, events) = os.pipe(), os.pipe()
    server = os.fork()
    if server == 0:
        os.close(tell)
        try:
            task_server.serve(commands, events, grace_s=1.0)
        finally:
            os._exit(0)
    os.close(commands)
    os.close(events)
    try:
        for k in range(6):
            command = {"start": str(k), "target": "time:sleep", "args": [0.25 * k]}
            os.write(tell, json.dumps(command).encode() + b"\n")
        assert ended(hear, 6) == {str(k) for k in range(6)}
    finally:
        os.close(tell)
        os.waitpid(server, 0)
        os.close(hear)


def ended(hear: int, wanted: int, seconds: float = 30.0) -> set[str]:
    """Tasks whose end is reported within the time."""
    found: set[str] = set()
    text, end = b"", time.monotonic() + seconds
    while len(found) < wanted and (left := end - time.monotonic()) > 0:
        if select.select([hear], [], [], left)[0]:
            text += os.read(hear, 65536)
            found = {event["ended"] for line in text.split(b"\n")[:-1] if "ended" in (event := json.loads(line))}
    return found
