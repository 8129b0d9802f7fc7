"""The model of a run as it is before the first step, and what it minimises."""

from __future__ import annotations

from pathlib import Path

import torch

from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import CheckpointError, RunError
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import RunOrder
from plm_scaling.core.weight_identity import is_foreign, weights_id
from plm_scaling.models.base import ProteinModel
from plm_scaling.models.build import DTYPES, build_model
from plm_scaling.models.esm2 import Esm2
from plm_scaling.models.lora import add_lora
from plm_scaling.models.open_model import ModelFile, build_from, load_into, read_model
from plm_scaling.training.distillation import DistillationLoss
from plm_scaling.training.lineage import complete_record, lineage
from plm_scaling.training.steps import LossFunction, cross_entropy

__all__ = ["initial_model", "loss_function"]


def initial_model(folder: RunFolder, order: RunOrder, device: torch.device) -> ProteinModel:
    """The model at step 0, on its device: weights drawn by the seed, or those of a run or of a file made elsewhere.

    Only weights are taken over: the optimiser starts anew, and the run's own schedule warms it up again. The source
    may have been trained for the other objective. With `lora_rank` the weights are frozen and get their additions.

    Raises
    ------
    RunError : the run it starts from is not complete, or the order does not say where the weights lie.
    CheckpointError : the weights it starts from are damaged, not those asked for, or of another shape.
    """
    config = order.config
    model = build_model(
        config.shape,
        causal=config.objective == "clm",
        context=config.context,
        seed=config.seed,
        dtype=DTYPES[config.dtype],
        dropout=config.dropout,
    )
    if config.init_from:
        lineage(folder, config)  # refuses an unfinished source, however early
        source = _read_source(folder, config.init_from, order.init_path, "init")
        _check_shape(source, config.shape, config.init_from)
        if isinstance(model, Esm2) and not source.token_dropout:
            raise CheckpointError(
                f"the weights of {config.init_from} were trained without token dropout",
                where=str(order.init_path),
                why="ESM-2 is trained with it here, and a run's weights are read so",
            )
        load_into(model, source.state)
    if config.lora_rank:
        add_lora(model, config.lora_rank, config.lora_alpha, config.seed)
    return model.to(device)


def loss_function(folder: RunFolder, order: RunOrder, device: torch.device) -> LossFunction:
    """What the run minimises: the cross entropy, or its mixture with the divergence from a teacher.

    Raises
    ------
    RunError : the teacher is a run that is not complete, of the other objective, or has another vocabulary.
    CheckpointError : the teacher's weights are damaged or not those asked for.
    """
    config = order.config
    if config.teacher is None or config.teacher_share == 0.0:  # a teacher without a say costs nothing
        return cross_entropy
    if not is_foreign(config.teacher):
        complete_record(folder, config.teacher, "learns from")
    source = _read_source(folder, config.teacher, order.teacher_path, "teacher")
    causal = config.objective == "clm"
    if source.causal != causal:
        seen = "what is before a position only" if source.causal else "both sides of a position"
        raise RunError(
            f"the teacher {config.teacher} cannot teach a run of objective {config.objective}",
            where=source.origin,
            why=f"it was trained to see {seen}",
            hint="teacher and student need the same objective",
        )
    vocabulary, own = (shape.architecture == "progen2" for shape in (source.shape, config.shape))
    if vocabulary != own:
        raise RunError(
            f"the teacher {config.teacher} has another vocabulary than the student",
            where=source.origin,
            why=f"{source.architecture} numbers {source.shape.vocab} symbols, "
            f"{config.architecture} {config.shape.vocab}",
            hint="plm and esm2 share one, progen2 has its own",
        )
    teacher = build_from(source, context=config.context, dtype=DTYPES[config.dtype])
    return DistillationLoss(teacher.to(device), share=config.teacher_share, temperature=config.teacher_temperature)


def _read_source(folder: RunFolder, source: str, path: str | None, field: str) -> ModelFile:
    """The weights that `source` names: those of a complete run of the study, or of the file at `path`."""
    if not is_foreign(source):
        return read_model(folder.sibling(source).path)
    if path is None:
        raise RunError(
            f"nothing says where the weights {source} lie",
            where=str(folder.order_path),
            hint=f"give {field}_path in the run's order",
        )
    place: Path = (folder.path / path).resolve()
    if (found := weights_id(place)) != source:  # before anything of it is read
        raise CheckpointError(
            f"these are not the weights the run asks for: they are {found}, not {source}",
            where=str(place),
            hint="point to the original file, or plan the run anew from this one",
        )
    return read_model(place)


def _check_shape(source: ModelFile, wanted: ModelShape, name: str) -> None:
    """Refuse weights of another shape, with the words that would fit them."""
    found = source.shape
    fields = {"n_heads": "heads", "d_ffn": "ffn", "rotary_dim": "turned"}
    differ = [
        f"{field} {getattr(found, key)}, not {getattr(wanted, key)}"
        for field in ("architecture", "n_layers", "d_model", *fields)
        if getattr(found, key := fields.get(field, field)) != getattr(wanted, key)
    ]
    if not differ:
        return
    others = [
        f", {key} = {value}" for key, value in (("d_ffn", found.d_ffn), ("rotary_dim", found.rotary_dim)) if value
    ]
    raise CheckpointError(
        f"the weights of {name} do not fit this run: they have {'; '.join(differ)}",
        where=source.origin,
        hint=f'write architecture = "{found.architecture}", '
        f'size = "{found.n_layers}x{found.d_model}x{found.heads}"{"".join(others)}',
    )
