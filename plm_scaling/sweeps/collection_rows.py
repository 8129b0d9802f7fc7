"""Plain rows of a runs folder for queries: one per run, one per run and validation set. Damage is a state.

Read as plain JSON, not as records: a query over hundreds of runs should not wait for checks it does not need.
"""

from __future__ import annotations

import json
import os
import types
import typing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import PlmScalingError
from plm_scaling.core.run import RunConfig, RunRecord, ValidationLoss
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.corpus.format import VAL_IID

__all__ = ["LOSS_COLUMNS", "RUN_COLUMNS", "FoundRun", "find_runs", "loss_rows", "run_rows"]

_NESTED: Final = frozenset({"config", "validation", "roles", "status", "D", "ledger"})
"""Fields of a record that are columns of their own kind, or of the view `losses`."""
_SHAPE: Final = ("architecture", "n_layers", "d_model", "n_heads", "d_ffn", "rotary_dim")


def _columns(model: type[BaseModel], leave_out: frozenset[str] = frozenset()) -> dict[str, str]:
    return {name: _kind(field) for name, field in model.model_fields.items() if name not in leave_out}


def _kind(field: FieldInfo) -> str:
    """bool, int64, float64 or string (JSON for what is no scalar)."""
    annotation = field.annotation
    parts = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    known = {bool: "bool", int: "int64", float: "float64"}
    return next((known[part] for part in parts if part in known), "string")


RUN_COLUMNS: Final[dict[str, str]] = {
    **{"run_id": "string", "status": "string", "reason": "string", "roles": "string", "N": "int64"},
    **{"D": "int64", "D_planned": "int64", "loss": "float64", "loss_se": "float64", "step": "int64"},
    **{"n_steps": "int64", "last_loss": "float64"},
    **{name: kind for name, kind in _columns(RunConfig).items() if name != "D"},
    **_columns(RunRecord, _NESTED),
}
"""Columns of the view `runs`, with their Arrow types. `D` is trained so far, `loss` that on val_iid at the end."""
LOSS_COLUMNS: Final[dict[str, str]] = {"run_id": "string", **_columns(ValidationLoss)}
"""Columns of the view `losses`: one row per complete run and validation set."""


@dataclass(frozen=True)
class FoundRun:
    """A run's folder and the names in it; its files are read when they are first asked for.

    A query over metrics needs none of them, and reading 500 takes longer than the query.
    """

    folder: RunFolder
    names: frozenset[str]

    @property
    def run_id(self) -> str:
        """Name of the folder."""
        return self.folder.path.name

    @property
    def has_ended(self) -> bool:
        """Whether there is a record, which is written last."""
        return "record.json" in self.names

    @cached_property
    def _read(self) -> tuple[dict[str, Any] | None, dict[str, Any] | None, str]:
        record, damage = _json(self.folder.record_path)
        order, harm = _json(self.folder.order_path) if record is None else (None, "")
        return record, order, damage or harm

    @property
    def record(self) -> dict[str, Any] | None:
        """The record, if it can be read."""
        return self._read[0]

    @property
    def order(self) -> dict[str, Any] | None:
        """The order of a run without a record, if it can be read."""
        return self._read[1]

    @property
    def damage(self) -> str:
        """Names a file that cannot be read, and says why."""
        return self._read[2]

    @property
    def is_complete(self) -> bool:
        """Whether there is a record that can be read."""
        return self.record is not None


def find_runs(runs_dir: Path) -> list[FoundRun]:
    """Every run of a folder by id; what has neither run.json nor record.json is none."""
    found = []
    for run_id in sorted(entry.name for entry in os.scandir(runs_dir) if entry.is_dir() and entry.name[:1] != "."):
        try:
            names = frozenset(os.listdir(runs_dir / run_id))
        except FileNotFoundError:  # deleted in between
            continue
        if not names.isdisjoint(("run.json", "record.json")):
            found.append(FoundRun(RunFolder(runs_dir / run_id), names))
    return found


def _json(path: Path) -> tuple[dict[str, Any] | None, str]:
    """An object with a configuration, or why there is none; nothing at all for a file that is not there."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None, ""
    except (OSError, ValueError) as error:
        return None, f"{path.name} cannot be read: {error}"
    if not isinstance(value, dict) or not isinstance(value.get("config"), dict):
        return None, f"{path.name} cannot be read: it holds no configuration"
    return value, ""


def run_rows(runs: list[FoundRun]) -> list[dict[str, Any]]:
    """Rows of the view `runs`."""
    return [_run_row(run) for run in runs]


def _run_row(run: FoundRun) -> dict[str, Any]:
    record, source = run.record or {}, run.record or run.order or {}
    config = source.get("config", {})
    row: dict[str, Any] = {name: _plain(config.get(name, _default(name))) for name in RunConfig.model_fields if config}
    row |= {name: _plain(value) for name, value in record.items() if name in RUN_COLUMNS}
    row |= {"run_id": run.run_id, "N": _block_parameters(config), "D_planned": config.get("D"), "D": record.get("D")}
    roles = source.get("roles")
    row["roles"] = ",".join(map(str, roles)) if isinstance(roles, list) else ""
    if run.damage:
        return row | {"status": "damaged", "reason": run.damage}
    if run.is_complete:
        steps = {"step": record.get("steps"), "n_steps": record.get("steps")}
        losses = next((loss for loss in _losses(run) if loss.get("set_name") == VAL_IID), {})
        return row | steps | {"status": "complete", "loss": losses.get("per_token"), "loss_se": losses.get("se")}
    status = run.folder.status()
    row |= {"status": status.status, "reason": status.reason or None, "D": status.D, "last_loss": status.loss}
    return row | {"step": status.step, "n_steps": status.n_steps, "tokens_per_s": status.tokens_per_s}


def _default(name: str) -> Any:
    field = RunConfig.model_fields[name]
    return None if field.is_required() else field.get_default(call_default_factory=True)


def _plain(value: Any) -> Any:
    """A scalar as it is, everything else as JSON."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return json.dumps(value, default=lambda record: record.model_dump(mode="json"))


def _block_parameters(config: dict[str, Any]) -> int | None:
    try:
        return ModelShape(**{name: config[name] for name in _SHAPE if name in config}).N
    except (ValueError, TypeError, PlmScalingError):
        return None


def loss_rows(runs: list[FoundRun]) -> list[dict[str, Any]]:
    """Rows of the view `losses`."""
    return [
        {"run_id": run.run_id, **{k: v for k, v in loss.items() if k in LOSS_COLUMNS}}
        for run in runs
        for loss in _losses(run)
    ]


def _losses(run: FoundRun) -> list[dict[str, Any]]:
    losses = (run.record or {}).get("validation")
    return [loss for loss in losses if isinstance(loss, dict)] if isinstance(losses, list) else []
