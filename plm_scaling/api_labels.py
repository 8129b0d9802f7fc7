"""The verb about labels; part of `plm_scaling.api`, where it is found with the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from plm_scaling.evals.label_efficiency import LabelEfficiency

__all__ = ["evaluate_labels"]


def evaluate_labels(
    table: str | Path,
    models: Sequence[str | Path] = (),
    out: str | Path | None = None,
    *,
    data: str | Path | None = None,
    sequence: str | None = None,
    target: str | None = None,
    split: str = "sampled",
    wild_type: str | None = None,
    classes: bool = False,
    floors: Sequence[str] = (),
    labels: Sequence[int] = (),
    seeds: int = 5,
    pooling: Literal["mean", "sites"] = "mean",
    control: bool = True,
    limit: int | None = None,
) -> LabelEfficiency:
    """How many labels a model saves, and from how many on it no longer pays: curves of models, controls and floors.

    Parameters
    ----------
    table : a CSV, or the name of a supervised task (`evaluate_ls`), whose files lie under `data`.
    models : see `evals.adapters.opening`.
    out : file of the curves, JSON.
    sequence, target, split, wild_type, classes : of a CSV, as `evaluate_floors`.
    floors : some of them; all by default.
    labels : numbers of labels; 10 to all training rows, four per decade, by default.
    seeds : samples of labels, each nested.
    pooling : of activations: mean over residues, or of each varied site.
    control : also random weights of every model that has weights of ours.
    limit : at most so many rows of a task's table.

    Raises
    ------
    ConfigError : a table, column, task or floor that cannot be used. RefusedError : too few rows, or a model that
        shows no activations. CheckpointError : weights that cannot be read.
    """
    from plm_scaling.evals.adapters.opening import open_adapter
    from plm_scaling.evals.floors import EncodedTable
    from plm_scaling.evals.label_efficiency import label_efficiency
    from plm_scaling.evals.splits import table_and_split
    from plm_scaling.evals.supervised_tasks import task_table
    from plm_scaling.evals.task import Asked

    if Path(table).is_file():
        read, chosen = table_and_split(
            Path(table), sequence=sequence, target=target, split=split, wild_type=wild_type, classes=classes
        )
        encoded = EncodedTable(read)
    else:
        asked = Asked(data=None if data is None else Path(data), limit=limit)
        encoded, chosen = task_table(str(table), asked)
    found = label_efficiency(
        encoded,
        chosen,
        [open_adapter(str(model)) for model in models],
        controls=None if control else (),
        floors=floors or None,
        labels=labels or None,
        seeds=seeds,
        pooling=pooling,
    )
    if out is not None:
        found.write(Path(out))
    return found
