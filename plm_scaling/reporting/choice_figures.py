"""Pictures of the choice of a form: how each did on budgets it had not seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from plm_scaling.laws.fit import TOLERANCE
from plm_scaling.laws.forms import find_form, log_loss
from plm_scaling.laws.jets import FloatArray
from plm_scaling.laws.law_fit import Fold, FormScore, LawFit
from plm_scaling.laws.problem import Sample, make_problem, solve
from plm_scaling.laws.starts import guess_starts
from plm_scaling.laws.surface import theta_of
from plm_scaling.reporting.drawing import COLORS, KINDS, flops_axis
from plm_scaling.reporting.fit_view import Drawing, FitView, group_levels
from plm_scaling.reporting.wording import form_words, percent, power_of_ten

__all__ = ["FoldErrors", "draw_extrapolation", "draw_forms", "fold_errors", "forms_shown"]

_BEST: Final = 4
_ALWAYS: Final = "chinchilla"
_STARTS: Final = 3
_SLACK: Final = 1.0 + 1e-9
_SAME_BUDGET: Final = 0.12
_WORST_SHOWN: Final = 25.0
"""Errors beyond so many % are drawn at the edge: a form that fails must not flatten the others."""


# --- extrapolation -------------------------------------------------------------------------------------------------


BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class FoldErrors:
    """One form fitted below a cut: predicted minus measured loss of the runs above it."""

    C: FloatArray
    """6 N D of the tested runs, FLOPs, float64[m]."""
    error: FloatArray
    """% of the measured loss, float64[m]."""
    counted: BoolArray
    """Whether the form's score counts the run: it is not too far beyond the cut, bool[m]."""


def forms_shown(law: LawFit) -> tuple[FormScore, ...]:
    """The four forms that extrapolate best, and the Chinchilla form, as far as they were tested."""
    tested = [score for score in law.forms if score.folds]
    best = tested[:_BEST]
    return tuple(best + [score for score in tested[_BEST:] if score.form == _ALWAYS])


def fold_errors(sample: Sample, score: FormScore, *, huber_delta: float) -> dict[float, FoldErrors]:
    """What a form predicts of the runs beyond each cut, fitted again to those below it; by the cut's compute."""
    form = find_form(score.form, score.plateau)
    problem = make_problem(form, sample, huber_delta)
    whole = theta_of(score.surface) if score.surface else solve(problem, sample.weights, _STARTS, TOLERANCE).theta[None]
    found = {}
    for fold in score.folds:
        fitted = fold.fitted_to_C * _SLACK >= sample.C
        weights = sample.weights * fitted
        begin = np.concatenate([guess_starts(problem, weights, _STARTS), whole])
        theta = solve(problem, weights, begin, TOLERANCE).theta
        predicted = log_loss(form, theta[None], problem.rows.take(~fitted))[0]
        error = 100.0 * np.expm1(predicted - np.log(sample.loss[~fitted]))
        C = sample.C[~fitted]
        found[fold.fitted_to_C] = FoldErrors(C, error, fold.tested_to_C * _SLACK >= C)
    return found


def draw_extrapolation(view: FitView) -> Drawing | None:
    """A panel per cut: errors of the larger runs by the forms fitted to the smaller ones; None without a test."""
    law = view.law
    shown = forms_shown(law)
    if not shown or law.surface is None:
        return None
    cuts = {fold.fitted_to_C: fold for score in shown for fold in score.folds}
    folds = [cuts[C] for C in sorted(cuts)]
    delta = max(law.surface.huber_delta, 1e-3) if math.isfinite(law.surface.huber_delta) else 1e-3
    errors = [fold_errors(view.sample, score, huber_delta=delta) for score in shown]
    columns = 3 if len(folds) > 2 else max(len(folds), 1)
    rows = math.ceil(len(folds) / columns)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        reach = 0.5
        for axes, fold in zip(panels, folds, strict=False):
            axes.axhline(0.0, color=COLORS["ink"], lw=0.9, zorder=1)
            axes.axvline(fold.fitted_to_C, color=COLORS["muted"], lw=0.9, ls=(0, (4, 2)), zorder=1)
            axes.set_title(
                f"fitted to C \u2264 {power_of_ten(fold.fitted_to_C, 2)}, {fold.n_fitted} runs", fontsize=9.5
            )
            axes.axvspan(fold.fitted_to_C, fold.tested_to_C, color=COLORS["grid"], alpha=0.45, lw=0, zorder=0)
            for found, (color, marker) in zip(errors, KINDS, strict=False):
                if fold.fitted_to_C in found:
                    _draw_fold(axes, found[fold.fitted_to_C], color, marker)
                    reach = max(reach, float(np.abs(found[fold.fitted_to_C].error).max()))
        for axes in panels[len(folds) :]:
            axes.axis("off")
        _finish_folds(panels, view, folds, columns, min(1.12 * reach, _WORST_SHOWN))
        handles = [
            Line2D([], [], color=color, marker=marker, ms=5, label=form_words(score))
            for score, (color, marker) in zip(shown, KINDS, strict=False)
        ]
        if len(panels) > len(folds):
            panels[-1].legend(handles=handles, loc="center left", labelspacing=0.9)
        else:
            figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5))

    return Drawing(draw, (9.6, 1.1 + 2.5 * rows), "shaded: what the score counts")


def _draw_fold(axes: Axes, found: FoldErrors, color: str, marker: str) -> None:
    clipped = np.clip(found.error, -_WORST_SHOWN, _WORST_SHOWN)
    axes.plot(found.C, clipped, marker, color=color, ms=3, alpha=0.35, mew=0, zorder=2)
    groups = group_levels(found.C, _SAME_BUDGET)
    C = [float(np.median(found.C[group])) for group in groups]
    axes.plot(C, [float(np.median(clipped[group])) for group in groups], marker=marker, color=color, ms=5,
              mec=COLORS["card"], mew=0.5, lw=1.4, zorder=3)  # fmt: skip


def _finish_folds(panels: np.ndarray, view: FitView, folds: Sequence[Fold], columns: int, reach: float) -> None:
    count, lowest = len(folds), min(fold.fitted_to_C for fold in folds)
    for i, axes in enumerate(panels[:count]):
        flops_axis(axes, [float(view.sample.C.max()), lowest], "", most=5)
        axes.set_ylim(-reach, reach)
        if i % columns == 0:
            axes.set_ylabel("Predicted minus measured,\n% of the loss")
        if i + columns >= count:
            axes.set_xlabel("6 N D of the tested run, FLOPs")
            axes.tick_params(labelbottom=True)


# --- forms ---------------------------------------------------------------------------------------------------------


def draw_forms(view: FitView) -> Drawing | None:
    """A row per form: error on larger budgets, in each fold, in sample and with one run left out."""
    scores = [score for score in view.law.forms if score.extrapolation is not None]
    if not scores:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for y, score in enumerate(scores):
            color = KINDS[0][0] if y == 0 else COLORS["ink"]
            folds = [100 * fold.error for fold in score.folds]
            axes.plot([min(folds), max(folds)], [y, y], color=COLORS["grid"], lw=5, zorder=1, solid_capstyle="round")
            axes.plot(folds, [y] * len(folds), "o", color=COLORS["muted"], ms=3.5, mew=0, alpha=0.8, zorder=2)
            axes.plot(100 * (score.extrapolation or 0.0), y, "D", color=color, ms=8, mec=COLORS["card"], zorder=4)
            axes.plot(100 * score.rms_relative_error, y, "s", mfc="none", mec=KINDS[2][0], mew=1.3, ms=6, zorder=3)
            if score.leave_one_out is not None:
                axes.plot(100 * score.leave_one_out, y, "x", color=KINDS[1][0], mew=1.6, ms=6.5, zorder=3)
            covered = percent(score.coverage) if score.coverage is not None else "-"
            _beside(axes, y, percent(score.weight), covered, va="center", fontsize=8.5)
        _beside(axes, -0.75, "weight", "inside 90 %\ninterval", va="bottom", fontsize=8, color=COLORS["muted"])
        axes.set_yticks(range(len(scores)), [f"{form_words(s)} ({s.n_parameters})" for s in scores])
        axes.set_ylim(len(scores) - 0.5, -0.6)
        axes.grid(visible=False, axis="y")
        _percent_axis(axes, scores)
        _form_legend(figure)

    return Drawing(draw, (9.6, 1.5 + 0.33 * len(scores)), "number of parameters in brackets")


def _beside(axes: Axes, y: float, weight: str, covered: str, **style: Any) -> None:
    """Two columns of text right of the panel."""
    for x, text in ((1.07, weight), (1.17, covered)):
        axes.text(x, y, text, transform=axes.get_yaxis_transform(), ha="right", **style)


def _percent_axis(axes: Axes, scores: list[FormScore]) -> None:
    values = [
        100 * x for s in scores for x in (s.extrapolation, s.rms_relative_error, *(f.error for f in s.folds)) if x
    ]
    low, high = min(values) / 1.25, max(values) * 1.25
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    steps = (1, 2, 5) if high / low < 300 else (1,)
    ticks = [step * 10.0**d for d in range(-4, 6) for step in steps]
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("Mean absolute error of the loss, %")


def _form_legend(figure: Figure) -> None:
    handles = [
        Line2D([], [], marker="D", color=COLORS["ink"], ls="", ms=7, label="larger budgets, all cuts"),
        Line2D([], [], marker="o", color=COLORS["muted"], ls="", ms=4, label="each cut"),
        Line2D([], [], marker="x", color=KINDS[1][0], ls="", mew=1.6, ms=6, label="one run left out"),
        Line2D([], [], marker="s", mfc="none", mec=KINDS[2][0], color="none", ls="", ms=6, label="in sample (rms)"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
