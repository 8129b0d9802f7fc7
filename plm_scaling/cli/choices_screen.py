"""The choices of an analysis as rows: for a terminal few lines, for programs every one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from plm_scaling.core.units import format_count

if TYPE_CHECKING:
    from plm_scaling.laws.choices import ChoiceRow, ChoiceTable
    from plm_scaling.sizing.law_choices import LawChoices, Reading

__all__ = ["exact_rows", "mover_rows", "range_lines", "reading_rows", "summary_rows"]

Row = dict[str, Any]

_CHOICES: Final = {
    "loss": "which loss is final",
    "rule": "how a budget's minimum is found",
    "tolerance": "how equal compute must be",
    "space": "space of the power law",
}
_COLUMNS: Final = (
    *("kind", "name", "loss", "rule", "tolerance", "space", "n_budgets", "n_minima"),
    *("a_N", "a_N_low", "a_N_high", "k_N", "C", "N_opt", "flags"),
)


def mover_rows(table: ChoiceTable) -> list[Row]:
    """The choices, the one that moves the exponent most first."""
    tried = {name: dict.fromkeys(_shown(name, getattr(row, name)) for row in table.rows) for name in _CHOICES}
    ranked = sorted(table.a_N_moved_by.items(), key=lambda moved: -moved[1])
    return [
        {
            "choice": _CHOICES[name],
            "alternatives": ", ".join(tried[name]),
            "moves a by": f"{shift:.3f}" if len(tried[name]) > 1 else "-",
        }
        for name, shift in ranked
    ]


def _shown(name: str, value: Any) -> str:
    return f"{100 * value:g} %" if name == "tolerance" else str(value)


def range_lines(found: LawChoices) -> list[str]:
    """The ranges of the exponent and of N_opt, in words."""
    table = found.choices
    if table is None or table.a_N is None or table.N_opt is None:
        return []
    low, high = (format_count(N) for N in table.N_opt)
    factor = table.N_opt[1] / table.N_opt[0]
    return [
        f"exponent a of N_opt ~ C^a   {table.a_N[0]:.2f} to {table.a_N[1]:.2f}",
        f"N_opt at {found.C:.3g} FLOPs".ljust(28) + f"{low} to {high}, a factor of {factor:.1f}",
    ]


def reading_rows(readings: Sequence[Reading], C: float) -> list[Row]:
    """What the envelopes, published laws and an own fit say."""
    return [
        {
            "other readings": reading.name,
            "a": f"{reading.a_N:.3f}",
            "95 %": _interval(reading),
            f"N_opt at {C:.3g}": format_count(reading.N_opt),
            "flags": ",".join(reading.flags),
        }
        for reading in readings
    ]


def _interval(reading: Reading) -> str | None:
    if reading.a_N_low is None or reading.a_N_high is None:
        return None
    return f"{reading.a_N_low:.2f} to {reading.a_N_high:.2f}"


def summary_rows(table: ChoiceTable) -> list[Row]:
    """A line per loss, rule and tolerance, the fit spaces side by side; tolerances that change nothing share one."""
    cells: dict[tuple[str, str], dict[float, list[ChoiceRow]]] = {}
    for row in table.rows:
        cells.setdefault((row.loss, row.rule), {}).setdefault(row.tolerance, []).append(row)
    made: list[Row] = []
    for (loss, rule), by_tolerance in cells.items():
        alike: dict[tuple[tuple[float | None, ...], int, int], list[float]] = {}
        for tolerance, rows in by_tolerance.items():
            key = (tuple(row.a_N for row in rows), rows[0].n_minima, rows[0].n_budgets)
            alike.setdefault(key, []).append(tolerance)
        made += [_summary(loss, rule, tolerances, by_tolerance[tolerances[0]]) for tolerances in alike.values()]
    return made


def _summary(loss: str, rule: str, tolerances: Sequence[float], rows: Sequence[ChoiceRow]) -> Row:
    exponents = {f"a, {row.space}": None if row.a_N is None else f"{row.a_N:.3f}" for row in rows}
    sizes = {f"N_opt, {row.space}": None if row.N_opt is None else format_count(row.N_opt) for row in rows}
    return {
        "loss": loss,
        "minimum": rule,
        "equal within": ", ".join(_shown("tolerance", tolerance) for tolerance in tolerances),
        "minima": f"{rows[0].n_minima} of {rows[0].n_budgets}",
        **exponents,
        **sizes,
        "flags": ",".join(rows[0].flags),
    }


def exact_rows(found: LawChoices) -> list[Row]:
    """Every combination of choices, then every other reading, with the same columns."""
    of_choices = [
        {"kind": "choice", "name": "isoflop", **row.model_dump(mode="json")}
        for row in (found.choices.rows if found.choices else ())
    ]
    every = [*of_choices, *(reading.model_dump(mode="json") for reading in found.readings)]
    blank: Row = dict.fromkeys(_COLUMNS)
    return [{**blank, **row, "C": found.C, "flags": ",".join(row["flags"])} for row in every]
