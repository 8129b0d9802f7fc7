"""Which form: each is fitted to the smaller budgets and held against the larger ones, again and again.

The fit that describes best what it has seen is often not the one that predicts best: forms are ranked by their error
on budgets up to a decade beyond those they were fitted to. Everything else stands beside it.

**Source:** rolling-origin evaluation (Tashman 2000); Akaike 1974.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.laws.fit import TOLERANCE, robust_sd
from plm_scaling.laws.forms import Form, Rows, find_form, log_loss
from plm_scaling.laws.jets import FloatArray
from plm_scaling.laws.law_fit import Fold, FormScore
from plm_scaling.laws.newton import Problem, expand, minimise
from plm_scaling.laws.problem import Sample, border_of, make_problem, solve
from plm_scaling.laws.starts import guess_starts

__all__ = ["candidate_forms", "compute_cuts", "score_form", "score_forms"]

BoolArray = npt.NDArray[np.bool_]

_PLAIN: Final = ("no_floor", "chinchilla", "tied", "multiplicative", "kaplan", "gamma", "log_quadratic", "bounded")
_MAX_FOLDS: Final = 5
_MIN_FITTED: Final = 18
_MIN_TESTED: Final = 3
_REACH: Final = math.log(10.0)
"""A fold is tested up to one decade beyond the runs it was fitted to: no recommendation should reach further."""
WEIGHT_POWER: Final = 3.0
"""Weights in the ensemble are error^-3. One trial per fold would argue for as many as there are folds, equal weights
for 0; 3 had the least error when ensembles themselves were held against larger budgets."""
_SAME_BUDGET: Final = math.log(1.12)
_FOLD_STARTS: Final = 3
_LEAST_BORDER: Final = 1e-4
"""Forms are held against each other with no narrower Huber border: below it one step of Newton's sees no curvature."""
_Z90: Final = 1.6449


def candidate_forms(sample: Sample, plateau: float | None = None) -> tuple[Form, ...]:
    """The forms worth trying on a sample: a batch term where batches differ, the plateau free and as given."""
    names = list(_PLAIN)
    if sample.has_batches:
        names += [f"{name}+batch" for name in ("chinchilla", "gamma", "bounded")]
    forms = [find_form(name) for name in names]
    if plateau is not None and plateau > sample.loss.max():
        forms += [find_form(name, plateau) for name in names if name.startswith("bounded")]
    return tuple(form for form in forms if len(sample) >= len(form.names) + 2)


def compute_cuts(C: FloatArray) -> FloatArray:
    """Computes at which to cut the runs, at most five: enough runs below to fit, some above to test, rising."""
    levels = [np.sort(C)[0]]
    for value in np.sort(C):
        if math.log(value / levels[-1]) > _SAME_BUDGET:
            levels.append(value)
    # A run counts as below the cut within the tolerance of its own budget.
    cuts = [level * math.exp(_SAME_BUDGET) for level in levels]
    least = min(_MIN_FITTED, max(len(C) // 2, 8))
    good = [cut for cut in cuts if (cut >= C).sum() >= least and (cut < C).sum() >= _MIN_TESTED]
    if len(good) <= _MAX_FOLDS:
        return np.array(good)
    wanted = np.linspace(math.log(good[0]), math.log(good[-1]), _MAX_FOLDS)
    return np.unique([good[int(np.argmin(np.abs(np.log(good) - w)))] for w in wanted])


@dataclass(frozen=True)
class _Cut:
    """One fold: the compute it is cut at, and the rows on either side."""

    C: float
    fitted: BoolArray
    tested: BoolArray


def _cuts(sample: Sample) -> list[_Cut]:
    compute, reach = sample.C, math.exp(_REACH + _SAME_BUDGET)
    cuts = compute_cuts(compute).tolist()
    return [_Cut(cut, compute <= cut, (compute > cut) & (compute <= reach * cut)) for cut in cuts]


def score_form(
    sample: Sample, form: Form, *, huber_delta: float = 1e-3, starts: int = 6
) -> tuple[FormScore, FloatArray]:
    """One form's score (its weight not yet set) and its optimum on all runs, float64[p]."""
    problem = make_problem(form, sample, border_of(huber_delta, _LEAST_BORDER))
    reached = solve(problem, sample.weights, starts, TOLERANCE)
    residual = problem.residual(reached.theta[None])[0]
    folds = _folds(problem, sample)
    n, p = len(sample), len(form.names)
    scale = float(np.average(np.abs(residual), weights=sample.weights))
    score = FormScore(
        form=form.name,
        plateau=form.plateau,
        n_parameters=p,
        objective_value=reached.value,
        rms_relative_error=float(np.sqrt(np.average(np.expm1(residual) ** 2, weights=sample.weights))),
        aic=2.0 * n * math.log(max(2.0 * scale, 1e-300)) + 2.0 * n + 2.0 * (p + 1),
        leave_one_out=_leave_one_out(problem, sample.weights, reached.theta),
        extrapolation=math.exp(np.mean([math.log(max(fold.error, 1e-6)) for fold in folds])) if folds else None,
        coverage=float(np.average([f.coverage for f in folds], weights=[f.n_tested for f in folds])) if folds else None,
        folds=tuple(folds),
    )
    return score, reached.theta


def score_forms(sample: Sample, forms: Sequence[Form], *, huber_delta: float = 1e-3) -> tuple[FormScore, ...]:
    """Every form's score with its weight in the ensemble, best extrapolator first.

    Weights are proportional to error^-3, error the geometric mean over folds: the profile likelihood of Laplace errors
    with one independent trial per fold, since runs of one budget share what a form gets wrong there, and a single
    wild fold does not decide. Without folds the order and the weights are those of Akaike's criterion.

    **Source:** Burnham & Anderson 2002 (Akaike weights).
    """
    scores = [score_form(sample, form, huber_delta=huber_delta)[0] for form in forms]
    lowest = min(score.aic for score in scores)
    scores = [score.model_copy(update={"aic": score.aic - lowest}) for score in scores]
    if all(score.extrapolation is None for score in scores):
        raw = np.array([math.exp(-0.5 * min(score.aic, 700.0)) for score in scores])
    else:
        errors = np.array([math.inf if s.extrapolation is None else s.extrapolation for s in scores])
        raw = (errors.min() / errors) ** WEIGHT_POWER
    scores = [s.model_copy(update={"weight": float(w)}) for s, w in zip(scores, raw / raw.sum(), strict=True)]
    return tuple(sorted(scores, key=lambda score: -score.weight))


def _folds(problem: Problem, sample: Sample) -> list[Fold]:
    """Fit below every cut (all cuts in one batch) and predict above it.

    No start knows the runs above the cut, and the best ends are followed to the bottom: an end left above its optimum
    would keep something of where it began.
    """
    cuts = [cut for cut in _cuts(sample) if cut.fitted.sum() >= len(problem.form.names) + 2]
    if not cuts:
        return []
    weights = np.array([sample.weights * cut.fitted for cut in cuts])
    starts = [guess_starts(problem, w, _FOLD_STARTS) for w in weights]
    owner = np.repeat(np.arange(len(cuts)), [len(begin) for begin in starts])
    ends, values = minimise(problem, np.concatenate(starts), weights[owner], tolerance=TOLERANCE)
    best = np.array([np.flatnonzero(owner == k)[np.argmin(values[owner == k])] for k in range(len(cuts))])
    theta, _ = minimise(problem, ends[best], weights, tolerance=1e-12)
    return [_fold(problem, sample, cut, found) for cut, found in zip(cuts, theta, strict=True)]


def _fold(problem: Problem, sample: Sample, cut: _Cut, theta: FloatArray) -> Fold:
    error = problem.residual(theta[None])[0]
    relative = np.expm1(np.clip(error[cut.tested], -5.0, 5.0))
    sd = prediction_sd(problem, theta, sample.weights * cut.fitted, problem.rows.take(cut.tested))
    return Fold(
        fitted_to_C=float(sample.C[cut.fitted].max()),
        tested_to_C=float(sample.C[cut.tested].max()),
        n_fitted=int(cut.fitted.sum()),
        n_tested=int(cut.tested.sum()),
        error=float(np.mean(np.abs(relative))),
        bias=float(np.mean(relative)),
        coverage=float(np.mean(np.abs(error[cut.tested]) <= _Z90 * sd)),
    )


def prediction_sd(problem: Problem, theta: FloatArray, weights: FloatArray, rows: Rows) -> FloatArray:
    """Standard deviation of ln L about a prediction at some rows: parameters (sandwich) and residuals, float64[m].

    **Source:** Huber 1967 (sandwich covariance); delta method.
    """
    here = _slopes(problem.form, theta, problem.rows)
    there = _slopes(problem.form, theta, rows)
    _, _, exact, irls = expand(problem, theta[None], weights[None])
    bread = np.linalg.pinv(exact[0] if np.linalg.eigvalsh(exact[0]).min() > 0 else irls[0], hermitian=True)
    residual = problem.residual(theta[None])[0]
    psi = weights * np.clip(residual, -problem.delta, problem.delta)
    meat = (here * (psi**2)[:, None]).T @ here
    used = weights > 0
    noise = robust_sd(residual[used], len(theta))
    variance = np.einsum("ni,ij,nj->n", there, bread @ meat @ bread, there)
    return np.asarray(np.sqrt(np.maximum(variance, 0.0) + noise**2))


def _slopes(form: Form, theta: FloatArray, rows: Rows) -> FloatArray:
    """Slopes d ln L / d theta float64[n, p] by central differences."""
    step = 1e-6 * np.eye(len(theta))
    up, down = log_loss(form, theta + step, rows), log_loss(form, theta - step, rows)
    return np.asarray(((up - down) / 2e-6).T)


def _leave_one_out(problem: Problem, weights: FloatArray, theta: FloatArray) -> float:
    """Mean absolute relative error of each run predicted by the fit to all others."""
    n = len(weights)
    without = weights * (1.0 - np.eye(n))
    ends, _ = minimise(problem, np.repeat(theta[None], n, axis=0), without, tolerance=TOLERANCE)
    own = np.diagonal(problem.residual(ends))
    return float(np.average(np.abs(np.expm1(own)), weights=weights))
