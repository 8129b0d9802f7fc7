"""The fastest matrix product of this machine: measured when asked for, kept in the user's cache, read by runs.

$XDG_CACHE_HOME/plm-scaling/peaks.json   one `Peak` per processor or GPU, torch version, number format, thread count
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch

from plm_scaling.core.errors import RecordError
from plm_scaling.core.processor import cpu_count, processor_name
from plm_scaling.core.records import Record

__all__ = ["Peak", "PeakTable", "known_peak", "measure_peaks", "peaks_path", "store_peaks"]

_DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}
_CPU_SIZES: Final = (512, 1024, 2048)
_GPU_SIZES: Final = (4096, 8192, 16384)
_SECONDS: Final = 0.3
"""Time spent on each size; at least three products."""


class Peak(Record):
    """The fastest square matrix product that was measured."""

    device: str
    """Model name of the processor or GPU."""
    torch: str
    """Its version."""
    dtype: str
    threads: int
    """CPU threads; 0 on a GPU."""
    flops_per_s: float
    size: int
    """Rows of the fastest product's matrices."""

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What a run has to share with the measurement."""
        return (self.device, self.torch, self.dtype, self.threads)

    def line(self) -> tuple[str, str]:
        """Name and value, for a table."""
        where = f"{self.threads} thread{'s' * (self.threads != 1)}" if self.threads else self.device
        return f"peak, {self.dtype}, {where}", f"{self.flops_per_s / 1e9:,.0f} GFLOP/s (products of {self.size})"


class PeakTable(Record):
    """All peaks known on this machine."""

    peaks: tuple[Peak, ...] = ()


def peaks_path() -> Path:
    """`peaks.json` in `$XDG_CACHE_HOME/plm-scaling`, or in `~/.cache/plm-scaling`."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if home else Path.home() / ".cache") / "plm-scaling" / "peaks.json"


def _stored(path: Path) -> tuple[Peak, ...]:
    try:
        return PeakTable.read(path).peaks
    except (OSError, RecordError):
        return ()  # absent, or not readable: as good as unmeasured


def store_peaks(peaks: Sequence[Peak], path: Path | None = None) -> Path:
    """Add peaks to those known, replacing older ones of the same device and conditions; returns the file."""
    path = path or peaks_path()
    merged = {peak.key: peak for peak in (*_stored(path), *peaks)}
    return PeakTable(peaks=tuple(merged[key] for key in sorted(merged))).write(path)


def known_peak(device: torch.device, dtype: str, threads: int, path: Path | None = None) -> float | None:
    """Measured FLOP/s of this device; None if it was never measured under these conditions.

    Parameters
    ----------
    dtype : `fp32` or `bf16`, of the run's activations.
    threads : CPU threads of the run; without meaning on a GPU.
    """
    peaks = _stored(path or peaks_path())
    if not peaks:
        return None
    wanted = (_name(device), torch.__version__.partition("+")[0], dtype, threads if device.type == "cpu" else 0)
    return next((peak.flops_per_s for peak in peaks if peak.key == wanted), None)


def _name(device: torch.device) -> str:
    return processor_name() if device.type == "cpu" else torch.cuda.get_device_name(device)


def measure_peaks(
    *, cpu_sizes: Sequence[int] = _CPU_SIZES, gpu_sizes: Sequence[int] = _GPU_SIZES, seconds: float = _SECONDS
) -> tuple[Peak, ...]:
    """Measure fp32 and bf16 with one thread, with all threads and on the first GPU; about 10 s on a CPU.

    Parameters
    ----------
    cpu_sizes, gpu_sizes : rows of the matrices tried; the fastest product of all counts.
    seconds : time for each size.
    """
    cpu, found = torch.device("cpu"), []
    for dtype in _DTYPES:
        for threads in sorted({1, cpu_count()}):
            with _threads(threads):
                found.append(_measure(cpu, dtype, threads, cpu_sizes, seconds))
        if torch.cuda.is_available():
            found.append(_measure(torch.device("cuda"), dtype, 0, gpu_sizes, seconds))
    return tuple(found)


def _measure(device: torch.device, dtype: str, threads: int, sizes: Sequence[int], seconds: float) -> Peak:
    speeds = {size: _flops_per_s(device, _DTYPES[dtype], size, seconds) for size in sizes}
    best = max(speeds, key=lambda size: speeds[size])
    return Peak(
        device=_name(device),
        torch=torch.__version__.partition("+")[0],
        dtype=dtype,
        threads=threads,
        flops_per_s=speeds[best],
        size=best,
    )


def _flops_per_s(device: torch.device, dtype: torch.dtype, size: int, seconds: float) -> float:
    """Of the fastest product: whatever else this machine does can only make one slower."""
    a_MK = torch.randn(size, size, device=device).to(dtype)
    b_KN, c_MN = torch.randn_like(a_MK), torch.empty_like(a_MK)
    times: list[float] = []
    while sum(times) < seconds or len(times) < 4:
        begin = time.perf_counter()
        torch.mm(a_MK, b_KN, out=c_MN)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begin)
    return 2.0 * size**3 / min(times[1:])


@contextmanager
def _threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
