"""The arms of a sweep as a user writes them: which runs each asks for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, AliasChoices, Field, model_validator

from plm_scaling.core.recipe import MASK_RATES
from plm_scaling.core.records import Record
from plm_scaling.core.run import Objective, Sampling

__all__ = [
    "ContinuedArm",
    "DataArm",
    "DistilArm",
    "DiversityArm",
    "GridArm",
    "IsoflopArm",
    "LrProbeArm",
    "MaskArm",
    "MaskRate",
    "Mixture",
    "Remedy",
    "RepeatsArm",
    "Size",
    "TransferArm",
    "TransferControl",
    "TransferGridArm",
    "WsdArm",
    "beside",
    "is_run_id",
]

Mixture = Literal["natural", "tokens"] | dict[str, float]
"""One pool of all sources; each source at the share of its tokens; or shares of the tokens by source."""
Size = str
"""Layers x width ("2x64"), layers x width x heads ("6x320x20"), or a name ("esm2-8m")."""
Remedy = Literal["none", "subset_epochs", "quality_first", "replay"]
_RUN_ID: Final = re.compile(r"[0-9a-f]{12}")


def _usual_mask_rate(rate: float) -> float:
    low, high = MASK_RATES
    if not low <= rate <= high:
        raise ValueError(f"a mask rate of {rate:g} is outside {low} to {high}: it is a share of the residues")
    return rate


MaskRate = Annotated[float, AfterValidator(_usual_mask_rate)]
"""Share of the residues that an MLM masks."""


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
    """At one D the unique tokens shrink, so the epochs grow. A run on unlimited data is the reference.

    With `dropout` or `weight_decay`, every combination of them is trained on every pool.
    """

    size: Size | None = None
    sizes: tuple[Size, ...] = ()
    """Several sizes instead of one."""
    D: float = Field(gt=0)
    unique_tokens: tuple[float, ...]
    dropout: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = ()
    """Empty: the spec's."""
    weight_decay: tuple[Annotated[float, Field(ge=0)], ...] = ()
    """Empty: the spec's."""
    objectives: tuple[Objective, ...] = ()
    seeds: tuple[int, ...] = ()
    mask_refresh: bool | Annotated[tuple[bool, ...], Field(min_length=1)] = True
    """Whether MLM runs draw new masks every epoch; [true, false] trains both ways."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.size is None) == (not self.sizes):
            raise ValueError("give either size or sizes")
        return self

    @property
    def all_sizes(self) -> tuple[Size, ...]:
        """The sizes, however they were given."""
        return self.sizes if self.size is None else (self.size,)

    @property
    def mask_modes(self) -> tuple[bool, ...]:
        """The values of `mask_refresh`."""
        return (self.mask_refresh,) if isinstance(self.mask_refresh, bool) else self.mask_refresh


TransferControl = Literal["rewarmed", "shuffled"]
"""`rewarmed`: a source of the target's own objective on the same tokens. `shuffled`: a source of shuffled residues."""


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
    controls: tuple[TransferControl, ...] = ()
    """Runs from other sources of the same tokens: what a second schedule, or composition alone, is worth."""
    lr_factors: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Further peak LRs, relative to their own, of the transferred run and of its scratch partner."""
    seeds: tuple[int, ...] = ()


class TransferGridArm(Record):
    """Transfer pairs at every size and every share of a fixed number of tokens that goes to the source.

    Every source is decayed to its end; every pair has a scratch partner of the target's own D, and each size a scratch
    run of all tokens, which is what the compute of a pair could have bought.
    """

    sizes: tuple[Size, ...] = Field(min_length=1)
    source_shares: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(default=(0.1, 0.2, 0.4), min_length=1)
    D: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Tokens of source and target together: one number for all sizes, or one for each."""
    C: float | None = Field(default=None, gt=0)
    """Or FLOPs of source and target together, in the spec's currency: both cost the same per token."""
    direction: Literal["clm->mlm", "mlm->clm"] = "clm->mlm"
    overlap: Literal["shared", "disjoint"] = "shared"
    lr_factor: float = Field(default=1.0, gt=0)
    controls: tuple[TransferControl, ...] = ()
    lr_factors: tuple[Annotated[float, Field(gt=0)], ...] = ()
    seeds: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.D) == (self.C is not None):
            raise ValueError("give either D or C: what source and target have together")
        if self.D and len(self.D) not in (1, len(self.sizes)):
            raise ValueError(f"{len(self.D)} numbers D for {len(self.sizes)} sizes: give one, or one for each")
        return self


class LrProbeArm(Record):
    """Learning rates around the recipe's at the corners of the study, trained before anything else.

    Without `sizes` the corners are those of the spec's isoflop arms (the smallest and the largest size at the smallest
    and at the largest budget), or else of its grid arms.
    """

    sizes: tuple[Size, ...] = ()
    D: tuple[Annotated[float, Field(gt=0)], ...] = ()
    C: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Training FLOPs instead of tokens, in the spec's currency."""
    factors: tuple[Annotated[float, Field(gt=0)], ...] = (0.5, 1.0, 2.0)
    """Peak LRs relative to the recipe's, whose own is among them."""
    objectives: tuple[Objective, ...] = ()
    seeds: tuple[int, ...] = ()
    """Empty: the first of the spec's."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if 1.0 not in self.factors or len(set(self.factors)) < 2:
            raise ValueError("factors holds 1, the recipe's own learning rate, and others around it")
        if self.sizes and bool(self.D) == bool(self.C):
            raise ValueError("give either D or C beside sizes")
        if not self.sizes and (self.D or self.C):
            raise ValueError("give sizes too, or leave D and C out: the corners are then the study's own")
        return self


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


class MaskArm(Record):
    """At equal N and D: MLM at several mask rates. A loss at the run's own rate is not comparable with another's."""

    size: Size
    D: float = Field(gt=0)
    mask_rates: tuple[MaskRate, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = ()


class WsdArm(Record):
    """One size at several horizons under `wsd`: all are one run until the shorter ones decay.

    Warm-up, batch and learning rate are those of the longest horizon: they must not depend on D.

    **Source:** Hu et al. 2024 (MiniCPM), section 4.2; Hagele et al. 2024, section 5.
    """

    size: Size
    D: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1)
    """Horizons, tokens."""
    warmup_tokens: float = Field(gt=0)
    decay_fraction: float = Field(default=0.2, gt=0, le=1)
    objectives: tuple[Objective, ...] = ()
    seeds: tuple[int, ...] = ()


class ContinuedArm(Record):
    """Continued pre-training from weights made elsewhere, or from a run of this study.

    remedy : against the drop at the start. `subset_epochs`: several passes over a part of the data; `quality_first`:
    first without the sequences that carry the flags `quality_exclude`, then on all (two runs); `replay`: a source
    close to the data of the first training makes up a share of the windows.

    **Source:** Guo et al. 2024 (stability gap), whose three strategies these follow; `quality_first` goes on to all
    data, theirs stays with the best part.
    """

    init_from: str = Field(validation_alias=AliasChoices("from", "init_from"))
    """Path of weights, relative to the spec's file, or a run id."""
    size: Size | None = None
    """Needed where nothing beside the weights states their shape."""
    objective: Objective
    D: float | None = Field(default=None, gt=0)
    """Tokens of the continuation; with `subset_epochs` they follow from the subset."""
    rewarm: float = Field(default=1.0, gt=0)
    """Peak LR relative to the recipe's; the optimiser starts anew, and so does the schedule with its warm-up."""
    method: Literal["full", "lora"] = "full"
    lora_rank: int = Field(default=8, gt=0)
    lora_alpha: float = Field(default=16.0, gt=0)
    remedy: Remedy = "none"
    subset_tokens: float | None = Field(default=None, gt=0)
    epochs: float | None = Field(default=None, gt=0)
    quality_exclude: tuple[str, ...] = ()
    quality_share: float = Field(default=0.5, gt=0, lt=1)
    """Share of D trained on the best part first."""
    replay_source: str | None = None
    replay_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the windows drawn from the replay source."""
    seeds: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        needs: dict[Remedy, dict[str, object]] = {
            "subset_epochs": {"subset_tokens": self.subset_tokens, "epochs": self.epochs},
            "quality_first": {"quality_exclude": self.quality_exclude},
            "replay": {"replay_source": self.replay_source},
        }
        for remedy, fields in needs.items():
            for name, value in fields.items():
                if self.remedy == remedy and not value:
                    raise ValueError(f"the remedy {remedy} needs {name}")
                if self.remedy != remedy and value:
                    raise ValueError(f"{name} belongs to the remedy {remedy}, this arm's is {self.remedy}")
        if (self.D is None) != (self.remedy == "subset_epochs"):
            raise ValueError("D is needed, but with subset_epochs, where it is epochs x subset_tokens")
        return self


class DistilArm(Record):
    """Students that learn a teacher's predictions beside the data, and the same students without it."""

    sizes: tuple[Size, ...] = Field(min_length=1)
    teacher: str
    """Path of weights, relative to the spec's file, or a run id."""
    objective: Objective
    """The teacher's; another has other predictions."""
    D: float = Field(gt=0)
    shares: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(default=(0.5,), min_length=1)
    """Weights of the teacher's part of the loss."""
    temperature: float = Field(default=1.0, gt=0)
    seeds: tuple[int, ...] = ()


def is_run_id(weights: str) -> bool:
    """Whether weights are named by the run that made them, not by a path."""
    return _RUN_ID.fullmatch(weights) is not None


def beside(folder: Path, weights: str) -> str:
    """Weights as a spec in `folder` means them: a run id as it is, a path made absolute."""
    return weights if is_run_id(weights) else str((folder / weights).resolve())
