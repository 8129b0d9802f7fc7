"""Weights by hub id: from the local cache of `huggingface_hub`, else downloaded into it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from plm_scaling.core.errors import CheckpointError

__all__ = ["hub_folder"]

_DESCRIPTION: Final = ("*.json", "*.txt", "*.model")
_WEIGHTS: Final = ("*.safetensors", "*.bin")
"""In this order: the first that is there is taken, nothing else is downloaded. No code of a repository is run."""


def hub_folder(repository: str) -> Path:
    """The folder of a model of the hub on this machine.

    Parameters
    ----------
    repository : ORG/NAME.

    Raises
    ------
    CheckpointError : not in the local cache, and out of reach or without weights.
    """
    from huggingface_hub import snapshot_download

    for weights in _WEIGHTS:
        try:
            folder = Path(snapshot_download(repository, allow_patterns=[*_DESCRIPTION, weights], local_files_only=True))
        except Exception:  # not cached: a name of the library's own for each reason
            continue
        if any(folder.glob(weights)):
            return folder
    try:
        for weights in _WEIGHTS:
            folder = Path(snapshot_download(repository, allow_patterns=[*_DESCRIPTION, weights]))
            if any(folder.glob(weights)):
                return folder
    except Exception as error:
        raise CheckpointError(
            f"{repository} is not in the local cache and cannot be downloaded",
            where=repository,
            why=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
            hint=f"where there is a network, `hf download {repository} --local-dir FOLDER`; then give FOLDER here",
        ) from None
    raise CheckpointError("no weights in this repository", where=repository, hint="*.safetensors or *.bin is needed")
