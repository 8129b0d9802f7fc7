"""The values of a sweep: `SweepSpec` (what the user asks for, TOML) and `SweepPlan` (what will be run, JSON)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from plm_scaling.core.architecture import Architecture
from plm_scaling.core.recipe import BatchRule, RecipeName, ScheduleName
from plm_scaling.core.records import Record
from plm_scaling.core.run import Objective, RunConfig, Sampling, Stream
from plm_scaling.core.units import format_count
from plm_scaling.sweeps.arm_records import (
    ContinuedArm,
    DataArm,
    DistilArm,
    DiversityArm,
    GridArm,
    IsoflopArm,
    LrProbeArm,
    MaskArm,
    MaskRate,
    Mixture,
    RepeatsArm,
    TransferArm,
    TransferGridArm,
    WsdArm,
    beside,
)
from plm_scaling.sweeps.cost_records import CutRun, PlanCosts

__all__ = [
    "ARMS",
    "ContinuedArm",
    "DataArm",
    "DistilArm",
    "DiversityArm",
    "GridArm",
    "IsoflopArm",
    "LrProbeArm",
    "MaskArm",
    "Mixture",
    "PlannedRun",
    "RepeatsArm",
    "SweepPlan",
    "SweepSpec",
    "TransferArm",
    "TransferGridArm",
    "WsdArm",
    "data_text",
]

ARMS: Final = (
    *("lr_probe", "isoflop", "grid", "repeats", "transfer", "transfer_grid", "diversity", "data", "mask", "wsd"),
    *("continued", "distil"),
)
"""Keys of a spec that ask for runs."""

Currency = Literal["C_exact", "C_6nd"]


class SweepSpec(Record):
    """A sweep as a user writes it, in TOML."""

    SCHEMA_VERSION: ClassVar[int] = 1

    name: str
    corpus: str = ""
    """Path of a prepared corpus, relative to the spec's file; empty: named when the sweep is planned."""
    architecture: Architecture = "plm"
    """Of sizes given by numbers; a size given by name brings its own."""
    objectives: tuple[Objective, ...] = ("clm", "mlm")
    context: int = Field(default=256, gt=2)
    currency: Currency = "C_exact"
    seeds: tuple[int, ...] = (0,)
    recipe: RecipeName | None = None
    """None: `small` below 1M parameters, else `cheng`."""
    batch_tokens: int | None = None
    """None: by the recipe."""
    batch_rule: BatchRule = "recipe"
    """`power`: the batch grows as D^0.383 through `batch_tokens`, or the recipe's batch, at `batch_D` tokens."""
    batch_D: float | None = Field(default=None, gt=0)
    """Training tokens at which `power` has the batch it starts from."""
    lr_factor: float = Field(default=1.0, gt=0)
    beta2_half_life_tokens: float | None = Field(default=None, gt=0)
    """AdamW forgets half of its squared gradients in so many tokens, whatever the batch; None: beta2 is .95."""
    schedule: ScheduleName = "cosine"
    """`wsd`: runs that differ by D alone share all steps before their decay."""
    warmup_tokens: float | None = Field(default=None, gt=0)
    """Length of the warm-up; None: 2.5 % of the steps. `wsd` needs it."""
    decay_fraction: float = Field(default=0.2, gt=0, le=1)
    """Share of the steps over which `wsd` decays."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.1, ge=0)
    spike_factor: float | None = Field(default=None, gt=1)
    """Updates whose gradient norm exceeds so many times the running mean are skipped; None: never."""
    mask_rate: MaskRate = 0.15
    """Share of the residues that MLM runs mask."""
    mask_refresh: bool = True
    """Whether MLM runs draw new masks every epoch."""
    reverse_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the documents that CLM runs read from their end."""
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
    lr_probe: tuple[LrProbeArm, ...] = ()
    isoflop: tuple[IsoflopArm, ...] = ()
    grid: tuple[GridArm, ...] = ()
    repeats: tuple[RepeatsArm, ...] = ()
    transfer: tuple[TransferArm, ...] = ()
    transfer_grid: tuple[TransferGridArm, ...] = ()
    diversity: tuple[DiversityArm, ...] = ()
    data: tuple[DataArm, ...] = ()
    mask: tuple[MaskArm, ...] = ()
    wsd: tuple[WsdArm, ...] = ()
    continued: tuple[ContinuedArm, ...] = ()
    distil: tuple[DistilArm, ...] = ()
    max_epochs: float = Field(default=4.0, gt=0)
    """isoflop and grid runs that need more passes over the corpus than this are flagged DATA_EXHAUSTED."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.batch_rule == "power" and self.batch_D is None:
            raise ValueError("batch_rule power needs batch_D: the tokens at which the batch it starts from is good")
        if self.schedule == "wsd" and self.warmup_tokens is None:
            raise ValueError("schedule wsd needs warmup_tokens: its warm-up must not depend on the horizon")
        if self.reverse_share and self.distil:
            raise ValueError("reverse_share does not go with distil: a teacher is not known to read both ways")
        return self

    def located(self, folder: Path) -> Self:
        """The spec with its paths made absolute.

        Parameters
        ----------
        folder : of the spec's file, which its paths are relative to.
        """
        continued = (arm.model_copy(update={"init_from": beside(folder, arm.init_from)}) for arm in self.continued)
        distil = (arm.model_copy(update={"teacher": beside(folder, arm.teacher)}) for arm in self.distil)
        corpus = str((folder / self.corpus).resolve()) if self.corpus else ""
        return self.model_copy(update={"corpus": corpus, "continued": tuple(continued), "distil": tuple(distil)})


class PlannedRun(Record):
    """One run of a plan with everything the table shows."""

    run_id: str
    config: RunConfig
    roles: tuple[str, ...]
    """isoflop, grid, replicate, repeats, regularisation, diversity, data, mask_ratio, wsd, transfer_source,
    transfer_target, transfer_scratch, rewarmed, shuffled_source, lr_probe, continued, continued_first, distil."""
    C_exact: float
    """FLOPs of all its steps, those taken over from a trunk included."""
    C_teacher: float | None = None
    """Forward FLOPs of its teacher beside C_exact; None without a teacher, or where nothing states its size."""
    unique_tokens: int
    """Distinct training tokens available to its streams."""
    epochs: float
    steps: int
    memory_bytes: int
    """Estimated peak of the process."""
    notes: tuple[str, ...] = ()
    """Feasibility notes: DATA_EXHAUSTED, FEW_WINDOWS, FEW_STEPS, MEMORY."""
    init_path: str | None = None
    """Absolute path of the foreign weights that `config.init_from` names by their hash."""
    teacher_path: str | None = None
    """The same for `config.teacher`."""
    trunk: str | None = None
    """Run whose state this one takes over where its own decay begins."""
    keep_steps: tuple[int, ...] = ()
    """Steps whose state is kept for the runs that branch off."""
    begin_step: int = 0
    """Steps taken over from the trunk. Without the trunk's state they are trained like any others."""
    predicted_seconds: float | None = None
    """Time it is predicted to take on one device of the plan's kind; None where the plan names no device."""
    reason: str = ""
    """Why it was chosen, where runs before it decided that."""

    @property
    def computed_share(self) -> float:
        """Share of its steps that are really carried out."""
        return 1.0 - self.begin_step / self.steps

    @property
    def D_computed(self) -> int:
        """Tokens that are really trained on, of the D that the result stands for."""
        return round(self.config.D * self.computed_share)

    @property
    def has_unknown_teacher(self) -> bool:
        """Whether it learns from a model of a size that is not known before training."""
        return self.config.teacher is not None and self.C_teacher is None

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
    if stream.shuffled:
        text += " shuffled"
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
    costs: PlanCosts | None = None
    """What it costs on a kind of device; None where none was named."""
    cut: tuple[CutRun, ...] = ()
    """Runs of the spec that a budget did not pay for."""
    remarks: tuple[str, ...] = ()
    """Sentences about the plan as a whole: what was cut, what its prices rest on, what its sizes were chosen by."""

    @property
    def total_C_exact(self) -> float:
        """Training FLOPs of all runs, what branches take over counted once."""
        return sum(run.C_exact * run.computed_share for run in self.runs)

    @property
    def total_C_teacher(self) -> float:
        """Forward FLOPs of the teachers of known size, spent beside `total_C_exact`."""
        return sum((run.C_teacher or 0.0) * run.computed_share for run in self.runs)
