"""What a model is used for over its life: sequences x length x passes as tokens, FLOPs, hours and money."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal, Self, get_args

from pydantic import Field, model_validator

from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import ConfigError, did_you_mean
from plm_scaling.core.records import Record
from plm_scaling.sizing.costs import Gpu, Hardware, bill_for, gpu_named, load_hardware, mfu_at_width

__all__ = [
    "InferenceJob",
    "JobKind",
    "ServingBill",
    "inference_tokens",
    "job_flops",
    "job_of",
    "passes_of",
    "serving_bill",
]

JobKind = Literal["single_pass", "masked_marginals", "pseudo_likelihood", "generation", "embedding"]
"""single_pass: every position scored in one pass. masked_marginals: each position masked once, a pass each (all
variants of one sequence share them). pseudo_likelihood: the same for every sequence that is scored. generation: tokens
produced one at a time with a cache of keys and values. embedding: one pass."""

_L_PASSES: Final = frozenset({"masked_marginals", "pseudo_likelihood"})


class InferenceJob(Record):
    """A number of sequences, and how often the model reads each."""

    kind: JobKind
    sequences: float = Field(gt=0)
    """Sequences scored or generated. For masked marginals: wild types, however many variants each has."""
    length: float = Field(ge=1)
    """Residues read per sequence; tokens produced, for generation."""
    passes: float | None = Field(default=None, gt=0)
    """Times each sequence is read; None for what the kind says (`length` or 1)."""
    prompt: float = Field(default=0.0, ge=0)
    """Tokens read ahead of the first that is generated."""

    @model_validator(mode="after")
    def _prompt_of_generation(self) -> Self:
        if self.prompt and self.kind != "generation":
            raise ValueError("a prompt belongs to generation")
        return self


class ServingBill(Record):
    """What a model's uses cost in all."""

    tokens: float
    """T, tokens processed."""
    flops_2nt: float
    """2 N T."""
    flops_exact: float
    """With attention and head."""
    gpu: str
    gpu_hours: float
    usd_low: float
    usd_mid: float
    usd_high: float
    energy_kwh: float
    co2_kg: float
    bandwidth_bound: bool
    """Some job waits for memory longer than for arithmetic (generation in small batches)."""


def job_of(kind: str, sequences: float, length: float, *, passes: float | None = None) -> InferenceJob:
    """A job as a user states it.

    Raises
    ------
    ConfigError : no such kind, or a number out of bounds.
    """
    known = get_args(JobKind)
    word = kind.strip().lower().replace("-", "_")
    if word not in known:
        raise ConfigError(f"no use of a model is called {kind!r}", hint=did_you_mean(word, known))
    return InferenceJob.checked(kind=word, sequences=sequences, length=length, passes=passes)


def passes_of(job: InferenceJob) -> float:
    """Times each sequence is read: as stated, else its length for kinds that mask one position at a time, else 1."""
    if job.passes is not None:
        return job.passes
    return job.length if job.kind in _L_PASSES else 1.0


def inference_tokens(jobs: Sequence[InferenceJob]) -> float:
    """T, tokens processed over a model's life: sequences x (prompt + length) x passes, over all jobs.

    **Source:** Sardana et al. 2023, where T is the inference demand; passes are what proteins add to it.
    """
    return math.fsum(job.sequences * (job.prompt + job.length) * passes_of(job) for job in jobs)


def job_flops(job: InferenceJob, shape: ModelShape) -> float:
    """Forward FLOPs of a job: every matrix product, head included, attention by the keys each position looks at.

    A pass over a sequence computes the whole score matrix, length^2; a generated token looks at those before it and at
    itself, so that n tokens after a prompt of p cost p^2 + n p + n (n + 1) / 2.

    **Source:** `ModelShape.training_flops`, whose third is the forward pass.
    """
    positions = job.prompt + job.length
    if job.kind == "generation":
        keys = job.prompt**2 + job.length * job.prompt + job.length * (job.length + 1.0) / 2.0
    else:
        keys = job.length**2
    one = shape.training_flops(positions=positions, sum_length_squared=keys) / 3.0
    return one * job.sequences * passes_of(job)


def serving_bill(
    jobs: Sequence[InferenceJob],
    shape: ModelShape,
    *,
    gpu: str | Gpu = "a100",
    hardware: Hardware | None = None,
    mfu: float | None = None,
    usd_per_gpu_hour: float | None = None,
    kg_co2_per_kwh: float | None = None,
    generation_batch: int = 64,
    value_bytes: int = 2,
) -> ServingBill:
    """Tokens, FLOPs, accelerator hours and money of all jobs of one model.

    Scoring runs at the utilisation of training. Generation also reads all weights and the cache of keys and values for
    every token of a batch, and takes the longer of the two times.

    Parameters
    ----------
    generation_batch : sequences that are generated side by side.
    value_bytes : of a weight and of a cached value, 2 in bf16.

    Raises
    ------
    ConfigError : no such accelerator, or a batch that is not positive.

    **Source:** Pope et al. 2022, section 2, for what generation reads from memory.
    """
    if generation_batch < 1:
        raise ConfigError("generation_batch must be at least 1", why=f"got {generation_batch}")
    hardware = hardware or load_hardware()
    device = gpu_named(gpu, hardware) if isinstance(gpu, str) else gpu
    used = mfu if mfu is not None else mfu_at_width(device, shape.d_model, hardware.mfu_by_width)
    flops = [job_flops(job, shape) for job in jobs]
    compute = [one / (device.peak_tflops * 1e12 * used) for one in flops]
    memory = [_seconds_of_memory(job, shape, device, generation_batch, value_bytes) for job in jobs]
    hours = math.fsum(max(pair) for pair in zip(compute, memory, strict=True)) / 3600.0
    bill = bill_for(hours, device, hardware, usd_per_gpu_hour=usd_per_gpu_hour)
    grid = hardware.kg_co2_per_kwh if kg_co2_per_kwh is None else kg_co2_per_kwh
    T = inference_tokens(jobs)
    return ServingBill(
        tokens=T,
        flops_2nt=2.0 * shape.N * T,
        flops_exact=math.fsum(flops),
        gpu=device.name,
        gpu_hours=hours,
        usd_low=bill.usd_low,
        usd_mid=bill.usd_mid,
        usd_high=bill.usd_high,
        energy_kwh=bill.energy_kwh,
        co2_kg=bill.energy_kwh * grid,
        bandwidth_bound=any(wait > work for work, wait in zip(compute, memory, strict=True)),
    )


def _seconds_of_memory(job: InferenceJob, shape: ModelShape, gpu: Gpu, batch: int, value_bytes: int) -> float:
    """Reading weights once per token of a batch, and each sequence's cache once per token of its own."""
    if job.kind != "generation":
        return 0.0
    side_by_side = min(float(batch), job.sequences)
    keys = job.length * job.prompt + job.length * (job.length + 1.0) / 2.0
    weights = shape.N_total * job.length * job.sequences / side_by_side
    cache = 2.0 * shape.n_layers * shape.d_model * keys * job.sequences
    return value_bytes * (weights + cache) * passes_of(job) / (gpu.bandwidth_tb_s * 1e12)
