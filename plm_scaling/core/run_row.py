"""`RunRow`: one run as the laws see it."""

from __future__ import annotations

import re
from typing import Any, Final

from plm_scaling.core.files import canonical_json
from plm_scaling.core.records import Record
from plm_scaling.core.run import Objective, RunConfig

__all__ = ["EXCLUDED_FLAGS", "EXPERIMENT_ROLES", "IMPUTED", "RECIPE", "RunRow", "columns_of", "regularisation_text"]

EXCLUDED_FLAGS: Final = frozenset({"DUPLICATE", "MISLABELLED", "STUCK", "TRAINING_LOSS", "UNKNOWN_SIZE"})
"""Flags of rows that no law may be fitted to: a copy, a run of another size than stated, a run that learnt nothing,
a loss that is not validation's, a size that nothing tells."""

IMPUTED: Final = "IMPUTED"
"""Flag of rows whose final loss was predicted from the first part of the run."""

EXPERIMENT_ROLES: Final = frozenset(
    {"mask_ratio", "regularisation", "continued", "continued_first", "distil", "shuffled_source", "lr_probe"}
)
"""Roles of runs that differ from a law's in more than size, tokens, batch and seed."""

RECIPE: Final = ("schedule", "architecture", "mask_ratio", "regularisation")
"""Columns that have to be equal for losses to lie on one law."""

_REGULARISERS: Final = ("dropout", "weight_decay", "reverse_share")
"""What a model is trained under beside the objective; half of the documents reversed leaves half for one direction."""


def regularisation_text(config: RunConfig) -> str:
    """How a run was regularised: `dropout=0.1,weight_decay=1`, of these what is not the recipe's; empty for all."""
    fields = RunConfig.model_fields
    values = {name: getattr(config, name) for name in _REGULARISERS}
    return ",".join(f"{name}={value:g}" for name, value in values.items() if value != fields[name].default)


def columns_of(config: RunConfig) -> dict[str, Any]:
    """The columns of a run's row that follow from what it is, whatever came out of it; D is the one planned."""
    return {
        "run_id": config.run_id,
        "objective": config.objective,
        "N": config.N,
        "D": config.D,
        "batch_tokens": config.batch_tokens,
        "peak_lr": config.peak_lr,
        "corpus_id": config.corpus_id,
        # Equal text means the same data pools at the same shares.
        "streams": canonical_json([stream.identity() for stream in config.streams]),
        "seed": config.seed,
        "mask_refresh": config.mask_refresh,
        "mask_ratio": config.mask_rate if config.objective == "mlm" else None,
        "schedule": config.schedule,
        "architecture": config.architecture,
        "regularisation": regularisation_text(config),
        "source_run_id": config.init_from,
    }


class RunRow(Record):
    """One run as the laws see it. Optional columns switch a feature off by name when they are missing."""

    run_id: str
    objective: Objective
    role: str = ""
    """Comma-separated: isoflop, grid, replicate, repeats, diversity, transfer_source, transfer_target, ..."""
    N: float
    """Block parameters."""
    D: float
    """Training tokens, repeats included."""
    loss: float
    """Nats per token on the validation set named by `validation_id`."""
    final_loss: str = ""
    """How `loss` was read off a curve: last, last5, end (of a parabola) or denoised; empty where nobody said."""
    loss_se: float | None = None
    D_unique: float | None = None
    epochs: float | None = None
    seen_earlier: float | None = None
    """Distinct tokens of this run that an earlier run of its lineage had been trained on."""
    C_6nd: float | None = None
    C_exact: float | None = None
    C_teacher: float | None = None
    """Forward FLOPs of a teacher, spent beside C_exact; None without one."""
    device_s: float | None = None
    batch_tokens: float | None = None
    peak_lr: float | None = None
    corpus_id: str | None = None
    validation_id: str | None = None
    streams: str | None = None
    """Canonical JSON of the run's streams; equal text means the same data pools."""
    seed: int | None = None
    mask_refresh: bool = True
    """Whether every epoch drew new MLM masks."""
    mask_ratio: float | None = None
    """Share of MLM targets; the loss is at the run's own ratio."""
    schedule: str = "cosine"
    """How the learning rate decayed: cosine, wsd, or what a table from elsewhere calls it."""
    architecture: str = "plm"
    """plm, esm2, progen2, ...: a law is about one."""
    regularisation: str = ""
    """What differs from the recipe, as `regularisation_text` writes it; empty where nothing does."""
    source_run_id: str | None = None
    source_objective: Objective | None = None
    N_source: float | None = None
    D_source: float | None = None
    C_source: float | None = None
    source_control: str | None = None
    """`shuffled`: the source was trained on residue-shuffled sequences, so that its weights know no order."""
    schedule_complete: bool = True
    D_planned: float | None = None
    """Tokens the schedule was made for, where a run has not been trained to its end."""
    flags: str = ""
    """Separated by commas or spaces; those of `EXCLUDED_FLAGS` keep the row out of every law."""

    def has_role(self, role: str) -> bool:
        """Whether `role` is among the row's roles."""
        return role in self.role.split(",")

    @property
    def recipe_key(self) -> tuple[str, str, float | None, str]:
        """The columns `RECIPE`: what has to be equal for losses to lie on one law."""
        return self.schedule, self.architecture, self.mask_ratio, self.regularisation

    @property
    def is_experiment(self) -> bool:
        """Whether the run was trained for another question than the laws': in another way than its scratch peers."""
        roles = set(self.role.split(",")) - {""}
        return bool(roles) and roles <= EXPERIMENT_ROLES

    @property
    def is_imputed(self) -> bool:
        """Whether the final loss is a prediction."""
        return IMPUTED in self._flags

    @property
    def excluded(self) -> bool:
        """Whether a flag keeps the row out of every law."""
        return not EXCLUDED_FLAGS.isdisjoint(self._flags)

    @property
    def _flags(self) -> list[str]:
        return re.split(r"[,\s]+", self.flags)
