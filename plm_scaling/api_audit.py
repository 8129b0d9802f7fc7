"""The verb about models that exist; part of `plm_scaling.api`, where it is found with the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plm_scaling.core.errors import ConfigError

if TYPE_CHECKING:
    from plm_scaling.laws.law_fit import LawFit
    from plm_scaling.laws.zoo import PublishedLaw
    from plm_scaling.sizing.audit_records import AuditTable
    from plm_scaling.sizing.trained_models import TrainedModel

__all__ = ["audit"]


def audit(
    model: str | Path | None = None,
    *,
    params: float | None = None,
    tokens: float | None = None,
    objective: str | None = None,
    laws: Sequence[str | Path] = (),
    force: bool = False,
) -> AuditTable:
    """Is a model too large for what its training cost? Without a model: all published protein models, one by one.

    Parameters
    ----------
    model : a published model (esm2-650m, progen2-xlarge, cheng-7b, gopher, ...), a named size, or the folder of a
        complete run.
    params : N instead of a model, parameters.
    tokens : D, instead of what a published model is known for; without any only the tokens that fit are said.
    objective : clm, mlm or text; needed with `params` and for a named size.
    laws : fit.json files of one's own and names of published laws (zoo:NAME); by default the one
        `size` answers by, then the published ones.
    force : answer even more than 1.5 decades of compute outside a law's range.

    Raises
    ------
    ConfigError : no such model or law, or the objective is missing. RecordError : a run that is not complete.
    """
    from plm_scaling.sizing.audit import audit_models
    from plm_scaling.sizing.quantity_bounds import check_quantities

    check_quantities(params=params, tokens=tokens)
    if model is None and params is None:
        if tokens is not None:
            raise ConfigError("tokens of which model?", hint="name one, or give its parameters (--params)")
        subjects = _all_proteins(objective)
    else:
        subjects = (_subject(model, params, tokens, objective),)
    return audit_models(subjects, _laws_named(laws) if laws else None, force=force)


def _all_proteins(objective: str | None) -> tuple[TrainedModel, ...]:
    from plm_scaling.sizing.trained_models import all_trained_models

    return tuple(
        found
        for found in all_trained_models()
        if found.objective == objective or (objective is None and found.objective != "text")
    )


def _subject(
    model: str | Path | None, params: float | None, tokens: float | None, objective: str | None
) -> TrainedModel:
    from plm_scaling.sizing.trained_models import TrainedModel, find_trained_model

    if model is not None and params is not None:
        raise ConfigError("a model by name has its own parameters", hint="give a name or --params, not both")
    if model is not None and Path(model).is_dir():
        return _own_run(Path(model), tokens, objective)
    known = find_trained_model(str(model)) if model is not None else None
    chosen = objective or (known.objective if known else None)
    if chosen is None:
        raise ConfigError("which objective was it trained with?", hint="--objective clm, mlm or text")
    if known is not None and tokens is None:
        return known.model_copy(update={"objective": chosen})
    kept = {"name": known.name, "size": known.size, "params": known.params} if known else {}
    size = str(model).lower() if model is not None else ""
    fields = {"name": size or "as stated", "size": size, "params": params, **kept, "objective": chosen}
    status = "unknown" if tokens is None else "stated"
    return TrainedModel.checked(**fields, tokens=tokens, status=status, source="as stated")


def _own_run(folder: Path, tokens: float | None, objective: str | None) -> TrainedModel:
    from plm_scaling.core.errors import RecordError
    from plm_scaling.core.run_folder import RunFolder
    from plm_scaling.sizing.trained_models import TrainedModel

    if tokens is not None or objective is not None:
        raise ConfigError("a run knows its own tokens and objective", where=str(folder), hint="leave both out")
    record = RunFolder(folder).record()
    if record is None:
        raise RecordError("no complete run here", where=str(folder), hint="name a run's folder, runs/ID")
    epochs = record.D / max(record.D_unique, 1)
    return TrainedModel(
        name=folder.resolve().name,
        objective=record.config.objective,
        params=record.config.N,
        tokens=record.D,
        status="own run",
        source=str(folder),
        note=f"{epochs:.1f} epochs of its unique tokens" if epochs > 1.05 else "",
    )


def _laws_named(laws: Sequence[str | Path]) -> list[PublishedLaw | LawFit]:
    from plm_scaling.laws.law_fit import LawFit
    from plm_scaling.laws.zoo import find_law

    return [LawFit.read(Path(law)) if str(law).endswith(".json") else find_law(str(law)) for law in laws]
