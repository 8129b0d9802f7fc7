"""Weights as files of other programs, read without running anything that they hold.

A .safetensors file; a PyTorch archive (.pt, .bin), of which only tensors and plain containers are taken; a folder with
model.safetensors, pytorch_model.bin, or the index of either over several shards.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from torch import Tensor

from plm_scaling.core.errors import CheckpointError

__all__ = [
    "as_float32",
    "only_tensors",
    "read_archive",
    "read_json",
    "read_metadata",
    "read_tensors",
    "tensors_sha256",
    "weight_paths",
]

_WHOLE: Final = ("model.safetensors", "pytorch_model.bin")
"""Looked for in this order, each before its sharded form."""
_ZIP: Final = b"PK\x03\x04"
_LARGEST_JSON: Final = 64 * 2**20
_WEIGHT_DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16)
_IMPOSTORS: Final = (
    (b"<", "it is a web page", "download the file itself; a browser's error page was saved in its place"),
    (b"version https://git-lfs", "it is a Git LFS pointer", "fetch the content with `git lfs pull`"),
    (b"{", "it is JSON text", "give the folder, or the weights beside this file"),
)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file or folder by name, on the CPU, in the dtype they are stored in.

    Raises
    ------
    CheckpointError : absent, damaged, incomplete, not weights, or more than tensors.
    """
    tensors: dict[str, Tensor] = {}
    index = _index_of(path) if path.is_dir() else None
    for part in weight_paths(path):
        read = _read_safetensors(part) if part.suffix == ".safetensors" else only_tensors(read_archive(part), part)
        if index is not None:
            _check_shard(index, part, read)
        tensors |= read
    return tensors


def read_archive(path: Path, allowed: Sequence[type] = ()) -> Any:
    """What a PyTorch archive holds. Tensors, plain containers and `allowed` are built, nothing else is called.

    Parameters
    ----------
    allowed : classes accepted besides, in this call only.

    Raises
    ------
    CheckpointError : absent, damaged, or holding anything else.
    """
    _refuse_impostor(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(allowed)):
            warnings.simplefilter("ignore")  # about protocols and storage classes, which are the file's own
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            "an archive that is more than weights, or damaged",
            where=str(path),
            why=str(error).strip().splitlines()[0],
            hint="nothing of it was run; ask for a .safetensors file, or for one with tensors only",
        ) from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise _damaged(path, error) from None


def read_metadata(path: Path) -> dict[str, str]:
    """The texts in the head of a .safetensors file.

    Raises
    ------
    CheckpointError : absent or damaged.
    """
    _refuse_impostor(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as handle:
            return dict(handle.metadata() or {})
    except Exception as error:
        raise _damaged(path, error) from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, such as a `config.json`.

    Raises
    ------
    CheckpointError : absent, no JSON, or no object.
    """
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise CheckpointError("a JSON file too large to be a description", where=str(path))
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError("a file that cannot be read", where=str(path), why=str(error.strerror)) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError("a file that is not JSON", where=str(path), why=str(error)) from None
    if not isinstance(value, dict):
        raise CheckpointError("JSON, but not an object", where=str(path), why=f"it holds a {type(value).__name__}")
    return value


def weight_paths(path: Path) -> tuple[Path, ...]:
    """The files that hold the weights of `path`: itself, or those of a folder, sorted.

    Raises
    ------
    CheckpointError : nothing there, or an index that points elsewhere.
    """
    if not path.is_dir():
        return (path,)
    index = _index_of(path)
    if index is not None:
        return tuple(path / name for name in sorted(set(index.values())))
    for name in _WHOLE:
        if (path / name).is_file():
            return (path / name,)
    raise CheckpointError(
        "no weights in this folder", where=str(path), hint=f"it should hold one of {', '.join(_WHOLE)}"
    )


def tensors_sha256(tensors: Mapping[str, Tensor], text: str) -> str:
    """Hex SHA-256 of a text and of tensors on the CPU: their names, dtypes, shapes and values."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data.cast("B") if tensor.numel() else b"")
    return digest.hexdigest()


def as_float32(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Stored weights as float32, which float16 and bfloat16 become without loss.

    Raises
    ------
    CheckpointError : another dtype.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in _WEIGHT_DTYPES:
            raise CheckpointError(
                f"{name} is stored as {str(tensor.dtype).removeprefix('torch.')}",
                where=where,
                hint="weights are read from float32, float16 and bfloat16",
            )
    return {name: tensor.detach().float() for name, tensor in tensors.items()}


def only_tensors(value: Any, path: Path) -> dict[str, Tensor]:
    """The value of an archive, if it is a mapping of names to plain tensors.

    Raises
    ------
    CheckpointError : anything else.
    """
    if not isinstance(value, Mapping) or not value:
        raise CheckpointError(
            "not a mapping of names to tensors", where=str(path), why=f"it holds a {type(value).__name__}"
        )
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(
                "not a mapping of names to tensors",
                where=str(path),
                why=f"{name!r:.80} is a {type(tensor).__name__}",
                hint="save the model's state dict alone",
            )
        plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        # A view with stride 0 can claim any size; whoever copies it pays for that.
        if not plain or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"{name} is not a plain tensor with all of its values", where=str(path))
    return dict(value)


def _index_of(folder: Path) -> dict[str, str] | None:
    """Tensor name -> file name of a sharded folder; None for a folder with all in one file."""
    for name in _WHOLE:
        if (folder / name).is_file():
            return None
        path = folder / f"{name}.index.json"
        if path.is_file():
            return _checked_index(path)
    return None


def _checked_index(path: Path) -> dict[str, str]:
    index = read_json(path).get("weight_map")
    if not isinstance(index, dict) or not index or not all(isinstance(name, str) for name in index.values()):
        raise CheckpointError(
            "an index without shards", where=str(path), why="`weight_map` should give a file for every tensor"
        )
    for name in sorted(set(index.values())):
        if Path(name).name != name:
            raise CheckpointError(
                f"a shard outside the folder: {name!r}", where=str(path), why="shards lie beside their index"
            )
        if not (path.parent / name).is_file():
            raise CheckpointError(
                f"a missing shard: {name}", where=str(path.parent), hint="the download is incomplete; repeat it"
            )
    return index


def _check_shard(index: Mapping[str, str], part: Path, read: Mapping[str, Tensor]) -> None:
    promised = {tensor for tensor, name in index.items() if name == part.name}
    if odd := sorted(promised ^ set(read)):
        problem = "is not in its shard" if odd[0] in promised else "is not in the index"
        raise CheckpointError(f"{odd[0]} {problem}", where=str(part), why="shard and index are of different models")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    _refuse_impostor(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as handle:
            return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except Exception as error:
        raise _damaged(path, error) from None


def _refuse_impostor(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError("no weights here", where=str(path))
    with path.open("rb") as handle:
        head = handle.read(512).lstrip()
    if not head:
        raise CheckpointError("an empty file", where=str(path), hint="the download is incomplete; repeat it")
    for start, why, hint in _IMPOSTORS:
        if head.startswith(start) and b"\0" not in head:  # text; the first bytes of a binary file may be anything
            raise CheckpointError("not a file of weights", where=str(path), why=why, hint=hint)


def _end_missing(path: Path) -> str:
    """What is said of a zip archive without its directory, which PyTorch's reader calls an invalid argument."""
    with path.open("rb") as handle:
        begins = handle.read(len(_ZIP)) == _ZIP
    if not begins or zipfile.is_zipfile(path):
        return ""
    return f"the archive's directory, which ends it, is not there: {path.stat().st_size:,} bytes are"


def _damaged(path: Path, error: Exception) -> CheckpointError:
    why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return CheckpointError(
        "weights that cannot be read",
        where=str(path),
        why=_end_missing(path) or why,
        hint="the file is damaged or cut short; fetch it again and compare its checksum",
    )
