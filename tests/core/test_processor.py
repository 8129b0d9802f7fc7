from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from plm_scaling.core import processor
from plm_scaling.core.processor import cpu_count, has_bf16, processor_name

CPUINFO = "processor\t: 0\nmodel\t\t: 143\nmodel name\t: Zeta Z80 @ 4 MHz\nflags\t\t: fpu {flags}\n\nprocessor\t: 1\n"


@pytest.fixture
def cpuinfo(tmp_path: Path) -> Path:
    return tmp_path / "cpuinfo"


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ("avx512f avx512_bf16 sse", True),
        ("amx_bf16", True),
        ("avx512f", False),
        ("not_avx512_bf16 amx_bf16x", False),
        ("", False),
    ],
)
def test_bf16_is_read_from_the_flags(cpuinfo: Path, flags: str, found: bool) -> None:
    cpuinfo.write_text(CPUINFO.format(flags=flags))
    assert has_bf16(cpuinfo) is found


def test_the_name_is_the_model_name(cpuinfo: Path) -> None:
    cpuinfo.write_text(CPUINFO.format(flags=""))
    assert processor_name(cpuinfo) == "Zeta Z80 @ 4 MHz"


def test_a_system_without_cpuinfo_has_a_name_and_no_bf16(cpuinfo: Path) -> None:
    assert not has_bf16(cpuinfo)
    assert processor_name(cpuinfo) == (platform.processor() or platform.machine())
    cpuinfo.write_text("Hardware\t: none of these\n")
    assert not has_bf16(cpuinfo)


def test_cores_are_those_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpu_count() == len(os.sched_getaffinity(0))
    monkeypatch.setattr(processor.os, "sched_getaffinity", lambda _: {3, 5, 7})
    assert cpu_count() == 3
    monkeypatch.delattr(processor.os, "sched_getaffinity")
    monkeypatch.setattr(processor.os, "cpu_count", lambda: None)
    assert cpu_count() == 1
