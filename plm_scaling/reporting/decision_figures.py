"""Pictures of a decision: the valley, the frontier with the budget on it, and what passes over the same tokens give."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.transforms import blended_transform_factory

from plm_scaling.core.run import Objective
from plm_scaling.core.units import format_count
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.reporting.decision_curves import Frontier, RepeatCurve
from plm_scaling.reporting.drawing import COLORS, count_axis, draw_panel, flops_axis, note
from plm_scaling.reporting.wording import count_range, passes, power_of_ten
from plm_scaling.sizing.answers import VALLEY_NATS
from plm_scaling.sizing.decision_record import Decision
from plm_scaling.sizing.form_names import form_name
from plm_scaling.sizing.tornado import Tornado

__all__ = ["draw_frontier", "draw_repeat_loss", "draw_tornado", "draw_valley"]

_HEIGHT: Final = 4.0
_FORM_ROW: Final = 0.055
"""Of the height, between the forms' best sizes."""
_SWINGS: Final = 9
_SEEN: Final = 1e-4
"""Nats: shorter bars get no words."""
_SHOWN_REGRET: Final = 0.12
"""Nats above the lowest loss that the valley is drawn up to."""


def draw_valley(made: Decision, objective: Objective) -> Markup:
    """Loss against N at the budget, its draws as a band, the sizes within 0.01 nats, N chosen, and N by form."""
    valley, color = made.valley, COLORS[objective]
    N, loss = np.array(valley.N), np.array(valley.loss)
    low, high = np.array(valley.loss_low), np.array(valley.loss_high)

    def draw(axes: Axes) -> None:
        shown = loss < made.loss + _SHOWN_REGRET
        bottom, top = float(low[shown].min()), float(high[shown].max())
        share = _FORM_ROW * (len(made.forms) + 0.9)
        axes.axvspan(*made.N_band, color=COLORS["good"], alpha=0.13, lw=0, zorder=0)
        axes.fill_between(N, low, high, color=color, alpha=0.2, lw=0, zorder=1)
        axes.plot(N, loss, color=color, lw=2.2, zorder=3)
        axes.axvline(made.N, color=COLORS["ink"], lw=1.0, ls=(0, (4, 2)), zorder=2)
        axes.plot(made.N, made.loss, "D", color=color, mec=COLORS["card"], mew=0.8, ms=8, zorder=5)
        ends = [end for form in made.forms for end in (form.N_low, form.N_high)]
        count_axis(axes, "x", [float(N[shown][0]), float(N[shown][-1]), *ends], "Parameters N")
        axes.set_ylim(bottom - share / (1.0 - share) * 1.1 * (top - bottom), top + 0.08 * (top - bottom))
        axes.set_ylabel("Expected loss, nats per token")
        axes.set_title(f"{objective.upper()} at {power_of_ten(made.C_budget)} FLOPs")
        _mark_top(axes, made.N, f"N chosen {format_count(made.N, 2)}", COLORS["ink"])
        _draw_forms(axes, made)

    label = (
        f"Loss of {objective.upper()} against parameters at {made.C_budget:.3g} FLOPs: lowest, {made.loss:.3f} nats, "
        f"at {format_count(made.N, 2)}; within {VALLEY_NATS} nats from {count_range(*made.N_band)}. Best sizes: "
        + "; ".join(f"{form_name(form.name)}, {format_count(form.N_mid, 2)}" for form in made.forms)
        + "."
    )
    return draw_panel(f"valley-{objective}", label, draw, height=_HEIGHT)


def _mark_top(axes: Axes, x: float, text: str, color: str) -> None:
    """A word over a vertical line, on the side that has more room."""
    left, right = (math.log(end) for end in axes.get_xlim())
    on_left = math.log(x) - left > 0.62 * (right - left)
    across = blended_transform_factory(axes.transData, axes.transAxes)
    axes.annotate(text, (x, 0.97), xycoords=across, xytext=(-5 if on_left else 5, 0), textcoords="offset points",
                  ha="right" if on_left else "left", va="top", fontsize=8.5, weight="bold", color=color)  # fmt: skip


def _draw_forms(axes: Axes, made: Decision) -> None:
    """The best size of every form, 10 to 90 % of its draws, in rows at the bottom."""
    across = blended_transform_factory(axes.transData, axes.transAxes)
    left, right = (math.log(end) for end in axes.get_xlim())
    for k, form in enumerate(sorted(made.forms, key=lambda form: -form.weight)):
        y = 0.02 + _FORM_ROW * (len(made.forms) - k - 0.3)
        axes.plot([form.N_low, form.N_high], [y, y], color=COLORS["muted"], lw=2.4, transform=across, zorder=3)
        axes.plot(form.N_mid, y, "o", color=COLORS["ink"], ms=4.5, transform=across, zorder=4)
        on_left = math.log(form.N_high) - left > 0.6 * (right - left)
        text = f"{form_name(form.name)}, {form.weight:.0%}"
        axes.annotate(text, (form.N_low if on_left else form.N_high, y), xycoords=across,
                      xytext=(-6 if on_left else 6, 0), textcoords="offset points", va="center",
                      ha="right" if on_left else "left", fontsize=7.5, color=COLORS["muted"])  # fmt: skip


def draw_frontier(
    curve: Frontier, made: Decision, objective: Objective, fit: LawFit | None, *, whose: str = "your"
) -> Markup:
    """Lowest loss against compute with 80 % of runs, the runs behind it, and the budget, `whose` it is said to be."""
    color = COLORS[objective]
    seen = _measured(fit, made.unique_tokens)

    def draw(axes: Axes) -> None:
        if made.range_C is not None:
            axes.axvspan(*made.range_C, color=COLORS["grid"], alpha=0.6, lw=0, zorder=0)
        axes.fill_between(curve.C, curve.low, curve.high, color=color, alpha=0.2, lw=0, zorder=1)
        known = made.range_C is not None
        inside = (made.range_C[1] if made.range_C else curve.C[-1]) >= curve.C
        axes.plot(curve.C[inside], curve.loss[inside], color=color, lw=2.0, zorder=3)
        start = max(int(inside.sum()) - 1, 0)
        axes.plot(curve.C[start:], curve.loss[start:], color=color, lw=2.0, ls=(0, (3, 2)), zorder=3)
        for C, loss in seen:
            axes.plot(C, loss, "o", color=COLORS["ink"], ms=4, mec=COLORS["card"], mew=0.6, zorder=4)
        axes.plot([made.C_budget] * 2, [made.loss_low, made.loss_high], color=COLORS["ink"], lw=1.4, zorder=4)
        axes.plot(made.C_budget, made.loss, "D", color=color, mec=COLORS["card"], mew=0.8, ms=8, zorder=5)
        flops_axis(axes, [float(curve.C[0]), float(curve.C[-1])], "Training compute C = 6 N D, FLOPs", most=5)
        axes.set_ylabel("Lowest expected loss, nats per token")
        axes.set_title(f"{objective.upper()}: what compute buys")
        partly = "" if made.useful_C is None else ", partly spent"
        text = f"{whose} budget{partly}: {made.loss:.3f}"
        note(axes, text, made.C_budget, made.loss, offset=(-8, -13), ha="right", weight="bold", color=COLORS["ink"])
        if known:
            middle = math.sqrt(made.range_C[0] * made.range_C[1]) if made.range_C else 0.0
            across = blended_transform_factory(axes.transData, axes.transAxes)
            axes.text(middle, 0.97, "runs behind the law", transform=across, ha="center", va="top", fontsize=8,
                      color=COLORS["muted"])  # fmt: skip

    label = (
        f"Lowest expected loss of {objective.upper()} against compute, from {curve.loss[0]:.3f} nats at "
        f"{curve.C[0]:.1e} FLOPs to {curve.loss[-1]:.3f} at {curve.C[-1]:.1e}; at the budget of {made.C_budget:.3g} "
        f"FLOPs {made.loss:.3f}, {made.level:.0%} of runs between {made.loss_low:.3f} and {made.loss_high:.3f}."
    )
    return draw_panel(f"frontier-{objective}", label, draw, height=_HEIGHT)


def _measured(fit: LawFit | None, unique_tokens: float | None) -> list[tuple[float, float]]:
    """Lowest losses found at equal 6 N D, where the fit holds them in that currency and these tokens allow as many."""
    tables = [] if fit is None else [fit.isoflop, fit.isoflop_other_currency]
    rows = next((table.rows for table in tables if table is not None and table.currency == "C_6nd"), ())
    enough = math.inf if unique_tokens is None else unique_tokens
    return [(row.C, row.L_opt) for row in rows if row.L_opt is not None and (row.D_opt or 0.0) <= enough]


def draw_tornado(found: Tornado, objective: Objective) -> Markup:
    """How far the loss moves from one end of each input to the other, the widest first."""
    swings = found.swings[:_SWINGS]

    def draw(axes: Axes) -> None:
        for row, swing in enumerate(reversed(swings)):
            for end, label, alpha in zip(swing.loss, (swing.low_label, swing.high_label), (0.45, 0.9), strict=True):
                axes.barh(
                    row, end - found.loss, left=found.loss, height=0.55, color=COLORS[objective], alpha=alpha, lw=0
                )
                if abs(end - found.loss) > _SEEN:
                    side, offset = ("left", (4, 0)) if end > found.loss else ("right", (-4, 0))
                    note(axes, label, end, row, offset=offset, ha=side, fontsize=7.5, color=COLORS["muted"])
        axes.axvline(found.loss, color=COLORS["ink"], lw=1.0, zorder=3)
        axes.set_yticks(range(len(swings)), [swing.name for swing in reversed(swings)])
        axes.tick_params(axis="y", labelcolor=COLORS["ink"])
        axes.grid(visible=False, axis="y")
        ends = [found.loss, *(end for swing in swings for end in swing.loss)]
        room = max(0.5 * (max(ends) - min(ends)), 1e-3)
        axes.set_xlim(min(ends) - room, max(ends) + room)
        axes.locator_params(axis="x", nbins=4)
        axes.set_xlabel("Expected loss, nats per token")
        axes.set_title(f"{objective.upper()}: what moves the answer")

    label = f"How far inputs move the expected loss of {objective.upper()}, {found.loss:.3f} nats: " + "; ".join(
        f"{swing.name} from {swing.low_label} to {swing.high_label}, {swing.loss[0]:.3f} to {swing.loss[1]:.3f}"
        for swing in swings
    )
    return draw_panel(f"tornado-{objective}", label + ".", draw, height=1.1 + 0.36 * len(swings))


def draw_repeat_loss(curve: RepeatCurve, made: Decision, objective: Objective) -> Markup:
    """Loss of the size decided on against passes over the unique tokens, beside as many new tokens."""
    color = COLORS[objective]
    epochs = made.D / curve.unique_tokens

    def draw(axes: Axes) -> None:
        if curve.measured is not None:
            axes.axvspan(*curve.measured, color=COLORS["grid"], alpha=0.6, lw=0, zorder=0)
        axes.fill_between(curve.epochs, curve.low, curve.high, color=color, alpha=0.2, lw=0, zorder=1)
        axes.plot(curve.epochs, curve.loss, color=color, lw=2.0, zorder=3)
        axes.plot(curve.epochs, curve.fresh, color=COLORS["muted"], lw=1.3, ls=(0, (4, 2)), zorder=2)
        planned = float(np.interp(math.log(epochs), np.log(curve.epochs), curve.loss))
        if objective == made.objective:
            axes.plot(epochs, planned, "D", color=color, mec=COLORS["card"], mew=0.8, ms=8, zorder=5)
        axes.axvline(epochs, color=COLORS["ink"], lw=1.0, ls=(0, (4, 2)), zorder=2)
        count_axis(axes, "x", [float(curve.epochs[0]), float(curve.epochs[-1])], "Passes over the unique tokens")
        axes.set_ylabel("Expected loss, nats per token")
        axes.set_title(
            f"{objective.upper()}: {format_count(curve.N, 2)} on {format_count(curve.unique_tokens, 2)} unique"
        )
        _mark_top(axes, epochs, f"planned {passes(epochs)}", COLORS["ink"])
        end = float(curve.epochs[-1])
        bottom, top = axes.get_ylim()
        steepest = 2.0 * float(curve.high[0]) - float(min(curve.low.min(), curve.fresh.min()))
        top = min(top, steepest)  # what repeats may cost at the far end must not flatten all the rest
        axes.set_ylim(bottom - 0.06 * (top - bottom), top)
        last = int(np.flatnonzero(curve.loss < top)[-1])
        note(axes, "as many new tokens", end, float(curve.fresh[-1]), offset=(0, -8), ha="right", fontsize=8,
             color=COLORS["muted"])  # fmt: skip
        note(axes, "repeated", float(curve.epochs[last]), float(curve.loss[last]), ha="right", weight="bold",
             offset=(0, 9) if last == len(curve.loss) - 1 else (-8, -16), color=COLORS["ink"])  # fmt: skip
        if curve.best_epochs is not None:
            lowest = float(curve.loss.min())
            axes.plot(curve.best_epochs, lowest, "v", color=COLORS["warn"], ms=7, zorder=5)
            note(axes, f"turns upwards after {passes(curve.best_epochs)}", curve.best_epochs, lowest, offset=(0, 24),
                 ha="center", color=COLORS["warn"])  # fmt: skip

    turn = (
        "never turns upwards"
        if curve.best_epochs is None
        else f"turns upwards after {passes(curve.best_epochs)} passes"
    )
    label = (
        f"Loss of {format_count(curve.N, 2)} parameters, {objective.upper()}, against passes over "
        f"{format_count(curve.unique_tokens, 2)} unique tokens: from {curve.loss[0]:.3f} nats after half a pass to "
        f"{curve.loss[-1]:.3f} after {curve.epochs[-1]:.0f}; as many new tokens would give {curve.fresh[-1]:.3f}. "
        f"{passes(epochs)} passes are planned. By this law the loss {turn}."
    )
    return draw_panel(f"passes-{objective}", label, draw, height=_HEIGHT)
