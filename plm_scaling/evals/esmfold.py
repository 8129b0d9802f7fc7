"""`EsmFold`: ESMFold's network as `transformers` has it, with weights from a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plm_scaling.core.errors import CheckpointError, ConfigError
from plm_scaling.core.files import sha256_file
from plm_scaling.evals.structure_judge import JudgedStructure

__all__ = ["EsmFold"]

_CA = 1


class EsmFold:
    """Folds one sequence at a time: what is predicted of it does not depend on what else is asked.

    Parameters
    ----------
    weights : folder as `save_pretrained` writes it, or the hub's snapshot of it; nothing is downloaded.
    keep : folder for the predicted structures, PDB.
    device : None for the first CUDA device where there is one, else the CPU.

    Raises
    ------
    ConfigError : `transformers` is not installed. CheckpointError : no weights of this network here.

    **Source:** Lin et al. 2023.
    """

    def __init__(self, weights: Path, keep: Path, *, device: str | None = None) -> None:
        import torch

        try:
            from transformers import EsmConfig, EsmForProteinFolding
        except ImportError:
            raise ConfigError("ESMFold needs transformers", hint="pip install 'plm-scaling[hf]'") from None
        files = sorted(path for path in weights.glob("*") if path.suffix in (".safetensors", ".bin"))
        try:
            if not files or not EsmConfig.from_pretrained(weights, local_files_only=True).is_folding_model:
                raise CheckpointError("no weights of ESMFold's network here", where=str(weights))
            model: Any = EsmForProteinFolding.from_pretrained(weights, local_files_only=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError("weights that cannot be read", where=str(weights), why=str(error)) from None
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._model, self._keep, self._weights = model.eval().to(place), keep, weights
        self._sha256 = hashlib.sha256("".join(map(sha256_file, files)).encode()).hexdigest()
        self._files: dict[str, Path] = {}

    @property
    def name(self) -> str:
        """By its weights: only their hash says whether they are those of ESMFold."""
        return f"EsmForProteinFolding, weights {self._weights.name} ({self._sha256[:12]})"

    @property
    def files(self) -> Mapping[str, Path]:
        """Structures predicted so far."""
        return self._files

    def judge(self, sequences: Sequence[str]) -> list[JudgedStructure | None]:
        """Mean confidence over C-alpha atoms, and confidence in the fold."""
        import torch

        self._keep.mkdir(parents=True, exist_ok=True)
        found: list[JudgedStructure | None] = []
        for sequence in sequences:
            with torch.no_grad():
                output = self._model.infer([sequence])
            (pdb,) = self._model.output_to_pdb(output)
            path = self._keep / f"{hashlib.sha256(sequence.encode()).hexdigest()[:16]}.pdb"
            path.write_text(pdb)
            self._files[sequence] = path
            plddt = float(output["plddt"][0, : len(sequence), _CA].mean())
            found.append(JudgedStructure(100.0 * plddt, float(output["ptm"])))
        return found
