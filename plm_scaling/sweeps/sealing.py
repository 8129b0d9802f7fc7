"""Predict the runs of a plan that have not begun, and seal what was said: nothing can be known of them yet."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np

from plm_scaling.core.errors import RefusedError
from plm_scaling.core.files import sha256_file
from plm_scaling.core.run_row import RunRow, columns_of
from plm_scaling.core.run_table import RunTable
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.laws.noise import law_runs
from plm_scaling.laws.predict import members_of, predict_losses, predictive_samples
from plm_scaling.sweeps.left_out import LeftOut, by_reason
from plm_scaling.sweeps.plan_records import PlannedRun, SweepPlan
from plm_scaling.sweeps.runs import collect_runs
from plm_scaling.sweeps.seal_checks import unchecked, unlike
from plm_scaling.sweeps.seal_records import LEVELS, RunThen, Seal, SealedRun, read_seals, seals_path
from plm_scaling.sweeps.status import RunLine, sweep_status

__all__ = ["add_seal", "seal_plan"]

_EVERY: Final = 20
"""Of the samples behind the intervals, every so many are kept."""
_DIGITS: Final = 7


def seal_plan(
    plan: Path, law: Path, runs_dir: Path, *, version: str, previous: str = "", now: datetime | None = None
) -> Seal:
    """What a law predicts of every planned run that has not begun.

    Left out by name are runs that were started before (whatever came of them), runs of the other objective, and runs
    that the law is not about: repeats, transfers, controls, another recipe or another corpus than those of the runs it
    was fitted to. A fit that does not say what they are is held against the plan's complete runs, and the seal says so;
    without any, the seal says that nobody could tell.

    Parameters
    ----------
    plan, law : plan.json and fit.json.
    runs_dir : folder the plan's runs are trained in; it need not exist.
    version : release that makes the seal.
    previous : hash of the plan's seal before this one.
    now : date of the seal (default: the clock's).

    Raises
    ------
    RefusedError : no run can be sealed, each with its reason; or the fit predicts no losses.
    """
    planned, fitted = SweepPlan.read(plan), LawFit.read(law)
    lines = sweep_status(runs_dir, planned)
    known = law_runs(collect_runs(runs_dir), fitted.objective) if runs_dir.is_dir() else RunTable(())
    reasons = {run.run_id: reason for run in planned.runs if (reason := _reason(run, fitted, lines, known))}
    left_out = tuple(LeftOut(run_id=name, reason=reason) for name, reason in reasons.items())
    wanted = [run for run in planned.runs if run.run_id not in reasons]
    if not wanted:
        raise RefusedError(
            "no run of this plan can be sealed",
            where=str(plan),
            why="; ".join(by_reason(left_out)) or "the plan holds no runs",
            hint="seal before `plm-scaling run`; plm-scaling plan --next plans a further budget",
        )
    runs, draws = _predicted(fitted, wanted)
    surface = fitted.surface
    assert surface is not None
    doubts = unchecked(fitted, known)
    return Seal(
        made=f"{now or datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        objective=fitted.objective,
        validation_id=fitted.validation_id,
        fit_name=law.name,
        fit_sha256=sha256_file(law),
        data_hash=fitted.data_hash,
        n_fitted=fitted.n_runs,
        forms=_weights(fitted),
        parameters={"N0": surface.N0, "D0": surface.D0, **{k: v.value for k, v in surface.parameters.items()}},
        plan_sha256=planned.content_hash(),
        version=version,
        runs=runs,
        draws=draws,
        states=tuple(RunThen(run_id=o.run_id, status=o.status, attempts=o.attempts) for o in lines),
        left_out=left_out,
        flags=tuple(doubts),
        notes=tuple(f"{flag}: {sentence}" for flag, sentence in doubts.items()),
        previous=previous,
    ).closed()


def add_seal(plan: Path, law: Path, runs_dir: Path, *, version: str, write: bool = True) -> Seal:
    """Seal a plan and add the seal to those it has; the plan itself is not touched.

    Raises
    ------
    RecordError : an earlier seal is broken. RefusedError : of `seal_plan`.
    """
    path = seals_path(plan)
    found = read_seals(path)
    seal = seal_plan(plan, law, runs_dir, version=version, previous=found.last_hash)
    if write:
        found.model_copy(update={"seals": (*found.seals, seal)}).write(path)
    return seal


def _reason(run: PlannedRun, law: LawFit, lines: Sequence[RunLine], known: RunTable) -> str:
    """Why a run cannot be sealed by a law; empty where it can."""
    line = next(line for line in lines if line.run_id == run.run_id)
    if line.status != "planned" or line.attempts:
        tried = f" after {line.attempts} attempts" if line.attempts > 1 else ""
        return f"it was begun before ({line.status}{tried})"
    if run.config.objective != law.objective:
        return f"it trains {run.config.objective}, the law is of {law.objective}"
    row = RunRow.model_validate(columns_of(run.config) | {"role": ",".join(run.roles), "loss": 1.0})
    if not len(law_runs(RunTable((row,)), law.objective)):
        return f"the law is of runs from scratch on uncut data, not of {' and '.join(run.roles) or 'such runs'}"
    return unlike(row, law, known)


def _predicted(
    law: LawFit, wanted: Sequence[PlannedRun]
) -> tuple[tuple[SealedRun, ...], tuple[tuple[float, ...], ...]]:
    columns = (np.array([getattr(run.config, name) for run in wanted], float) for name in ("N", "D", "batch_tokens"))
    N, D, batch = columns
    at = {level: predict_losses(law, N, D, batch, level=level) for level in LEVELS}
    runs = tuple(
        SealedRun(
            run_id=run.run_id,
            N=run.config.N,
            D=run.config.D,
            batch_tokens=run.config.batch_tokens,
            loss=float(at[0.9].loss[i]),
            decades_beyond=round(float(at[0.9].decades[i]), 3),
            **{f"interval_{100 * level:g}": (float(p.low[i]), float(p.high[i])) for level, p in at.items()},
        )
        for i, run in enumerate(wanted)
    )
    samples = predictive_samples(law, N, D, batch)[::_EVERY].round(_DIGITS)
    return runs, tuple(map(tuple, samples.tolist()))


def _weights(law: LawFit) -> dict[str, float]:
    weights: dict[str, float] = {}
    for fit, weight in members_of(law):
        name = fit.form if fit.plateau is None else f"{fit.form}, L0 = {fit.plateau:.4g}"
        weights[name] = weights.get(name, 0.0) + weight
    return weights
