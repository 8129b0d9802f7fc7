"""One training run: what it is (`RunConfig`), what came out (`RunRecord`)."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from plm_scaling.core.architecture import Architecture, ModelShape
from plm_scaling.core.objective import Objective
from plm_scaling.core.recipe import RecipeName, ScheduleName
from plm_scaling.core.records import Record
from plm_scaling.core.units import six_nd

__all__ = [
    "LedgerRow",
    "Objective",
    "RunConfig",
    "RunRecord",
    "RunStatus",
    "Sampling",
    "Stream",
    "ValidationLoss",
]

Sampling = Literal["flat", "cluster50"]
RunStatus = Literal["planned", "running", "interrupted", "halted", "failed", "diverged", "complete"]
"""`halted`: interrupted, and not worth going on with (`halted.json` says why)."""


class Stream(Record):
    """A pool of training sequences: a range of the corpus' fixed keyed permutation, and its share of each batch.

    Ranges from the same start are nested: the smaller is a prefix of the larger.
    """

    sources: tuple[str, ...] = ()
    """Names of the sources drawn from; empty means all of them, each at its natural share."""
    unique_tokens: int | None = Field(default=None, gt=0)
    """Tokens in the range, None for all that follow `start_tokens`; of whole clusters with `cluster50`."""
    start_tokens: int = Field(default=0, ge=0)
    """Tokens of the permutation passed over first (disjoint phases of a transfer pair)."""
    weight: float = Field(default=1.0, gt=0)
    """Share of the windows, relative to the other streams of the run."""
    duplicates: bool = False
    """Visit exact duplicates too, not first occurrences only."""
    sampling: Sampling = "flat"
    """`flat`: every sequence once per epoch; `cluster50`: one member of each 50 % cluster per epoch, as ESM-2 does."""
    exclude: tuple[str, ...] = ()
    """Flags (corpus.format.FLAGS) whose sequences are left out of the pool."""
    shuffled: bool = False
    """A control: the residues of each sequence in a random order that is fixed by the sequence."""

    @field_validator("exclude")
    @classmethod
    def _canonical(cls, exclude: tuple[str, ...]) -> tuple[str, ...]:
        """The same choice in another order is the same stream."""
        return tuple(sorted(set(exclude)))


class RunConfig(Record):
    """Everything that decides the outcome of a run. Its hash is the run's id."""

    SCHEMA_VERSION: ClassVar[int] = 1

    corpus_id: str
    """Content hash of the corpus' manifest."""
    objective: Objective
    n_layers: int = Field(gt=0)
    d_model: int = Field(gt=0)
    context: int = Field(gt=2)
    """Window length in positions."""
    D: int = Field(gt=0)
    """Training tokens (residues and `<eos>`), repeats included; the horizon of the schedule."""
    batch_tokens: int = Field(gt=0)
    """Window positions per step: context x windows."""
    peak_lr: float = Field(gt=0)
    recipe: RecipeName
    """Rule that gave `peak_lr` and `batch_tokens`, unless the spec overrode them."""
    streams: tuple[Stream, ...] = (Stream(),)
    seed: int = 0
    init_from: str | None = None
    """What this run starts from, its optimiser reset: a run id, or `sha256:` and the hash of foreign weights."""
    mask_rate: float = Field(default=0.15, gt=0, lt=1)
    mask_refresh: bool = True
    """Draw new MLM masks every epoch; False keeps one mask per sequence."""
    reverse_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the documents that CLM reads from their end; above 0 the model is scored in both directions."""
    schedule: ScheduleName = "cosine"
    """`wsd`: warm-up, constant, then a decay as 1 - sqrt(x) over the last `decay_fraction`; no law mixes the two."""
    warmup_fraction: float = Field(default=0.025, ge=0, lt=1)
    warmup_tokens: int | None = Field(default=None, gt=0)
    """Length of the warm-up whatever the horizon, instead of `warmup_fraction`; `wsd` needs it."""
    decay_fraction: float = Field(default=0.2, gt=0, le=1)
    """Share of the steps over which `wsd` decays."""
    final_lr_fraction: float = Field(default=0.1, ge=0, le=1)
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    spike_factor: float | None = Field(default=None, gt=1)
    """An update is skipped where its gradient norm exceeds so many times the running mean; None never skips."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of what each block adds to the residual stream that is dropped in training."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    architecture: Architecture = "plm"
    n_heads: int | None = Field(default=None, gt=0)
    d_ffn: int | None = Field(default=None, gt=0)
    rotary_dim: int | None = Field(default=None, gt=0)
    lora_rank: int | None = Field(default=None, gt=0)
    """Train additions of this rank to the blocks' matrices instead of all weights; None trains everything."""
    lora_alpha: float = Field(default=16.0, gt=0)
    """The additions are scaled by alpha / rank."""
    teacher: str | None = None
    """Model whose predictions are learnt beside the data: a run id, or `sha256:` and the hash of foreign weights."""
    teacher_share: float = Field(default=0.5, ge=0, le=1)
    """Weight of the teacher's part of the loss; the data keep the rest."""
    teacher_temperature: float = Field(default=1.0, gt=0)
    validation_tokens: int = Field(default=200_000, gt=0)
    """At most so many tokens of every validation set are scored (a fixed choice of the corpus)."""
    validation_points: int = Field(default=5, ge=1)
    """Evaluations of `val_iid` over the run, the last one at its end."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.batch_tokens % self.context:
            raise ValueError(f"batch_tokens {self.batch_tokens} is no multiple of context {self.context}")
        if not self.streams:
            raise ValueError("a run needs at least one stream")
        if self.schedule == "wsd" and self.warmup_tokens is None:
            raise ValueError("schedule wsd needs warmup_tokens: its warm-up must not depend on the horizon")
        if self.lora_rank is not None and self.init_from is None:
            raise ValueError("lora_rank needs init_from: additions to random weights learn nothing")
        if self.reverse_share and (self.objective != "clm" or self.teacher is not None):
            raise ValueError("reverse_share is for clm, and without a teacher, which is not known to read both ways")
        self.shape  # noqa: B018  refuses heads that do not divide the width
        return self

    @property
    def shape(self) -> ModelShape:
        """Shape of the model."""
        return _shape(self.architecture, self.n_layers, self.d_model, self.n_heads, self.d_ffn, self.rotary_dim)

    @property
    def run_id(self) -> str:
        """First 12 hex digits of the content hash."""
        return self.content_hash()[:12]

    @property
    def N(self) -> int:
        """Parameters of the blocks."""
        return self.shape.N

    @property
    def N_total(self) -> int:
        """All parameters, embedding and head included."""
        return self.shape.N_total

    @property
    def C_6nd(self) -> float:
        """6 N D in FLOPs."""
        return six_nd(self.N, self.D)

    @property
    def windows_per_batch(self) -> int:
        """Windows of `context` positions in a global batch."""
        return self.batch_tokens // self.context


@lru_cache(maxsize=1024)
def _shape(
    architecture: Architecture,
    n_layers: int,
    d_model: int,
    n_heads: int | None,
    d_ffn: int | None,
    rotary_dim: int | None,
) -> ModelShape:
    """Made and checked once: thousands of runs of a plan have few shapes, and ask for them often."""
    return ModelShape(
        architecture=architecture,
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        d_ffn=d_ffn,
        rotary_dim=rotary_dim,
    )


class LedgerRow(Record):
    """Training tokens of one source, or of all of them (`source = "*"`), up to some step.

    tokens = unique + repeated_epoch + repeated_duplicate + seen_earlier, exactly.
    """

    source: str
    tokens: int
    residues: int
    unique: int
    """Seen for the first time in the whole lineage."""
    repeated_epoch: int
    """Seen before in this run, in an earlier pass over the same stream."""
    repeated_duplicate: int
    """Exact copies of a sequence seen in this run through another record or stream."""
    seen_earlier: int
    """First visit in this run of a token that an earlier run of the lineage was trained on."""
    seen_earlier_clm: int = 0
    """Part of `seen_earlier` that an earlier CLM phase saw."""
    seen_earlier_mlm: int = 0
    """Part of `seen_earlier` that an earlier MLM phase saw."""
    mates_50: int = 0
    """Part of `unique` whose 50 % identity cluster this run had already seen through another sequence."""
    mates_90: int = 0
    """Part of `mates_50` whose 90 % identity cluster this run had already seen through another sequence."""


class ValidationLoss(Record):
    """Loss of one validation set at the end of a run, in nats.

    CLM: `per_token` over residues and `<eos>`, `per_residue` over residues only. MLM: both are the mean over the
    masked residues (its only targets).
    """

    set_name: str
    validation_id: str
    """Hash of the scored sequences, the masks and the protocol; equal ids may be compared and paired."""
    per_token: float
    per_residue: float
    se: float
    """Standard error of `per_token` over sequences (unpaired, seeds not included)."""
    n_targets: int
    n_sequences: int


class RunRecord(Record):
    """What a finished run leaves behind (`record.json`)."""

    config: RunConfig
    roles: tuple[str, ...] = ()
    status: RunStatus
    steps: int
    D: int
    """Tokens actually trained on."""
    D_unique: int
    ledger: tuple[LedgerRow, ...]
    C_6nd: float
    C_exact: float
    device_s: float
    """Seconds of training over all attempts, validation included; of runs that share a device, this one's part."""
    tokens_per_s: float
    attempts: int
    threads: int
    world: int = 1
    """Processes that shared the batch, at the end of the run."""
    device: str = ""
    mfu: float | None = None
    """Exact FLOPs per second of training, as a share of the measured peak of a matrix product; None if unmeasured."""
    peak_memory_bytes: int | None = None
    """Of the process, or of the device where there is one."""
    skipped_updates: int = 0
    """Updates left out by `spike_factor`."""
    validation: tuple[ValidationLoss, ...]
    source_run_id: str | None = None
    source_objective: Objective | None = None
    N_source: int | None = None
    D_source: int | None = None
    C_source: float | None = None
    """Exact training FLOPs of the source run; None for foreign weights, whose cost is not known here."""
    C_teacher: float | None = None
    """Forward FLOPs of the teacher over this run, spent beside C_exact; None without a teacher."""
    versions: dict[str, str] = Field(default_factory=dict)
    flags: tuple[str, ...] = ()
