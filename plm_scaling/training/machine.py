"""What this machine offers a sweep: versions, devices, measured peak of a matrix product, agreement with fair-esm."""

from __future__ import annotations

import platform
import shutil
import statistics
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import torch

from plm_scaling.core.alphabet import SYMBOLS
from plm_scaling.core.processor import cpu_count, has_bf16, processor_name
from plm_scaling.core.records import Record
from plm_scaling.training.peak import Peak, measure_peaks, store_peaks

__all__ = ["MachineReport", "examine_machine", "matmul_peak", "package_versions"]

PACKAGES: Final = (
    "plm-scaling", "torch", "numpy", "scipy", "datasets", "pyarrow", "biopython", "fair-esm", "pydantic", "safetensors",
)  # fmt: skip
PROGRAMS: Final = ("mmseqs", "sbatch")


class MachineReport(Record):
    """Everything `doctor` prints."""

    python: str
    system: str
    processor: str
    cores: int
    bf16_instructions: bool
    gpus: tuple[str, ...]
    versions: dict[str, str]
    programs: dict[str, str]
    """Path of each optional program, empty where it is not on PATH."""
    peak_gflops_fp32: float
    """Best measured fp32 matrix product, one thread, 1e9 FLOP/s."""
    peak_gflops_bf16: float
    peaks: tuple[Peak, ...] = ()
    """Thoroughly measured, now, for the MFU of runs; empty unless asked for."""
    alphabet_agrees: bool
    """Whether fair-esm's alphabet, as installed, has our 33 symbols in our order."""

    def lines(self) -> list[tuple[str, str]]:
        """Name and value of every finding, for a table."""
        bf16 = "with" if self.bf16_instructions else "without"
        return [
            ("python", self.python),
            ("system", self.system),
            ("processor", f"{self.processor}, {self.cores} cores, {bf16} bf16 instructions"),
            ("gpus", ", ".join(self.gpus) or "none"),
            ("peak, one thread", f"{self.peak_gflops_fp32:.0f} GFLOP/s fp32, {self.peak_gflops_bf16:.0f} bf16"),
            *(peak.line() for peak in self.peaks),
            ("alphabet", "agrees with fair-esm's" if self.alphabet_agrees else "DIFFERS from fair-esm's"),
            *((name, found or "not installed") for name, found in self.versions.items()),
            *((name, path or "not on PATH") for name, path in self.programs.items()),
        ]


def package_versions() -> dict[str, str]:
    """Installed version of each package a result depends on, empty where one is missing."""
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def matmul_peak(dtype: torch.dtype, *, size: int = 768, repeats: int = 5) -> float:
    """Median FLOP/s of a square matrix product on one CPU thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        a_MK = torch.randn(size, size).to(dtype)
        times = []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            a_MK @ a_MK
            times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return float(2 * size**3 / statistics.median(times[1:]))


def _alphabet_agrees() -> bool:
    try:
        from esm.data import Alphabet
    except ImportError:
        return False
    return tuple(Alphabet.from_architecture("ESM-1b").all_toks) == SYMBOLS


def examine_machine(*, peak: bool = False) -> MachineReport:
    """Look at this machine; takes a few seconds.

    Parameters
    ----------
    peak : measure the fastest matrix products of every device and number format, too, and keep them for runs.
    """
    peaks = measure_peaks() if peak else ()
    if peaks:
        store_peaks(peaks)
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return MachineReport(
        python=platform.python_version(),
        system=platform.platform(),
        processor=processor_name(),
        cores=cpu_count(),
        bf16_instructions=has_bf16(),
        gpus=tuple(gpus),
        versions=package_versions(),
        programs={name: shutil.which(name) or "" for name in PROGRAMS},
        peak_gflops_fp32=matmul_peak(torch.float32) / 1e9,
        peak_gflops_bf16=matmul_peak(torch.bfloat16) / 1e9,
        peaks=peaks,
        alphabet_agrees=_alphabet_agrees(),
    )
