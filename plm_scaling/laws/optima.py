"""The compute-optimal run at a budget by a fitted surface, with every interval that belongs to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from plm_scaling.laws.fit import percentile_interval
from plm_scaling.laws.forms import paired_log_loss
from plm_scaling.laws.jets import FloatArray
from plm_scaling.laws.law_fit import FormScore, Interval, Optimum, SurfaceFit
from plm_scaling.laws.problem import Sample, make_problem
from plm_scaling.laws.profile import profile_intervals
from plm_scaling.laws.surface import form_of, log_optimum, rows_at, surface_loss, surface_optimum, theta_draws, theta_of

__all__ = ["budget_levels", "disagreement", "optimum_at", "with_profile"]

VALLEY_SHARE: Final = 0.002
_LEAST_WEIGHT: Final = 0.05
_SAME: Final = math.log(1.12)


def budget_levels(C: FloatArray, most: int = 6) -> FloatArray:
    """Computes at which optima are stated: the runs' own budgets, at most six, and one decade beyond the largest."""
    groups: list[list[float]] = []
    for value in np.sort(C).tolist():
        if groups and math.log(value / groups[-1][0]) <= _SAME:
            groups[-1].append(value)
        else:
            groups.append([value])
    levels = [float(np.median(group)) for group in groups if len(group) >= 3] or [float(np.median(C))]
    if len(levels) > most:
        levels = [levels[i] for i in np.unique(np.linspace(0, len(levels) - 1, most).round().astype(int))]
    return np.array([*levels, 10.0 * float(C.max())])


def optimum_at(surface: SurfaceFit, C: float, forms: Sequence[FormScore] = ()) -> Optimum | None:
    """The optimum at C = 6 N D FLOPs; None where the form has none."""
    N, D = surface_optimum(surface, C)
    if not math.isfinite(N[0]) or not np.isfinite(N[1:]).mean() > 0.9:
        return None
    finite = np.isfinite(N)
    finite[0] = True
    loss = _losses(surface, N, D)
    outside = (
        not surface.range_N[0] <= N[0] <= surface.range_N[1] or not surface.range_D[0] <= D[0] <= surface.range_D[1]
    )
    beyond = surface.range_C_6nd is not None and surface.range_C_6nd[1] * math.exp(_SAME) < C
    members = [score.surface for score in forms if score.surface and score.weight >= _LEAST_WEIGHT]
    others = [surface_optimum(fit, C) for fit in members]
    sizes = [float(n[0]) for n, _ in others if math.isfinite(n[0])]
    losses = [
        float(surface_loss(fit, n[0], d[0])) for fit, (n, d) in zip(members, others, strict=True) if math.isfinite(n[0])
    ]
    return Optimum(
        C=C,
        N=percentile_interval(float(N[0]), N[finite][1:]),
        D=percentile_interval(float(D[0]), D[finite][1:]),
        loss=percentile_interval(float(loss[0]), loss[finite][1:]),
        N_valley=_valley(surface, C, float(N[0])),
        N_by_form=(min(sizes), max(sizes)) if sizes else None,
        loss_by_form=(min(losses), max(losses)) if losses else None,
        flags=(("OUT_OF_HULL",) if outside else ()) + (("EXTRAPOLATED",) if beyond else ()),
    )


def _losses(surface: SurfaceFit, N: FloatArray, D: FloatArray) -> FloatArray:
    """Loss of the estimate and of every draw at its own optimum, float64[1 + B]."""
    theta = np.concatenate([theta_of(surface), theta_draws(surface)])
    found = np.isfinite(N)
    rows = rows_at(surface, np.where(found, N, surface.N0), np.where(found, D, surface.D0))
    return np.where(found, np.exp(paired_log_loss(form_of(surface), theta, rows)), np.nan)


def _valley(surface: SurfaceFit, C: float, N: float) -> tuple[float, float]:
    """Sizes whose loss is within 0.2 % of the lowest, on 6 N D = C."""
    grid = np.exp(math.log(N) + np.linspace(-5.0, 5.0, 1001))
    loss = surface_loss(surface, grid, C / 6.0 / grid)
    inside = grid[loss <= loss[500] * (1 + VALLEY_SHARE)]
    return float(inside.min()), float(inside.max())


def with_profile(optimum: Optimum, surface: SurfaceFit, sample: Sample) -> Optimum:
    """The optimum with the profile-likelihood intervals of N_opt and of its loss."""
    if surface.huber_delta < 1e-4:
        return optimum
    form = form_of(surface)
    problem = make_problem(form, sample, surface.huber_delta)
    at = rows_at(surface, np.array([surface.N0]), np.array([surface.D0]))
    log_ND = math.log(optimum.C / 6.0)
    theta = theta_of(surface)[0]

    def log_N(t: FloatArray) -> FloatArray:
        return np.asarray(log_optimum(form, t, log_ND, at) + at.log_N0)

    def log_L(t: FloatArray) -> FloatArray:
        # An optimum beyond all numbers has the loss of one far out.
        N = np.exp(np.clip(np.nan_to_num(log_N(t), nan=at.log_N0), at.log_N0 - 300.0, at.log_N0 + 300.0))
        return paired_log_loss(form, t, rows_at(surface, N, np.exp(log_ND) / N))

    found = profile_intervals(problem, theta, sample.weights, {"N_profile": log_N, "loss_profile": log_L})
    return optimum.model_copy(update={name: _exponentiated(interval) for name, interval in found.items()})


def _exponentiated(interval: Interval) -> Interval:
    ends = {end: math.exp(min(getattr(interval, end), 700.0)) for end in ("value", "low", "high")}
    return interval.model_copy(update=ends)


def disagreement(forms: Sequence[FormScore], C: float) -> float | None:
    """Factor between the smallest and the largest N_opt at C over the ensemble's forms (weight of at least 5 %)."""
    sizes = [
        float(surface_optimum(score.surface, C)[0][0])
        for score in forms
        if score.surface and score.weight >= _LEAST_WEIGHT
    ]
    sizes = [size for size in sizes if math.isfinite(size)]
    return max(sizes) / min(sizes) if len(sizes) > 1 else None
