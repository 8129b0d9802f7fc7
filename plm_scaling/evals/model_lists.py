"""Which models a command means: folders of runs as their runs, and beside every model its control."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from plm_scaling.core.errors import ConfigError
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.evals.adapters.base import Adapter
from plm_scaling.evals.adapters.opening import open_adapter
from plm_scaling.evals.embedding_cache import cached

__all__ = ["model_openers", "model_specs"]

_NO_CONTROL: Final = ("uniform", "markov:", "profile:", "random:", "hf:")
_SET: Final = "val_iid"


def model_openers(
    models: Iterable[str | Path], *, control: bool, seed: int = 0, cache: Path | None = None
) -> list[Callable[[], Adapter]]:
    """Openers of all models, each with random weights of the same shape behind it where it has weights of ours.

    Models of one shape and objective share a control.

    Parameters
    ----------
    cache : folder in which embeddings are kept; None keeps none.

    Raises
    ------
    ConfigError : a folder without complete runs.
    """
    specs = [spec for model in models for spec in model_specs(str(model))]
    found: list[Callable[[], Adapter]] = [partial(_opened, spec) for spec in specs]
    if control:
        found += [partial(open_adapter, f"random:{spec}#{seed}") for spec in _one_of_each_shape(specs)]
    return found if cache is None else [partial(_with_cache, opener, cache) for opener in found]


def _with_cache(opener: Callable[[], Adapter], folder: Path) -> Adapter:
    return cached(opener(), folder)


def model_specs(model: str) -> list[str]:
    """One spec, or one for each complete run of a folder of runs, smallest first."""
    folder = Path(model)
    if not folder.is_dir() or any((folder / name).is_file() for name in ("run.json", "config.json")):
        return [model]
    runs = [RunFolder(path.parent) for path in sorted(folder.glob("*/run.json"))]
    complete = [run for run in runs if run.weights_path.is_file()]
    if not complete:
        raise ConfigError(
            "no complete run in this folder", where=model, why=f"{len(runs)} runs, none with its final weights"
        )
    complete.sort(key=lambda run: (run.order().config.objective, run.order().config.shape.N, run.path.name))
    return [str(run.path) for run in complete]


def _one_of_each_shape(specs: list[str]) -> Iterator[str]:
    seen = set()
    for spec in specs:
        if spec.startswith(_NO_CONTROL):
            continue
        folder = RunFolder(Path(spec.removeprefix("run:")))
        key: object = spec
        if folder.order_path.is_file():
            config = folder.order().config
            key = (config.objective, config.shape.content_hash())
        if key not in seen:
            seen.add(key)
            yield spec


def _opened(spec: str) -> Adapter:
    """A model; of a run with the loss it ended at."""
    from plm_scaling.evals.adapters.own import OwnModel

    adapter = open_adapter(spec)
    folder = RunFolder(Path(spec.removeprefix("run:")))
    record = folder.record() if folder.record_path.is_file() else None
    losses = {one.set_name: one.per_token for one in record.validation} if record else {}
    if _SET not in losses or not isinstance(adapter, OwnModel):
        return adapter
    info = adapter.info.model_copy(update={"loss": losses[_SET]})
    told = OwnModel(adapter.model, info, device=str(adapter.device))
    told.run = adapter.run
    return told
