"""Which public models have scores: families of language models that differ by size, and floors that need none."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from plm_scaling.core.records import Record

__all__ = ["FloorModel", "ModelFamily", "ScoredModel", "ScoredModels", "load_scored_models"]

_TABLE: Final = Path(__file__).with_suffix(".toml")


class ScoredModel(Record):
    """One model of a family."""

    name: str
    """As in the tables of scores."""
    label: str
    """Short, within its family."""
    params: float = Field(gt=0)
    """All parameters, embeddings included."""
    status: Literal["read", "name"] = "read"
    """read: from a release or a table; name: as the model is called."""


class ModelFamily(Record):
    """Models of one maker and recipe, smallest first."""

    name: str
    objective: Literal["clm", "mlm"]
    models: tuple[ScoredModel, ...] = Field(min_length=2)
    caveat: str = ""
    suspect: str = ""
    """Why its scores may not be those of the models; such a family is shown and does not count."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        sizes = [model.params for model in self.models]
        if sizes != sorted(sizes):
            raise ValueError(f"{self.name}: models come smallest first")
        return self


class FloorModel(Record):
    """A method without a large language model, or with an alignment beside one: what every size has to beat."""

    name: str
    label: str
    kind: Literal["site-independent", "alignment", "retrieval", "structure and alignment"]


class ScoredModels(Record):
    """Families and floors."""

    family: tuple[ModelFamily, ...]
    floor: tuple[FloorModel, ...]


@lru_cache(maxsize=1)
def load_scored_models() -> ScoredModels:
    """What `scored_models.toml` lists."""
    return ScoredModels.model_validate(tomllib.loads(_TABLE.read_text(encoding="ascii")))
