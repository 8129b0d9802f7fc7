"""The GPUs of this machine, counted without torch."""

from __future__ import annotations

import os
import shutil
import subprocess

__all__ = ["count_gpus"]


def count_gpus() -> int:
    """GPUs that the driver's own tool lists and `CUDA_VISIBLE_DEVICES` lets this process see."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    listed = subprocess.run([tool, "--list-gpus"], capture_output=True, text=True, check=False)
    present = sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return present if visible is None else min(present, len(_allowed(visible)))


def _allowed(visible: str) -> list[str]:
    """Entries before the first that CUDA does not take; it ignores all after one."""
    allowed: list[str] = []
    for name in (part.strip() for part in visible.split(",")):
        if not name or name.startswith("-"):
            break
        allowed.append(name)
    return allowed
