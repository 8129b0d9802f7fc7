"""Weights of any known origin as a model: ESM-2 and ProGen2 as others keep them, and runs of our own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from plm_scaling.core.architecture import Architecture, ModelShape
from plm_scaling.core.errors import CheckpointError, RecordError
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.weight_identity import weights_sha256
from plm_scaling.models.base import ProteinModel
from plm_scaling.models.build import build_model
from plm_scaling.models.esm2 import Esm2
from plm_scaling.models.esm2_files import Esm2Weights, read_fair_esm, read_hf_esm2
from plm_scaling.models.weight_files import (
    read_json,
    read_metadata,
    read_tensors,
    tensors_sha256,
    weight_paths,
)

__all__ = ["ModelFile", "build_from", "load_into", "read_model"]

_PROGEN2_TYPES: Final = ("progen", "gptj", "codegen", None)  # the oldest configs give `architectures` only
_CONTACTS: Final = ("contact_weight", "contact_bias")
_KNOWN: Final = (
    "known are fair-esm's ESM-2 (.pt), folders of transformers (ESM-2) and of ProGen2 with their config.json, "
    "and complete runs of this package"
)


@dataclass(frozen=True)
class ModelFile:
    """A model as it was found.

    Attributes
    ----------
    shape : what decides its size.
    state : float32 tensors by the names of our parameters, on the CPU.
    sha256 : identity of the files the weights came from (`core.weight_identity`).
    origin : where they come from, in words.
    causal : whether it was trained with a causal mask.
    token_dropout : see `Esm2`.
    dead : parameters of the file that no symbol reaches and that are not in `state`.
    both_directions : whether a causal model was trained from either end; ProGen2 was.
    """

    shape: ModelShape
    state: dict[str, Tensor]
    sha256: str
    origin: str
    causal: bool
    token_dropout: bool = True
    dead: int = 0
    both_directions: bool = False

    @property
    def architecture(self) -> Architecture:
        """Which model it is."""
        return self.shape.architecture


def read_model(path: Path) -> ModelFile:
    """Find out what lies at `path`, and read it.

    Parameters
    ----------
    path : a checkpoint of fair-esm; a folder of `transformers` or a file in it; a run's folder or its final weights.

    Raises
    ------
    CheckpointError : damaged, incomplete, or of no known kind.
    """
    if path.is_dir():
        if (path / "run.json").is_file():
            return _own_run(RunFolder(path))
        if (path / "config.json").is_file():
            return _described_folder(path)
        raise CheckpointError("neither a config.json nor a run.json in this folder", where=str(path), hint=_KNOWN)
    if path.suffix in (".safetensors", ".bin") and (path.parent / "config.json").is_file():
        if path not in weight_paths(path.parent):
            raise CheckpointError("not the weights that the config.json beside it describes", where=str(path))
        return _described_folder(path.parent)
    if path.suffix == ".safetensors":
        return _own_weights(path)
    return _esm2(read_fair_esm(path), path, "fair-esm checkpoint")


def build_from(
    file: ModelFile, *, causal: bool | None = None, context: int, dtype: torch.dtype = torch.float32
) -> ProteinModel:
    """A model with the weights of `file`.

    Parameters
    ----------
    causal : whether it shall see only what is before each position; None leaves it as it was trained.
    context, dtype : see `ProteinModel`.

    Raises
    ------
    CheckpointError : tensors that do not fit the shape.
    """
    causal = file.causal if causal is None else causal
    model = build_model(file.shape, causal=causal, context=context, dtype=dtype)
    if isinstance(model, Esm2):
        model.token_dropout = file.token_dropout
    load_into(model, file.state)
    return model


def load_into(model: ProteinModel, state: Mapping[str, Tensor]) -> None:
    """Copy weights into a model; nothing is changed unless all of them fit.

    ESM-2's contact regression is taken over where `state` holds it.

    Raises
    ------
    CheckpointError : names the first tensor that is missing, unexpected or of another shape.
    """
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    optional: dict[str, tuple[int, ...]] = {}
    if isinstance(model, Esm2) and any(name in state for name in _CONTACTS):
        optional = {"contact_weight": (1, model.shape.n_layers * model.shape.heads), "contact_bias": (1,)}
    _check_fit(expected | optional, state)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(state[name])
    if optional and isinstance(model, Esm2):
        model.set_contact_regression(state["contact_weight"], state["contact_bias"])


def _check_fit(expected: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor]) -> None:
    hint = "are these weights of another architecture or size?"
    for name, wanted in expected.items():
        if name not in state:
            raise CheckpointError(f"{name} is missing", hint=hint)
        if tuple(state[name].shape) != wanted:
            raise CheckpointError(
                f"{name} is of shape {list(state[name].shape)}, the model has {list(wanted)}", hint=hint
            )
        if not state[name].is_floating_point():
            raise CheckpointError(f"{name} does not hold floating-point numbers", why=f"it holds {state[name].dtype}")
    if unexpected := [name for name in state if name not in expected]:
        raise CheckpointError(f"{unexpected[0]} is unexpected: the model has no such parameter", hint=hint)


def _described_folder(folder: Path) -> ModelFile:
    said = read_json(folder / "config.json")
    kind = said.get("model_type")
    if kind == "esm":
        return _esm2(read_hf_esm2(folder), folder, "ESM-2 folder of transformers")
    if kind in _PROGEN2_TYPES:
        from plm_scaling.models.progen2_files import BOTH_DIRECTIONS, read_progen2

        shape, state, dead = read_progen2(folder)
        both = bool(said.get(BOTH_DIRECTIONS, True))
        sha256 = weights_sha256(folder)
        return ModelFile(shape, state, sha256, "ProGen2 folder", causal=True, dead=dead, both_directions=both)
    raise CheckpointError(f"a model of type {kind!r}", where=str(folder / "config.json"), hint=_KNOWN)


def _esm2(weights: Esm2Weights, path: Path, origin: str) -> ModelFile:
    return ModelFile(
        weights.shape, weights.state, weights_sha256(path), origin, weights.causal, token_dropout=weights.token_dropout
    )


def _own_weights(path: Path) -> ModelFile:
    """The final weights of a run, which lie in its folder."""
    folder = RunFolder(path.parent.parent)
    if path.name != folder.weights_path.name or not folder.order_path.is_file():
        raise CheckpointError(
            "weights without their description",
            where=str(path),
            why="neither a config.json beside them nor the run they belong to",
            hint=_KNOWN,
        )
    return _own_run(folder)


def _own_run(folder: RunFolder) -> ModelFile:
    path = folder.weights_path
    if not path.is_file():
        raise CheckpointError("no final weights here", where=str(folder.path), why="the run is not complete")
    try:
        config = folder.order().config
    except RecordError as error:
        raise CheckpointError("a run that cannot be read", where=str(folder.path), why=str(error)) from None
    metadata, state = read_metadata(path), read_tensors(path)
    said = metadata.get("plm_scaling", "")
    if metadata.get("sha256") != tensors_sha256(state, said):
        raise CheckpointError(
            "weights whose content does not match their checksum",
            where=str(path),
            why="the file was damaged after it was written",
        )
    if f'"{config.run_id}"' not in said:
        raise CheckpointError("weights of another run", where=str(path), why=f"this is run {config.run_id}")
    return ModelFile(
        config.shape,
        state,
        weights_sha256(path),
        f"run {config.run_id}",
        causal=config.objective == "clm",
        both_directions=config.reverse_share > 0,
    )
