"""Picture of how sharply the runs determine each parameter: the profile of the objective, and both intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from plm_scaling.core.units import format_count
from plm_scaling.laws.forms import Form
from plm_scaling.laws.jets import FloatArray
from plm_scaling.laws.law_fit import Interval, SurfaceFit
from plm_scaling.laws.problem import make_problem
from plm_scaling.laws.profile import profile_curve, profile_threshold
from plm_scaling.laws.surface import form_of, optimal_exponent, theta_of
from plm_scaling.reporting.drawing import COLORS
from plm_scaling.reporting.fit_view import Drawing, FitView
from plm_scaling.reporting.wording import form_words

__all__ = ["ProfiledParameter", "draw_parameter", "draw_profiles", "profile_parameters"]

_LAD: Final = 1e-4
"""Border of Huber's loss below which the objective has no curvature to follow."""
_FEW: Final = 3
_TOP: Final = 2.6
"""Height of the panels in units of the rise at which an interval ends."""
_COLUMNS: Final = 4
_BOOTSTRAP: Final = COLORS["mlm"]
_PROFILE: Final = COLORS["clm"]
_MEANING: Final[dict[str, str]] = {
    "E": "floor E, nats",
    "L0": "plateau L0, nats",
    "A0": "size term A0",
    "B0": "data term B0",
    "K0": "level K0, nats",
    "alpha": "exponent of size \u03b1",
    "beta": "exponent of data \u03b2",
    "g": "outer exponent g",
    "k": "saturation k",
    "B_c": "critical batch, tokens",
    "a_N": "exponent of the best size",
}


@dataclass(frozen=True)
class ProfiledParameter:
    """One panel: the profile in the parameter's own unit, and its percentile and profile intervals."""

    name: str
    values: FloatArray
    """Float64[k], rising."""
    rise: FloatArray
    """Rise of the objective over its minimum, in units of the rise at which the 95 % interval ends, float64[k].

    Both are empty where the estimate stands at a bound: there is no slope to follow."""
    percentile: Interval
    profile: Interval | None
    is_log: bool


def profile_parameters(view: FitView) -> tuple[ProfiledParameter, ...]:
    """The profile of every parameter and of the exponent of N_opt; none for least absolute deviations."""
    surface = view.law.surface
    if surface is None or surface.huber_delta < _LAD:
        return ()
    form = form_of(surface)
    problem = make_problem(form, view.sample, surface.huber_delta)
    theta, weights = theta_of(surface)[0], view.sample.weights
    threshold = profile_threshold(problem, theta, weights)
    found = []
    for i, parameter in enumerate(form.parameters):
        values, rise = profile_curve(problem, theta, weights, lambda t, i=i: t[:, i])  # type: ignore[misc]
        if parameter.is_log:
            values = np.exp(np.minimum(values, 700.0))
        found.append(_profiled(surface, parameter.name, values, rise / threshold, form))
    if surface.a_N is not None:
        values, rise = profile_curve(problem, theta, weights, lambda t: optimal_exponent(form, t, problem.rows))
        found.append(_profiled(surface, "a_N", values, rise / threshold, form))
    return tuple(one for one in found if one is not None)


def _profiled(
    surface: SurfaceFit, name: str, values: FloatArray, rise: FloatArray, form: Form
) -> ProfiledParameter | None:
    percentile = surface.a_N if name == "a_N" else surface.parameters[name]
    if percentile is None:
        return None
    if len(values) < _FEW:
        values, rise = np.zeros(0), np.zeros(0)
    kinds = {parameter.name: parameter.kind for parameter in form.parameters}
    return ProfiledParameter(name, values, rise, percentile, surface.profiles.get(name), kinds.get(name) == "batch")


def draw_profiles(view: FitView) -> Drawing | None:
    """A panel per parameter; None where the fit's objective has no curvature to follow, or there is no surface."""
    profiled = profile_parameters(view)
    if not profiled or view.law.surface is None:
        return None
    rows = math.ceil(len(profiled) / _COLUMNS)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
        for axes, one in zip(panels, profiled, strict=False):
            draw_parameter(axes, one)
        for axes in panels[len(profiled) :]:
            axes.set_visible(False)
        for axes in panels[::_COLUMNS]:
            axes.set_ylabel("Rise of the objective\n(1: end of 95 % interval)")
        _legend(figure)

    return Drawing(draw, (9.6, 0.7 + 2.35 * rows), form_words(view.law.surface))


def draw_parameter(axes: Axes, one: ProfiledParameter) -> None:
    """The profile, the rise at which it ends, and both intervals beneath."""
    low, high = _reach(one)
    axes.set_xlim(low, high)
    axes.set_ylim(-0.75, _TOP)
    axes.axhline(1.0, color=COLORS["muted"], lw=0.9, ls=(0, (4, 2)), zorder=1)
    axes.axhline(0.0, color=COLORS["grid"], lw=0.9, zorder=1)
    if one.values.size:
        axes.plot(*_smooth(one), color=_PROFILE, zorder=3)
    else:
        axes.text(0.5, 0.72, "no profile: the estimate\nstands at its bound", transform=axes.transAxes, ha="center",
                  va="center", fontsize=8.5, color=COLORS["muted"])  # fmt: skip
    axes.plot(one.percentile.value, 0.0, "D", color=_PROFILE, mec=COLORS["card"], ms=6, zorder=4)
    if one.profile is not None:
        _draw_interval(axes, one.profile, -0.25, _PROFILE, low, high)
    _draw_interval(axes, one.percentile, -0.52, _BOOTSTRAP, low, high)
    axes.set_yticks([0, 1, 2])
    axes.set_title(_MEANING.get(one.name, one.name), fontsize=9.5)
    if one.is_log:
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        decades = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
        every = max(1, math.ceil(len(decades) / 4))
        axes.xaxis.set_major_locator(FixedLocator([10.0**d for d in decades[::every]]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_count(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))


def _smooth(one: ProfiledParameter) -> tuple[FloatArray, FloatArray]:
    """The profile between the points where it is known: the signed root of its rise is close to a straight line.

    Every point is the best that a pulled minimiser found: one above another further out is no profile, and left out.
    """
    centre = int(np.argmin(one.rise))
    left = np.minimum.accumulate(one.rise[: centre + 1])
    right = np.minimum.accumulate(one.rise[centre:][::-1])[::-1]
    kept = one.rise <= np.concatenate([left, right[1:]])
    root = np.where(np.arange(len(kept)) < centre, -1.0, 1.0)[kept] * np.sqrt(one.rise[kept])
    x = (np.log(one.values) if one.is_log else one.values)[kept]
    dense = np.linspace(x[0], x[-1], 400)
    return np.exp(dense) if one.is_log else dense, np.interp(dense, x, root) ** 2


def _draw_interval(axes: Axes, interval: Interval, y: float, color: str, low: float, high: float) -> None:
    """A bar that ends in an arrow where it leaves the panel."""
    left, right = max(interval.low, low), min(interval.high, high)
    axes.plot([left, right], [y, y], color=color, lw=4.5, solid_capstyle="butt", zorder=3)
    for end, edge, marker in ((interval.low, low, "<"), (interval.high, high, ">")):
        if not low <= end <= high:
            axes.plot(edge, y, marker, color=color, ms=6, clip_on=False, zorder=4)


def _reach(one: ProfiledParameter) -> tuple[float, float]:
    """The profile up to its height in the panel, and the percentile interval as far as it is not much wider."""
    value = one.percentile.value
    shown = one.values[one.rise <= _TOP] if one.values.size else np.array([one.percentile.low, one.percentile.high])

    def at(x: float) -> float:
        return math.log(max(x, 1e-300)) if one.is_log else x

    ends = [at(x) for x in (float(shown.min()), float(shown.max()), value)]
    half = max(at(value) - min(ends), max(ends) - at(value), 1e-12)
    drawn = [at(x) for x in (one.percentile.low, one.percentile.high) if math.isfinite(x)]
    ends += [min(max(x, at(value) - 2.0 * half), at(value) + 2.0 * half) for x in drawn]
    pad = max(0.06 * (max(ends) - min(ends)), 0.01 * abs(at(value)), 1e-9)  # an interval may be a point
    low, high = min(ends) - pad, max(ends) + pad
    return (math.exp(low), math.exp(high)) if one.is_log else (low, high)


def _legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D

    handles: Sequence[Line2D] = (
        Line2D([], [], color=_PROFILE, lw=1.6, label="profile: best fit with the parameter held there"),
        Line2D([], [], color=_PROFILE, lw=4.5, label="its 95 % interval"),
        Line2D([], [], color=_BOOTSTRAP, lw=4.5, label="95 % of bootstrap draws"),
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
