"""What this machine's processor can do, read without torch."""

from __future__ import annotations

import os
import platform
from pathlib import Path

__all__ = ["cpu_count", "has_bf16", "processor_name"]

_CPUINFO = Path("/proc/cpuinfo")


def cpu_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_bf16(cpuinfo: Path = _CPUINFO) -> bool:
    """Whether the CPU has bf16 instructions; without them bf16 is emulated and slower than fp32."""
    flags = _field("flags", cpuinfo).split()
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16"))


def processor_name(cpuinfo: Path = _CPUINFO) -> str:
    """The CPU's model name."""
    return _field("model name", cpuinfo) or platform.processor() or platform.machine()


def _field(name: str, cpuinfo: Path) -> str:
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
