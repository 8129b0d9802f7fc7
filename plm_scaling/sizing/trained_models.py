"""What published models were trained on: N, tokens, objective, and where each number was seen."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from plm_scaling.core.errors import ConfigError, did_you_mean
from plm_scaling.core.model_sizes import NAMED_SIZES
from plm_scaling.core.records import Record

__all__ = ["TokensStatus", "TrainedModel", "all_trained_models", "find_trained_model"]

TokensStatus = Literal["read", "unverified", "unknown", "own run", "stated"]
"""read: in the named source; unverified: recalled; unknown: no source seen; own run, stated: the user's own."""

_TABLE: Final = Path(__file__).with_suffix(".toml")


class TrainedModel(Record):
    """A model with what its training is known to have been."""

    name: str
    also: tuple[str, ...] = ()
    """Other names it goes by."""
    objective: Literal["clm", "mlm", "text"]
    size: str = ""
    """Name of its shape in `core.model_sizes`; empty where `params` says N."""
    params: float | None = Field(default=None, gt=0)
    tokens: float | None = Field(default=None, gt=0)
    flops: float | None = Field(default=None, gt=0)
    """6 N D as published, where the source states compute and not tokens."""
    status: TokensStatus = "unknown"
    source: str
    note: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.params is None) == (not self.size):
            raise ValueError(f"{self.name}: N comes from a named size or from params, one of them")
        if self.size and self.size not in NAMED_SIZES:
            raise ValueError(f"{self.name}: no model size is called {self.size!r}")
        if self.tokens is not None and self.flops is not None:
            raise ValueError(f"{self.name}: tokens or FLOPs, not both")
        if (self.status == "unknown") != (self.tokens is None and self.flops is None):
            raise ValueError(f"{self.name}: a status belongs to tokens or FLOPs, and unknown to neither")
        return self

    @property
    def N(self) -> float:
        """Block parameters: as the authors print them, else those of the shape; `params` where there is no shape."""
        if self.params is not None:
            return self.params
        named = NAMED_SIZES[self.size]
        if named.published is not None:
            return float(named.published)
        assert named.shape is not None
        return float(named.shape.N)

    @property
    def D(self) -> float | None:
        """Training tokens, from the FLOPs where only those are published; None if neither is."""
        if self.flops is not None:
            return self.flops / (6.0 * self.N)
        return self.tokens


@lru_cache(maxsize=1)
def all_trained_models() -> tuple[TrainedModel, ...]:
    """Every model of `trained_models.toml`, in its order."""
    data = tomllib.loads(_TABLE.read_text(encoding="ascii"))
    return tuple(TrainedModel.model_validate(row) for row in data["model"])


def find_trained_model(name: str) -> TrainedModel | None:
    """The published model of this name, upper and lower case alike; None for a size whose training is not listed.

    Raises
    ------
    ConfigError : neither a listed model nor a named size.
    """
    wanted = name.lower()
    for model in all_trained_models():
        if wanted in (model.name, *(other.lower() for other in model.also)):
            return model
    if wanted in NAMED_SIZES:
        return None
    known = {model.name for model in all_trained_models()} | set(NAMED_SIZES)
    raise ConfigError(f"no model is called {name!r}", hint=did_you_mean(wanted, known))
