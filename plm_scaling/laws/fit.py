"""A surface L(N, D) fitted to runs: several starts, damped Newton, bootstrap over runs, named doubts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.laws.forms import FloatArray, Form, Rows, find_form
from plm_scaling.laws.interval import interval_of, percentile_interval
from plm_scaling.laws.law_fit import SurfaceFit
from plm_scaling.laws.newton import Problem, minimise
from plm_scaling.laws.problem import Reached, Sample, border_of, make_problem, make_sample, solve
from plm_scaling.laws.surface import log_optimum, optimal_exponent

__all__ = [
    "LAD_DELTA",
    "MIN_RUNS",
    "fit_sample",
    "fit_surface",
    "interval_of",
    "percentile_interval",
    "resample",
    "robust_sd",
]

MIN_RUNS: Final = 7
"""Five parameters and two runs to spare: below this no surface is fitted."""
LAD_DELTA: Final = 1e-7
"""Huber's border at which the loss is least absolute deviations for every purpose."""
COLLINEAR: Final = 0.97
"""Correlation of ln N and ln D beyond which their effects are not told apart."""
ZERO_FLOOR: Final = 5.0
"""Above its bound, e^-9 of the lowest loss: a floor below 2 % of that loss is none."""
_STARTS: Final = 8
_AGREE: Final = 1e-3
TOLERANCE: Final = 1e-6
"""Relative gain at which a bootstrap draw stops: far below the spread of the draws."""


def resample(n: int, draws: int, seed: int) -> FloatArray:
    """Multinomial weights of bootstrap resamples of n runs, float64[draws, n]. **Source:** Efron 1979."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1.0 / n), size=max(draws, 1)).astype(np.float64)


def fit_surface(
    N: npt.ArrayLike,
    D: npt.ArrayLike,
    loss: npt.ArrayLike,
    *,
    form: str = "chinchilla",
    plateau: float | None = None,
    batch_tokens: npt.ArrayLike | None = None,
    weights: npt.ArrayLike | None = None,
    huber_delta: float = 1e-3,
    draws: int = 1000,
    seed: int = 0,
) -> SurfaceFit:
    """Fit a form of L(N, D) to runs trained on unrepeated data.

    Parameters
    ----------
    N : parameters, [n]. D : tokens, [n]. loss : nats per token, [n]. batch_tokens : tokens per batch, [n].
    form : name in `plm_scaling.laws.forms.FORM_NAMES`, or NAME+batch.
    plateau : L0 of a bounded form, nats; None leaves it free.
    weights : weight of each run, [n]; None for equal weights.
    huber_delta : border of the quadratic zone, in units of ln L; inf is least squares, 0 least absolute deviations.
    draws : bootstrap resamples of runs behind the intervals (multinomial weights).

    Raises
    ------
    FitError : too few runs for the form, or values that are not positive and finite.
    ConfigError : no such form.

    **Source:** Hoffmann et al. 2022, eq. 10; Besiroglu et al. 2024 (sum of Huber losses, bootstrap over runs).
    """
    sample = make_sample(N, D, loss, batch_tokens, weights)
    return fit_sample(sample, find_form(form, plateau), huber_delta=huber_delta, draws=draws, seed=seed)


def fit_sample(
    sample: Sample,
    form: Form,
    *,
    huber_delta: float = 1e-3,
    draws: int = 1000,
    seed: int = 0,
    starts: FloatArray | int = _STARTS,
    resampled: FloatArray | None = None,
    targets: FloatArray | None = None,
    names: Sequence[str] | None = (),
) -> SurfaceFit:
    """`fit_surface` on columns already checked.

    Parameters
    ----------
    starts : number of starts, or points float64[S, p].
    resampled : weights float64[B, n] of the bootstrap instead of those drawn from `seed`.
    targets : ln L float64[B, n] of every resample, where validation data are resampled too.
    names : run ids, [n], for the flag INFLUENTIAL_ROWS; None leaves that test out.
    """
    problem = make_problem(form, sample, border_of(huber_delta, LAD_DELTA))
    reached = _descend(problem, sample.weights, starts)
    weights = (resample(len(sample), draws, seed) if resampled is None else resampled) * sample.weights
    drawn = _draws(problem, reached.theta, weights, targets)
    natural, drawn_natural = form.natural(reached.theta), form.natural(drawn)
    exponents = optimal_exponent(form, drawn, problem.rows)
    a_N = interval_of(float(optimal_exponent(form, reached.theta[None], problem.rows)[0]), exponents)
    residual = problem.residual(reached.theta[None])[0]
    flags, influential = _flags(problem, sample, reached, drawn, names)
    known = sample.batch[np.isfinite(sample.batch)]
    return SurfaceFit(
        form=form.name,
        plateau=form.plateau,
        N0=math.exp(problem.rows.log_N0),
        D0=math.exp(problem.rows.log_D0),
        parameters={
            name: percentile_interval(float(natural[i]), drawn_natural[:, i]) for i, name in enumerate(form.names)
        },
        draws=tuple(tuple(row) for row in drawn_natural.tolist()) if draws else (),
        covariance=tuple(tuple(row) for row in np.cov(drawn.T, ddof=0).tolist()),
        huber_delta=huber_delta,
        objective_value=reached.value,
        gradient_norm=reached.gradient_norm,
        starts=len(reached.values),
        starts_agreeing=float((reached.values <= reached.value * (1 + _AGREE)).mean()),
        second_objective=_second(problem, reached),
        rms_relative_error=float(np.sqrt(np.average(np.expm1(residual) ** 2, weights=sample.weights))),
        residual_sd=robust_sd(residual, len(form.names)),
        a_N=a_N,
        n_runs=len(sample),
        range_N=(float(sample.N.min()), float(sample.N.max())),
        range_D=(float(sample.D.min()), float(sample.D.max())),
        range_C_6nd=(float(sample.C.min()), float(sample.C.max())),
        batch_tokens=(float(known.min()), float(known.max())) if len(known) else None,
        batch_typical=float(np.median(known)) if len(known) else None,
        influential=influential,
        flags=flags,
    )


def _descend(problem: Problem, weights: FloatArray, starts: FloatArray | int) -> Reached:
    """Solve on every border down to the problem's own, each from the ends of the one before."""
    first, *narrower = _borders(problem)
    reached = solve(first, weights, starts)
    for narrow in narrower:
        reached = solve(narrow, weights, reached.ends)
    return reached


def _draws(problem: Problem, theta: FloatArray, weights: FloatArray, targets: FloatArray | None) -> FloatArray:
    """The optimum of every resample, float64[B, p]."""
    drawn = np.repeat(theta[None], len(weights), axis=0)
    for border in _borders(problem):
        drawn, _ = minimise(border, drawn, weights, targets=targets, tolerance=TOLERANCE)
    return drawn


def _borders(problem: Problem) -> list[Problem]:
    """The problem alone, or by way of wider borders where its own leaves Newton's steps no curvature to see."""
    if problem.delta >= 1e-4:
        return [problem]
    deltas = [delta for delta in (1e-3, 1e-4, 1e-5, 1e-6) if delta > problem.delta]
    return [replace(problem, delta=delta) for delta in (*deltas, problem.delta)]


def robust_sd(residual: FloatArray, parameters: int) -> float:
    """Standard deviation of residuals [n] from their middle half and from their squares, whichever is larger.

    Corrected by sqrt(n / (n - p)).
    """
    n = len(residual)
    middle = float(np.median(np.abs(residual))) / 0.6745
    clipped = np.clip(residual, -4.0 * middle, 4.0 * middle)
    spread = max(middle, float(np.sqrt(np.mean(clipped**2))))
    return spread * math.sqrt(n / max(n - parameters, 1))


def _second(problem: Problem, reached: Reached) -> float | None:
    """Lowest objective among the ends whose exponent of N_opt is another one."""
    exponents = optimal_exponent(problem.form, np.concatenate([reached.theta[None], reached.ends]), problem.rows)
    other = np.abs(exponents[1:] - exponents[0]) > 0.02
    return float(reached.values[other].min()) if other.any() else None


def _flags(
    problem: Problem, sample: Sample, reached: Reached, drawn: FloatArray, names: Sequence[str] | None
) -> tuple[tuple[str, ...], str]:
    """Every doubt about a surface by name (`plm_scaling.laws.doubts` has the sentences), and the influential run."""
    flags = [*_bound_flags(problem, reached, drawn)]
    levels = [len(np.unique(np.round(np.log(column) / 0.02))) for column in (sample.N, sample.D)]
    if min(levels) < 3:
        flags.append("TOO_FEW_LEVELS")
    x, y = problem.rows.x, problem.rows.y
    if min(levels) < 2 or abs(float(np.corrcoef(x, y)[0, 1])) > COLLINEAR:
        flags.append("COLLINEAR_DESIGN")
    second = _second(problem, reached)
    near = np.mean(reached.values <= reached.value * 1.005)
    if (second is not None and second <= reached.value * 1.005) or near < 0.5:
        flags.append("MULTIMODAL")
    influential = ""
    if names is not None:
        run, moved = _most_influential(problem, sample.weights, reached.theta)
        if moved > 0 and moved > np.nanstd(optimal_exponent(problem.form, drawn, problem.rows)):
            flags.append("INFLUENTIAL_ROWS")
            influential = names[run] if names else f"row {run}"
    if _outside(problem, reached.theta):
        flags.append("OUT_OF_HULL")
    return tuple(flags), influential


def _bound_flags(problem: Problem, reached: Reached, drawn: FloatArray) -> list[str]:
    form, theta = problem.form, reached.theta
    flags = []
    width = 0.01 * (problem.high - problem.low)
    at_bound = (theta <= problem.low + width) | (theta >= problem.high - width)
    for i, parameter in enumerate(form.parameters):
        if parameter.kind == "floor":
            if min(theta[i], np.quantile(drawn[:, i], 0.025)) <= problem.low[i] + ZERO_FLOOR:
                flags.append("E_UNIDENTIFIED")
        elif parameter.kind in ("exponent", "amplitude") and at_bound[i]:
            flags.append("EXPONENT_AT_BOUND")
        elif parameter.kind in ("shape", "plateau", "batch") and at_bound[i]:
            flags.append(f"{'BATCH' if parameter.kind == 'batch' else 'SHAPE'}_AT_BOUND")
    return list(dict.fromkeys(flags))


def _most_influential(problem: Problem, weights: FloatArray, theta: FloatArray) -> tuple[int, float]:
    """The run whose removal moves the exponent of N_opt most, and by how much (0 without such an exponent)."""
    n = len(weights)
    left_out, _ = minimise(problem, np.repeat(theta[None], n, axis=0), weights * (1.0 - np.eye(n)), tolerance=TOLERANCE)
    moved = optimal_exponent(problem.form, left_out, problem.rows) - optimal_exponent(
        problem.form, theta[None], problem.rows
    )
    moved = np.nan_to_num(np.abs(moved))
    return int(np.argmax(moved)), float(moved.max())


def _outside(problem: Problem, theta: FloatArray) -> bool:
    """Whether the optimum at the upper quartile of compute lies outside the sizes or tokens seen (centred logs)."""
    rows = problem.rows
    log_ND = float(np.quantile(rows.x + rows.y, 0.75))
    typical = Rows(rows.x, rows.y, np.array([np.median(rows.z)]), log_N0=rows.log_N0, log_D0=rows.log_D0)
    x = float(log_optimum(problem.form, theta[None], log_ND + rows.log_N0 + rows.log_D0, typical)[0])
    if math.isnan(x):
        return problem.form.inner is not None or problem.form.name == "log_quadratic"
    y = log_ND - x
    return bool(
        not rows.x.min() - 1e-9 <= x <= rows.x.max() + 1e-9 or not rows.y.min() - 1e-9 <= y <= rows.y.max() + 1e-9
    )
