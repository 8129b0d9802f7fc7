"""Weights in the layouts that other libraries load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.models.esm2_files import Esm2Weights, save_hf_esm2
from plm_scaling.models.open_model import read_model
from plm_scaling.models.progen2_files import save_gptj

__all__ = ["Exported", "export_model"]


@dataclass(frozen=True)
class Exported:
    """A folder of `transformers`."""

    folder: Path
    loads_as: str
    """Class of transformers whose `from_pretrained` reads it."""
    N_total: int
    """Parameters, embeddings included."""
    source: str
    """Where the weights come from, in words."""
    sha256: str = ""
    """Of the weights."""
    warnings: tuple[str, ...] = ()
    """What to read before they are given away."""


def export_model(source: Path, out: Path, *, overwrite: bool = False) -> Exported:
    """Write the weights at `source` as a folder of `transformers`.

    Parameters
    ----------
    source : a complete run's folder, or foreign weights (`models.open_model.read_model`).
    out : folder to write; must be empty or missing unless `overwrite`.

    Raises
    ------
    RefusedError : an architecture that transformers does not have.
    ConfigError : something lies at `out`.
    CheckpointError : damaged, incomplete, or of no known kind.
    """
    found = read_model(source)
    if found.architecture == "plm":
        raise RefusedError(
            "no other library has the block `plm`, so there is nothing to export to",
            where=str(source),
            hint="read it with plm_scaling.models.open_model.read_model, or train with architecture esm2 or progen2",
        )
    if found.architecture == "progen2" and not found.causal:
        raise RefusedError(
            "an MLM of this architecture is not what GPT-J computes", where=str(source), why="GPT-J is causal"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not overwrite:
        raise ConfigError("something is there already", where=str(out), hint="another folder, or --overwrite")
    out.mkdir(parents=True, exist_ok=True)
    if found.architecture == "esm2":
        save_hf_esm2(Esm2Weights(found.shape, found.state, found.token_dropout, found.causal), out)
        loads_as = "EsmForMaskedLM"
    else:
        save_gptj(found.state, found.shape, out, both_directions=found.both_directions)
        loads_as = "GPTJForCausalLM"
    return Exported(out, loads_as, found.shape.N_total, found.origin, found.sha256)
