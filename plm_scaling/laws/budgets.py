"""Runs of equal compute gathered into budgets: mean losses per size, with their errors against each other."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import FitError
from plm_scaling.core.run_row import RECIPE
from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.forms import FloatArray
from plm_scaling.laws.noise import LossNoise, loss_errors, replicate_groups

__all__ = [
    "TOLERANCE",
    "Budget",
    "Currency",
    "batch_range",
    "check_runs",
    "compute_of",
    "gather_budgets",
    "noise_from_one_budget",
]

Currency = Literal["C_exact", "C_6nd"]

TOLERANCE: Final = 0.03
"""Runs within 3 % of a row's compute share its budget: what rounding D to whole steps moves, and little more."""

_ROW_ROLES: Final = ("isoflop", "grid", "replicate")


def compute_of(row: RunRow, currency: Currency) -> float:
    """Training FLOPs of a run; 6 N D where the column C_6nd is missing, NaN where C_exact is."""
    if currency == "C_6nd":
        return row.C_6nd if row.C_6nd is not None else 6.0 * row.N * row.D
    return row.C_exact if row.C_exact is not None else math.nan


def batch_range(rows: Iterable[RunRow]) -> tuple[float, float] | None:
    """Smallest and largest batch of some runs, tokens; None where the table does not state any."""
    sizes = [row.batch_tokens for row in rows if row.batch_tokens is not None]
    return (min(sizes), max(sizes)) if sizes else None


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
    """Different seeds behind each mean."""
    se: FloatArray
    """Standard error of each mean loss against the others."""
    batch_tokens: tuple[float, float] | None
    flags: tuple[str, ...]

    def only(self, keep: npt.NDArray[np.bool_]) -> Budget:
        """The budget with the sizes marked in `keep`, bool[k]."""
        names = ("other_C", "N", "D", "loss", "n_seeds", "se")
        return replace(self, **{name: getattr(self, name)[keep] for name in names})


def check_runs(runs: RunTable, objective: str, currency: Currency) -> None:
    """Refuse runs that no law can be fitted to: none at all, mixed data or recipes, no compute in this currency.

    Raises
    ------
    FitError : with the reason.
    """
    if not len(runs):
        raise FitError(
            f"no run of the objective {objective!r} can be used for a law",
            why="a law needs complete runs from scratch on uncut data, for an isoFLOP row, a grid or a transfer",
        )
    for name in ("validation_id", "corpus_id"):
        seen = {getattr(row, name) for row in runs} - {None}
        if len(seen) > 1:
            raise FitError(
                f"runs of {objective!r} have {len(seen)} different values of {name}",
                why="losses on different data cannot be compared",
                hint="fit each one on its own",
            )
    _check_recipe(runs, objective)
    if all(math.isnan(compute_of(row, currency)) for row in runs):
        raise FitError(f"the table has no column {currency}", hint="fit with currency C_6nd")


def _check_recipe(runs: RunTable, objective: str) -> None:
    """Refuse runs of several recipes (`RECIPE`); a mask ratio that is not stated passes for any."""
    for name in RECIPE:
        counts = Counter(value for row in runs if (value := getattr(row, name)) is not None)
        if len(counts) > 1:
            found = ", ".join(f"{count} of {_said(value)}" for value, count in counts.most_common())
            usual = counts.most_common(1)[0][0]
            option = f"--schedule {usual}; " if name == "schedule" else ""
            raise FitError(
                f"runs of {objective!r} mix values of {name}: {found}",
                why="they are not on one law: each has losses of its own at equal N and D",
                hint=f"{option}in Python table.where(lambda row: row.{name} == {usual!r}); "
                "or `plm-scaling import runs RUNS -o table.csv`, and keep its rows",
            )


def _said(value: object) -> object:
    """An empty text stands for the recipe's own choice."""
    return "the default" if value == "" else value


def gather_budgets(
    runs: RunTable, currency: Currency, noise: LossNoise | None, tolerance: float = TOLERANCE
) -> list[Budget]:
    """The budgets of an isoFLOP design in rising order; runs that meet no others at equal compute are left out.

    Only runs meant for a row, a grid or replication take part (all, in a table without roles): a transfer's scratch
    partner at nearly the same compute would pass for another seed.

    Parameters
    ----------
    tolerance : share by which a run's compute may differ from the middle of its budget; .03 is strict, .1 lenient.

    Raises
    ------
    FitError : a tolerance outside (0, .5).
    """
    return [_budget(group, currency, noise) for group in _groups(runs, currency, _log_tolerance(tolerance))]


def noise_from_one_budget(
    runs: RunTable, currency: Currency, budgets: list[Budget], tolerance: float = TOLERANCE
) -> bool:
    """Whether all replicates have the compute of one budget while there are several."""
    compute = [compute_of(row, currency) for group in replicate_groups(runs) for row in group]
    if len(budgets) < 2 or not compute or not min(compute) > 0:
        return False
    return math.log(max(compute) / min(compute)) <= 2.0 * _log_tolerance(tolerance)


def _log_tolerance(tolerance: float) -> float:
    if not 0.0 < tolerance < 0.5:
        raise FitError(f"a budget's tolerance is a share between 0 and .5, not {tolerance}", hint="use .03 or .1")
    return math.log1p(tolerance)


def _groups(runs: RunTable, currency: Currency, tolerance: float) -> list[list[RunRow]]:
    """Runs of equal compute, in rising order: those meant as isoFLOP rows with what meets them, then three sizes."""

    def log_C(row: RunRow) -> float:
        return math.log(compute_of(row, currency))

    def centre(group: list[RunRow]) -> float:
        return float(np.median([log_C(row) for row in group]))

    members = [r for r in runs if r.role == "" or any(r.has_role(role) for role in _ROW_ROLES)]
    usable = sorted((r for r in members if compute_of(r, currency) > 0), key=log_C)
    # Rows first, so that a grid run nearby cannot shift their borders.
    groups = _clusters([r for r in usable if r.has_role("isoflop")], log_C, tolerance)
    centres = np.array([centre(group) for group in groups])
    others = []
    for row in (r for r in usable if not r.has_role("isoflop")):
        distance = np.abs(centres - log_C(row))
        if len(centres) and distance.min() <= tolerance:
            groups[int(distance.argmin())].append(row)
        else:
            others.append(row)
    groups += [group for group in _clusters(others, log_C, tolerance) if len({r.N for r in group}) >= 3]
    return sorted(groups, key=centre)


def _clusters(rows: list[RunRow], log_C: Callable[[RunRow], float], tolerance: float) -> list[list[RunRow]]:
    """Rising rows cut into groups within the tolerance of a middle, the largest group first.

    Cutting the list from its lower end instead would let one run that fell short split a budget.
    """
    values = np.array([log_C(row) for row in rows])
    # Wider gaps part groups for certain, which keeps the search below short.
    chains = np.split(np.arange(len(rows)), np.flatnonzero(np.diff(values) > 2.0 * tolerance) + 1)
    return [[rows[i] for i in chain[taken]] for chain in chains for taken in _largest_first(values[chain], tolerance)]


def _largest_first(values: FloatArray, tolerance: float) -> Iterator[npt.NDArray[np.bool_]]:
    """Masks bool[n] of disjoint groups of rising values; each takes the middle that has most values around it."""
    middles = np.concatenate([values, (values[1:] + values[:-1]) / 2.0])
    distance = np.abs(values - middles[:, None])
    # The last digits of a product of N and D must not decide.
    inside = distance <= tolerance * (1.0 + 1e-9)
    free = np.ones(len(values), dtype=bool)
    while free.any():
        taken = inside & free
        spread = np.where(taken, distance, 0.0).sum(axis=1)
        best = int(np.lexsort((spread, -taken.sum(axis=1)))[0])
        yield taken[best]
        free &= ~taken[best]


def _budget(group: list[RunRow], currency: Currency, noise: LossNoise | None) -> Budget:
    by_size: defaultdict[float, list[RunRow]] = defaultdict(list)
    for row in group:
        by_size[row.N].append(row)
    sizes = [by_size[N] for N in sorted(by_size)]
    n_seeds = np.array([float(len({r.seed for r in rows})) for rows in sizes])
    measured = [[math.nan if r.loss_se is None or r.is_imputed else r.loss_se for r in rows] for rows in sizes]
    se = np.array([np.mean(values) for values in measured])
    predicted = np.array([_root_sum([r.loss_se or 0.0 for r in rows if r.is_imputed]) / len(rows) for rows in sizes])
    other: Currency = "C_6nd" if currency == "C_exact" else "C_exact"
    batch = batch_range(group)
    flags = ["REPEATED_DATA"] if any((r.epochs or 0.0) > 4.0 for r in group) else []
    flags += ["MIXED_BATCH"] if batch and batch[0] < batch[1] else []
    return Budget(
        C=float(np.median([compute_of(r, currency) for r in group])),
        other_C=np.array([np.mean([compute_of(r, other) for r in rows]) for rows in sizes]),
        N=np.array([rows[0].N for rows in sizes]),
        D=np.array([np.mean([r.D for r in rows]) for rows in sizes]),
        loss=np.array([np.mean([r.loss for r in rows]) for rows in sizes]),
        n_seeds=n_seeds,
        se=np.hypot(loss_errors(RunTable(tuple(group)), n_seeds, noise, se), predicted),
        batch_tokens=batch,
        flags=tuple(flags),
    )


def _root_sum(errors: list[float]) -> float:
    """Standard error of a sum of independent errors."""
    return math.sqrt(sum(error**2 for error in errors))
