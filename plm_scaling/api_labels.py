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
    head: Literal["ridge", "logistic", "nearest"] | None = None,
    rows: str | Path | None = None,
    control: bool = True,
    limit: int | None = None,
) -> LabelEfficiency:
    """How many labels a model saves, and from how many on it no longer pays: curves of models, controls and floors.

    Parameters
    ----------
    table : a CSV, or the name of a supervised task (`evaluate_ls`), whose files lie under `data`.
    models : see `evals.adapters.opening`; a folder of runs stands for all complete runs in it.
    out : file of the curves, JSON.
    sequence, target, split, wild_type, classes : of a CSV, as `evaluate_floors`.
    floors : some of them; all by default.
    labels : numbers of labels; 10 to all training rows, four per decade, by default.
    seeds : samples of labels, each nested.
    pooling : of activations: mean over residues, or of each varied site.
    head : that learns from activations; ridge for values, for classes as they are many.
    rows : file of results to which every model and control at every number of labels is appended (`evaluate_run`).
    control : also random weights of every model that has weights of ours.
    limit : at most so many rows of a task's table.

    Raises
    ------
    ConfigError : a table, column, task or floor that cannot be used. RefusedError : too few rows, or a model that
        shows no activations. CheckpointError : weights that cannot be read.
    """
    from plm_scaling.core.files import sha256_file
    from plm_scaling.evals.floors import EncodedTable
    from plm_scaling.evals.label_efficiency import label_efficiency
    from plm_scaling.evals.label_tasks import label_answers, labels_of_task
    from plm_scaling.evals.model_lists import model_openers
    from plm_scaling.evals.run_tasks import keep_answers
    from plm_scaling.evals.splits import table_and_split
    from plm_scaling.evals.task import Asked

    adapters = [opened() for opened in model_openers(models, control=False)]
    controls, wanted, some = None if control else (), floors or None, labels or None
    path = Path(table)
    if path.is_file():
        read, chosen = table_and_split(
            path, sequence=sequence, target=target, split=split, wild_type=wild_type, classes=classes
        )
        found = label_efficiency(
            EncodedTable(read), chosen, adapters, controls=controls, floors=wanted, labels=some, seeds=seeds,
            pooling=pooling, head=head,
        )  # fmt: skip
        named = {"task": f"{path.name.split('.')[0]}.{chosen.name}", "data_sha256": sha256_file(path)}
        found = found.model_copy(update=named)
    else:
        asked = Asked(data=None if data is None else Path(data), limit=limit)
        found = labels_of_task(
            str(table), asked, adapters, controls=controls, floors=wanted, labels=some, seeds=seeds, pooling=pooling,
            head=head,
        )  # fmt: skip
    if out is not None:
        found.write(Path(out))
    if rows is not None:
        keep_answers(Path(rows), label_answers(found))
    return found
