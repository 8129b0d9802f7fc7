"""Numbers a budget question may be asked with: beyond them sums of powers lose digits, and answers mean nothing."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from plm_scaling.core.errors import ConfigError

__all__ = ["BOUNDS", "Bounds", "check_quantities"]


class Bounds(NamedTuple):
    """Smallest and largest value of a quantity, and what it is."""

    low: float
    high: float
    what: str
    example: str


BOUNDS: Final[dict[str, Bounds]] = {
    "gpu_hours": Bounds(1e-6, 1e15, "GPU-hours", "5000"),
    "usd": Bounds(1e-6, 1e15, "US dollars", "20000"),
    "flops": Bounds(1e3, 1e36, "training FLOPs", "1e21"),
    "unique_tokens": Bounds(1.0, 1e18, "distinct training tokens", "15e9"),
    "proprietary_tokens": Bounds(1.0, 1e18, "tokens of your own sequences", "70e6"),
    "proprietary_length": Bounds(1.0, 1e7, "residues of one of your own sequences", "735"),
    "usd_per_gpu_hour": Bounds(1e-6, 1e9, "US dollars for an accelerator's hour", "1.3"),
    "usd_per_token": Bounds(1e-18, 1e6, "US dollars for a new unique token", "1e-7"),
    "usd_per_nat": Bounds(1e-6, 1e18, "US dollars that a nat is worth", "1e6"),
    "mfu": Bounds(1e-6, 1.0, "a share of the accelerator's peak", "0.4"),
    "sequences": Bounds(1.0, 1e15, "sequences read or made over the model's life", "1e6"),
    "length": Bounds(1.0, 1e7, "residues of a sequence", "735"),
    "passes": Bounds(1e-3, 1e7, "times each sequence is read", "1"),
    "serve_tokens": Bounds(1.0, 1e24, "tokens read or made over the model's life", "1e12"),
    "n_gpus": Bounds(1.0, 1e7, "accelerators used at a time", "8"),
    "nodes": Bounds(1.0, 1e7, "nodes used at a time", "8"),
    "gpus_per_node": Bounds(1.0, 1e5, "accelerators of a node", "4"),
    "hours": Bounds(1e-6, 1e12, "node-hours granted", "3000"),
    "queue_limit": Bounds(1e-3, 1e9, "hours of the longest job", "24"),
    "loss": Bounds(1e-3, 100.0, "nats per token", "2.41"),
    "params": Bounds(1.0, 1e18, "parameters of the blocks", "650M"),
    "tokens": Bounds(1.0, 1e21, "tokens the model was trained on", "1e12"),
}


def check_quantities(whose: str = "", **given: float | None) -> None:
    """Refuse numbers that no question is asked with, by name; None passes.

    Parameters
    ----------
    whose : what they belong to, where the name alone does not say it.

    Raises
    ------
    ConfigError : not a number, or outside `BOUNDS`.
    """
    for name, value in given.items():
        low, high, what, example = BOUNDS[name]
        if value is None or low <= value <= high:
            continue
        side = "is no number" if math.isnan(value) else f"is {'below' if value < low else 'above'} what can be answered"
        raise ConfigError(
            f"{name}{f' of {whose}' if whose else ''} = {value:g} {side}",
            why=f"{what}: from {low:g} to {high:g}",
            hint=f"for example {example}",
        )
