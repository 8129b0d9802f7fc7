"""What speaks against an answer: a flag and a plain sentence for every doubt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from plm_scaling.core.memory_estimate import GPU_MEMORY_SHARE
from plm_scaling.core.objective import Objective
from plm_scaling.core.recipe import MIN_STEPS, RecipeName
from plm_scaling.core.units import format_count
from plm_scaling.sizing.answers import FLAG_DECADES
from plm_scaling.sizing.costs import Budget, Gpu, Hardware, Throughput
from plm_scaling.sizing.recommendation import LawAnswer
from plm_scaling.sizing.shapes import Shape, typical_width
from plm_scaling.sizing.unique_data import repeat_findings

__all__ = [
    "Findings",
    "data_findings",
    "law_findings",
    "machine_findings",
    "money_findings",
    "recipe_findings",
]

_LONG_WALL_HOURS: Final = 30 * 24.0
_DISAGREEMENT_FACTOR: Final = 2.0
_SMALL_RECIPE_TOKENS: Final = 1e8

Findings = tuple[tuple[str, ...], tuple[str, ...]]
"""Flags, and the sentences that spell them out."""


def law_findings(answers: Sequence[LawAnswer], shape: Shape) -> Findings:
    """Doubts about the law that gives N: its range, its origin, the other laws, the shape's distance."""
    primary = answers[0]
    flags, warnings = list(primary.flags), []
    if primary.extrapolation_decades > 0 and primary.range_C is not None:
        warnings.append(_range_sentence(primary, primary.range_C))
    if "RANGE_UNKNOWN" in primary.flags:
        warnings.append(f"{primary.law_id} does not say for which compute it holds: extrapolation cannot be judged.")
    if "TEXT_LAW" in primary.flags:
        warnings.append(f"{primary.law_id} is a law of text, not of proteins.")
    if "UNVERIFIED" in primary.flags:
        warnings.append(f"the numbers of {primary.law_id} were not checked against its source.")
    if primary.caveat:
        warnings.append(f"{primary.law_id}: {primary.caveat}.")
    if sentence := _disagreement_sentence(answers):
        flags.append("LAWS_DISAGREE")
        warnings.append(sentence)
    if abs(math.log(shape.N / primary.N)) > 0.05:
        flags.append("SHAPE_NOT_CLOSE")
        warnings.append(f"the nearest buildable shape has {shape.N / primary.N - 1.0:+.0%} parameters.")
    return tuple(flags), tuple(warnings)


def data_findings(objective: Objective, N: float, D: float, unique_tokens: float | None, max_epochs: float) -> Findings:
    """Doubts about the data: repeats, or that nothing was said about unique tokens."""
    if unique_tokens is None:
        return ("UNIQUE_TOKENS_UNKNOWN",), (
            f"the answer assumes {format_count(D, 2)} tokens that differ from each other; "
            "say how many you have (unique tokens) to see the epochs.",
        )
    return repeat_findings(objective, N, D, unique_tokens, max_epochs)


def _range_sentence(answer: LawAnswer, range_C: tuple[float, float]) -> str:
    low, high = range_C
    side = "above" if "ABOVE_RANGE" in answer.flags else "below"
    factor = 10.0**answer.extrapolation_decades
    runs = f"the runs behind {answer.law_id} ({low:.0e} to {high:.0e} FLOPs)"
    text = f"the budget is {format_count(factor, 2)}x {side} {runs}"
    if answer.extrapolation_decades > FLAG_DECADES:
        return f"{text}: {answer.extrapolation_decades:.1f} decades of extrapolation; treat N as an order of magnitude."
    return f"{text}: an extrapolation of {answer.extrapolation_decades:.1f} decades."


def _disagreement_sentence(answers: Sequence[LawAnswer]) -> str:
    counted = sorted((a for a in answers if a.role != "comparison"), key=lambda a: a.N)
    factor = counted[-1].N / counted[0].N
    if factor < _DISAGREEMENT_FACTOR:
        return ""
    return (
        f"the laws disagree on N by a factor {factor:.1f}: {counted[0].law_id} says {format_count(counted[0].N, 2)}, "
        f"{counted[-1].law_id} says {format_count(counted[-1].N, 2)}; published exponents of N for protein models "
        "span .27 to .78. Measure your own before you spend the budget."
    )


def machine_findings(
    gpu: Gpu, hardware: Hardware, throughput: Throughput, *, N: float, state_gb: float, hours: float, n_gpus: int
) -> Findings:
    """Doubts about the machine: memory, wall time, and speeds nobody measured."""
    flags: list[str] = []
    warnings: list[str] = []
    usable = GPU_MEMORY_SHARE * gpu.memory_gb
    if state_gb > usable:
        needed = math.ceil(state_gb / usable)
        flags.append("STATE_EXCEEDS_ONE_GPU")
        warnings.append(
            f"weights and optimiser take {state_gb:,.0f} GB, one {gpu.name} has {gpu.memory_gb:g}, of which "
            f"{GPU_MEMORY_SHARE:.0%} may be filled: shard them (FSDP) over at least {needed}"
            + (f"; you gave {n_gpus}." if n_gpus < needed else ".")
        )
    if hours / n_gpus > _LONG_WALL_HOURS:
        flags.append("LONG_WALL_TIME")
        warnings.append(
            f"{hours / n_gpus / 24:,.0f} days on {n_gpus} GPU{'s' if n_gpus > 1 else ''}; "
            f"{math.ceil(hours / _LONG_WALL_HOURS)} would finish in a month."
        )
    narrow = typical_width(N) < hardware.mfu_by_width.widths[-1] and throughput.mfu < gpu.mfu
    if narrow and hardware.mfu_by_width.status == "unverified":
        flags.append("MFU_GUESSED")
        warnings.append(
            f"narrow models leave the accelerator idle: the {throughput.mfu:.0%} MFU behind the cost is a guess; "
            "measure yours and give it."
        )
    if gpu.status == "unverified":
        flags.append("HARDWARE_UNVERIFIED")
        warnings.append(f"the numbers of {gpu.name} in hardware.toml are not checked: put in your own.")
    return tuple(flags), tuple(warnings)


def money_findings(budget: Budget, gpu: Gpu, usd_per_gpu_hour: float | None) -> Findings:
    """What the price range does to a budget in money."""
    if budget.usd is None or usd_per_gpu_hour is not None:
        return (), ()
    price = gpu.usd_per_hour
    return ("PRICE_ASSUMED",), (
        f"${budget.usd:,.0f} buys {budget.usd / price.mid:,.0f} {gpu.name} hours at ${price.mid:g}, "
        f"{budget.usd / price.high:,.0f} at ${price.high:g}, {budget.usd / price.low:,.0f} at ${price.low:g}.",
    )


def recipe_findings(recipe: RecipeName, D: float, batch_tokens: int) -> Findings:
    """A batch that leaves few steps; the small recipe was chosen on runs of a few million tokens."""
    steps = D / batch_tokens
    if steps < MIN_STEPS:
        return ("FEW_STEPS",), (
            f"the recipe's batch of {format_count(batch_tokens)} tokens leaves {steps:.0f} optimiser steps, too few "
            "for its schedule: such a run says more about the schedule than about its size. Take a smaller batch.",
        )
    if recipe != "small" or D <= _SMALL_RECIPE_TOKENS:
        return (), ()
    return ("RECIPE_UNCHECKED",), (
        f"learning rate and batch follow the recipe for tiny models, which was never tried on {format_count(D, 2)} "
        "tokens: take a larger batch and check the learning rate.",
    )
