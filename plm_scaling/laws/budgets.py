"""Runs of equal compute gathered into budgets: mean losses per size, with their errors against each other."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from plm_scaling.core.errors import FitError
from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.forms import FloatArray
from plm_scaling.laws.noise import LossNoise, loss_errors

__all__ = ["Budget", "Currency", "check_runs", "compute_of", "gather_budgets"]

Currency = Literal["C_exact", "C_6nd"]

_TOLERANCE: Final = 1.10
"""Runs within 10 % of the smallest compute of a group share its budget."""


def compute_of(row: RunRow, currency: Currency) -> float:
    """Training FLOPs of a run; 6 N D where the column C_6nd is missing, NaN where C_exact is."""
    if currency == "C_6nd":
        return row.C_6nd if row.C_6nd is not None else 6.0 * row.N * row.D
    return row.C_exact if row.C_exact is not None else math.nan


@dataclass(frozen=True)
class Budget:
    """One budget's mean losses; arrays are float64[k], one entry per size."""

    C: float
    other_C: FloatArray
    """The same runs' compute in the other currency."""
    N: FloatArray
    D: FloatArray
    loss: FloatArray
    n_seeds: FloatArray
    se: FloatArray
    """Standard error of each mean loss against the others."""
    flags: tuple[str, ...]


def check_runs(runs: RunTable, objective: str, currency: Currency) -> None:
    """Refuse runs that no law can be fitted to: none at all, mixed data, no compute in this currency.

    Raises
    ------
    FitError : with the reason.
    """
    if not len(runs):
        raise FitError(
            f"no run of the objective {objective!r} can be used for a law",
            why="a law needs complete runs from scratch on uncut data, with the role isoflop, grid or replicate",
        )
    for name in ("validation_id", "corpus_id"):
        seen = {getattr(row, name) for row in runs} - {None}
        if len(seen) > 1:
            raise FitError(
                f"runs of {objective!r} have {len(seen)} different values of {name}",
                why="losses on different data cannot be compared",
                hint="fit each one on its own",
            )
    if all(math.isnan(compute_of(row, currency)) for row in runs):
        raise FitError(f"the table has no column {currency}", hint="fit with currency C_6nd")


def gather_budgets(runs: RunTable, currency: Currency, noise: LossNoise | None) -> list[Budget]:
    """The budgets of an isoFLOP design in rising order; runs that meet no others at equal compute are left out."""
    return [_budget(group, currency, noise) for group in _groups(runs, currency)]


def _groups(runs: RunTable, currency: Currency) -> list[list[RunRow]]:
    """Runs of equal compute: at least three sizes, or meant as an isoFLOP row."""
    rows = sorted((r for r in runs if compute_of(r, currency) > 0), key=lambda r: compute_of(r, currency))
    groups: list[list[RunRow]] = []
    for row in rows:
        if groups and compute_of(row, currency) <= _TOLERANCE * compute_of(groups[-1][0], currency):
            groups[-1].append(row)
        else:
            groups.append([row])
    return [g for g in groups if len({r.N for r in g}) >= 3 or any(r.has_role("isoflop") for r in g)]


def _budget(group: list[RunRow], currency: Currency, noise: LossNoise | None) -> Budget:
    by_size: defaultdict[float, list[RunRow]] = defaultdict(list)
    for row in group:
        by_size[row.N].append(row)
    sizes = [by_size[N] for N in sorted(by_size)]
    n_seeds = np.array([float(len(rows)) for rows in sizes])
    se = np.array([np.mean([math.nan if r.loss_se is None else r.loss_se for r in rows]) for rows in sizes])
    other: Currency = "C_6nd" if currency == "C_exact" else "C_exact"
    flags = ["REPEATED_DATA"] if any((r.epochs or 0.0) > 4.0 for r in group) else []
    return Budget(
        C=float(np.median([compute_of(r, currency) for r in group])),
        other_C=np.array([np.mean([compute_of(r, other) for r in rows]) for rows in sizes]),
        N=np.array([rows[0].N for rows in sizes]),
        D=np.array([np.mean([r.D for r in rows]) for rows in sizes]),
        loss=np.array([np.mean([r.loss for r in rows]) for rows in sizes]),
        n_seeds=n_seeds,
        se=loss_errors(RunTable(tuple(group)), n_seeds, noise, se),
        flags=tuple(flags),
    )
