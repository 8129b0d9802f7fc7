"""One training run: what it is (`RunConfig`), what came out (`RunRecord`)."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from plm_scaling.core.recipe import RecipeName
from plm_scaling.core.records import Record
from plm_scaling.core.units import block_parameters, six_nd, total_parameters

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

Objective = Literal["clm", "mlm"]
Sampling = Literal["flat", "cluster50"]
RunStatus = Literal["planned", "running", "interrupted", "failed", "diverged", "complete"]


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
    """Run id whose final weights this run starts from; the optimiser is reset."""
    mask_rate: float = Field(default=0.15, gt=0, lt=1)
    mask_refresh: bool = True
    """Draw new MLM masks every epoch; False keeps one mask per sequence."""
    schedule: Literal["cosine"] = "cosine"
    warmup_fraction: float = Field(default=0.025, ge=0, lt=1)
    final_lr_fraction: float = Field(default=0.1, ge=0, le=1)
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    dtype: Literal["fp32", "bf16"] = "fp32"
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
        return self

    @property
    def run_id(self) -> str:
        """First 12 hex digits of the content hash."""
        return self.content_hash()[:12]

    @property
    def N(self) -> int:
        """Parameters of the blocks."""
        return block_parameters(self.n_layers, self.d_model)

    @property
    def N_total(self) -> int:
        """All parameters, embedding and head included."""
        return total_parameters(self.n_layers, self.d_model)

    @property
    def C_6nd(self) -> float:
        """6 N D in FLOPs."""
        return six_nd(self.N, self.D)

    @property
    def windows_per_batch(self) -> int:
        """Windows of `context` positions in a global batch."""
        return self.batch_tokens // self.context


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
    """Seconds of training over all attempts, validation included."""
    tokens_per_s: float
    attempts: int
    threads: int
    validation: tuple[ValidationLoss, ...]
    source_run_id: str | None = None
    source_objective: Objective | None = None
    N_source: int | None = None
    D_source: int | None = None
    C_source: float | None = None
    """Exact training FLOPs of the source run."""
    versions: dict[str, str] = Field(default_factory=dict)
    flags: tuple[str, ...] = ()
