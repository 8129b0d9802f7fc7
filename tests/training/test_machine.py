from __future__ import annotations

import itertools
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from plm_scaling.core.alphabet import SYMBOLS
from plm_scaling.training import machine
from plm_scaling.training.machine import MachineReport, examine_machine, matmul_peak, package_versions
from plm_scaling.training.peak import Peak, PeakTable, peaks_path


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> MachineReport:
    """This machine, without the seconds that a measured peak takes."""
    monkeypatch.setattr(machine, "matmul_peak", lambda dtype: {torch.float32: 90e9, torch.bfloat16: 7e9}[dtype])
    return examine_machine()


def test_versions_are_those_installed() -> None:
    found = package_versions()
    assert found["torch"] == version("torch")
    assert found["fair-esm"] == version("fair-esm")
    assert set(found) == set(machine.PACKAGES)


def test_a_package_that_is_missing_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PACKAGES", ("torch", "no-such-package-of-ours"))
    assert package_versions() == {"torch": version("torch"), "no-such-package-of-ours": ""}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_peak_is_measured_on_one_thread(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    assert matmul_peak(dtype, size=16, repeats=2) > 0
    assert threads == [1, 5]


def test_the_peak_is_the_median_product_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    took = (100.0, 2.0, 4.0, 3.0)
    ticks = iter(itertools.chain.from_iterable((10_000.0 * k, 10_000.0 * k + t) for k, t in enumerate(took)))
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(ticks))
    assert matmul_peak(torch.float32, size=30, repeats=3) == 2 * 30**3 / 3.0


def test_a_report_says_what_is_here(report: MachineReport) -> None:
    assert report.alphabet_agrees
    assert (report.peak_gflops_fp32, report.peak_gflops_bf16) == (90.0, 7.0)
    assert report.versions == package_versions()
    assert report.cores >= 1
    assert MachineReport.model_validate(report.model_dump()) == report


def test_the_lines_of_a_report(report: MachineReport) -> None:
    changed = {"processor": "Z80", "cores": 2, "bf16_instructions": False, "gpus": (), "programs": {"mmseqs": ""}}
    changed |= {"versions": {"torch": "2.13.0", "scipy": ""}, "python": "3.11.7", "system": "Linux"}
    plain = report.model_copy(update=changed)
    assert plain.lines() == [
        ("python", "3.11.7"),
        ("system", "Linux"),
        ("processor", "Z80, 2 cores, without bf16 instructions"),
        ("gpus", "none"),
        ("peak, one thread", "90 GFLOP/s fp32, 7 bf16"),
        ("alphabet", "agrees with fair-esm's"),
        ("torch", "2.13.0"),
        ("scipy", "not installed"),
        ("mmseqs", "not on PATH"),
    ]
    other = {
        "bf16_instructions": True,
        "gpus": ("A100", "A100"),
        "alphabet_agrees": False,
        "programs": {"mmseqs": "/m"},
    }
    lines = dict(plain.model_copy(update=other).lines())
    assert lines["processor"].endswith("with bf16 instructions")
    assert lines["gpus"] == "A100, A100"
    assert lines["alphabet"] == "DIFFERS from fair-esm's"
    assert lines["mmseqs"] == "/m"


def test_an_alphabet_in_another_order_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine._alphabet_agrees()
    monkeypatch.setattr(machine, "SYMBOLS", (SYMBOLS[1], SYMBOLS[0], *SYMBOLS[2:]))
    assert not machine._alphabet_agrees()


def test_without_fair_esm_nothing_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "esm.data", None)
    assert not machine._alphabet_agrees()


def test_a_thorough_peak_is_printed_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    values = {"device": "Z80", "torch": "2.13.0", "dtype": "bf16", "size": 2048}
    found = (
        Peak.model_validate(values | {"threads": 1, "flops_per_s": 25.4e9}),
        Peak.model_validate(values | {"threads": 4, "flops_per_s": 2e12}),
        Peak.model_validate(values | {"device": "H200", "threads": 0, "flops_per_s": 6e14}),
    )
    monkeypatch.setattr(machine, "matmul_peak", lambda dtype: 1e9)
    monkeypatch.setattr(machine, "measure_peaks", lambda: found)
    assert examine_machine().peaks == ()
    assert not peaks_path().exists()
    report = examine_machine(peak=True)
    assert report.peaks == found
    assert set(PeakTable.read(peaks_path()).peaks) == set(found)
    lines = dict(report.lines())
    assert lines["peak, bf16, 1 thread"] == "25 GFLOP/s (products of 2048)"
    assert lines["peak, bf16, 4 threads"] == "2,000 GFLOP/s (products of 2048)"
    assert lines["peak, bf16, H200"] == "600,000 GFLOP/s (products of 2048)"
