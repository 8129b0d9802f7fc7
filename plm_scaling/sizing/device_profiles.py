"""An accelerator of the hardware file as the profile that plans are priced on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from plm_scaling.sizing.costs import Gpu, Hardware, gpu_named, load_hardware, mfu_at_width
from plm_scaling.sweeps.cost_records import DeviceProfile

__all__ = ["find_hardware", "hardware_profile", "with_prices_of"]


def find_hardware(text: str) -> tuple[Gpu, Hardware]:
    """The accelerator that a user named.

    Parameters
    ----------
    text : an entry of the shipped file (`h100`), or FILE.toml:NAME for one of the user's own.

    Raises
    ------
    ConfigError : no such file or entry.
    """
    file, colon, name = text.rpartition(":")
    hardware = load_hardware(Path(file) if colon else None)
    return gpu_named(name, hardware), hardware


def hardware_profile(gpu: Gpu, hardware: Hardware, widths: Iterable[int]) -> DeviceProfile:
    """What the file says about one device, with its utilisation at the widths of a plan."""
    return DeviceProfile(
        name=gpu.name,
        source="hardware file",
        peak_flops_per_s=gpu.peak_tflops * 1e12,
        peak_is_half=gpu.peak_dtype == "half",
        mfu_by_width={width: mfu_at_width(gpu, width, hardware.mfu_by_width) for width in sorted(set(widths))},
        memory_bytes=gpu.memory_gb * 1e9,
        usd_per_hour=gpu.usd_per_hour.mid,
        watts=gpu.watts * hardware.watt_load * hardware.pue,
        unverified="unverified" in (gpu.status, (gpu.mfu_by_width or hardware.mfu_by_width).status),
    )


def with_prices_of(measured: DeviceProfile, gpu: Gpu, hardware: Hardware) -> DeviceProfile:
    """A measured speed with the price and the power that the file states for the device."""
    priced = hardware_profile(gpu, hardware, ())
    update = {"usd_per_hour": priced.usd_per_hour, "watts": priced.watts, "memory_bytes": priced.memory_bytes}
    return measured.model_copy(update=update | {"unverified": gpu.status == "unverified"})
