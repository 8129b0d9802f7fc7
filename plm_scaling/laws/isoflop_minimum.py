"""The minimum of one budget: a parabola or a cubic in ln N near the lowest loss, or the reason there is none."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from plm_scaling.core.errors import FitError
from plm_scaling.laws.budgets import Budget
from plm_scaling.laws.fit import percentile_interval
from plm_scaling.laws.forms import FloatArray
from plm_scaling.laws.law_fit import Interval, IsoflopRow
from plm_scaling.laws.noise import LossNoise
from plm_scaling.laws.polynomials import band_about, fit_polynomial, is_bracketed, local_minima

__all__ = [
    "ISOFLOP_SENTENCES",
    "CurveKind",
    "CurveRule",
    "Scatter",
    "Valley",
    "fit_valley",
    "scatter_about_curve",
    "valley_minima",
    "valley_minimum",
]

CurveKind = Literal["parabola", "cubic"]

ISOFLOP_SENTENCES: Final[dict[str, str]] = {
    "CUBIC_TOO_FEW_SIZES": "fewer than five sizes near the lowest loss: a parabola stands in for the cubic.",
    "CURVE_CHOICE": "a parabola and a cubic through the same losses differ in N_opt by more than its interval and the "
    "noise allow: the choice of the curve decides; add sizes near the minimum.",
}
"""Sentences of the flags that are raised here only, said of one budget."""

_MIN_SIZES: Final = 3
_MIN_CUBIC: Final = 5
"""Sizes: four coefficients and one to spare."""
_ASYMMETRY: Final = 0.005
"""Error in ln N of a parabola's vertex per squared span of ln N: a Chinchilla valley with exponents .15 apart is that
much steeper on one side. It is common to all rows, so it widens each N_opt but not the exponents. A cubic has a term
for it."""


@dataclass(frozen=True)
class CurveRule:
    """How a budget's minimum is found.

    Parameters
    ----------
    curve : polynomial in ln N; a cubic needs five sizes, else a parabola stands in.
    window : largest distance in ln N from the lowest loss of a size the curve is fitted to (its neighbours on either
        side always take part); None for all sizes.
    band_nats : how far above the minimum the sizes in `N_band` lie, nats.
    band_share : the same as a share of the loss, such as .002; takes the place of `band_nats`.

    Raises
    ------
    FitError : a window or a width that is not positive, or an unknown curve.
    """

    curve: CurveKind = "parabola"
    window: float | None = None
    band_nats: float = 0.01
    band_share: float | None = None

    def __post_init__(self) -> None:
        if self.curve not in ("parabola", "cubic"):
            raise FitError(f"no curve is called {self.curve!r}", hint="parabola or cubic")
        for name in ("window", "band_nats", "band_share"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise FitError(f"{name} must be positive, not {value}")

    def near(self, budget: Budget) -> Budget:
        """The sizes the curve is fitted to."""
        if self.window is None:
            return budget
        best = int(np.argmin(budget.loss))
        distance = np.abs(np.log(budget.N / budget.N[best]))
        reach = max(self.window, float(np.sort(distance)[:_MIN_SIZES][-1]))
        return budget.only((distance <= reach) | (np.abs(np.arange(len(distance)) - best) <= 1))

    def degree(self, near: Budget) -> int:
        """Degree of the polynomial through these sizes."""
        return 3 if self.curve == "cubic" and len(near.N) >= _MIN_CUBIC else 2

    def band(self, loss: float) -> float:
        """Width of `N_band` above a minimum of this loss, nats."""
        return self.band_nats if self.band_share is None else self.band_share * loss


@dataclass(frozen=True)
class Valley:
    """A row as reported, the draws of ln N_opt (None: no interior minimum), and ln D_opt."""

    row: IsoflopRow
    log_N_draws: FloatArray | None = None
    log_D: tuple[float, float] = (0.0, 0.0)
    """Value of ln D at N_opt and its slope in ln N."""


@dataclass(frozen=True)
class Scatter:
    """How the losses of a budget lie about its curve."""

    residual: FloatArray
    """Nats, float64[k]."""
    near: Budget
    """The k sizes the curve was fitted to."""
    df: int
    """Degrees of freedom left; residuals mean nothing where there are none."""


def scatter_about_curve(budget: Budget, rule: CurveRule) -> Scatter:
    """Residuals of a budget about its own curve."""
    near = rule.near(budget)
    degree = rule.degree(near)
    coefficients, design = fit_polynomial(near, near.loss[None], degree)
    return Scatter(near.loss - (coefficients @ design.T)[0], near, len(near.N) - degree - 1)


def valley_minimum(budget: Budget, rule: CurveRule) -> float | None:
    """The optimum ln N_opt of one budget without its interval, None where there is no interior minimum."""
    found = float(valley_minima(budget, budget.loss[None], rule)[0])
    return None if math.isnan(found) else found


def valley_minima(budget: Budget, losses: FloatArray, rule: CurveRule) -> FloatArray:
    """Ln N_opt of a budget for each of many sets of losses float64[m, k]; NaN without an interior minimum."""
    found, lowest = np.full(len(losses), math.nan), losses.argmin(axis=1)
    for place in np.unique(lowest):
        same = np.flatnonzero(lowest == place)
        near = rule.near(replace(budget, loss=losses[same[0]]))  # depends on where the lowest loss is, and on no more
        best = int(np.argmin(near.loss))
        if len(near.N) < _MIN_SIZES or best in (0, len(near.N) - 1):
            continue
        loss = losses[np.ix_(same, np.isin(budget.N, near.N))]
        coefficients, design = fit_polynomial(near, loss, rule.degree(near))
        minima = local_minima(coefficients)
        inside = is_bracketed(minima, coefficients, design)
        found[same[inside]] = np.log(near.N).mean() + minima.u[inside]
    return found


def fit_valley(
    budget: Budget, rule: CurveRule, noise: LossNoise | None, draws: int, rng: np.random.Generator
) -> Valley:
    """The minimum of one budget with its interval, or the reason there is none.

    **Source:** Hoffmann et al. 2022, section 3.2; noise draws after Porian et al. 2024, section 3.
    """
    near = rule.near(budget)
    row = _bare_row(budget)
    if len(near.N) < _MIN_SIZES:
        return Valley(row.model_copy(update={"flags": (*row.flags, "TOO_FEW_SIZES")}))
    degree = rule.degree(near)
    curve: CurveKind = "cubic" if degree == 3 else "parabola"
    coefficients, design = fit_polynomial(near, near.loss[None], degree)
    minima = local_minima(coefficients)
    is_inside = bool(is_bracketed(minima, coefficients, design)[0])
    # A parabola that opens downwards still has a curvature to report.
    curvature = float(coefficients[0, 2]) if degree == 2 else float(minima.curvature[0])
    depth, flags = _doubts(near, is_inside, degree == 2 and curvature <= 0)
    if rule.curve != curve:
        flags.insert(0, "CUBIC_TOO_FEW_SIZES")
    known = None if math.isnan(curvature) else curvature
    row = row.model_copy(
        update={"curve": curve, "curvature": known, "depth": depth, "flags": (*row.flags, *flags)},
    )
    if "CONCAVE" in flags or "NO_INTERIOR_MINIMUM" in flags:
        return Valley(row)
    return _with_interval(row, near, degree, rule, _draws(near, degree, noise, draws, rng))


def _bare_row(budget: Budget) -> IsoflopRow:
    return IsoflopRow(
        C=budget.C,
        N=tuple(budget.N.tolist()),
        D=tuple(budget.D.tolist()),
        loss=tuple(budget.loss.tolist()),
        n_seeds=tuple(int(n) for n in budget.n_seeds),
        batch_tokens=budget.batch_tokens,
        flags=budget.flags,
    )


def _with_interval(row: IsoflopRow, near: Budget, degree: int, rule: CurveRule, drawn: _Drawn) -> Valley:
    """The row completed by its optimum and interval."""
    log_N = np.log(near.N)
    coefficients, _ = fit_polynomial(near, near.loss[None], degree)
    minimum = local_minima(coefficients)
    vertex, loss = float(log_N.mean() + minimum.u[0]), float(minimum.loss[0])
    interval = percentile_interval(math.exp(vertex), np.exp(np.clip(drawn.widened, log_N[0], log_N[-1])))
    flags = list(row.flags)
    if max(np.mean(drawn.log_N <= log_N[0]), np.mean(drawn.log_N >= log_N[-1])) > 0.025:
        flags.append("OPEN_INTERVAL")
    if _curve_decides(near, degree, vertex, interval, drawn):
        flags.append("CURVE_CHOICE")
    cubic = float(coefficients[0, 3]) if degree == 3 else 0.0
    below, above = band_about(float(minimum.curvature[0]), cubic, rule.band(loss))
    slope = float(np.polyfit(log_N, np.log(near.D), 1)[0])
    log_D = float(np.interp(vertex, log_N, np.log(near.D)))
    update = {
        "N_opt": interval,
        "D_opt": math.exp(log_D),
        "L_opt": loss,
        "N_band": (math.exp(max(vertex - below, float(log_N[0]))), math.exp(min(vertex + above, float(log_N[-1])))),
        "flags": tuple(flags),
    }
    return Valley(row.model_copy(update=update), drawn.log_N, (log_D, slope))


def _curve_decides(near: Budget, degree: int, vertex: float, interval: Interval, drawn: _Drawn) -> bool:
    """Whether the other curve's optimum lies outside the interval, and not because of the noise alone."""
    if len(near.N) < _MIN_CUBIC:
        return False
    other = valley_minimum(near, CurveRule("parabola" if degree == 3 else "cubic"))
    if other is None or interval.low <= math.exp(other) <= interval.high:
        return False
    return drawn.other is None or abs(other - vertex) > 2.0 * float(np.std(drawn.other - drawn.log_N))


def _doubts(near: Budget, is_inside: bool, concave: bool) -> tuple[float, list[str]]:
    """Depth of a row's valley in nats, and what is doubtful about its minimum."""
    best = int(np.argmin(near.loss))
    edge = 0 if near.loss[0] <= near.loss[-1] else len(near.N) - 1
    depth = float(near.loss[edge] - near.loss[best])
    flags = []
    if concave:
        flags.append("CONCAVE")
    if best in (0, len(near.N) - 1) or not (is_inside or concave):
        flags.append("NO_INTERIOR_MINIMUM")
    # Where there is no minimum, its depth says nothing.
    if not flags and depth < 2.0 * math.hypot(near.se[edge], near.se[best]):
        flags.append("SHALLOW_MINIMUM")
    return depth, flags


@dataclass(frozen=True)
class _Drawn:
    """Draws of ln N_opt, float64[draws] each."""

    log_N: FloatArray
    """Under noise."""
    widened: FloatArray
    """With the error of a parabola's shape as well."""
    other: FloatArray | None
    """The other curve's under the same noise; None without an estimate of it."""


def _draws(near: Budget, degree: int, noise: LossNoise | None, draws: int, rng: np.random.Generator) -> _Drawn:
    """Draws of the optimum; without any estimate of the noise, uniform between the neighbours of the lowest loss."""
    log_N, other = np.log(near.N), None
    if (near.se > 0).all():
        factor = (noise or LossNoise(0.0)).factors(draws, rng)
        loss = near.loss + rng.standard_normal((draws, len(log_N))) * near.se * factor[:, None]
        drawn = _noisy_minima(near, loss, degree)
        other = _noisy_minima(near, loss, 5 - degree) if len(log_N) >= _MIN_CUBIC else None
    else:
        best = int(np.argmin(near.loss))
        drawn = np.asarray(rng.uniform(log_N[best - 1], log_N[best + 1], size=draws))
    asymmetry = _ASYMMETRY * float(np.ptp(log_N)) ** 2 * rng.standard_normal(draws)
    return _Drawn(drawn, drawn + asymmetry if degree == 2 else drawn, other)


def _noisy_minima(near: Budget, loss: FloatArray, degree: int) -> FloatArray:
    """The optimum ln N_opt of losses float64[m, k]; one without a minimum is half a row beyond its lower edge."""
    log_N = np.log(near.N)
    coefficients, design = fit_polynomial(near, loss, degree)
    minima = local_minima(coefficients)
    margin = 0.5 * float(np.ptp(log_N))
    low, high = float(log_N[0]) - margin, float(log_N[-1]) + margin
    edges = coefficients @ design[[0, -1]].T
    lower_edge = np.where(edges[:, 0] <= edges[:, 1], low, high)
    # A parabola's vertex beyond the sizes is as far out as it says; a cubic's may hide a lower edge.
    usable = np.isfinite(minima.u) if degree == 2 else is_bracketed(minima, coefficients, design)
    return np.asarray(np.clip(np.where(usable, log_N.mean() + minima.u, lower_edge), low, high))
