"""Weights by hub id: from the local cache of `huggingface_hub`, else downloaded into it."""

from __future__ import annotations

from pathlib import Path
from threading import Thread
from typing import Final

from plm_scaling.core.errors import CheckpointError

__all__ = ["hub_folder"]

_DESCRIPTION: Final = ("*.json", "*.txt", "*.model")
_WEIGHTS: Final = ("*.safetensors", "*.bin")
"""In this order: the first that is there is taken, nothing else is downloaded. No code of a repository is run."""
_WAIT_S: Final = 6.0
"""For a first answer of the hub; a download takes as long as it takes."""


def hub_folder(repository: str) -> Path:
    """The folder of a model of the hub on this machine.

    Parameters
    ----------
    repository : ORG/NAME.

    Raises
    ------
    CheckpointError : not in the local cache, and out of reach (known after seconds) or without weights.
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
        _ask(repository)
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


def _ask(repository: str) -> None:
    """Make sure that the hub answers and has the repository, within `_WAIT_S` whatever name servers do.

    Raises
    ------
    Exception : of the library, which says why. TimeoutError : no answer.
    """
    from huggingface_hub import HfApi

    failed: list[Exception] = []

    def asked() -> None:
        try:
            HfApi().model_info(repository, timeout=_WAIT_S)
        except Exception as error:
            failed.append(error)

    asking = Thread(target=asked, daemon=True)  # a look-up of a name cannot be broken off, and must not keep us
    asking.start()
    asking.join(_WAIT_S)
    if asking.is_alive():
        raise TimeoutError(f"the hub has not answered within {_WAIT_S:g} s; is there a network?")
    if failed:
        raise failed[0]
