"""How far the exponent of N_opt and its value depend on choices an analyst makes without evidence for either.

Which loss counts as final, how a budget's minimum is found, how equal compute must be, and in which space the power
law is fitted: every combination is carried out on the same runs, and the range is part of the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Final, Literal, get_args

import numpy as np

from plm_scaling.core.errors import FitError, did_you_mean
from plm_scaling.core.records import Record
from plm_scaling.core.run_table import RunTable
from plm_scaling.laws.budgets import Budget, Currency, check_runs, gather_budgets
from plm_scaling.laws.isoflop_minimum import CurveRule, valley_minimum
from plm_scaling.laws.noise import law_runs
from plm_scaling.laws.power_laws import FitSpace, fit_power_law

__all__ = ["CHOICE_SENTENCES", "ChoiceRow", "ChoiceTable", "MinimumRule", "analyst_choices"]

MinimumRule = Literal["argmin", "parabola", "near_parabola", "cubic"]
"""Size of the lowest loss (edges of the sizes tried included, as published recipes do), parabola through all sizes,
parabola through the sizes near the lowest loss, cubic through all sizes."""

CHOICE_SENTENCES: Final[dict[str, str]] = {
    "CHOICES_DISAGREE": "Equally defensible choices of the analysis move N_opt by more than a factor of two: no single "
    "value of it should be quoted without that range.",
    "CHOICES_WITHOUT_ANSWER": "Some choices leave fewer than two budgets with a minimum and give no exponent.",
    "EDGE_MINIMA": "Some of the lowest losses lie at the smallest or largest size tried: their sizes are bounds, not "
    "minima.",
    "REFUSED_MINIMA": "Some budgets have no minimum inside the sizes tried under this rule and were left out.",
}


class ChoiceRow(Record):
    """One combination of choices and what it gives."""

    loss: str
    """Name of the loss definition."""
    rule: MinimumRule
    tolerance: float
    """Share by which a run's compute may differ from its budget's."""
    space: FitSpace
    n_budgets: int
    """Budgets of three or more sizes."""
    n_minima: int
    """Of these, the ones with a minimum under this rule."""
    a_N: float | None = None
    k_N: float | None = None
    N_opt: float | None = None
    """At the table's C, parameters."""
    flags: tuple[str, ...] = ()
    """EDGE_MINIMA, REFUSED_MINIMA."""


class ChoiceTable(Record):
    """Every combination of choices, and how far they lie apart."""

    objective: str
    currency: Currency
    C: float
    """Compute at which N_opt is given, FLOPs."""
    rows: tuple[ChoiceRow, ...]
    a_N: tuple[float, float] | None = None
    """Smallest and largest exponent."""
    N_opt: tuple[float, float] | None = None
    """Smallest and largest N_opt at C, parameters."""
    a_N_moved_by: dict[str, float]
    """Mean range of a_N when one choice alone changes: keys loss, rule, tolerance, space."""
    flags: tuple[str, ...] = ()
    """CHOICES_DISAGREE, CHOICES_WITHOUT_ANSWER."""


def analyst_choices(
    tables: Mapping[str, RunTable],
    objective: str,
    *,
    C: float | None = None,
    currency: Currency = "C_6nd",
    rules: Sequence[MinimumRule] = get_args(MinimumRule),
    tolerances: Sequence[float] = (0.03, 0.1),
    spaces: Sequence[FitSpace] = get_args(FitSpace),
    window: float = 1.2,
) -> ChoiceTable:
    """The exponent of N_opt under every combination of loss definition, minimum rule, tolerance and fit space.

    Sizes count equally and points count equally: this is the spread over choices, not over noise.

    Parameters
    ----------
    tables : the same runs with different losses, by the name of the definition (such as last, last5, denoised).
    C : compute at which N_opt is given, FLOPs; None for the largest budget.
    window : largest distance in ln N from the lowest loss for the rule `near_parabola`.

    Raises
    ------
    FitError : no tables, an unknown rule, no usable runs, or no budget with three sizes.
    """
    if not tables:
        raise FitError("no table of runs to choose from", hint="give {'final': table}")
    for rule in rules:
        if rule not in get_args(MinimumRule):
            raise FitError(f"no rule for minima is called {rule!r}", hint=did_you_mean(rule, get_args(MinimumRule)))
    gathered = {
        (name, tolerance): _budgets(table, objective, currency, tolerance)
        for (name, table), tolerance in product(tables.items(), tolerances)
    }
    largest = max((b.C for budgets in gathered.values() for b in budgets), default=None)
    if largest is None:
        raise FitError(
            f"no budget of {objective!r} has three sizes",
            why="minima at equal compute are needed",
            hint="run isoFLOP rows",
        )
    at = largest if C is None else C
    rows = tuple(
        row
        for (name, tolerance), budgets in gathered.items()
        for rule in rules
        for row in _rows(name, tolerance, budgets, rule, spaces, window, at)
    )
    exponents = [row.a_N for row in rows if row.a_N is not None]
    sizes = [row.N_opt for row in rows if row.N_opt is not None]
    flags = ["CHOICES_DISAGREE"] if sizes and max(sizes) > 2.0 * min(sizes) else []
    flags += ["CHOICES_WITHOUT_ANSWER"] if len(exponents) < len(rows) else []
    return ChoiceTable(
        objective=objective,
        currency=currency,
        C=at,
        rows=rows,
        a_N=(min(exponents), max(exponents)) if exponents else None,
        N_opt=(min(sizes), max(sizes)) if sizes else None,
        a_N_moved_by={name: _moved_by(rows, name) for name in ("loss", "rule", "tolerance", "space")},
        flags=tuple(flags),
    )


def _budgets(table: RunTable, objective: str, currency: Currency, tolerance: float) -> list[Budget]:
    """Budgets of three or more sizes, every size with the same weight."""
    runs = law_runs(table, objective)
    check_runs(runs, objective, currency)
    found = gather_budgets(runs, currency, None, tolerance)
    return [replace(b, se=np.zeros_like(b.se), n_seeds=np.ones_like(b.n_seeds)) for b in found if len(b.N) >= 3]


def _rows(
    name: str,
    tolerance: float,
    budgets: Sequence[Budget],
    rule: MinimumRule,
    spaces: Sequence[FitSpace],
    window: float,
    at: float,
) -> list[ChoiceRow]:
    """One row per fit space through the minima of one rule."""
    minima = [_minimum(budget, rule, window) for budget in budgets]
    points = [(budget.C, N) for budget, N in zip(budgets, minima, strict=True) if N is not None]
    edges = [rule == "argmin" and N in (b.N[0], b.N[-1]) for b, N in zip(budgets, minima, strict=True)]
    flags = (*(["EDGE_MINIMA"] if any(edges) else []), *(["REFUSED_MINIMA"] if len(points) < len(budgets) else []))
    made = []
    for space in spaces:
        row = ChoiceRow(
            loss=name,
            rule=rule,
            tolerance=tolerance,
            space=space,
            n_budgets=len(budgets),
            n_minima=len(points),
            flags=flags,
        )
        if len(points) >= 2:
            C, N = np.array(points).T
            a, k = fit_power_law(C, N, method=space)
            row = row.model_copy(update={"a_N": a, "k_N": k, "N_opt": k * at**a})
        made.append(row)
    return made


def _minimum(budget: Budget, rule: MinimumRule, window: float) -> float | None:
    """N_opt of one budget under a rule, None where the rule refuses."""
    if rule == "argmin":
        return float(budget.N[int(np.argmin(budget.loss))])
    curve = CurveRule("cubic" if rule == "cubic" else "parabola", window if rule == "near_parabola" else None)
    log_N = valley_minimum(budget, curve)
    return None if log_N is None else float(np.exp(log_N))


def _moved_by(rows: Sequence[ChoiceRow], factor: str) -> float:
    """Mean over the other choices of the range of a_N over this one."""
    cells: dict[tuple[object, ...], list[float]] = {}
    for row in rows:
        if row.a_N is not None:
            others = tuple(getattr(row, name) for name in ("loss", "rule", "tolerance", "space") if name != factor)
            cells.setdefault(others, []).append(row.a_N)
    return float(np.mean([max(cell) - min(cell) for cell in cells.values()])) if cells else 0.0
