"""Train a sweep and leave out what cannot matter: pause the runs of its larger budgets, predict their ends, decide.

The cheap budgets go to their ends, for the others to be learned from. Everything else waits at a share of its steps.
Then budget by budget, from the smallest: runs whose ends cannot move N_opt are halted, the others go on, and their ends
are known when the next budget is decided. Files are the truth: killed at any point, the same call goes on from there.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from plm_scaling.core.errors import ConfigError, FitError, PlmScalingError, RecordError
from plm_scaling.core.halt import Halt
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import StatusFile
from plm_scaling.laws.budgets import TOLERANCE, Currency
from plm_scaling.laws.completed_table import CompletedTable
from plm_scaling.laws.completion import FEWEST_COMPLETE, LEAST_SHARE
from plm_scaling.laws.isoflop import ISOFLOP_WINDOW, fit_isoflop
from plm_scaling.sweeps.decisions import needed_runs
from plm_scaling.sweeps.dominated import FEWEST_SIZES, dominated_runs
from plm_scaling.sweeps.halting_report import TOLERANCE_OF_INTERVAL, HaltingReport, Optimum, Verdict
from plm_scaling.sweeps.left_out import LeftOut, by_reason
from plm_scaling.sweeps.plan_records import PlannedRun, SweepPlan
from plm_scaling.sweeps.reconcile import RunOutcome, SweepOutcome
from plm_scaling.sweeps.status import RunLine, sweep_status
from plm_scaling.sweeps.unfinished import completed_folder

__all__ = ["LEAST_PAUSE", "PAUSE_SHARE", "Wave", "halted_runs", "halting_report", "pausing_waves", "run_halting"]

PAUSE_SHARE: Final = 0.5
LEAST_PAUSE: Final = 0.3
"""Above `LEAST_SHARE`: the last loss may be logged 1/300 of the steps ahead of a pause, and a whole number of steps may
fall some percent short of the tokens planned."""
_LAW: Final = frozenset({"isoflop", "grid"})
"""Roles of runs that only a law of N and D is fitted to. Replicates measure its noise, and go to their ends."""
_FEWEST_BUDGETS: Final = 2
"""Complete ones of an objective, before others are paused: the ends of larger runs are foretold along a trend."""
_FEWEST_IN_ROW: Final = 3
"""Sizes that make a budget one of these; a lone run of a grid is none."""


@dataclass(frozen=True)
class Wave:
    """The runs of one budget that are paused and decided about together."""

    turn: int
    """Its place among the paused budgets of its objective, from 0: objectives are decided side by side."""
    objective: str
    C: float
    """Largest compute of a run, in the plan's currency, FLOPs."""
    run_ids: tuple[str, ...]
    budget: tuple[str, ...]
    """All runs of the budget: those that are not paused go to their ends."""


def pausing_waves(plan: SweepPlan) -> tuple[Wave, ...]:
    """Budgets whose runs may be paused, the cheapest first; all other runs of a plan go to their ends.

    Paused are runs of an isoFLOP row or grid alone, from scratch on uncut data, by a cosine schedule, that no other run
    needs, in budgets of at least `FEWEST_SIZES` sizes; after the two smallest budgets, or more where these hold too few
    runs to learn from.
    """
    needed = {i for run in plan.runs for i in (*needed_runs(run.config), *([run.trunk] if run.trunk else []))}
    by_objective: defaultdict[str, list[PlannedRun]] = defaultdict(list)
    for run in plan.runs:
        if _LAW.intersection(run.roles) and run.config.schedule == "cosine" and not needed_runs(run.config):
            by_objective[run.config.objective].append(run)
    waves = []
    for objective, runs in by_objective.items():
        learned, n_budgets, turn = 0, 0, 0
        for budget in _budgets(runs, plan.currency):
            enough = learned >= FEWEST_COMPLETE and n_budgets >= _FEWEST_BUDGETS
            free = [run.run_id for run in budget if _is_free(run) and run.run_id not in needed]
            n_sizes = len({run.config.N for run in budget})
            if enough and free and n_sizes >= FEWEST_SIZES:
                C, members = max(_compute(run, plan.currency) for run in budget), tuple(run.run_id for run in budget)
                waves.append(Wave(turn, objective, C, tuple(free), members))
                turn += 1
            else:
                learned += len(budget)
                n_budgets += n_sizes >= _FEWEST_IN_ROW
    return tuple(sorted(waves, key=lambda wave: (wave.turn, wave.C)))


def _is_free(run: PlannedRun) -> bool:
    uncut = all(stream.unique_tokens is None and not stream.shuffled for stream in run.config.streams)
    return _LAW.issuperset(run.roles) and uncut and not run.keep_steps and run.trunk is None


def _compute(run: PlannedRun, currency: Currency) -> float:
    return run.C_exact if currency == "C_exact" else run.config.C_6nd


def _budgets(runs: Sequence[PlannedRun], currency: Currency) -> list[list[PlannedRun]]:
    """Runs of nearly equal compute, in rising order; neighbours further apart than a budget is wide part them."""
    groups: list[list[PlannedRun]] = []
    for run in sorted(runs, key=lambda run: _compute(run, currency)):
        last = _compute(groups[-1][-1], currency) if groups else 0.0
        if groups and _compute(run, currency) <= last * (1.0 + 2.0 * TOLERANCE):
            groups[-1].append(run)
        else:
            groups.append([run])
    return groups


def run_halting(
    again: Callable[[Mapping[str, float]], SweepOutcome],
    plan: SweepPlan,
    runs_dir: Path,
    *,
    share: float = PAUSE_SHARE,
    tolerance: float = TOLERANCE_OF_INTERVAL,
) -> SweepOutcome:
    """Reconcile a plan, halting the runs whose predicted ends cannot move N_opt; the outcome carries the report.

    Parameters
    ----------
    again : one pass of `run_plan` with these pauses (run id -> share).
    share : of its steps, at which a run waits for the decision.
    tolerance : as of `dominated_runs`.

    Raises
    ------
    ConfigError : a share at which too little is logged to predict from, or that is not below 1; a tolerance that is not
        positive.
    """
    if not LEAST_PAUSE <= share < 1:
        raise ConfigError(
            f"runs cannot be paused at {share:g} of their steps",
            where="pause_share",
            why=f"an end is predicted from losses up to {LEAST_SHARE:g}, and the last one is logged before the pause",
            hint=f"a share from {LEAST_PAUSE:g} to below 1, such as {PAUSE_SHARE:g}",
        )
    if not tolerance > 0:
        raise ConfigError(f"a tolerance of {tolerance:g}", where="halt_tolerance", hint="a positive share, such as 0.1")
    waves = pausing_waves(plan)
    left = list(waves)
    outcome = again(_pauses(left, share))
    verdicts: list[Verdict] = []
    while left and not outcome.dry_run and not _to_get_on(outcome, left, runs_dir, share):
        turn = [wave for wave in left if wave.turn == left[0].turn]
        left = [wave for wave in left if wave not in turn]
        failed = outcome.failed
        made = [verdict for wave in turn for verdict in _decide(wave, plan, runs_dir, failed, share, tolerance)]
        verdicts += made
        if made:
            outcome = again(_pauses(left, share))
    if outcome.dry_run:
        return outcome
    report = halting_report(plan, runs_dir)
    remarks = list(report.remarks)
    if not waves:
        remarks.append(f"no budget follows the ones to learn from ({_FEWEST_BUDGETS} at least): none paused")
    if first := _to_get_on(outcome, left, runs_dir, share) if left else []:
        named = by_reason(LeftOut(run_id=line.run_id, reason=line.state) for line in first)
        remarks.append(f"nothing more is decided until these get on (call again): {'; '.join(named)}")
    return replace(outcome, halting=replace(report, verdicts=tuple(verdicts), remarks=tuple(remarks)))


def _pauses(waves: Sequence[Wave], share: float) -> dict[str, float]:
    return {run_id: share for wave in waves for run_id in wave.run_ids}


def _to_get_on(outcome: SweepOutcome, left: Sequence[Wave], runs_dir: Path, share: float) -> list[RunOutcome]:
    """Runs that hold up every decision: under way, or stopped from outside before their pause or their end.

    Without one of them a minimum may seem to lie elsewhere, and runs next to the true one be halted.
    """
    waiting = {run_id for wave in left for run_id in wave.run_ids}
    unsettled = (line for line in outcome.lines if line.state in ("planned", "running", "interrupted"))
    return [
        line
        for line in unsettled
        if line.run_id not in waiting or not _is_paused(RunFolder(runs_dir / line.run_id).status(), share)
    ]


def _decide(
    wave: Wave, plan: SweepPlan, runs_dir: Path, failed: Collection[str], share: float, tolerance: float
) -> list[Verdict]:
    """Verdicts on the paused runs of one budget; what is halted is so from here on, by its file.

    A failed run may never come to its end, so nobody waits for it. Without it, or one whose end cannot be predicted, it
    is not known which runs stand next to the minimum: all of its budget go on.
    """
    folders = {run_id: RunFolder(runs_dir / run_id) for run_id in wave.run_ids}
    paused = [run_id for run_id, folder in folders.items() if _is_paused(folder.status(), share)]
    if not paused:
        return []
    halted = halted_runs(runs_dir, wave.objective)
    # However little is known of an end: the rule weighs what it may be.
    completed = completed_folder(runs_dir, wave.objective, most_uncertain=math.inf)
    unknown = [run_id for run_id in paused if run_id not in completed.ends]
    lost = [LeftOut(run_id=run_id, reason="failed") for run_id in wave.budget if run_id in failed]
    lost += [LeftOut(run_id=run_id, reason="no predicted end") for run_id in unknown]
    asked = unknown if lost else paused
    made = dominated_runs(completed, asked, wave.objective, halted=halted, currency=plan.currency, tolerance=tolerance)
    why = f"the minimum of its budget may lie elsewhere with what it lacks ({'; '.join(by_reason(lost))})"
    made += tuple(Verdict(run_id, False, why) for run_id in paused if run_id not in asked)
    lines = {line.run_id: line for line in sweep_status(runs_dir, plan)}
    for verdict in made:
        if verdict.halt:
            _halt(verdict, lines[verdict.run_id]).write(folders[verdict.run_id].halted_path)
    return list(made)


def _is_paused(status: StatusFile, share: float) -> bool:
    return status.status == "interrupted" and status.has_done(share)


def _halt(verdict: Verdict, line: RunLine) -> Halt:
    made = verdict.completion
    if made is None:
        raise FitError(f"run {verdict.run_id} was to be halted without a predicted end")
    done = line.step / line.n_steps
    return Halt(
        reason=f"at {done:.0%}: {verdict.reason}",
        share=done,
        step=line.step,
        loss=made.loss,
        loss_low=made.low,
        loss_high=made.high,
        n_known=made.n_known,
        effect=verdict.effect or 0.0,
        half_width=verdict.half_width or 0.0,
        C_saved=max(0.0, (line.C_planned or 0.0) - line.C_exact),
        seconds_saved=line.device_s * (1.0 - done) / done if line.device_s else None,
    )


def halted_runs(runs_dir: Path, objective: str | None = None) -> dict[str, Halt]:
    """The halted runs of a folder by id; of one objective, if it is named."""
    found = {}
    for path in sorted(runs_dir.glob("*/halted.json")):
        folder = RunFolder(path.parent)
        if (halt := folder.halt()) and objective in (None, folder.order().config.objective):
            found[path.parent.name] = halt
    return found


def halting_report(plan: SweepPlan, runs_dir: Path) -> HaltingReport:
    """What the halted runs of a plan saved, and the minima of all its budgets with their predicted ends taken in."""
    planned = {run.run_id for run in plan.runs}
    halts = {run_id: halt for run_id, halt in halted_runs(runs_dir).items() if run_id in planned}
    optima: list[Optimum] = []
    remarks: list[str] = []
    for objective in dict.fromkeys(run.config.objective for run in plan.runs):
        try:
            optima += _optima(completed_folder(runs_dir, objective), objective, plan.currency, frozenset(halts))
        except (FitError, RecordError) as error:
            remarks.append(f"{objective}: {_told(error)}")
    seconds = [halt.seconds_saved for halt in halts.values()]
    return HaltingReport(
        n_runs=len(plan.runs),
        n_halted=len(halts),
        C_planned=plan.total_C_exact,
        C_saved=sum(halt.C_saved for halt in halts.values()),
        seconds_saved=None if None in seconds else sum(s for s in seconds if s is not None),
        optima=tuple(optima),
        remarks=tuple(remarks),
    )


def _told(error: PlmScalingError) -> str:
    return "; ".join(filter(None, (error.what, error.why)))


def _optima(completed: CompletedTable, objective: str, currency: Currency, halted: frozenset[str]) -> list[Optimum]:
    fitted = fit_isoflop(completed.table, objective, currency=currency, window=ISOFLOP_WINDOW)
    stopped = [row for row in completed.table if row.run_id in halted and row.is_imputed]
    made = []
    for row in fitted.rows:
        sizes = dict(zip(row.N, row.D, strict=True))
        n = sum(1 for run in stopped if run.N in sizes and abs(run.D / sizes[run.N] - 1.0) <= 2.0 * TOLERANCE)
        made.append(Optimum(objective, row.C, len(row.N), n, row.N_opt))
    return made
