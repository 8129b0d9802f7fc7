"""The values of a sweep: `SweepSpec` (what the user asks for, TOML) and `SweepPlan` (what will be run, JSON)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from plm_scaling.core.recipe import RecipeName
from plm_scaling.core.records import Record
from plm_scaling.core.run import Objective, RunConfig, Sampling, Stream
from plm_scaling.core.units import format_count

__all__ = [
    "DataArm",
    "DiversityArm",
    "GridArm",
    "IsoflopArm",
    "Mixture",
    "PlannedRun",
    "RepeatsArm",
    "SweepPlan",
    "SweepSpec",
    "TransferArm",
    "data_text",
]

Currency = Literal["C_exact", "C_6nd"]
Mixture = Literal["natural", "tokens"] | dict[str, float]
"""One pool of all sources; each source at the share of its tokens; or shares of the tokens by source."""
Size = str
"""Layers x width, as "2x64"."""


class IsoflopArm(Record):
    """One compute budget and the sizes trained at it."""

    C: float = Field(gt=0)
    """Training FLOPs per run, in the spec's currency."""
    sizes: tuple[Size, ...]
    objectives: tuple[Objective, ...] = ()
    """Empty: all objectives of the spec."""
    seeds: tuple[int, ...] = ()
    """Empty: the spec's seeds. More than one makes replicates, which measure the noise."""


class GridArm(Record):
    """Every size at every number of tokens."""

    sizes: tuple[Size, ...]
    D: tuple[float, ...]
    objectives: tuple[Objective, ...] = ()
    seeds: tuple[int, ...] = ()


class RepeatsArm(Record):
    """One size and D; the unique tokens shrink, so the epochs grow. A run on unlimited data is its reference."""

    size: Size
    D: float = Field(gt=0)
    unique_tokens: tuple[float, ...]
    objectives: tuple[Objective, ...] = ()
    seeds: tuple[int, ...] = ()
    mask_refresh: bool = True


class TransferArm(Record):
    """CLM -> MLM (or back) pairs: a fully decayed source run, the transferred run, its scratch partner."""

    size: Size
    D: float = Field(gt=0)
    """Tokens of the target run and of its scratch partner."""
    D_source: float = Field(gt=0)
    direction: Literal["clm->mlm", "mlm->clm"] = "clm->mlm"
    overlap: Literal["shared", "disjoint"] = "shared"
    """Whether the target may train on tokens the source has seen."""
    lr_factor: float = Field(default=1.0, gt=0)
    """Peak LR of the transferred run relative to the recipe's."""
    scratch_D: tuple[float, ...] = ()
    """Further scratch runs of the target objective and size, so that D_t can be read off their curve."""
    seeds: tuple[int, ...] = ()


class DiversityArm(Record):
    """At equal N and D: U tokens of the first source repeated; U plus unique tokens of the second; the second alone."""

    size: Size
    D: float = Field(gt=0)
    unique_tokens: float = Field(gt=0)
    """U, tokens of the first source."""
    first: str
    second: str
    shares: tuple[float, ...] = (0.5,)
    """Share of the windows drawn from the second source in the mixed runs."""
    objectives: tuple[Objective, ...] = ()
    seeds: tuple[int, ...] = ()


class DataArm(Record):
    """At equal N and D: the same model on other choices of the data, every combination of the factors listed.

    A factor that is not listed stays as the spec has it.
    """

    size: Size
    D: float = Field(gt=0)
    exclude: tuple[tuple[str, ...], ...] = ()
    """Filters: each a list of flags whose sequences are left out, [] for none."""
    sampling: tuple[Sampling, ...] = ()
    mixture: tuple[Mixture, ...] = ()
    objectives: tuple[Objective, ...] = ()
    seeds: tuple[int, ...] = ()


class SweepSpec(Record):
    """A sweep as a user writes it, in TOML."""

    SCHEMA_VERSION: ClassVar[int] = 1

    name: str
    corpus: str
    """Path of a prepared corpus, relative to the spec's file."""
    objectives: tuple[Objective, ...] = ("clm", "mlm")
    context: int = Field(default=256, gt=2)
    currency: Currency = "C_exact"
    seeds: tuple[int, ...] = (0,)
    recipe: RecipeName | None = None
    """None: `small` below 1M parameters, else `cheng`."""
    batch_tokens: int | None = None
    """None: by the recipe."""
    lr_factor: float = Field(default=1.0, gt=0)
    sources: tuple[str, ...] = ()
    """Sources drawn from by all arms but diversity; empty means all."""
    mixture: Mixture = "natural"
    """How the sources share the tokens, in all arms but diversity."""
    sampling: Sampling = "flat"
    """Every sequence once per epoch, or one member of each 50 % cluster."""
    exclude: tuple[str, ...] = ()
    """Flags whose sequences no arm trains on: fragment, low_complexity, many_x, short, long, weak_evidence, viral."""
    dtype: Literal["fp32", "bf16", "auto"] = "auto"
    """auto: bf16 where the processor has bf16 instructions, else fp32; the plan records which."""
    validation_tokens: int = Field(default=200_000, gt=0)
    validation_points: int = Field(default=5, ge=1)
    isoflop: tuple[IsoflopArm, ...] = ()
    grid: tuple[GridArm, ...] = ()
    repeats: tuple[RepeatsArm, ...] = ()
    transfer: tuple[TransferArm, ...] = ()
    diversity: tuple[DiversityArm, ...] = ()
    data: tuple[DataArm, ...] = ()
    max_epochs: float = Field(default=4.0, gt=0)
    """isoflop and grid runs that need more passes over the corpus than this are flagged DATA_EXHAUSTED."""


class PlannedRun(Record):
    """One run of a plan with everything the table shows."""

    run_id: str
    config: RunConfig
    roles: tuple[str, ...]
    """isoflop, grid, replicate, repeats, diversity, data, transfer_source, transfer_target, transfer_scratch."""
    C_exact: float
    unique_tokens: int
    """Distinct training tokens available to its streams."""
    epochs: float
    steps: int
    memory_bytes: int
    """Estimated peak of the process."""
    notes: tuple[str, ...] = ()
    """Feasibility notes: DATA_EXHAUSTED, FEW_WINDOWS, FEW_STEPS, MEMORY."""

    @property
    def data(self) -> str:
        """What it trains on, in words."""
        return data_text(self.config.streams)


def data_text(streams: tuple[Stream, ...]) -> str:
    """Sources with their shares of the windows, limits, sampling and filters; `all` for everything there is."""
    total = sum(stream.weight for stream in streams)
    return "; ".join(
        f"{stream.weight / total:.3g} {_stream_text(stream)}" if len(streams) > 1 else _stream_text(stream)
        for stream in streams
    )


def _stream_text(stream: Stream) -> str:
    text = "+".join(stream.sources) or "all"
    if stream.unique_tokens:
        text += f" U={format_count(stream.unique_tokens)}"
    if stream.start_tokens:
        text += f" from {format_count(stream.start_tokens)}"
    if stream.duplicates:
        text += " with duplicates"
    if stream.sampling == "cluster50":
        text += " by cluster"
    return text + "".join(f" -{flag}" for flag in stream.exclude)


class SweepPlan(Record):
    """The ordered runs of a sweep: sources before the runs that start from them."""

    SCHEMA_VERSION: ClassVar[int] = 1

    name: str
    corpus: str
    """Path of the corpus relative to the plan's file."""
    corpus_id: str
    currency: Currency
    runs: tuple[PlannedRun, ...]
    scale: float = 1.0
    """Common factor all budgets and D were multiplied by (a slower processor, a shorter demo)."""

    @property
    def total_C_exact(self) -> float:
        """Training FLOPs of all runs."""
        return sum(run.C_exact for run in self.runs)
