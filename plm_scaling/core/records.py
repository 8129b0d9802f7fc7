"""The base of every value that crosses a package border: frozen, checked, hashed, one file each."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from plm_scaling.core.errors import ConfigError, RecordError, did_you_mean
from plm_scaling.core.files import canonical_json, sha256_text, write_atomic

__all__ = ["Record", "config_error"]


class Record(BaseModel):
    """A frozen value with a schema version and a content hash as identity.

    Subclasses raise `SCHEMA_VERSION` when their meaning changes; `migrate` turns older data into today's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    SCHEMA_VERSION: ClassVar[int] = 1
    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset()
    """Fields that do not change what the value is (paths, device, price)."""

    def identity(self) -> dict[str, Any]:
        """The fields that differ from their defaults: a new field's default must mean the old behaviour."""
        return self._plain(exclude_defaults=True, exclude=set(self.NOT_IDENTITY) or None)

    def _plain(self, **choice: Any) -> dict[str, Any]:
        """What JSON can hold; only pydantic's own JSON writes inf and nan as strings, `model_dump` leaves them."""
        plain: dict[str, Any] = json.loads(self.model_dump_json(**choice))
        return plain

    def content_hash(self) -> str:
        """Hex SHA-256 of the canonical JSON of `identity()`."""
        return sha256_text(canonical_json(self.identity()))

    def to_json(self) -> str:
        """Indented JSON with the schema version first."""
        data = {"schema_version": self.SCHEMA_VERSION, **self._plain()}
        return json.dumps(data, indent=1, allow_nan=False) + "\n"

    def write(self, path: Path, *, durable: bool = True) -> Path:
        """Write as JSON, atomically; returns the path. Not durable: a power cut may take what can be written again."""
        write_atomic(path, self.to_json(), durable=durable)
        return path

    @classmethod
    def migrate(cls, data: dict[str, Any], version: int) -> dict[str, Any]:
        """Bring data written by an older schema version up to date."""
        del version
        return data

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a value this package wrote.

        Raises
        ------
        RecordError : missing, damaged, or written by a newer version.
        """
        try:
            data = from_json(path.read_bytes())
            version = int(data.pop("schema_version"))
        except FileNotFoundError:
            raise RecordError(f"no {cls.__name__} here", where=str(path), why="there is no such file") from None
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise RecordError(
                f"not a readable {cls.__name__}: {error}", where=str(path), hint="write it again"
            ) from None
        if version > cls.SCHEMA_VERSION:
            raise RecordError(
                f"{cls.__name__} of schema version {version}; this release reads up to {cls.SCHEMA_VERSION}",
                where=str(path),
                hint="use the plm-scaling release that wrote it, or a newer one",
            )
        try:
            return cls.model_validate(cls.migrate(data, version))
        except ValidationError as error:
            raise RecordError(
                f"not a valid {cls.__name__}: {config_error(error, cls, str(path)).what}",
                where=str(path),
            ) from None

    @classmethod
    def checked(cls, **fields: Any) -> Self:
        """A value made of what a user said.

        Raises
        ------
        ConfigError : an unknown field, or a value that cannot be.
        """
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise config_error(error, cls, "") from None

    @classmethod
    def read_toml(cls, path: Path) -> Self:
        """Read a value a user wrote in TOML; `schema_version` may be left out.

        Raises
        ------
        ConfigError : missing file, TOML syntax, an unknown or ill-typed key (with its line and a suggestion).
        """
        try:
            text = path.read_text()
        except OSError as error:
            raise ConfigError(f"cannot read the config: {error.strerror}", where=str(path)) from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"not valid TOML, which is UTF-8 text: {error}", where=str(path)) from None
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"not valid TOML: {error}", where=str(path)) from None
        data.pop("schema_version", None)
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise config_error(error, cls, str(path), text) from None


def config_error(error: ValidationError, model: type[BaseModel], where: str, text: str = "") -> ConfigError:
    """One complaint of pydantic as an error a user can act on: key, line, reason, suggestion.

    An unknown key comes first: a misspelt key is also a missing one, and the spelling is what to mend.
    """
    complaints = error.errors()
    first = next((c for c in complaints if c["type"] == "extra_forbidden"), complaints[0])
    key = ".".join(str(part) for part in first["loc"])
    line = _line_of(str(first["loc"][-1]), text) if first["loc"] else 0
    place = f"{where}:{line}" if line else where
    if first["type"] == "extra_forbidden":
        owner = _owner(model, first["loc"])
        hint = did_you_mean(str(first["loc"][-1]), owner.model_fields) if owner else ""
        return ConfigError(f"{key}: unknown key", where=place, hint=hint)
    return ConfigError(f"{key}: {first['msg']}", where=place, why=f"got {first['input']!r:.80}")


def _line_of(key: str, text: str) -> int:
    """1-based line on which a TOML key first stands, 0 if it is nowhere."""
    for number, line in enumerate(text.splitlines(), start=1):
        name = line.split("=")[0].strip().strip("[]").strip()
        if name.split(".")[-1] == key:
            return number
    return 0


def _owner(model: type[BaseModel], loc: tuple[int | str, ...]) -> type[BaseModel] | None:
    """The model whose field the last part of a pydantic location was meant to be."""
    current: type[BaseModel] = model
    for part in loc[:-1]:
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part)
        nested = _nested_model(field.annotation) if field else None
        if nested is None:
            return None
        current = nested
    return current


def _nested_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if found := _nested_model(argument):
            return found
    return None
