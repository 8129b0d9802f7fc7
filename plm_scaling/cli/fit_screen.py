"""A fitted law as rows for a terminal."""

from __future__ import annotations

import math

from plm_scaling.core.units import format_count
from plm_scaling.laws.completed_table import CompletedTable
from plm_scaling.laws.law_fit import FormScore, Interval, LawFit, LrCorner, Optimum, SurfaceFit
from plm_scaling.laws.repeat_fit import RepeatFit

__all__ = ["form_rows", "law_rows", "predicted_rows", "with_interval"]

Row = dict[str, str]
_WILD = 10_000
"""Factors beyond it say no more than that forms have nothing in common there."""


def with_interval(interval: Interval | None) -> str:
    """0.68 [0.51, 0.93], with the digits the interval's width allows."""
    if interval is None:
        return "not identified"
    digits = _digits(interval)
    return f"{interval.value:.{digits}g} [{interval.low:.{digits}g}, {interval.high:.{digits}g}]"


def predicted_rows(completed: CompletedTable) -> list[Row]:
    """One row per run whose end is predicted."""
    sizes = {row.run_id: row for row in completed.table}
    return [
        {
            "run": made.run_id,
            "N": format_count(sizes[made.run_id].N),
            "D": format_count(sizes[made.run_id].D),
            "seen": f"{made.share:.0%}",
            "final loss": with_interval(Interval(value=made.loss, low=made.low, high=made.high)),
        }
        for made in completed.completions
    ]


def _digits(interval: Interval) -> int:
    """Significant digits down to the second one of the interval's half width, from 2 to 5."""
    half = 0.5 * (interval.high - interval.low)
    if not (math.isfinite(half) and half > 0 and interval.value):
        return 3
    return min(5, max(2, math.floor(math.log10(abs(interval.value))) - math.floor(math.log10(half)) + 2))


def _count(interval: Interval) -> str:
    return f"{format_count(interval.value)} [{format_count(interval.low)}, {format_count(interval.high)}]"


def law_rows(fit: LawFit) -> list[Row]:
    """Minima per budget, exponents, surface, optima: quantity, estimate with interval, flags."""
    rows: list[Row] = []
    if fit.isoflop:
        for row in fit.isoflop.rows:
            where = _count(row.N_opt) if row.N_opt else "-"
            rows.append({"quantity": f"N_opt at C = {row.C:.3g}", "estimate": where, "flags": ",".join(row.flags)})
        for name, exponent in (("N_opt ~ C^a, a", fit.isoflop.a_N), ("D_opt ~ C^b, b", fit.isoflop.a_D)):
            rows.append({"quantity": name, "estimate": with_interval(exponent), "flags": ",".join(fit.isoflop.flags)})
    other = fit.isoflop_other_currency
    if other and other.a_N and other.a_D:
        text = f"N_opt {with_interval(other.a_N)}, D_opt {with_interval(other.a_D)}"
        rows.append({"quantity": f"  with compute as {other.currency}", "estimate": text, "flags": ""})
    if fit.surface:
        rows += _surface_rows(fit.surface, fit.chosen)
        rows += [_optimum_row(optimum) for optimum in fit.optima]
    if fit.frontier:
        text = f"E {with_interval(fit.frontier.E)}, a {with_interval(fit.frontier.a)}"
        flags = ",".join(fit.frontier.flags)
        rows.append({"quantity": "L(C) = E + A C^-a, minima", "estimate": text, "flags": flags})
    if fit.disagreement:
        factor = f"{fit.disagreement:.2f}" if fit.disagreement < _WILD else f"over {_WILD:,}"
        text = f"factor {factor} in N_opt"
        rows.append({"quantity": "disagreement between forms, 10x beyond", "estimate": text, "flags": ""})
    if fit.repeats:
        rows += _repeat_rows(fit.repeats)
    rows += [_corner_row(corner) for corner in fit.lr_corners]
    if fit.noise_sd is not None:
        rows.append({"quantity": "noise between seeds", "estimate": f"{fit.noise_sd:.4f} nats", "flags": ""})
    for refusal in fit.refusals:
        rows.append({"quantity": refusal.quantity, "estimate": "refused", "flags": refusal.code})
    return rows


def _corner_row(corner: LrCorner) -> Row:
    best = f", best at {corner.best_factor:.2g} x" if corner.best_factor else ""
    return {
        "quantity": f"lost to tuning at N = {format_count(corner.N)}, D = {format_count(corner.D)}",
        "estimate": f"{corner.lost.value:.4f} [{corner.lost.low:.4f}, {corner.lost.high:.4f}] nats{best}",
        "flags": ",".join(corner.flags),
    }


def _surface_rows(surface: SurfaceFit, chosen: str) -> list[Row]:
    rows = [
        {
            "quantity": f"surface ({chosen})",
            "estimate": _form_name(surface.form, surface.plateau),
            "flags": ",".join(surface.flags),
        }
    ]
    for name, value in surface.parameters.items():
        shown = _count(value) if name == "B_c" else with_interval(value)
        rows.append({"quantity": f"surface {name}", "estimate": shown, "flags": ""})
    if surface.a_N is not None:
        rows.append({"quantity": "surface N_opt ~ C^a, a", "estimate": with_interval(surface.a_N), "flags": ""})
        if "a_N" in surface.profiles:
            text = with_interval(surface.profiles["a_N"])
            rows.append({"quantity": "  by profile likelihood", "estimate": text, "flags": ""})
    rms = f"{100 * surface.rms_relative_error:.2g} %"
    rows.append({"quantity": "surface rms error in sample", "estimate": rms, "flags": ""})
    return rows


def _optimum_row(optimum: Optimum) -> Row:
    return {
        "quantity": f"surface N_opt at C = {optimum.C:.3g}",
        "estimate": f"{_count(optimum.N)}, loss {with_interval(optimum.loss)}",
        "flags": ",".join(optimum.flags),
    }


def _form_name(form: str, plateau: float | None) -> str:
    return form if plateau is None else f"{form}, L0 = {plateau:.4g}"


def _repeat_rows(fit: RepeatFit) -> list[Row]:
    """The law of repeats and the parameters that belong to the repeats."""
    low, high = (f"{end:.3g}" for end in fit.range_epochs)
    epochs = f"{fit.n_repeated} of {low if low == high else f'{low} to {high}'} epochs"
    rows = [{"quantity": f"repeats ({epochs})", "estimate": fit.form, "flags": ",".join(fit.flags)}]
    for entry in fit.identified:
        known = fit.parameters.get(entry.quantity)
        value = with_interval(known) if known and math.isfinite(known.high) else ""
        if not entry.identified:
            value = f"{value} (not identified)" if value else "not identified"
        rows.append({"quantity": f"repeats {entry.quantity}", "estimate": value, "flags": ""})
    return rows


def form_rows(fit: LawFit) -> list[Row]:
    """The forms that were tried, best extrapolator first."""
    return [_form_row(score) for score in fit.forms]


def _form_row(score: FormScore) -> Row:
    def percent(value: float | None, digits: int = 2) -> str:
        return "-" if value is None else f"{100 * value:.{digits}f} %"

    return {
        "form": _form_name(score.form, score.plateau),
        "parameters": str(score.n_parameters),
        "larger budgets": percent(score.extrapolation),
        "of 90 % covered": percent(score.coverage, 0),
        "one left out": percent(score.leave_one_out),
        "in sample": percent(score.rms_relative_error),
        "AIC": f"{score.aic:.0f}",
        "weight": f"{score.weight:.2f}",
    }
