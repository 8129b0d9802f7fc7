"""Checkpoints: one safetensors file each, whole or absent, checked when read. Never pickle.

step-0000001200.safetensors   weights, both AdamW moments, and the loop's state as metadata; the last two are kept
kept-0000001200.safetensors   the same, for other runs to branch from; never deleted
step-0000001200.damaged       one that was found damaged, set aside
final.safetensors             weights of a complete run
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from plm_scaling.core.errors import CheckpointError
from plm_scaling.core.files import canonical_json, writing_atomic
from plm_scaling.core.records import Record
from plm_scaling.models.weight_files import tensors_sha256

__all__ = [
    "LoopState",
    "damaged_checkpoints",
    "keep_checkpoint",
    "kept_path",
    "load_newest",
    "load_weights",
    "offer_kept",
    "remove_checkpoints",
    "save_checkpoint",
    "save_weights",
    "stated",
]

KEPT: Final = 2
_STATE, _CHECKSUM = "plm_scaling", "sha256"


class LoopState(Record):
    """Where the loop stood, and what has to be the same for a resume to be bit-exact."""

    run_id: str
    step: int
    """Steps completed."""
    loss_sum: float = 0.0
    """Summed loss since the last logged step."""
    n_targets: int = 0
    norm_sum: float = 0.0
    n_summed: int = 0
    """Steps in these sums."""
    threads: int
    device: str
    dtype: str
    torch: str
    world: int = 1

    def conditions(self) -> dict[str, Any]:
        """The part that a resume has to share."""
        return self.model_dump(include={"threads", "device", "dtype", "torch"})


def _alone(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, each with a storage of its own; copied only where they have none yet.

    Views of one storage are saved as tensors of their own.
    """
    alone: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        there = tensor.detach().cpu().contiguous()
        storage = there.untyped_storage()
        if storage.nbytes() != there.nbytes or storage.data_ptr() in storages:
            there = there.clone()
        storages.add(there.untyped_storage().data_ptr())
        alone[name] = there
    return alone


def _write(path: Path, tensors: Mapping[str, Tensor], state: str) -> None:
    whole = _alone(tensors)
    data = save(whole, metadata={_STATE: state, _CHECKSUM: tensors_sha256(whole, state)})
    with writing_atomic(path) as handle:
        handle.write(data)


def _read(path: Path) -> tuple[dict[str, Tensor], str]:
    try:
        with safe_open(path, framework="pt", device="cpu") as handle:
            metadata = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError("a checkpoint that cannot be read", where=str(path), why=str(error)) from None
    state = metadata.get(_STATE, "")
    if metadata.get(_CHECKSUM) != tensors_sha256(tensors, state):
        raise CheckpointError(
            "a checkpoint whose content does not match its checksum",
            where=str(path),
            why="the file was damaged after it was written",
        )
    return tensors, state


def save_checkpoint(folder: Path, state: LoopState, tensors: Mapping[str, Tensor]) -> Path:
    """Write a checkpoint, then delete all but the last two."""
    path = folder / f"step-{state.step:010d}.safetensors"
    _write(path, tensors, canonical_json(state.model_dump(mode="json")))
    for old in _files(folder)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.safetensors"))


def load_newest(
    folder: Path, on_damage: Callable[[CheckpointError], None]
) -> tuple[LoopState, dict[str, Tensor]] | None:
    """The newest checkpoint that is whole; None if there is none.

    A damaged one is set aside: left among the last two it would take the place of one that a resume may need.

    Parameters
    ----------
    on_damage : called with the error of every newer one that had to be passed over.
    """
    for path in reversed(_files(folder)):
        try:
            return _load(path)
        except CheckpointError as error:
            on_damage(error)
            with contextlib.suppress(OSError):  # a full disk, or another process of the run was faster
                path.rename(path.with_suffix(".damaged"))
    return None


def _load(path: Path) -> tuple[LoopState, dict[str, Tensor]]:
    tensors, text = _read(path)
    try:
        return LoopState.model_validate(json.loads(text)), tensors
    except (ValidationError, ValueError) as error:
        raise CheckpointError("a checkpoint without a readable state", where=str(path), why=str(error)) from None


def stated(path: Path) -> LoopState:
    """What a checkpoint says of itself; its tensors are neither read nor checked.

    Raises
    ------
    CheckpointError : it cannot be read, or says nothing.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as handle:
            return LoopState.model_validate(json.loads((handle.metadata() or {}).get(_STATE, "")))
    except (OSError, SafetensorError, ValidationError, ValueError) as error:
        raise CheckpointError("a checkpoint without a readable state", where=str(path), why=str(error)) from None


def damaged_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints that were set aside."""
    return sorted(folder.glob("step-*.damaged"))


def kept_path(folder: Path, step: int) -> Path:
    """Where the state after `step` steps is kept for other runs."""
    return folder / f"kept-{step:010d}.safetensors"


def keep_checkpoint(folder: Path, step: int) -> None:
    """Keep the checkpoint of `step` under a name that nothing deletes. Without effect if there is no such file."""
    source = folder / f"step-{step:010d}.safetensors"
    if source.is_file() and not kept_path(folder, step).exists():
        _link(source, kept_path(folder, step))


def offer_kept(kept: Path, folder: Path, step: int) -> None:
    """Lay a kept state into `folder` as its only checkpoint, for `load_newest`."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_checkpoints(folder)
    _link(kept, folder / f"step-{step:010d}.safetensors")


def _link(source: Path, target: Path) -> None:
    """A second name of a file that is never changed, or a copy where the file system has no such thing."""
    tmp = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    tmp.unlink(missing_ok=True)
    try:
        os.link(source, tmp)
    except OSError:
        shutil.copyfile(source, tmp)
    tmp.replace(target)


def remove_checkpoints(folder: Path) -> None:
    """Delete all checkpoints but the kept ones and the final weights."""
    for path in (*_files(folder), *damaged_checkpoints(folder)):
        path.unlink(missing_ok=True)
    for sharded in (*folder.glob("step-*.dcp"), *folder.glob("damaged-*.dcp")):
        shutil.rmtree(sharded)


def save_weights(path: Path, weights: Mapping[str, Tensor], run_id: str) -> None:
    """Write the weights of a complete run."""
    _write(path, weights, canonical_json({"run_id": run_id}))


def load_weights(path: Path) -> dict[str, Tensor]:
    """Weights of a complete run by parameter name.

    Raises
    ------
    CheckpointError : missing, damaged.
    """
    if not path.is_file():
        raise CheckpointError("no weights here", where=str(path), hint="the run that makes them is not complete")
    return _read(path)[0]
