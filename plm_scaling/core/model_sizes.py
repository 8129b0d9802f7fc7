"""Model sizes by name: ESM-2, ProGen2, and the table of Cheng et al. 2024. No torch."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from plm_scaling.core.architecture import Architecture, ModelShape
from plm_scaling.core.errors import ConfigError, did_you_mean
from plm_scaling.core.records import Record

__all__ = ["MODEL_SIZES", "NAMED_SIZES", "NamedSize", "model_size"]

_ARCHITECTURES: Final[Mapping[str, Architecture]] = {"esm2": "esm2", "progen2": "progen2", "cheng": "plm"}


class NamedSize(Record):
    """What is known of a model that has a name."""

    shape: ModelShape | None = None
    """None where it is not known."""
    published: int | None = None
    """N as the authors print it: block parameters."""
    status: Literal["exact", "approximate", "unverified", "unknown"] = "exact"
    """approximate: a shape whose N is near the published one; unverified: recalled, not read in a release; unknown: the
    authors print N alone, and no layers and width give it."""


def _read() -> dict[str, NamedSize]:
    text = Path(__file__).with_suffix(".toml").read_text(encoding="ascii")
    return {
        f"{family}-{name}": _named(_ARCHITECTURES[family], fields)
        for family, sizes in tomllib.loads(text).items()
        for name, fields in sizes.items()
    }


def _named(architecture: Architecture, fields: dict[str, Any]) -> NamedSize:
    about = {key: fields.pop(key) for key in ("published", "status") if key in fields}
    if not fields:
        return NamedSize(status="unknown", **about)
    return NamedSize(shape=ModelShape(architecture=architecture, **fields), **about)


NAMED_SIZES: Final[Mapping[str, NamedSize]] = MappingProxyType(_read())
"""Every name, with what is known of it: published N beside our shape."""
MODEL_SIZES: Final[Mapping[str, ModelShape]] = MappingProxyType(
    {name: size.shape for name, size in NAMED_SIZES.items() if size.shape is not None}
)
"""The names that stand for a shape."""


def model_size(name: str) -> ModelShape:
    """The shape of this name, upper and lower case alike: `esm2-8m`, `progen2-small`, `cheng-85m`, ... .

    Raises
    ------
    ConfigError : no such name, or a name of the study whose layers and width are not known.
    """
    known = name.lower()
    if known in MODEL_SIZES:
        return MODEL_SIZES[known]
    if known not in NAMED_SIZES:
        raise ConfigError(f"no model size is called {name!r}", hint=did_you_mean(known, MODEL_SIZES))
    N = NAMED_SIZES[known].published
    assert N is not None
    siblings = [other for other in MODEL_SIZES if other.startswith("cheng-")]
    near = min(siblings, key=lambda other: abs(math.log(MODEL_SIZES[other].N / N)))
    raise ConfigError(
        f"the layers and width of {name} are not known",
        why=f"the study prints N = {N:,}, which no layers and width give",
        hint=f"{near} is the nearest in N ({MODEL_SIZES[near].N:,}); or give layers and width yourself",
    )
