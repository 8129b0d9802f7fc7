"""The surface of a law: one form as asked for, or the best extrapolator among several with the others beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from plm_scaling.laws.clusters import ResampledLosses
from plm_scaling.laws.fit import COLLINEAR, fit_sample, resample
from plm_scaling.laws.forms import Form, find_form
from plm_scaling.laws.law_fit import FormScore, Refusal, SurfaceFit
from plm_scaling.laws.problem import Sample, make_problem
from plm_scaling.laws.profile import Quantity, profile_intervals
from plm_scaling.laws.select import candidate_forms, score_forms
from plm_scaling.laws.surface import optimal_exponent, theta_of

__all__ = ["AUTO", "Surfaces", "design_refusals", "fit_surfaces"]

AUTO: Final = "auto"
_LEAST_WEIGHT: Final = 0.02
"""Share of the ensemble from which a form's own fit is kept."""
_STARTS: Final = 8
_MEMBER_DRAWS: Final = 300
_MEMBER_STARTS: Final = 2
"""A form beside the chosen one has been searched for when it was scored."""
_LEVEL_WIDTH: Final = 0.02


@dataclass(frozen=True)
class Surfaces:
    """What was fitted: the surface, and the forms it was chosen among."""

    surface: SurfaceFit | None
    forms: tuple[FormScore, ...] = ()
    refusals: tuple[Refusal, ...] = ()


def design_refusals(sample: Sample, form: str) -> tuple[Refusal, ...]:
    """Why no surface can be fitted to these runs, whatever their losses; empty where nothing stands against it."""
    quantity = "loss surface L(N, D)"
    needed = 7 if form == AUTO else len(find_form(form).names) + 2
    if len(sample) < needed:
        reason = f"{len(sample)} runs; a surface takes at least {needed}"
        return (Refusal(quantity=quantity, code="TOO_FEW_RUNS", reason=reason),)
    levels = [len(np.unique(np.round(np.log(column) / _LEVEL_WIDTH))) for column in (sample.N, sample.D)]
    if min(levels) < 3:
        reason = f"{levels[0]} different N and {levels[1]} different D; at least three of each tell the exponents apart"
        return (Refusal(quantity=quantity, code="TOO_FEW_LEVELS", reason=reason),)
    r = float(np.corrcoef(np.log(sample.N), np.log(sample.D))[0, 1])
    if abs(r) > COLLINEAR:
        condition = np.sqrt((1 + abs(r)) / max(1 - abs(r), 1e-12))
        what = "D grows in proportion to N" if r > 0 else "all runs lie on one budget"
        reason = (
            f"ln N and ln D move together (correlation {r:.3f}, condition number {condition:.3g}): {what}, so that the "
            "effects of size and of data cannot be told apart; vary D at fixed N"
        )
        return (Refusal(quantity=quantity, code="COLLINEAR_DESIGN", reason=reason),)
    return ()


def fit_surfaces(
    sample: Sample,
    names: Sequence[str],
    *,
    form: str = AUTO,
    plateau: float | None = None,
    huber_delta: float = 1e-3,
    draws: int = 4000,
    seed: int = 0,
    clusters: ResampledLosses | None = None,
) -> Surfaces:
    """Fit one form, or every candidate and keep the best.

    Parameters
    ----------
    names : run ids, [n].
    form : a form's name, or `auto`.
    plateau : L0 of bounded forms, nats; with `auto` they are tried with it and with a free one.
    clusters : losses that are resampled together with the runs: by validation sequence, or predicted ones.
    """
    refusals = design_refusals(sample, form)
    if refusals:
        return Surfaces(None, (), refusals)
    scores: tuple[FormScore, ...] = ()
    if form == AUTO:
        find_form("bounded", plateau)  # refuses what is no plateau
        scores = score_forms(sample, candidate_forms(sample, plateau), huber_delta=huber_delta)
        chosen = find_form(scores[0].form, scores[0].plateau)
    else:
        chosen = find_form(form, plateau)

    def fitted(which: Form, count: int, starts: int, run_ids: Sequence[str] | None) -> SurfaceFit:
        return fit_sample(
            sample,
            which,
            huber_delta=huber_delta,
            draws=count,
            starts=starts,
            resampled=resample(len(sample), count, seed),
            targets=clusters.resampled(names, sample.loss, count, seed) if clusters else None,
            names=run_ids,
        )

    surface = _with_profiles(fitted(chosen, draws, _STARTS, names), sample, chosen)
    kept = []
    for rank, score in enumerate(scores):
        fit = surface if rank == 0 else None
        if rank and score.weight >= _LEAST_WEIGHT:
            fit = fitted(find_form(score.form, score.plateau), min(draws, _MEMBER_DRAWS), _MEMBER_STARTS, None)
        flags = fit.flags if fit else ()
        kept.append(score.model_copy(update={"surface": fit, "flags": flags}))
    return Surfaces(surface, tuple(kept))


def _with_profiles(fit: SurfaceFit, sample: Sample, form: Form) -> SurfaceFit:
    """Profile-likelihood intervals of every parameter, in its own unit, and of the exponent of N_opt."""
    if fit.huber_delta < 1e-4:
        return fit  # least absolute deviations: the objective has no curvature to follow
    problem = make_problem(form, sample, fit.huber_delta)
    theta = theta_of(fit)[0]

    def column(i: int) -> Quantity:
        return lambda t: t[:, i]

    quantities = {name: column(i) for i, name in enumerate(form.names)}
    if fit.a_N is not None:
        quantities["a_N"] = lambda t: optimal_exponent(form, t, problem.rows)
    profiles = profile_intervals(problem, theta, sample.weights, quantities)
    for parameter in form.parameters:
        if parameter.is_log and parameter.name in profiles:
            profile = profiles[parameter.name]
            ends = {end: float(np.exp(min(getattr(profile, end), 700.0))) for end in ("value", "low", "high")}
            profiles[parameter.name] = profile.model_copy(update=ends)
    return fit.model_copy(update={"profiles": profiles})
