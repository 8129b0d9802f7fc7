"""`OwnSequences`: proprietary sequences of a user, what training on them costs, and what was measured on them."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from plm_scaling.core.errors import ConfigError
from plm_scaling.core.objective import Objective
from plm_scaling.core.records import Record
from plm_scaling.sizing.costs import ATTENDED_TOKENS
from plm_scaling.sizing.null_actions import public_model

__all__ = ["AdaptedRun", "AdaptationMethod", "OwnSequences", "own_group", "read_adapted_runs"]

AdaptationMethod = Literal["as is", "full", "lora", "scratch"]
"""as is: not trained; full: all weights; lora: low-rank additions; scratch: the same shape from random weights."""


class AdaptedRun(Record):
    """One measurement on a validation set of the user's own sequences."""

    model: str
    """Public model, or the one whose shape was trained from scratch."""
    method: AdaptationMethod
    tokens: float = Field(default=0.0, ge=0)
    """Distinct tokens of the user's own that it was trained on."""
    loss: float = Field(gt=0)
    """Nats per token on one validation set of one's own, the same for all."""
    metric: float | None = None


@dataclass(frozen=True)
class OwnSequences:
    """Adaptation data: some 1e6 to 1e9 tokens of one or a few families."""

    tokens: float
    """Distinct ones."""
    cost_of: Callable[[float, float], tuple[float, float]]
    """(exact training FLOPs, width) -> accelerator hours, US dollars at the mid price."""
    length: float = ATTENDED_TOKENS
    """Length of a sequence, tokens: what attention costs."""
    runs: tuple[AdaptedRun, ...] = ()

    def __post_init__(self) -> None:
        for name in ("tokens", "length"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 1):
                raise ConfigError(f"{name} of your own sequences must be a number from 1 up", why=f"got {value!r}")
        for run in self.runs:
            if run.tokens > self.tokens * (1 + 1e-9):
                raise ConfigError(
                    f"a run of {run.model} was trained on {run.tokens:g} tokens, and you hold {self.tokens:g}",
                    hint="tokens are the distinct ones of your own sequences",
                )

    def runs_of(self, objective: Objective) -> tuple[AdaptedRun, ...]:
        """The measurements with models of one objective."""
        return tuple(run for run in self.runs if public_model(run.model).objective == objective)


def own_group(objective: Objective) -> str:
    """The scale that losses on the user's own sequences are on."""
    return f"{objective} on your own sequences"


def read_adapted_runs(path: Path) -> tuple[AdaptedRun, ...]:
    """Measurements from a CSV with the columns model, method, loss and, where they apply, tokens and metric.

    Raises
    ------
    ConfigError : the file cannot be read, a column is missing or unknown, or a value cannot be (with its line).
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle, skipinitialspace=True)
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"cannot read the runs: {error}", where=str(path)) from None
    found = []
    for line, row in rows:
        cells = {
            (key or "").strip(): (value or "").strip() for key, value in row.items() if not isinstance(value, list)
        }
        try:
            run = AdaptedRun.checked(**{key: value for key, value in cells.items() if value})
            public_model(run.model)
        except ConfigError as error:
            hint = (
                error.hint or "the columns are model,method,tokens,loss[,metric]; method is as is, full, lora, scratch"
            )
            raise ConfigError(error.what, where=f"{path}:{line}", why=error.why, hint=hint) from None
        found.append(run.model_copy(update={"model": run.model.lower()}))
    return tuple(found)
