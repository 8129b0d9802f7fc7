"""The public logs of Cheng et al. 2024 as a run table: one clean row per run, curves, and every defect found."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np

from plm_scaling.core.errors import RecordError
from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.core.units import six_nd
from plm_scaling.laws.cheng_cleaning import CONTEXT, CORPUS_TOKENS, CleanRun, clean_run
from plm_scaling.laws.cheng_logs import gather_runs, read_files
from plm_scaling.laws.cheng_shapes import exact_flops
from plm_scaling.laws.curves import Curve, Curves
from plm_scaling.laws.imported import Finding, Imported
from plm_scaling.laws.tails import mean_of_last

__all__ = ["UR50_EPOCH", "read_cheng2024"]

UR50_EPOCH: Final = 15.4e9
"""Tokens of one pass over UniRef50."""

_MASK_RATIO: Final = 0.15


def read_cheng2024(path: Path) -> Imported:
    """Read the released logs: a folder at any level of the release, or the downloaded .zip or .tar.gz as it is.

    N and D come from the spacing of each log's axis, never from names; `loss` is the mean of the last five
    evaluations. Rows that no law may use carry a flag of `EXCLUDED_FLAGS` or `schedule_complete = False`.

    Raises
    ------
    RecordError : no such folder or archive, or not one log of the release in it.
    """
    logs, findings, counts = gather_runs(read_files(path))
    runs: list[CleanRun] = []
    for log in logs:
        run = clean_run(log)
        if isinstance(run, Finding):
            findings.append(run)
        else:
            runs.append(run)
    if not runs:
        raise RecordError(
            "none of these files is a log of the release" if counts["files"] else "no CSV files here",
            where=str(path),
            hint="the release has folders gpt_valid, mlm_valid, ...; for other logs import wandb, tensorboard or csv",
        )
    named = list(zip(_run_ids(runs), runs, strict=True))
    rows = _with_seeds([_row(name, run) for name, run in named])
    for name, run in named:
        findings += [finding.model_copy(update={"run_ids": (name,)}) for finding in run.findings]
    return Imported(
        table=RunTable(tuple(rows)),
        curves=Curves.joined([_curve(name, run) for name, run in named]),
        findings=tuple(_nicknames_together(findings)),
        counts=counts | Counter(f"{row.objective} runs" for row in rows),
    )


def _run_ids(runs: Iterable[CleanRun]) -> list[str]:
    """Ids a person can read; runs that would share one are numbered in the order of their files."""
    taken: Counter[str] = Counter()
    names = []
    for run in runs:
        name = _plain_id(run)
        taken[name] += 1
        names.append(name if taken[name] == 1 else f"{name}-{taken[name]}")
    return names


def _plain_id(run: CleanRun) -> str:
    name = run.name
    parts = [name.objective, run.size]
    if name.mask_ratio is not None:
        parts.append(f"mask{name.mask_ratio:g}")
    elif name.budget:
        parts.append(_power(name.budget))
    elif not name.unique_corpus:
        parts.append(f"{name.label}ep" if name.label else f"{run.D[-1] / 1e9:.0f}B")
    if name.unique_corpus:
        parts.append("ur50")
    if name.source_objective and name.C_source:
        parts.append(f"from-{name.source_objective}-{_power(name.C_source)}")
    return "-".join(parts)


def _power(flops: float) -> str:
    """1e+18 -> 1e18."""
    return f"{flops:g}".replace("e+", "e")


def _row(run_id: str, run: CleanRun) -> RunRow:
    name, D = run.name, float(run.D[-1])
    pool = UR50_EPOCH if name.unique_corpus else CORPUS_TOKENS
    unique = min(D, pool)
    loss, se = mean_of_last(run.loss)
    values: dict[str, object] = {
        "run_id": run_id,
        "objective": name.objective,
        "role": ",".join(_roles(run)),
        "N": run.N,
        "D": D,
        "loss": loss,
        "loss_se": se,
        "final_loss": "last5",
        "D_unique": unique,
        "epochs": D / unique,
        "C_6nd": six_nd(run.N, D),
        "C_exact": exact_flops(run.N, D),
        "batch_tokens": run.batch_tokens,
        "peak_lr": name.peak_lr,
        "corpus_id": "cheng2024-ur50" if name.unique_corpus else "cheng2024-full",
        "validation_id": _validation_id(run),
        "schedule_complete": run.schedule_complete,
        "flags": ",".join(run.flags),
    }
    if name.objective == "mlm":
        values["mask_ratio"] = name.mask_ratio or _MASK_RATIO
    return RunRow.model_validate(values | _source(run))


def _source(run: CleanRun) -> dict[str, object]:
    """A transfer's source: the same architecture; its compute is the nominal one of the name."""
    objective, C = run.name.source_objective, run.name.C_source
    if not objective or not C:
        return {}
    facts = {"source_objective": objective, "N_source": run.N, "C_source": C, "D_source": C / (6.0 * run.N)}
    return facts | {"source_run_id": f"{objective}-{run.size}-{_power(C)}-source"}


def _roles(run: CleanRun) -> list[str]:
    names = run.logs.names
    if run.name.mask_ratio is not None:
        return ["mask_ratio"]
    if run.name.source_objective:
        return ["transfer_target"]
    if run.name.unique_corpus:
        return ["repeats"]
    roles = ["isoflop" if run.name.budget else "grid"]
    return [*roles, "transfer_scratch"] if any(name.in_transfer for name in names) else roles


def _validation_id(run: CleanRun) -> str:
    """Losses of one id may be compared: one objective, one corpus, one mask ratio."""
    corpus = "ur50" if run.name.unique_corpus else "full"
    mask = "" if run.name.mask_ratio is None else f"-mask{run.name.mask_ratio:g}"
    return f"cheng2024-{corpus}-{run.name.objective}{mask}"


def _curve(run_id: str, run: CleanRun) -> Curve:
    """Batches are drawn in a fixed order, one draw an evaluation: the evaluation's number names them.

    The evaluation that ends a run between two of the grid takes the next batches of the order.
    """
    series = "mask" if run.name.mask_ratio is not None else "ur50" if run.name.unique_corpus else "full"
    number = np.ceil(run.k - 1e-9).astype(int)
    ids = np.array([f"{series}-{run.batch_sequences}x{CONTEXT}-{k:05d}" for k in number.tolist()])
    return Curve(run_id, run.step, run.D, run.loss, ids)


def _with_seeds(rows: list[RunRow]) -> list[RunRow]:
    """Number runs that differ by nothing the logs state: they are each other's replicates."""
    alike: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        setting = (row.objective, row.N, row.D, row.batch_tokens, row.peak_lr, row.validation_id, row.source_run_id)
        if row.schedule_complete and "MISLABELLED" not in row.flags:
            alike[setting].append(index)
    seeds = {index: seed for group in alike.values() if len(group) > 1 for seed, index in enumerate(group)}
    return [row.model_copy(update={"seed": seeds[i]}) if i in seeds else row for i, row in enumerate(rows)]


def _nicknames_together(findings: list[Finding]) -> list[Finding]:
    """One finding per nickname in place of one per file."""
    by_text: defaultdict[str, list[Finding]] = defaultdict(list)
    others = []
    for finding in findings:
        if finding.kind == "NICKNAME":
            by_text[finding.what].append(finding)
        else:
            others.append(finding)
    for what, group in by_text.items():
        files = tuple(file for finding in group for file in finding.files)
        run_ids = tuple(run_id for finding in group for run_id in finding.run_ids)
        others.append(Finding(kind="NICKNAME", what=what, files=files, run_ids=run_ids))
    return others
