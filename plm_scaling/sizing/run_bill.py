"""The bill of one training: shape, exact FLOPs, hours, segments under a queue limit, memory, money, energy, CO2."""

from __future__ import annotations

from typing import Final

from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import ConfigError
from plm_scaling.core.memory_estimate import GPU_MEMORY_SHARE
from plm_scaling.core.recipe import batch_tokens_for, default_recipe
from plm_scaling.core.records import Record
from plm_scaling.core.units import format_count
from plm_scaling.sizing.costs import (
    ATTENDED_TOKENS,
    Gpu,
    Hardware,
    bill_for,
    gpu_named,
    load_hardware,
    mfu_at_width,
)
from plm_scaling.sizing.memory_plan import MemoryPlan, plan_memory
from plm_scaling.sizing.shapes import nearest_shape
from plm_scaling.sizing.training_bill import queue_segments

__all__ = ["SEGMENT_OVERHEAD", "RunBill", "bill_line", "run_bill", "slurm_segments"]

SEGMENT_OVERHEAD: Final = 0.05
"""Share of a job that starts, compiles, loads and saves instead of training. An assumption: put in your own."""


class RunBill(Record):
    """What training one buildable model on a number of tokens takes."""

    n_layers: int
    d_model: int
    n_heads: int
    N: float
    """Block parameters of the shape."""
    N_total: float
    D: float
    C_6nd: float
    C_exact: float
    """With attention and head, packed documents."""
    gpu: str
    n_gpus: int
    mfu: float
    gpu_hours: float
    wall_hours: float
    """On `n_gpus`, without queue, restarts and the overhead of segments."""
    queue_limit_hours: float | None
    segment_overhead: float
    segments: int
    """Jobs one after the other; 1 without a limit."""
    batch_tokens: int
    memory: MemoryPlan
    usd_low: float
    usd_mid: float
    usd_high: float
    energy_kwh: float
    co2_kg: float
    flags: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """A plain sentence per flag."""


def slurm_segments(wall_hours: float, limit_hours: float | None, overhead: float = SEGMENT_OVERHEAD) -> int:
    """Jobs one after the other that a training of `wall_hours` needs: ceil(wall / (limit (1 - overhead))).

    Parameters
    ----------
    limit_hours : longest job the queue takes; None for no limit.
    overhead : share of each job that does not train.

    Raises
    ------
    ConfigError : hours that are not positive, or an overhead outside [0, 1).

    **Source:** definition.
    """
    if not wall_hours >= 0 or not 0 <= overhead < 1 or (limit_hours is not None and not limit_hours > 0):
        raise ConfigError(
            "segments need hours above zero and an overhead in [0, 1)",
            why=f"wall {wall_hours} h, limit {limit_hours} h, overhead {overhead}",
        )
    if limit_hours is None:
        return 1
    return max(1, queue_segments(wall_hours, limit_hours, overhead))


def run_bill(
    N: float,
    D: float,
    *,
    gpu: str | Gpu = "a100",
    n_gpus: int = 1,
    shape: ModelShape | None = None,
    hardware: Hardware | None = None,
    mfu: float | None = None,
    usd_per_gpu_hour: float | None = None,
    attended_tokens: float = ATTENDED_TOKENS,
    context: int = 1024,
    batch_tokens: int | None = None,
    queue_limit_hours: float | None = None,
    segment_overhead: float = SEGMENT_OVERHEAD,
    kg_co2_per_kwh: float | None = None,
) -> RunBill:
    """The bill of training the nearest buildable model of N block parameters on D tokens.

    Hours = exact FLOPs / (peak x MFU at the shape's width x 3600); kWh = hours x rated power x load x PUE.

    Parameters
    ----------
    shape : the model itself; None takes the nearest `plm` shape to N.
    mfu : a measured utilisation; None takes the hardware file's, lowered at narrow widths.
    attended_tokens : length-weighted mean document length of the packed windows, tokens.
    batch_tokens : positions per step; None takes the recipe's.
    queue_limit_hours : longest job of the queue; None for no limit.
    kg_co2_per_kwh : of your grid; None takes the hardware file's.

    Raises
    ------
    ConfigError : N, D or a count that is not positive, no such accelerator, no shape near N.

    **Source:** exact FLOPs: `ModelShape.training_flops`.
    """
    if not (D > 0 and n_gpus >= 1):
        raise ConfigError("a bill needs tokens and at least one GPU", why=f"D {D}, n_gpus {n_gpus}")
    hardware = hardware or load_hardware()
    device = gpu_named(gpu, hardware) if isinstance(gpu, str) else gpu
    built = shape or _nearest(N)
    exact = built.training_flops(positions=D, sum_length_squared=D * attended_tokens)
    used = mfu if mfu is not None else mfu_at_width(device, built.d_model, hardware.mfu_by_width)
    hours = exact / (device.peak_tflops * 1e12 * used) / 3600.0
    batch = batch_tokens or batch_tokens_for(built.N, D, default_recipe(built.N))
    memory = plan_memory(built, device.memory_gb, n_gpus=n_gpus, batch_tokens=batch, context=context)
    bill = bill_for(hours, device, hardware, usd_per_gpu_hour=usd_per_gpu_hour)
    grid = hardware.kg_co2_per_kwh if kg_co2_per_kwh is None else kg_co2_per_kwh
    flags, warnings = _doubts(memory, device)
    return RunBill(
        n_layers=built.n_layers,
        d_model=built.d_model,
        n_heads=built.heads,
        N=float(built.N),
        N_total=float(built.N_total),
        D=D,
        C_6nd=6.0 * built.N * D,
        C_exact=exact,
        gpu=device.name,
        n_gpus=n_gpus,
        mfu=used,
        gpu_hours=hours,
        wall_hours=hours / n_gpus,
        queue_limit_hours=queue_limit_hours,
        segment_overhead=segment_overhead,
        segments=slurm_segments(hours / n_gpus, queue_limit_hours, segment_overhead),
        batch_tokens=batch,
        memory=memory,
        usd_low=bill.usd_low,
        usd_mid=bill.usd_mid,
        usd_high=bill.usd_high,
        energy_kwh=bill.energy_kwh,
        co2_kg=bill.energy_kwh * grid,
        flags=flags,
        warnings=warnings,
    )


def _nearest(N: float) -> ModelShape:
    found = nearest_shape(N)
    return ModelShape(n_layers=found.n_layers, d_model=found.d_model)


def _doubts(memory: MemoryPlan, gpu: Gpu) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if memory.fits:
        return (), ()
    where = f"over {memory.least_gpus} of them" if memory.least_gpus else "on no number of them"
    sentence = (
        f"about {memory.total_gb:,.0f} GB per GPU do not fit the {memory.memory_gb:g} GB of a {gpu.name}, of which "
        f"{GPU_MEMORY_SHARE:.0%} may be filled, even with every activation recomputed; cut into shards it would fit "
        f"{where}."
    )
    return ("DOES_NOT_FIT",), (sentence,)


def bill_line(bill: RunBill) -> str:
    """The bill in one line: shape, FLOPs, hours, segments, memory, money, energy and CO2."""
    count = format_count
    hours = f"{_hours(bill.gpu_hours)} {bill.gpu} hours"
    wall = "" if bill.n_gpus == 1 else f", {_hours(bill.wall_hours)} h on {bill.n_gpus}"
    jobs = ""
    if bill.queue_limit_hours is not None:
        jobs = f" in {bill.segments} job{'s' if bill.segments > 1 else ''} of {bill.queue_limit_hours:g} h"
    money = f"${bill.usd_mid:,.0f}"
    if bill.usd_low < bill.usd_high:
        money += f" (${bill.usd_low:,.0f} to ${bill.usd_high:,.0f})"
    return (
        f"{bill.n_layers} layers x {bill.d_model}, {bill.n_heads} head{'s' * (bill.n_heads > 1)}, N {count(bill.N)}, "
        f"on {count(bill.D)} tokens: "
        f"{bill.C_exact:.3g} FLOPs, {hours}{wall}{jobs}; {_memory(bill.memory)}; "
        f"{money}, {_hours(bill.energy_kwh)} kWh, {_hours(bill.co2_kg)} kg CO2"
    )


def _hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _memory(memory: MemoryPlan) -> str:
    again = {"none": "", "every_other": ", every other block recomputed", "all": ", activations recomputed"}
    enough = f"; {memory.least_gpus} GPUs would do" if memory.least_gpus else ""
    fits = "" if memory.fits else f"DOES NOT FIT ({GPU_MEMORY_SHARE:.0%} may be filled{enough}): "
    return (
        f"{fits}{memory.total_gb:.3g} of {memory.memory_gb:g} GB per GPU, {memory.layout}{again[memory.recompute]}, "
        f"{memory.micro_windows} window{'s' if memory.micro_windows > 1 else ''} at a time"
    )
