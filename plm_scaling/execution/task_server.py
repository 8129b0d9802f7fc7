"""The warm process that tasks are forked from: modules are imported once, yet each task is a process of its own.

It reads commands (one JSON object per line) from its standard input and answers with events on its standard output:

    {"start": KEY, "target": "module:function", "args": [...]}    ->  {"started": KEY, "pid": PID}
                                                                  ->  {"ended": KEY, "code": CODE, "error": TEXT, ...}

End of input, or SIGTERM, means stop: running tasks get SIGTERM, and SIGKILL after a grace period. So tasks never
outlive whoever asked for them, however that process ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from plm_scaling.execution.tasks import error_fields

__all__ = ["call_target", "invoke", "main", "report_of", "serve"]

_REPORT_LIMIT: Final = 16_000
"""Bytes of an error report: below the 64 KiB of a pipe, so that a dying task never waits for its reader."""
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True)
class _Child:
    key: str
    pid: int
    report: int
    """Read end of the pipe on which the task leaves its error."""


@dataclass
class _State:
    commands: int
    events: int
    wake: tuple[int, int]
    children: dict[int, _Child] = field(default_factory=dict)
    stopping: bool = False

    def private_descriptors(self) -> list[int]:
        """What a task must not inherit."""
        return [self.commands, self.events, *self.wake, *(child.report for child in self.children.values())]

    def send(self, event: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody is listening any more: the end of input says so too
            os.write(self.events, json.dumps(event).encode() + b"\n")


def main() -> None:
    """Serve on standard input and output; the preloaded modules and the grace period come as arguments."""
    preload: list[str] = json.loads(sys.argv[2])
    grace_s = float(sys.argv[3])
    commands, events = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)  # a preloaded module or a task that prints must not write into the event stream
    for name in preload:
        with contextlib.suppress(ImportError):  # the task that needs the module reports it, with its reason
            importlib.import_module(name)
    # A full collection in a task would touch every object of these modules, and so copy all their pages.
    gc.collect()
    gc.freeze()
    serve(commands, events, grace_s=grace_s)


def serve(commands: int, events: int, *, grace_s: float) -> None:
    """Fork a task per command until the end of `commands`, then end what still runs.

    Parameters
    ----------
    commands, events : file descriptors to read commands from and to write events to.
    grace_s : seconds between SIGTERM and SIGKILL for the tasks that run at the end of input.
    """
    wake_read, wake_write = os.pipe()
    for descriptor in (wake_read, wake_write):
        os.set_blocking(descriptor, False)
    state = _State(commands, events, (wake_read, wake_write))

    def stop(_number: int, _frame: object) -> None:
        state.stopping = True

    handlers: dict[int, Any] = {signal.SIGCHLD: _ignore, signal.SIGTERM: stop, signal.SIGINT: signal.SIG_IGN}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    old_wakeup = signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    try:
        _loop(state)
    finally:
        _stop_children(state, grace_s)
        signal.set_wakeup_fd(old_wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        for descriptor in state.wake:
            os.close(descriptor)


def _ignore(_number: int, _frame: object) -> None:
    """A handler that only lets the signal wake the selector (SIG_IGN would lose exit codes)."""


def _loop(state: _State) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(state.commands, selectors.EVENT_READ)
        selector.register(state.wake[0], selectors.EVENT_READ)
        pending = b""
        while not state.stopping:
            ready = {key.fd for key, _ in selector.select()}
            # Drained before it is looked who has ended: a task that ends in between wakes the selector once more.
            _drain(state.wake[0])
            _reap(state, forward=True)
            if state.commands not in ready:
                continue
            data = os.read(state.commands, 65536)
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                _start(state, json.loads(line))


def _drain(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while os.read(descriptor, 4096):
            pass


def _start(state: _State, command: dict[str, Any]) -> None:
    read_end, write_end = os.pipe()
    server = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _become_task(server, write_end, [*state.private_descriptors(), read_end], command)
    os.close(write_end)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.setpgid(pid, pid)  # here and in the child: whoever comes first
    state.children[pid] = _Child(command["start"], pid, read_end)
    state.send({"started": command["start"], "pid": pid})


def _become_task(server: int, report: int, inherited: Sequence[int], command: dict[str, Any]) -> None:
    """Everything between fork and exit of a task; never returns."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        for descriptor in inherited:
            os.close(descriptor)
        _end_with(server)
        code, error = call_target(command["target"], command["args"])
        os.write(report, json.dumps(error).encode())
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _end_with(server: int) -> None:
    """Ask Linux to send SIGTERM to this process when the server dies; elsewhere the server's care has to do."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != server:
            os._exit(1)


def call_target(target: str, args: Sequence[Any]) -> tuple[int, dict[str, Any]]:
    """Call `module:function` with `args`: its exit code, and what it raised (empty if nothing).

    A returned integer is the exit code, None is 0; an exception is 1.
    """
    try:
        return invoke(target, args), {}
    except BaseException as error:
        return 1, report_of(error)


def invoke(target: str, args: Sequence[Any]) -> int:
    """Call `module:function` with `args`: its exit code. Whatever it raises, but SystemExit, comes through."""
    try:
        module, _, name = target.partition(":")
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        value = function(*args)
        return int(value) & 0xFF if value is not None else 0
    except SystemExit as error:
        return error.code & 0xFF if isinstance(error.code, int) else int(error.code is not None)


def report_of(error: BaseException) -> dict[str, Any]:
    """What a task raised, as JSON-able fields of bounded length."""
    ours = error_fields(error)
    # One of our own errors is written for its reader; its class would only be in the way.
    reason = _in_a_line(ours) if ours else f"{type(error).__name__}: {error}"
    text = "".join(traceback.format_exception(error))
    # ASCII, so that bytes are characters; the end of a traceback says most.
    report = {"error": _ascii(reason)[: _REPORT_LIMIT // 4], "detail": _ascii(text)[-_REPORT_LIMIT // 2 :]}
    return report | {"raised": ours} if ours else report


def _in_a_line(fields: dict[str, str]) -> str:
    where = f"{fields['where']}: " if fields["where"] else ""
    why = f" ({fields['why']})" if fields["why"] else ""
    return f"{where}{fields['what']}{why}"


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()


def _reap(state: _State, *, forward: bool) -> None:
    """Collect ended tasks, along with whatever they left in their process group."""
    while state.children:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None:
            return
        # Not yet waited for, so the id cannot have been given to another process.
        if ended.si_pid in state.children:
            _signal_group(ended.si_pid, signal.SIGKILL)
        _, status = os.waitpid(ended.si_pid, 0)
        child = state.children.pop(ended.si_pid, None)
        if child is None:
            continue
        report = _report(child.report)
        if forward:
            state.send({"ended": child.key, "code": os.waitstatus_to_exitcode(status), **report})


def _report(descriptor: int) -> dict[str, Any]:
    """What the task wrote before it ended; nothing if it was killed."""
    os.set_blocking(descriptor, False)
    try:
        report: dict[str, Any] = json.loads(os.read(descriptor, 65536))
    except (BlockingIOError, ValueError):
        report = {}
    os.close(descriptor)
    return report


def _stop_children(state: _State, grace_s: float) -> None:
    """SIGTERM to every running task, SIGKILL to those that still run after the grace period."""
    for pid in state.children:
        _signal_group(pid, signal.SIGTERM)
    end = time.monotonic() + grace_s
    while state.children and time.monotonic() < end:
        _reap(state, forward=False)
        time.sleep(0.01)
    for pid in state.children:
        _signal_group(pid, signal.SIGKILL)
    while state.children:
        _reap(state, forward=False)
        time.sleep(0.001)


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
