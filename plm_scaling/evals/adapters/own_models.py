"""From weights to an `OwnModel`, and what tables say of it: by its shape, its run's record, the published models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch

from plm_scaling.core.alphabet import SYMBOLS
from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import ConfigError
from plm_scaling.core.objective import Objective
from plm_scaling.core.run import RunRecord
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.units import six_nd
from plm_scaling.evals.adapters.base import Ability, ModelInfo
from plm_scaling.evals.adapters.own import OwnModel
from plm_scaling.evals.adapters.published import published_tokens
from plm_scaling.models.base import ProteinModel
from plm_scaling.models.build import build_model
from plm_scaling.models.esm2 import Esm2
from plm_scaling.models.open_model import ModelFile, build_from, read_model
from plm_scaling.models.progen2 import PROGEN2_SYMBOLS
from plm_scaling.models.weight_files import tensors_sha256

__all__ = ["PUBLIC_CONTEXT", "open_own", "own_model", "random_control", "random_weights"]

PUBLIC_CONTEXT: Final = 1024
"""Longest document ESM-2 and ProGen2 were trained on, in positions, terminals included."""
_FLOPS_AT: Final = 512
_DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}


def open_own(
    path: Path,
    *,
    name: str | None = None,
    published_as: str | None = None,
    context: int | None = None,
    dtype: str = "fp32",
    device: str | None = None,
) -> OwnModel:
    """The model at `path`: a run of ours, ESM-2 or ProGen2.

    Parameters
    ----------
    path : see `models.open_model.read_model`.
    name : what tables call it; None for the run's id, or the name of the file or folder.
    published_as : name in the table of published models, whose training tokens are then taken over.
    context : longest document, in positions; None for what it was trained on.
    dtype : of the activations, fp32 or bf16. device : see `OwnModel`.

    Raises
    ------
    CheckpointError : damaged, incomplete, or of no known kind.
    ConfigError : no weights there; or a published model of another size.
    """
    file, run = read_model(path), RunFolder.holding(path)
    record = run.record() if run else None
    D = _tokens_of_run(record) if record else None
    if published_as is not None:
        D = published_tokens(published_as, file.shape.N_total + file.dead)
    trained_on = run.order().config.context if run else PUBLIC_CONTEXT
    name = name or published_as or (run.order().config.run_id if run else path.stem)
    found = own_model(
        file,
        name=name,
        D=D,
        C=_compute_of_run(record) if record else None,
        context=context or trained_on,
        dtype=dtype,
        device=device,
    )
    found.run = run.path if run else None
    return found


def own_model(
    file: ModelFile,
    *,
    name: str,
    D: float | None = None,
    C: float | None = None,
    context: int = PUBLIC_CONTEXT,
    dtype: str = "fp32",
    device: str | None = None,
) -> OwnModel:
    """Weights that are read already.

    Parameters
    ----------
    D : tokens it was trained on. C : 6 N D of its training; None for 6 x N x `D`.
    """
    if dtype not in _DTYPES:
        raise ConfigError(f"no dtype {dtype!r}", hint="fp32 or bf16")
    model = build_from(file, context=context, dtype=_DTYPES[dtype])
    released = not file.origin.startswith("run ")
    info = _info(
        model,
        name=name,
        family=file.architecture if released and file.architecture != "plm" else "own",
        origin=file.origin,
        abilities=_abilities(model, reverse=file.both_directions),
        N_dead=file.dead,
        D=D,
        C=C,
        sha256=file.sha256,
    )
    return OwnModel(model, info, device=device)


def random_weights(
    shape: ModelShape,
    *,
    objective: Objective | None = None,
    seed: int = 0,
    name: str | None = None,
    context: int = PUBLIC_CONTEXT,
    device: str | None = None,
) -> OwnModel:
    """A control that was never trained: the initial weights of this shape and seed.

    Parameters
    ----------
    objective : None for what the architecture is known for (`plm`: clm).
    """
    objective = objective or ("mlm" if shape.architecture == "esm2" else "clm")
    model = build_model(shape, causal=objective == "clm", context=context, seed=seed)
    info = _info(
        model,
        name=name or f"random {shape.architecture} {shape.n_layers}x{shape.d_model} seed {seed}",
        family=shape.architecture if shape.architecture != "plm" else "own",
        origin=f"random weights, seed {seed}",
        abilities=_abilities(model, reverse=shape.architecture == "progen2"),
        sha256=tensors_sha256({key: p.detach() for key, p in model.named_parameters()}, "random"),
    )
    return OwnModel(model, info, device=device)


def random_control(of: OwnModel, *, seed: int = 0) -> OwnModel:
    """The same model with random weights, with the same abilities: what pre-training has to beat."""
    control = random_weights(
        of.model.shape,
        objective="clm" if of.model.causal else "mlm",
        seed=seed,
        name=f"random {of.info.name} seed {seed}",
        context=of.model.context,
        device=str(of.device),
    )
    if isinstance(of.model, Esm2) and isinstance(control.model, Esm2):
        control.model.token_dropout = of.model.token_dropout
    info = control.info.model_copy(update={"abilities": of.info.abilities, "family": of.info.family})
    return OwnModel(
        control.model,
        info,
        device=str(of.device),
        batch_positions=of.batch_positions,
        share_beginnings=of.share_beginnings,
    )


def _info(model: ProteinModel, **said: object) -> ModelInfo:
    shape = model.shape
    D = said.get("D")
    if said.get("C") is None:
        said["C"] = six_nd(shape.N, D) if isinstance(D, int | float) else None
    return ModelInfo.model_validate(
        {
            "objective": "clm" if model.causal else "mlm",
            "N": shape.N,
            "N_total": shape.N_total,
            "flops_per_token": shape.training_flops(positions=_FLOPS_AT, sum_length_squared=_FLOPS_AT**2)
            / (3 * _FLOPS_AT),
            "context": model.context,
            "symbols": _symbols(shape),
            "dtype": str(model.dtype).removeprefix("torch."),
            **said,
        }
    )


def _symbols(shape: ModelShape) -> tuple[str, ...]:
    if shape.architecture != "progen2":
        return SYMBOLS
    return (*PROGEN2_SYMBOLS, *(f"<row {number}>" for number in range(len(PROGEN2_SYMBOLS), shape.vocab)))


def _abilities(model: ProteinModel, *, reverse: bool) -> Sequence[Ability]:
    if not model.causal:
        return ("masked", "embed", "attend")
    return ("causal", "reverse", "embed", "attend") if reverse else ("causal", "embed", "attend")


def _tokens_of_run(record: RunRecord) -> float | None:
    """Of all its training; None where it started from weights whose training is not known."""
    if record.config.init_from is None:
        return float(record.D)
    return None if record.D_source is None else float(record.D + record.D_source)


def _compute_of_run(record: RunRecord) -> float | None:
    """6 N D of each phase, summed."""
    if record.config.init_from is None:
        return record.C_6nd
    if record.D_source is None or record.N_source is None:
        return None
    return record.C_6nd + six_nd(record.N_source, record.D_source)
