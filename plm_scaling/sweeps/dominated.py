"""Which paused runs cannot move N_opt, whatever their ends: a pure function of a table with predicted ends.

A run's end is known in distribution. What its own uncertainty does to the isoFLOP minimum of its budget, ln N_opt, is
drawn: once with the run's end drawn, once with it at its mean, the ends of the other unfinished runs drawn alike in
both. The standard deviation of the difference is the most that training the run to its end could still move the
estimate. It is held against the half-width of the interval that ln N_opt would have were every run complete.

Assumed: that the predicted ends are distributed as stated (`completion_check` measures it), and that a later fit reads
minima off the same curve. Errors of several predictions may go together in any way: the standard deviations of all
runs halted in a budget are added, not their squares. With a sum of a tenth of the half-width (of a 95 % interval)
that interval grows by less than 2 %.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from plm_scaling.core.errors import FitError
from plm_scaling.core.run_row import IMPUTED
from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.budgets import TOLERANCE, Budget, Currency, compute_of, gather_budgets
from plm_scaling.laws.completed_table import CompletedTable
from plm_scaling.laws.forms import FloatArray
from plm_scaling.laws.isoflop import ISOFLOP_WINDOW, fit_isoflop
from plm_scaling.laws.isoflop_minimum import CurveRule, valley_minima, valley_minimum
from plm_scaling.laws.law_fit import IsoflopRow
from plm_scaling.laws.noise import law_runs, pooled_seed_noise
from plm_scaling.sweeps.halting_report import TOLERANCE_OF_INTERVAL, Verdict

__all__ = ["FEWEST_SIZES", "dominated_runs"]

FEWEST_SIZES: Final = 4
"""Sizes of a budget with a measured or predicted end, below which none of its runs is halted."""
_NEAREST: Final = 3
"""Sizes about the minimum that always go on: a fit that takes no predictions must still have its minimum."""
_MOST_LOST: Final = 0.005
"""Share of draws in which a run's end decides whether there is a minimum at all, above which it goes on."""


def dominated_runs(
    completed: CompletedTable,
    asked: Collection[str],
    objective: str,
    *,
    halted: Collection[str] = (),
    currency: Currency = "C_exact",
    tolerance: float = TOLERANCE_OF_INTERVAL,
    draws: int = 400,
    seed: int = 0,
) -> tuple[Verdict, ...]:
    """A verdict on every paused run asked about.

    Parameters
    ----------
    completed : all runs of the objective, the unfinished ones with predicted ends.
    asked : ids of paused runs. halted : ids of runs that were halted before; they use up tolerance.
    currency : compute by which runs are grouped into budgets.
    tolerance : of the half-width of the interval of ln N_opt of a budget, what the ends of its halted runs may account
        for together. Runs next to the minimum go on in any case.
    """
    known = [run_id for run_id in asked if run_id in completed.ends]
    unsaid = dict.fromkeys(asked, "no losses on its way are known") | dict.fromkeys(known, "it is in no isoFLOP budget")
    found = {run_id: _go_on(run_id, completed.passed_over.get(run_id, why)) for run_id, why in unsaid.items()}
    whole = law_runs(_as_if_complete(completed.table), objective)
    try:
        fitted = fit_isoflop(whole, objective, currency=currency, window=ISOFLOP_WINDOW, seed=seed)
        budgets = gather_budgets(whole, currency, pooled_seed_noise(whole))
    except FitError as error:
        return tuple(_go_on(run_id, error.what) for run_id in asked)
    rows = {row.run_id: row for row in whole}
    for i, (budget, row) in enumerate(zip(budgets, fitted.rows, strict=True)):
        members = _members(rows, budget, currency)
        here = [run_id for run_id in known if run_id in members]
        if here:
            rng = np.random.default_rng([seed, i])
            found |= _verdicts(_Case.of(completed, budget, row, members, draws, rng), here, halted, tolerance)
    completions = {made.run_id: made for made in completed.completions}
    return tuple(replace(found[run_id], completion=completions.get(run_id)) for run_id in asked)


def _go_on(run_id: str, reason: str) -> Verdict:
    return Verdict(run_id, False, reason)


def _as_if_complete(table: RunTable) -> RunTable:
    """The table that full training is expected to leave: predicted losses as exact as the measured ones.

    `final_loss` still says which were predicted: the noise between seeds is the measured rows'.
    """
    measured = [row.loss_se for row in table if row.loss_se is not None and not row.is_imputed]
    usual = float(np.median(measured)) if measured else None

    def trained(row: RunRow) -> RunRow:
        flags = ",".join(flag for flag in row.flags.split(",") if flag != IMPUTED)
        return row.model_copy(update={"flags": flags, "loss_se": usual})

    return RunTable(tuple(trained(row) if row.is_imputed else row for row in table))


def _members(rows: dict[str, RunRow], budget: Budget, currency: Currency) -> dict[str, int]:
    """Run id -> place of its size in a budget."""
    places = {N: i for i, N in enumerate(budget.N.tolist())}
    near = math.log1p(TOLERANCE) * (1 + 1e-9)
    return {
        run_id: places[row.N]
        for run_id, row in rows.items()
        if row.N in places and abs(math.log(compute_of(row, currency) / budget.C)) <= near
    }


@dataclass(frozen=True, eq=False)
class _Case:
    """One budget: its minimum now, and the losses it may come to have."""

    budget: Budget
    row: IsoflopRow
    place: dict[str, int]
    """Unfinished run -> its size's place."""
    shift: dict[str, FloatArray]
    """Unfinished run -> by how much its end moves its size's mean loss, float64[draws]."""
    minimum: float | None
    """Ln N_opt now."""
    drawn: FloatArray
    """Ln N_opt with all unfinished ends drawn, float64[draws]; NaN without a minimum."""

    @classmethod
    def of(
        cls,
        completed: CompletedTable,
        budget: Budget,
        row: IsoflopRow,
        members: dict[str, int],
        draws: int,
        rng: np.random.Generator,
    ) -> _Case:
        runs = np.bincount(list(members.values()), minlength=len(budget.N))
        place = {run_id: i for run_id, i in members.items() if run_id in completed.ends}
        ends = {run_id: completed.ends[run_id] for run_id in place}
        shift = {r: (end.draw(draws, rng) - end.value) / runs[place[r]] for r, end in ends.items()}
        made = cls(budget, row, place, shift, valley_minimum(budget, _RULE), np.empty(0))
        return replace(made, drawn=made.minima(place))

    def minima(self, drawn: Collection[str]) -> FloatArray:
        """Ln N_opt with the ends of these runs drawn and the others at their means, float64[draws]."""
        n = len(next(iter(self.shift.values())))
        loss = np.tile(self.budget.loss, (n, 1))
        for run_id in drawn:
            loss[:, self.place[run_id]] += self.shift[run_id]
        return valley_minima(self.budget, loss, _RULE)

    def effect(self, runs: Collection[str]) -> tuple[float, float]:
        """Standard deviation of ln N_opt that the ends of these runs account for, and how often they decide on more.

        The second is the share of draws where they decide whether there is a minimum at all. Draws without one either
        way say nothing; where these are the most, nothing is known.
        """
        fixed = self.minima([run_id for run_id in self.place if run_id not in runs])
        moved = self.drawn - fixed
        known = ~np.isnan(moved)
        lost = float((np.isnan(self.drawn) ^ np.isnan(fixed)).mean())
        if 2 * known.sum() < len(moved):
            return math.inf, 1.0
        return float(np.sqrt(np.mean(moved[known] ** 2))), lost

    def beside(self) -> set[int]:
        """Places of the lowest loss, of the sizes on either side of the minimum, and of the three nearest to it."""
        away = np.log(self.budget.N) - (self.minimum or 0.0)
        above = int(np.searchsorted(away, 0.0))
        return {int(np.argmin(self.budget.loss)), above - 1, above, *np.argsort(np.abs(away))[:_NEAREST].tolist()}


_RULE: Final = CurveRule(window=ISOFLOP_WINDOW)


def _verdicts(case: _Case, asked: list[str], halted: Collection[str], tolerance: float) -> dict[str, Verdict]:
    """The runs of one budget: the least influential are halted first, as long as the tolerance is not used up."""
    optimum = case.row.N_opt
    if len(case.budget.N) < FEWEST_SIZES:
        return {r: _go_on(r, f"its budget has {len(case.budget.N)} sizes, {FEWEST_SIZES} are needed") for r in asked}
    if optimum is None or case.minimum is None:
        return {r: _go_on(r, "its budget has no minimum inside the sizes tried") for r in asked}
    half = 0.5 * math.log(optimum.high / optimum.low)
    allowed, beside, found = tolerance * half, case.beside(), dict[str, Verdict]()
    effects = {r: case.effect([r]) for r in asked}
    out = [r for r in halted if r in case.place]
    spent = sum(case.effect([r])[0] for r in out)
    for r in sorted(asked, key=lambda r: effects[r]):
        effect, lost = effects[r]
        together, lost_together = case.effect([*out, r])
        size = f"its end moves ln N_opt by {effect:.2g}, the interval's half-width is {half:.2g}"
        if max(lost, lost_together) > _MOST_LOST:
            verdict = _go_on(r, "whether there is a minimum inside the sizes hangs on its end")
        elif case.place[r] in beside:
            verdict = _go_on(r, "it stands next to the minimum")
        elif effect > allowed:
            verdict = _go_on(r, size)
        elif max(spent + effect, together) > allowed:
            verdict = _go_on(r, size + ", and the runs halted beside it have used up the tolerance")
        else:
            verdict = Verdict(r, True, size)
            out.append(r)
            spent += effect
        found[r] = replace(verdict, effect=effect, half_width=half)
    return found
