"""Which GPU of a machine a run takes, so that runs started side by side spread over all of them."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["take_device"]

_held: list[int] = []
"""Open locks: the operating system frees them when this process ends, however it ends."""


def take_device(devices: Sequence[str], folder: Path | None = None) -> int:
    """Number of the device that the fewest processes hold; this process holds it until it ends.

    Parameters
    ----------
    devices : a name for each device that is the same in all processes of the machine.
    folder : of the locks; the machine's folder for temporary files by default.
    """
    where = folder or Path(tempfile.gettempdir()) / f"plm-scaling-devices-{os.getuid()}"
    where.mkdir(parents=True, exist_ok=True)
    level = 0
    while True:
        for number, name in enumerate(devices):
            handle = os.open(where / f"{name}.{level}", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(handle)
                continue
            _held.append(handle)
            return number
        level += 1
