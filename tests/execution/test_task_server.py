"""The server in this process: what it answers to a given stream of commands, without a caller."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from plm_scaling.execution.task_server import call_target, serve


class Client:
    """What a server in this process reads from and writes to.

    Commands go through a socket: its shutdown is an end of input even though the tasks forked here hold a copy of it.
    """

    def __init__(self) -> None:
        self._to_server, self._commands = socket.socketpair()
        self.commands = self._commands.fileno()
        self._from_server, self.events = os.pipe()
        self._lines = os.fdopen(self._from_server, "rb")

    def ask(self, key: str, target: str, *args: Any) -> None:
        self._to_server.sendall(json.dumps({"start": key, "target": target, "args": args}).encode() + b"\n")

    def hang_up(self) -> None:
        self._to_server.shutdown(socket.SHUT_WR)

    def next_event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self._lines.readline())
        return event

    def close(self) -> None:
        for end in (self._to_server, self._commands):
            end.close()
        os.close(self.events)
        self._lines.close()


@pytest.fixture
def client() -> Any:
    client = Client()
    yield client
    client.close()


def hang_up_when(client: Client, n_ended: int, seen: list[dict[str, Any]]) -> threading.Thread:
    """Read events in a thread until `n_ended` tasks have ended, then close the command stream."""

    def read() -> None:
        while sum("ended" in event for event in seen) < n_ended:
            seen.append(client.next_event())
        client.hang_up()

    thread = threading.Thread(target=read)
    thread.start()
    return thread


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_every_command_is_answered_by_a_start_and_an_end(targets: str, client: Client) -> None:
    seen: list[dict[str, Any]] = []
    client.ask("good", f"{targets}:exit_code", 0)
    client.ask("bad", f"{targets}:fail", "why")
    client.ask("killed", f"{targets}:killed", int(signal.SIGKILL))
    thread = hang_up_when(client, 3, seen)
    handlers = [signal.getsignal(n) for n in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)]
    serve(client.commands, client.events, grace_s=1.0)
    thread.join(10)
    assert [event["started"] for event in seen if "started" in event] == ["good", "bad", "killed"]
    ended = {event["ended"]: event for event in seen if "ended" in event}
    assert ended["good"]["code"] == 0
    assert ended["bad"]["code"] == 1
    assert ended["bad"]["error"] == "ValueError: why"
    assert "in fail" in ended["bad"]["detail"]
    assert ended["killed"] == {"ended": "killed", "code": -signal.SIGKILL}
    assert [signal.getsignal(n) for n in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)] == handlers


@pytest.mark.parametrize("stubborn", [False, True])
def test_end_of_input_ends_running_tasks(targets: str, client: Client, tmp_path: Path, stubborn: bool) -> None:
    mark = tmp_path / "pid"
    client.ask("t", f"{targets}:sleep_for_ever", str(mark), stubborn)

    def hang_up() -> None:
        while not mark.exists():
            time.sleep(0.005)
        client.hang_up()

    thread = threading.Thread(target=hang_up)
    thread.start()
    serve(client.commands, client.events, grace_s=0.2 if stubborn else 20.0)
    thread.join(10)
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


def test_sigterm_ends_the_server_as_the_end_of_input_does(targets: str, client: Client, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    client.ask("t", f"{targets}:sleep_for_ever", str(mark))

    def terminate() -> None:
        while not mark.exists():
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=terminate)
    thread.start()
    serve(client.commands, client.events, grace_s=20.0)
    thread.join(10)
    client.hang_up()
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


def test_call_target(targets: str) -> None:
    assert call_target(f"{targets}:exit_code", [None]) == (0, {})
    assert call_target(f"{targets}:exit_code", [3]) == (3, {})
    assert call_target(f"{targets}:exit_code", [259]) == (3, {})
    assert call_target(f"{targets}:leave", [None]) == (0, {})
    code, error = call_target(f"{targets}:exit_code", ["text"])
    assert code == 1
    assert error["error"].startswith("ValueError")
