"""Foreign weights in a run's config: the hash they are called by, and the shape their description states. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import ConfigError, RecordError
from plm_scaling.core.files import sha256_file, sha256_text
from plm_scaling.core.run_folder import RunFolder

__all__ = ["described_shape", "is_foreign", "weights_id", "weights_sha256"]

_PREFIX: Final = "sha256:"
_DESCRIPTION: Final = "config.json"
_WEIGHTS: Final = (".safetensors", ".bin", ".pt")
_PROGEN2: Final = ("progen", "gptj", "codegen", None)
"""Values of `model_type` under which ProGen2 is published; the oldest configs have none."""


def is_foreign(start: str | None) -> bool:
    """Whether a run's `init_from` or `teacher` names weights by their hash, not a run by its id."""
    return start is not None and start.startswith(_PREFIX)


def weights_id(path: Path) -> str:
    """What a config calls the weights at `path`: `sha256:` and their hash.

    Raises
    ------
    ConfigError : no weights there.
    """
    return _PREFIX + weights_sha256(path)


def weights_sha256(path: Path) -> str:
    """Hex SHA-256 that identifies weights.

    Of a file its own; of a folder that of the names and hashes of its .safetensors, .bin and .pt files and its
    config.json, which decides what the tensors mean. A .safetensors or .bin beside a config.json stands for its
    folder, the folder of a run of ours for its final weights.

    Raises
    ------
    ConfigError : no weights there, or weights that cannot be read.
    """
    place = _place(path)
    try:
        if not place.is_dir():
            return sha256_file(place)
        parts = [part for part in sorted(place.iterdir()) if part.suffix in _WEIGHTS or part.name == _DESCRIPTION]
        if all(part.name == _DESCRIPTION for part in parts):
            raise ConfigError("no weights in this folder", where=str(path), hint=f"known are {', '.join(_WEIGHTS)}")
        return sha256_text("".join(f"{part.name} {sha256_file(part)}\n" for part in parts))
    except OSError as error:
        raise ConfigError("weights that cannot be read", where=str(path), why=f"{path}: {error.strerror}") from None


def described_shape(path: Path) -> ModelShape | None:
    """The shape of the weights at `path` as a config.json or a run's order beside them states it.

    None where nothing beside them says it: fair-esm's .pt files keep it inside, which only training reads.

    Raises
    ------
    ConfigError : a description that is damaged, or of no known model.
    """
    place = _place(path)
    if (run := _run_of(place)) is not None:
        try:
            return run.order().config.shape
        except RecordError as error:
            raise ConfigError("a run that cannot be read", where=str(run.order_path), why=error.what) from None
    where = place / _DESCRIPTION
    return _shape(_read(where), str(where)) if where.is_file() else None


def _place(path: Path) -> Path:
    """The file or folder that weights are read from."""
    if (path / "run.json").is_file():
        return RunFolder(path).weights_path
    # fair-esm's .pt keeps its description inside: a config.json beside it is another model's.
    if path.suffix in (".safetensors", ".bin") and path.is_file() and (path.parent / _DESCRIPTION).is_file():
        return path.parent
    return path


def _run_of(weights: Path) -> RunFolder | None:
    """The run of ours that final weights belong to."""
    run = RunFolder(weights.parent.parent)
    return run if weights.name == run.weights_path.name and run.order_path.is_file() else None


def _read(where: Path) -> dict[str, Any]:
    try:
        value = json.loads(where.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError("a description that cannot be read", where=str(where), why=str(error)) from None
    if not isinstance(value, dict):
        raise ConfigError("a description that is no JSON object", where=str(where))
    return value


def _shape(said: dict[str, Any], where: str) -> ModelShape:
    kind = said.get("model_type")
    if kind == "esm":
        names = {"n_layers": "num_hidden_layers", "d_model": "hidden_size", "n_heads": "num_attention_heads"}
        fields: dict[str, Any] = {ours: said.get(theirs) for ours, theirs in names.items()}
        fields |= {"architecture": "esm2", "d_ffn": said.get("intermediate_size")}
    elif kind in _PROGEN2:
        fields = {
            "architecture": "progen2",
            "n_layers": said.get("n_layer", said.get("num_hidden_layers")),
            "d_model": said.get("n_embd", said.get("embed_dim", said.get("hidden_size"))),
            "n_heads": said.get("n_head", said.get("num_attention_heads")),
            "rotary_dim": said.get("rotary_dim"),
            "d_ffn": said.get("n_inner"),
        }
    else:
        raise ConfigError(f"a model of type {kind!r}", where=where, hint="known are ESM-2 and ProGen2")
    try:
        return ModelShape.checked(**fields)
    except ConfigError as error:
        raise ConfigError("a description without a usable shape", where=where, why=error.what) from None
