"""From a budget to FLOPs and back: accelerators, their useful speed at a width, hours, money, energy."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from plm_scaling.core.alphabet import VOCAB_SIZE
from plm_scaling.core.configs import find_config
from plm_scaling.core.errors import ConfigError, did_you_mean
from plm_scaling.core.records import Record
from plm_scaling.sizing.shapes import HEAD_WIDTH, Shape, typical_width, width_per_layer
from plm_scaling.sizing.training_bill import energy_kwh

__all__ = [
    "ATTENDED_TOKENS",
    "Bill",
    "Budget",
    "Gpu",
    "Hardware",
    "MfuByWidth",
    "PriceRange",
    "Throughput",
    "bill_for",
    "compute_of",
    "exact_over_6nd",
    "gpu_named",
    "load_hardware",
    "mfu_at_width",
    "throughput_for",
]

ATTENDED_TOKENS: Final = 400
"""Length-weighted mean document length of packed protein windows of 1,024 (plain mean about 300)."""


_LEAST_BUDGET: Final = 1e-30
_MOST_BUDGET: Final = 1e60
"""Beyond these sums of powers leave the range of floating-point numbers."""


class Budget(Record):
    """What may be spent: exactly one of accelerator hours, US dollars or training FLOPs (6 N D)."""

    gpu_hours: float | None = None
    usd: float | None = None
    flops: float | None = None

    @model_validator(mode="after")
    def _one_positive(self) -> Self:
        given = {key: value for key in ("gpu_hours", "usd", "flops") if (value := getattr(self, key)) is not None}
        if len(given) != 1:
            said = ", ".join(given) if given else "none"
            raise ConfigError("a budget is exactly one of gpu_hours, usd, flops", why=f"given: {said}")
        key, value = next(iter(given.items()))
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"budget {key} = {value:g} is not a positive number", hint=f"for example {key} = 5000")
        if not _LEAST_BUDGET <= value <= _MOST_BUDGET:
            raise ConfigError(f"budget {key} = {value:g} is no budget of this world", hint=f"for example {key} = 5000")
        return self


class PriceRange(Record):
    """Rental price of one accelerator, US dollars per hour."""

    low: float = Field(gt=0)
    mid: float = Field(gt=0)
    high: float = Field(gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.mid <= self.high:
            raise ValueError("prices must rise from low to mid to high")
        return self


class MfuByWidth(Record):
    """Share of `Gpu.mfu` reached by models of some widths; straight in log-log between and below them."""

    widths: tuple[float, ...] = Field(min_length=2)
    share: tuple[float, ...] = Field(min_length=2)
    status: str = "unverified"

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if len(self.widths) != len(self.share) or list(self.widths) != sorted(set(self.widths)):
            raise ValueError("needs as many shares as widths, and rising widths")
        if min(self.widths) <= 0 or min(self.share) <= 0 or max(self.share) > 1:
            raise ValueError("widths must be positive and shares between 0 and 1")
        return self


class Gpu(Record):
    """One kind of accelerator."""

    name: str
    peak_tflops: float = Field(gt=0)
    """Dense peak, 1e12 FLOP/s."""
    peak_dtype: Literal["half", "fp32"] = "half"
    """Number format of the peak."""
    memory_gb: float = Field(gt=0)
    bandwidth_tb_s: float = Field(gt=0)
    watts: float = Field(gt=0)
    mfu: float = Field(gt=0, le=1)
    """Share of the peak a well-tuned training reaches at widths of 1280 and more, or at the last of `mfu_by_width`."""
    mfu_by_width: MfuByWidth | None = None
    """Its own curve; None takes the hardware file's."""
    usd_per_hour: PriceRange
    status: str = "read"
    source: str = ""


class Hardware(Record):
    """The hardware file: accelerators by key, and what their speed and energy depend on."""

    watt_load: float = Field(default=0.9, gt=0, le=1)
    pue: float = Field(default=1.2, ge=1)
    kg_co2_per_kwh: float = Field(default=0.35, ge=0)
    mfu_by_width: MfuByWidth
    gpus: dict[str, Gpu]


class Bill(Record):
    """What a number of accelerator hours costs."""

    gpu_hours: float
    usd_low: float
    usd_mid: float
    usd_high: float
    energy_kwh: float


class Throughput(Record):
    """Useful speed of one accelerator for one model."""

    mfu: float
    exact_over_6nd: float
    """C_exact over 6 N D at the model's width."""
    flops_6nd_per_s: float
    """6 N D FLOPs done per second: peak x MFU / overhead."""


def load_hardware(path: Path | None = None) -> Hardware:
    """The hardware file: the one shipped, or the user's own.

    Raises
    ------
    ConfigError : the file cannot be read or holds an unknown key.
    """
    return Hardware.read_toml(path or find_config("hardware.toml"))


def gpu_named(name: str, hardware: Hardware) -> Gpu:
    """The accelerator of this key, in any case.

    Raises
    ------
    ConfigError : unknown; the hint names the closest, or all.
    """
    gpu = hardware.gpus.get(name.strip().lower())
    if gpu is None:
        raise ConfigError(f"unknown accelerator {name!r}", hint=did_you_mean(name.lower(), hardware.gpus))
    return gpu


def mfu_at_width(gpu: Gpu, d_model: float, curve: MfuByWidth) -> float:
    """Model FLOP utilisation at a width: the accelerator's own times the share of its curve, or else of the given one.

    **Source:** the shares are guesses (launch-bound small models), marked so in hardware.toml.
    """
    curve = gpu.mfu_by_width or curve
    widths, share = curve.widths, curve.share
    if d_model >= widths[-1]:
        return gpu.mfu * share[-1]
    # Below the first width the first segment is continued: a floor would flatter tiny models.
    right = next(i for i in range(1, len(widths)) if d_model < widths[i])
    slope = math.log(share[right] / share[right - 1]) / math.log(widths[right] / widths[right - 1])
    return gpu.mfu * share[right] * math.pow(d_model / widths[right], slope)


def exact_over_6nd(N: float, attended_tokens: float = ATTENDED_TOKENS) -> float:
    """C_exact over 6 N D for a model of N block parameters in published proportions.

    Forward FLOPs per token are 24 L d^2 + 4 s L d + 2 d V with s attended tokens; backward is twice forward.

    Parameters
    ----------
    attended_tokens : sum of squared document lengths over their sum, tokens.

    **Source:** Hoffmann et al. 2022, appendix F, attention restricted to documents.
    """
    d = typical_width(N)
    layers = d / width_per_layer(N)
    forward = 24.0 * layers * d**2 + 4.0 * attended_tokens * layers * d + 2.0 * d * VOCAB_SIZE
    return 3.0 * forward / (6.0 * N)


def throughput_for(
    N: float,
    gpu: Gpu,
    hardware: Hardware,
    *,
    mfu: float | None = None,
    attended_tokens: float = ATTENDED_TOKENS,
) -> Throughput:
    """Useful speed of an accelerator on a model of N block parameters.

    Parameters
    ----------
    mfu : a measured utilisation, used as it is; None takes the hardware file's, lowered at narrow widths.
    """
    # Nobody measured narrower models, and below this speed would fall faster than N: hours would not decide C.
    N = max(N, Shape(1, HEAD_WIDTH).N)
    used = mfu if mfu is not None else mfu_at_width(gpu, typical_width(N), hardware.mfu_by_width)
    overhead = exact_over_6nd(N, attended_tokens)
    return Throughput(
        mfu=used,
        exact_over_6nd=overhead,
        flops_6nd_per_s=gpu.peak_tflops * 1e12 * used / overhead,
    )


def compute_of(gpu_hours: float, optimum: Callable[[float], float], speed: Callable[[float], float]) -> float:
    """6 N D FLOPs that accelerator hours pay for, when the speed depends on the size the FLOPs call for.

    Solves C = 3600 hours speed(optimum(C)) by bisection in ln C; C / speed(optimum(C)) must rise with C, which
    holds while the speed rises more slowly than C.

    Parameters
    ----------
    optimum : FLOPs -> block parameters.
    speed : block parameters -> 6 N D FLOPs per second of one accelerator.
    """

    def excess(log_c: float) -> float:
        c = math.exp(log_c)
        return log_c - math.log(3600.0 * gpu_hours * speed(optimum(c)))

    low, high = math.log(1e6), math.log(1e32)
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return math.exp(0.5 * (low + high))


def bill_for(gpu_hours: float, gpu: Gpu, hardware: Hardware, *, usd_per_gpu_hour: float | None = None) -> Bill:
    """Money at the low, mid and high price (or at the user's own), and electrical energy.

    kWh = hours x rated power x load x PUE.
    """
    price = gpu.usd_per_hour
    low, mid, high = (price.low, price.mid, price.high) if usd_per_gpu_hour is None else (usd_per_gpu_hour,) * 3
    return Bill(
        gpu_hours=gpu_hours,
        usd_low=gpu_hours * low,
        usd_mid=gpu_hours * mid,
        usd_high=gpu_hours * high,
        energy_kwh=energy_kwh(gpu_hours, gpu.watts, hardware.watt_load, hardware.pue),
    )
