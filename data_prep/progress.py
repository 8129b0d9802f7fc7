"""How far a preparation is: every task leaves two numbers in a file, and whoever waits adds them up."""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Progress", "Ticker", "reported", "told_progress"]

_FORMAT: Final = struct.Struct("<qq")
_EVERY_S: Final = 0.2


@dataclass(frozen=True)
class Progress:
    """How far a preparation is: bytes of the stage done and in all, sequences done.

    `stage` is `reading` (bytes of the input files as stored) or `writing` (tokens); the other stages (`comparing`,
    `placing`, `containing`, `clustering`, `splitting`) only say that they began.
    """

    bytes_done: int
    bytes_total: int
    sequences: int
    stage: str = "reading"


class Ticker:
    """Leaves a task's progress in `FOLDER/KEY`, a few times per second at most."""

    def __init__(self, folder: Path, key: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / key
        self._next = 0.0
        self._last = (0, 0)

    def tell(self, done: int, sequences: int) -> None:
        """So many bytes and sequences are done."""
        self._last = (done, sequences)
        if (now := time.monotonic()) >= self._next:
            self._next = now + _EVERY_S
            self.close()

    def close(self) -> None:
        """Leave the last numbers."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            os.pwrite(descriptor, _FORMAT.pack(*self._last), 0)
        finally:
            os.close(descriptor)


def reported(folder: Path) -> tuple[int, int]:
    """Bytes and sequences of all tasks that left their progress in a folder."""
    done = sequences = 0
    for path in folder.glob("*") if folder.is_dir() else ():
        data = path.read_bytes()
        if len(data) == _FORMAT.size:  # not while it is being made
            bytes_, rows = _FORMAT.unpack(data)
            done, sequences = done + bytes_, sequences + rows
    return done, sequences


@contextmanager
def told_progress(folder: Path, total: int, stage: str, told: Callable[[Progress], None]) -> Iterator[None]:
    """While the body runs, tell how far the tasks are that report to `folder`; once more when it ends well."""

    def report() -> None:
        done, sequences = reported(folder)
        told(Progress(min(done, total), total, sequences, stage))

    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(2 * _EVERY_S):
            report()

    thread = threading.Thread(target=watch, name=f"progress of {stage}", daemon=True)
    report()
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    report()
