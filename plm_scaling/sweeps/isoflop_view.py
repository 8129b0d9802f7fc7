"""An early look at the IsoFLOP rows of a sweep: losses of its complete runs by size, nothing fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from plm_scaling.core.units import six_nd
from plm_scaling.sweeps.plan_records import Currency
from plm_scaling.sweeps.status import RunLine

__all__ = ["IsoflopLine", "isoflop_view"]


@dataclass(frozen=True)
class IsoflopLine:
    """One size at one budget."""

    objective: str
    C: float
    """Mean FLOPs of the budget's runs, in the plan's currency."""
    shape: str
    N: int
    D: float
    """Mean over seeds."""
    complete: int
    """Runs that are complete, of `runs`."""
    runs: int
    val_loss: float | None
    """Mean over the complete ones, nats per token; None before the first."""
    is_best: bool
    """Least loss of its budget so far."""


def isoflop_view(lines: Sequence[RunLine], currency: Currency = "C_exact") -> list[IsoflopLine]:
    """Sizes by objective, budget and N; runs within 3 % of their mean compute share a budget.

    Only runs of the roles isoflop, grid and replicate are shown, in budgets of at least two sizes.

    Parameters
    ----------
    currency : how the plan counts the compute of a budget.
    """
    shown = [line for line in lines if _compute(line, currency) and _is_row(line)]
    rows: list[IsoflopLine] = []
    for objective in dict.fromkeys(line.objective for line in shown):
        mine = [(_compute(line, currency), line) for line in shown if line.objective == objective]
        for C, budget in _budgets(sorted(mine, key=lambda pair: pair[0])):
            rows += _sizes(objective, C, budget)
    return rows


def _compute(line: RunLine, currency: Currency) -> float:
    """FLOPs of the whole run; 0 where they are not known."""
    return six_nd(line.N or 0, line.D or 0) if currency == "C_6nd" else line.C_planned or 0.0


def _is_row(line: RunLine) -> bool:
    return not {"isoflop", "grid", "replicate"}.isdisjoint(line.roles.split(","))


def _budgets(runs: Sequence[tuple[float, RunLine]]) -> list[tuple[float, list[RunLine]]]:
    """Mean compute and lines of every budget, from runs by rising compute."""
    from plm_scaling.laws.budgets import TOLERANCE  # half a second of imports that a status does not need

    found: list[list[tuple[float, RunLine]]] = []
    for C, line in runs:
        if found and found[-1][0][0] * (1 + 2 * TOLERANCE) >= C:
            found[-1].append((C, line))
        else:
            found.append([(C, line)])
    return [(fmean(C for C, _ in budget), [line for _, line in budget]) for budget in found]


def _sizes(objective: str, C: float, budget: Sequence[RunLine]) -> list[IsoflopLine]:
    sizes: dict[tuple[int, str], list[RunLine]] = {}
    for line in budget:
        sizes.setdefault((line.N or 0, line.shape), []).append(line)
    if len(sizes) < 2:
        return []
    means = {size: _mean_loss(lines) for size, lines in sizes.items()}
    best = min((loss for loss in means.values() if loss is not None), default=None)
    return [
        IsoflopLine(
            objective=objective,
            C=C,
            shape=shape,
            N=N,
            D=fmean(line.D or 0 for line in sizes[N, shape]),
            complete=sum(line.val_loss is not None for line in sizes[N, shape]),
            runs=len(sizes[N, shape]),
            val_loss=means[N, shape],
            is_best=best is not None and means[N, shape] == best,
        )
        for N, shape in sorted(sizes)
    ]


def _mean_loss(lines: Sequence[RunLine]) -> float | None:
    losses = [line.val_loss for line in lines if line.val_loss is not None]
    return fmean(losses) if losses else None
