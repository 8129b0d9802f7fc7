"""Losses that a law predicts; their intervals add what runs, residuals and the choice of form leave open."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.laws.forms import log_loss
from plm_scaling.laws.jets import FloatArray
from plm_scaling.laws.law_fit import LawFit, SurfaceFit
from plm_scaling.laws.surface import form_of, rows_at, surface_loss, theta_draws

__all__ = ["Prediction", "extrapolation_sd", "members_of", "predict_losses", "predictive_samples"]

_SAMPLES: Final = 4000
_LEAST_WEIGHT: Final = 0.02


@dataclass(frozen=True)
class Prediction:
    """float64[n] each, nats per token."""

    loss: FloatArray
    low: FloatArray
    high: FloatArray
    sd_parameters: FloatArray
    """Of ln L: the draws of the chosen form."""
    sd_forms: FloatArray
    """Of ln L: the spread of the ensemble's estimates."""
    decades: FloatArray
    """log10 of 6 N D over the largest compute fitted; 0 inside."""


def predict_losses(
    law: LawFit,
    N: npt.ArrayLike,
    D: npt.ArrayLike,
    batch_tokens: npt.ArrayLike | None = None,
    *,
    level: float = 0.90,
    seed: int = 0,
) -> Prediction:
    """Losses of runs of N parameters and D tokens, both [n], at batches [n] (the runs' median where missing).

    The estimate is that of the form asked for, or the ensemble's weighted mean of ln L. The interval holds a new run's
    loss: samples of form (by its weight), of that form's bootstrap draw, of the residual of a single run, and, beyond
    the budgets fitted, of the error that the ensemble was seen to make per root of a decade.

    Raises
    ------
    RefusedError : the fit holds no surface.
    ConfigError : a level that is no share between 0 and 1.

    **Source:** laws of total variance; the extrapolation term from the law's own rolling test.
    """
    if not 0 < level < 1:
        raise ConfigError(f"the level of an interval is a share between 0 and 1, got {level!r}", hint="0.9")
    samples = predictive_samples(law, N, D, batch_tokens, seed=seed)
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0)
    assert law.surface is not None
    members = members_of(law)
    n, d = _points(N, D)
    estimates = np.log([surface_loss(fit, n, d, batch_tokens) for fit, _ in members])
    weights = np.array([weight for _, weight in members])
    centre = weights @ estimates
    loss = np.exp(centre)
    return Prediction(
        loss=loss,
        low=np.minimum(np.exp(low), loss),
        high=np.maximum(np.exp(high), loss),
        sd_parameters=_log_draws(law.surface, (n, d, batch_tokens)).std(axis=0),
        sd_forms=np.sqrt(weights @ (estimates - centre) ** 2),
        decades=_decades(law, n, d),
    )


def predictive_samples(
    law: LawFit, N: npt.ArrayLike, D: npt.ArrayLike, batch_tokens: npt.ArrayLike | None = None, *, seed: int = 0
) -> FloatArray:
    """Samples of ln L of new runs at N, D [n], float64[4000, n]: what the intervals of `predict_losses` are read off.

    A row is one possible world: its runs share form, parameters and extrapolation error, and each has its own noise.
    Rows of one form follow each other.

    Raises
    ------
    RefusedError : the fit holds no surface.
    """
    if law.surface is None:
        reason = "; ".join(refusal.reason for refusal in law.refusals) or "no surface could be fitted"
        raise RefusedError("this fit predicts no losses", why=reason, hint="add sizes and budgets to the sweep")
    n, d = _points(N, D)
    rng = np.random.default_rng(seed)
    members = members_of(law)
    counts = rng.multinomial(_SAMPLES, [weight for _, weight in members])
    drift = extrapolation_sd(law) * np.sqrt(_decades(law, n, d))
    samples = [
        _sample(fit, (n, d, batch_tokens), int(count), drift, rng)
        for (fit, _), count in zip(members, counts, strict=True)
        if count
    ]
    return np.concatenate(samples)


def _points(N: npt.ArrayLike, D: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    n, d = (np.atleast_1d(np.asarray(v, dtype=np.float64)) for v in np.broadcast_arrays(N, D))
    return n, d


def _decades(law: LawFit, n: FloatArray, d: FloatArray) -> FloatArray:
    """Of compute beyond the largest fitted; 0 inside."""
    top = law.range_C[1] if law.currency == "C_6nd" else _top_6nd(law)
    return np.maximum(np.log10(6.0 * n * d / top), 0.0)


def extrapolation_sd(law: LawFit) -> float:
    """How far the ensemble's ln L was off one decade beyond the runs fitted, root mean square over the folds.

    Errors grow with the root of the distance, as a random walk of the local slope would have it; 0 without folds.
    """
    tested = [score for score in law.forms if score.folds and score.weight > 0]
    if not tested:
        return 0.0
    folds = min(len(score.folds) for score in tested)
    weights = np.array([score.weight for score in tested])
    squares = []
    for k in range(1, folds + 1):
        bias = weights @ np.array([math.log1p(score.folds[-k].bias) for score in tested]) / weights.sum()
        distance = math.log10(tested[0].folds[-k].tested_to_C / tested[0].folds[-k].fitted_to_C)
        squares.append(bias**2 / max(distance, 0.1))
    return math.sqrt(float(np.mean(squares)))


Points = tuple[FloatArray, FloatArray, npt.ArrayLike | None]


def _sample(fit: SurfaceFit, points: Points, count: int, drift: FloatArray, rng: np.random.Generator) -> FloatArray:
    draws = _log_draws(fit, points)
    chosen = draws[rng.integers(0, len(draws), size=count)]
    noise = fit.residual_sd or fit.rms_relative_error
    shape = chosen.shape
    return np.asarray(chosen + noise * rng.standard_normal(shape) + drift * rng.standard_normal((count, 1)))


def _log_draws(fit: SurfaceFit, points: Points) -> FloatArray:
    n, d, batch = points
    return log_loss(form_of(fit), theta_draws(fit), rows_at(fit, n, d, batch))


def members_of(law: LawFit) -> list[tuple[SurfaceFit, float]]:
    """The ensemble's surfaces with their weights; the surface alone where one form was asked for."""
    assert law.surface is not None
    held = [(score.surface, score.weight) for score in law.forms if score.surface and score.weight >= _LEAST_WEIGHT]
    total = sum(weight for _, weight in held)
    return [(fit, weight / total) for fit, weight in held] if total > 0 else [(law.surface, 1.0)]


def _top_6nd(law: LawFit) -> float:
    assert law.surface is not None
    return law.surface.range_C_6nd[1] if law.surface.range_C_6nd else law.range_C[1]
