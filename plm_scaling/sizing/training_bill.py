"""The bill of one training: hours, jobs under a queue limit, money, energy, carbon dioxide."""

from __future__ import annotations

import math
from typing import NamedTuple

__all__ = ["TrainingBill", "energy_kwh", "queue_segments", "training_bill"]


class TrainingBill(NamedTuple):
    """What a training costs."""

    gpu_hours: float
    wall_hours: float
    slurm_segments: int
    """Jobs, one after the other."""
    cost_usd: float
    energy_kwh: float
    co2_kg: float


def queue_segments(wall_hours: float, limit_hours: float, lost_share: float) -> int:
    """Jobs of at most `limit_hours` for `wall_hours` of training, `lost_share` of each lost to start and repetition."""
    return math.ceil(wall_hours / (limit_hours * (1.0 - lost_share)))


def energy_kwh(gpu_hours: float, watts: float, load: float, pue: float) -> float:
    """Electrical energy of GPU hours at a share `load` of the rated power, with what the building adds (PUE)."""
    return gpu_hours * watts / 1000.0 * load * pue


def training_bill(
    train_flops: float,
    *,
    gpus: float,
    peak_flops_per_s: float,
    mfu: float,
    usd_per_gpu_hour: float,
    watts: float,
    load: float,
    pue: float,
    kg_co2_per_kwh: float,
    limit_hours: float,
    lost_share: float,
) -> TrainingBill:
    """The bill of so many training FLOPs.

    Parameters
    ----------
    peak_flops_per_s : of one GPU, dense; `mfu` is the share of it that is used.
    watts, load : rated power of one GPU, and the share of it that is drawn.
    limit_hours, lost_share : longest job the queue takes, and the share of each that start and repetition lose.
    """
    gpu_hours = train_flops / (peak_flops_per_s * mfu * 3600.0)
    energy = energy_kwh(gpu_hours, watts, load, pue)
    return TrainingBill(
        gpu_hours=gpu_hours,
        wall_hours=gpu_hours / gpus,
        slurm_segments=queue_segments(gpu_hours / gpus, limit_hours, lost_share),
        cost_usd=gpu_hours * usd_per_gpu_hour,
        energy_kwh=energy,
        co2_kg=energy * kg_co2_per_kwh,
    )
