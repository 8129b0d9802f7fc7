"""ProteinGym as tasks: every assay whose file is there, and the means its leaderboard takes over them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from plm_scaling.core.errors import PlmScalingError, RefusedError
from plm_scaling.evals.adapters.base import Adapter, FloatArray
from plm_scaling.evals.assays import AssayScores, group_weights, resampled_weights
from plm_scaling.evals.bootstrap import bootstrap_metric, bootstrapped_draws
from plm_scaling.evals.metrics import MetricName
from plm_scaling.evals.proteingym import PROTEINGYM_METRICS, Assay, read_assay, read_reference
from plm_scaling.evals.task import Answer, Asked, NoDataError, Scored, Task, answer_of, sample_rows
from plm_scaling.evals.zero_shot_tasks import scored_variants

__all__ = ["TASKS"]

_SUBSTITUTIONS: Final = "DMS_substitutions.csv"
_INDELS: Final = "DMS_indels.csv"
_MAIN: Final = "spearman"


@dataclass(frozen=True)
class _Tested:
    """One assay's answers, and its numbers by metric."""

    assay: Assay
    protocol: str
    values: dict[MetricName, float]
    answers: tuple[Answer, ...]


def _assays(task: Task, adapter: Adapter, asked: Asked) -> list[Answer]:
    """Every assay by its five metrics, and their means; an assay that cannot be scored is left out and named."""
    (reference,) = task.paths(asked)
    known, started = read_reference(reference), time.perf_counter()
    files = _files(asked, known)
    if not files:
        raise NoDataError(
            "no assay of ProteinGym is here",
            where=str(asked.data),
            why=f"none of the files that {reference.name} names lies there",
            hint="unpack ProteinGym's DMS_ProteinGym_substitutions.zip or DMS_ProteinGym_indels.zip into it",
        )
    tested: list[_Tested] = []
    failed: list[PlmScalingError] = []
    for assay in known:
        if assay.filename in files:
            try:
                tested.append(_one(task, adapter, asked, assay, files[assay.filename]))
            except PlmScalingError as error:
                failed.append(error)
    if not tested:
        raise failed[0]
    warnings = []
    if len(tested) < len(known):
        warnings.append(f"A mean over {len(tested)} of {len(known)} assays: not the leaderboard's.")
    if failed:
        warnings.append(f"{len(failed)} assays could not be scored, the first: {failed[0].what}")
    means = _means(task, adapter, asked, tested, tuple(warnings), started)
    return [*means, *(answer for one in tested for answer in one.answers)]


def _one(task: Task, adapter: Adapter, asked: Asked, assay: Assay, path: Path) -> _Tested:
    started, data = time.perf_counter(), read_assay(path, assay)
    which = sample_rows(len(data.variants), asked)
    scored = scored_variants(
        adapter, asked, assay.target, [data.variants[k] for k in which], data.measured[which], assay.name
    )
    answers: list[Answer] = []
    values: dict[MetricName, float] = {}
    for metric in PROTEINGYM_METRICS:
        asked_of = scored if metric == _MAIN else replace(scored, floors=())
        if metric in ("auc", "mcc"):
            asked_of = replace(asked_of, truth=data.fit[which].astype(np.float64))
        try:
            value = bootstrap_metric(metric, asked_of.truth, asked_of.scores, draws=asked.resamples, seed=asked.seed)
        except RefusedError:
            if metric == _MAIN:
                raise
            continue
        values[metric] = value.value
        name = f"{task.name}/{assay.name}"
        answers.append(
            answer_of(task, adapter, asked, asked_of, metric=metric, value=value, started=started, name=name)
        )
    return _Tested(assay, scored.protocol, values, tuple(answers))


def _means(
    task: Task,
    adapter: Adapter,
    asked: Asked,
    tested: Sequence[_Tested],
    warnings: tuple[str, ...],
    started: float,
) -> list[Answer]:
    """The leaderboard's average by every metric; by the main one also of every function, depth and taxon."""
    answers: list[Answer] = []
    for metric in PROTEINGYM_METRICS:
        table = _table(tested, metric)
        groups = {"": np.ones(len(table.assays), dtype=bool)}
        if metric == _MAIN:
            for kind, form, names in (
                ("function", "Function_{}", table.functions),
                ("depth", "{}_MSA_depth", table.depths),
                ("taxon", "Taxa_{}", table.taxa),
            ):
                for name in sorted(set(names) - {""}):
                    groups[form.format(name)] = table.where(**{kind: name})
        for group, chosen in groups.items():
            found = _mean(task, adapter, asked, table, chosen, metric, group, tested, warnings, started)
            answers += [found] if found is not None else []
    return answers


def _mean(
    task: Task,
    adapter: Adapter,
    asked: Asked,
    table: AssayScores,
    chosen: np.ndarray,
    metric: MetricName,
    group: str,
    tested: Sequence[_Tested],
    warnings: tuple[str, ...],
    started: float,
) -> Answer | None:
    """One mean with its interval over proteins; None where fewer than two proteins are in the group."""
    score_A = table.scores_MA[0]
    there = chosen & np.isfinite(score_A)
    proteins = {name for name, use in zip(table.proteins, there, strict=True) if use}
    if len(proteins) < 2:
        return None
    filled, by_function = np.where(there, score_A, 0.0), not group
    weight_A = group_weights(table, there, by_function=by_function)
    drawn = resampled_weights(table, there, by_function=by_function, draws=asked.resamples, seed=asked.seed) @ filled
    value = bootstrapped_draws(float(filled @ weight_A), drawn, len(proteins))
    protocols = sorted({one.protocol for one in tested})
    # Scaled so that their plain mean is the leaderboard's: then two models are compared assay by assay.
    parts: FloatArray = (filled * weight_A)[there] * there.sum()
    scored = Scored(
        truth=np.zeros(int(there.sum())),
        scores=parts,
        protocol=protocols[0] if len(protocols) == 1 else f"{len(protocols)} protocols, by assay",
        clusters=tuple(name for name, use in zip(table.proteins, there, strict=True) if use),
        cluster_kind="protein",
        flags=("PARTIAL",) if warnings else (),
        warnings=warnings,
    )
    name = f"{task.name}/{group}" if group else task.name
    return answer_of(task, adapter, asked, scored, metric=metric, value=value, started=started, name=name)


def _table(tested: Sequence[_Tested], metric: MetricName) -> AssayScores:
    return AssayScores(
        assays=tuple(one.assay.name for one in tested),
        proteins=tuple(one.assay.protein for one in tested),
        functions=tuple(one.assay.function for one in tested),
        depths=tuple(one.assay.depth for one in tested),
        taxa=tuple(one.assay.taxon for one in tested),
        models=("asked",),
        scores_MA=np.array([[one.values.get(metric, np.nan) for one in tested]]),
    )


def _files(asked: Asked, known: Sequence[Assay]) -> dict[str, Path]:
    """Where each assay's file lies, by its name; a .gz of it will do."""
    names = {assay.filename for assay in known}
    there = {} if asked.data is None else {path.name.removesuffix(".gz"): path for path in asked.data.rglob("*.csv*")}
    return {name: path for name, path in sorted(there.items()) if name in names}


def _task(name: str, about: str, reference: str) -> Task:
    def beside(asked: Asked) -> tuple[Path, ...]:
        return tuple(_files(asked, read_reference(bare.paths(asked)[0])).values())

    bare = Task(
        name, "zero-shot", about, _MAIN, True, ("masked", "causal", "total", "profile"), _assays, files=(reference,)
    )
    return replace(bare, beside=beside)


TASKS: Final = (
    _task(
        "proteingym.subs", "ProteinGym's substitution assays that lie in the folder, and their means", _SUBSTITUTIONS
    ),
    _task("proteingym.indels", "ProteinGym's assays of insertions and deletions, and their means", _INDELS),
)
