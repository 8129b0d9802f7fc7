"""Metrics to TensorBoard and Weights & Biases, beside `metrics.jsonl`. A tracker that fails never ends a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol

from plm_scaling.core.errors import RunError
from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import Tracker

__all__ = ["Trackers", "require_trackers"]

_PACKAGE: Final[dict[Tracker, str]] = {"tensorboard": "tensorboard", "wandb": "wandb"}
_NAMES: Final = {
    "loss": "train/loss",
    "lr": "train/lr",
    "grad_norm": "train/grad_norm",
    "val_loss": "val/loss",
    "step": "train/step",
    "D_unique": "train/D_unique",
}
Scalars = Mapping[str, float]


class _Writer(Protocol):
    """One destination."""

    def write(self, D: int, scalars: Scalars) -> None:
        """Send scalars that were not sent at this D in this attempt; the x axis is the tokens `D`."""

    def close(self) -> None:
        """Flush."""


class _TensorBoard:
    """Event files in the run's folder. Their "step" is D; the optimiser step is a scalar of its own."""

    def __init__(self, folder: Path, config: RunConfig, first_D: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        del config
        # Hides what earlier attempts wrote from the checkpoint on; its own line is told again (`Trackers`).
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_D)

    def write(self, D: int, scalars: Scalars) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, D)
        self._writer.flush()  # or a kill would take the points of two minutes with it

    def close(self) -> None:
        self._writer.close()


class _WandB:
    """A run named by its id; later attempts go on with it, and leave out what it already shows."""

    def __init__(self, folder: Path, config: RunConfig, first_D: int) -> None:
        del first_D
        self._run: Any = import_module("wandb").init(
            project="plm-scaling",
            id=config.run_id,
            name=config.run_id,
            dir=str(folder),
            config=config.model_dump(mode="json"),
            resume="allow",
        )
        self._run.define_metric("*", step_metric="D")
        self._shown = dict(self._run.summary)

    def write(self, D: int, scalars: Scalars) -> None:
        if (last := self._shown.get("D", -1)) > D:
            return
        new = {name: value for name, value in scalars.items() if last < D or self._shown.get(name) != value}
        if new:
            self._run.log({"D": D, **new})

    def close(self) -> None:
        self._run.finish()


_WRITERS: Final[dict[Tracker, Callable[[Path, RunConfig, int], _Writer]]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WandB,
}


def require_trackers(names: tuple[Tracker, ...]) -> None:
    """Look whether the packages are there, before hours of training.

    Raises
    ------
    RunError : one is not installed.
    """
    for name in names:
        if find_spec(_PACKAGE[name]) is None:
            raise RunError(
                f"the order asks for the tracker {name}, which is not installed",
                hint=f"pip install {_PACKAGE[name]}, or leave --track {name} out",
            )


class Trackers:
    """The trackers of one attempt.

    Parameters
    ----------
    names : which; their packages are there (`require_trackers`).
    folder : the run's. The line that was logged at `first_D`, if any, is told first.
    first_D : tokens seen before this attempt.
    on_loss : told once of every tracker that failed; it is not used again.
    """

    def __init__(
        self, names: tuple[Tracker, ...], folder: Path, config: RunConfig, first_D: int, on_loss: Callable[[str], None]
    ) -> None:
        self._on_loss = on_loss
        self._writers: dict[Tracker, _Writer] = {}
        self._told: tuple[int, Scalars] = (-1, {})
        for name in names:
            self._attempt(name, partial(self._open, name, folder, config, first_D))
        for line in RunFolder(folder).metrics() if names and first_D else ():
            if line["D"] == first_D:
                self.write(line)

    def _open(self, name: Tracker, folder: Path, config: RunConfig, first_D: int) -> None:
        self._writers[name] = _WRITERS[name](folder, config, first_D)

    def _attempt(self, name: Tracker, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever a network or a library does, the run goes on
            self._writers.pop(name, None)
            self._on_loss(f"the tracker {name} failed and is left out: {type(error).__name__}: {error}")

    def write(self, line: Mapping[str, float | None]) -> None:
        """Send a line of metrics; of a second one at the same D, as at the end of a run, what is new in it."""
        D = int(line["D"] or 0)
        scalars = {
            _NAMES.get(name, f"perf/{name}"): value for name, value in line.items() if name != "D" and value is not None
        }
        told = self._told[1] if self._told[0] == D else {}
        new = {name: value for name, value in scalars.items() if told.get(name) != value}
        self._told = D, {**told, **new}
        for name, writer in list(self._writers.items()) if new else ():
            self._attempt(name, partial(writer.write, D, new))

    def close(self) -> None:
        """Flush and end."""
        for name, writer in list(self._writers.items()):
            self._attempt(name, writer.close)
