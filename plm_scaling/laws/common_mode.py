"""The part of validation noise that runs share: estimated from a run's neighbours at the same evaluation, removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
from numpy.polynomial.chebyshev import chebvander

from plm_scaling.laws.curves import Curve
from plm_scaling.laws.tails import end_weights, mean_of_last, tail_sd

__all__ = ["CommonMode", "on_fixed_set", "remove_common_mode"]

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

_MIN_RUNS: Final = 3
"""With fewer, a run's noise cannot be told from its neighbour's."""

_MIN_POINTS: Final = 12
"""Evaluations a curve needs to have a trend of its own."""

_FIRST: Final = 8
"""Evaluations at the beginning whose fall no trend follows."""

_TREND: Final = (4, 3)
"""Degrees of a learning curve's trend, in the logarithm of the evaluation and in the share of the schedule.

With these, what is left of real curves is white noise; with fewer, trends are left in it; with more, slow noise is
taken for trend."""

_POINTS_PER_TERM: Final = 5
_PASSES: Final = 2
"""Further passes trade slow noise for the errors of trends that end together: losses get worse, not better."""

_DRAWS: Final = 16

_LIKE: Final = 0.04
"""Nats. Models of about the same loss find the same batches hard: nearer neighbours count more."""

_UNLIKE: Final = 1e-3
"""Weight of the farthest neighbours, where no nearer ones were evaluated."""

_SHARED: Final = 0.4
"""Median correlation of residuals from which on runs are taken to see the same batches: they show .7 and more,
strangers less than .3."""

_LAG: Final = 1e-3
"""Nats. A mean of five evaluations lies about this far above the end of a curve that still falls."""

_ONE_SET: Final = "one validation set throughout: no noise between evaluations"
_MIN_OVERLAP: Final = 12
_COVERED: Final = 0.8
_MAX_MEMORY: Final = 0.4
_END_SHARE: Final = 0.25


@dataclass(frozen=True)
class CommonMode:
    """Curves without their shared noise, by run; the runs it could not be removed from, and why."""

    curves: dict[str, Curve]
    end_se: dict[str, float]
    """Standard error of the level at which the parabola of `end_weights` ends, nats: noise of the run's own, and slow
    shared noise that looks like a trend. From simulated noise put through the same subtraction."""
    skipped: dict[str, str]
    correlation: float | None
    """Of two runs' residuals, median over all pairs that see the same batches; None without any."""


@dataclass(frozen=True, eq=False)
class _Aligned:
    """Curves on common evaluations: `loss[i, at[i]]` is run i's curve, NaN where it was not evaluated."""

    runs: tuple[Curve, ...]
    at: tuple[npt.NDArray[np.intp], ...]
    loss: Float

    def part(self, rows: Sequence[int]) -> _Aligned:
        return _Aligned(tuple(self.runs[i] for i in rows), tuple(self.at[i] for i in rows), self.loss[list(rows)])


def remove_common_mode(curves: Sequence[Curve]) -> CommonMode:
    """Subtract from each curve what its neighbours show at the same evaluations, net of their own trends.

    Residual = loss minus trend; shared noise of a run = mean residual of the others at that evaluation, weighted by
    likeness of loss and leaving the run itself out, times the run's own response to it; trends are then read off the
    subtracted curves once more. Which runs see the same batches is taken from their residuals.

    **Source:** back-fitting of an additive model (Breiman and Friedman 1985), leave-one-out common-mode rejection.
    """
    skipped = {c.run_id: f"only {len(c)} evaluations" for c in curves if len(c) < _MIN_POINTS}
    skipped |= {c.run_id: _ONE_SET for c in curves if on_fixed_set(c)}
    usable = [c for c in curves if c.run_id not in skipped]
    cleaned: dict[str, Curve] = {}
    end_se: dict[str, float] = {}
    correlations: list[float] = []
    if len(usable) < _MIN_RUNS:
        skipped |= {c.run_id: f"{len(usable)} runs on these batches" for c in usable}
        return CommonMode(cleaned, end_se, skipped, None)
    everything = _aligned(usable)
    for rows, pairs in _clusters(everything):
        together = everything.part(rows)
        if len(rows) < _MIN_RUNS:
            skipped |= {c.run_id: _alone(len(rows)) for c in together.runs}
            continue
        correlations += pairs
        fit = _back_fitted(together)
        if fit.memory() > _MAX_MEMORY:
            skipped |= {
                c.run_id: "what it shares with others changes slowly: no noise of batches" for c in together.runs
            }
            continue
        end_se |= _end_errors(together, fit)
        for i, (curve, at) in enumerate(zip(together.runs, together.at, strict=True)):
            if reason := fit.unusable(i, curve.loss, at) or _uncertain(curve, end_se[curve.run_id]):
                skipped[curve.run_id] = reason
            else:
                cleaned[curve.run_id] = replace(curve, loss=curve.loss - fit.shared[i, at])
    return CommonMode(cleaned, end_se, skipped, float(np.median(correlations)) if correlations else None)


def _uncertain(curve: Curve, end_se: float) -> str:
    mean_se = mean_of_last(curve.loss)[1]
    if mean_se is None or end_se < np.hypot(mean_se, _LAG):
        return ""
    return "its end would be less certain than a mean of five"


def _alone(n: int) -> str:
    return "its noise is no other run's" if n == 1 else f"only {n} runs show the same noise"


def on_fixed_set(curve: Curve) -> bool:
    """Whether every evaluation scored the same tokens: then no noise comes and goes between them."""
    ids = np.unique(curve.validation_batch_id)
    return len(ids) == 1 and ids[0] != "" and len(curve) > 1


def _aligned(curves: Sequence[Curve]) -> _Aligned:
    """Curves on common columns: equal validation batches, or equal steps where nothing is known of the batches."""
    known = all((c.validation_batch_id != "").all() for c in curves)
    keys = [c.validation_batch_id if known else c.step for c in curves]
    columns, first = np.unique(np.concatenate(keys), return_index=True)
    order = np.argsort(np.concatenate([c.step for c in curves])[first], kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    at = tuple(place[np.searchsorted(columns, key)] for key in keys)
    loss = np.full((len(curves), len(columns)), np.nan)
    for i, curve in enumerate(curves):
        loss[i, at[i]] = curve.loss
    return _Aligned(tuple(curves), at, loss)


def _basis(step: Float) -> Float:
    """Orthonormal columns that span a learning curve's trend at these steps, float64[n, terms].

    A fall that slows down with the logarithm of the step, and the decay of the learning rate over the schedule.
    """
    terms = max(2, len(step) // _POINTS_PER_TERM)
    in_log = min(_TREND[0], max(1, terms - 2))
    in_share = min(_TREND[1], max(0, terms - 1 - in_log))
    logs = np.log(step)
    logs = 2.0 * (logs - logs[0]) / max(float(logs[-1] - logs[0]), 1e-9) - 1.0
    share = 2.0 * step / step[-1] - 1.0
    columns = [chebvander(logs, in_log), chebvander(share, in_share)[:, 1:]]
    return np.asarray(np.linalg.qr(np.concatenate(columns, axis=1))[0])


@dataclass(frozen=True, eq=False)
class _Design:
    """Where each run's evaluations after the first lie, and the spans of their trends."""

    late: tuple[npt.NDArray[np.intp], ...]
    spans: tuple[Float, ...]
    present: Bool

    @classmethod
    def of(cls, runs: _Aligned) -> _Design:
        late = tuple(at[_FIRST:] for at in runs.at)
        present = np.zeros(runs.loss.shape, dtype=bool)
        for i, at in enumerate(late):
            present[i, at] = True
        return cls(late, tuple(_basis(run.step[_FIRST:]) for run in runs.runs), present)

    def trends(self, values: Float) -> Float:
        """Least-squares trends of values float64[runs, evaluations, ...], zero where a run was not evaluated."""
        level = np.zeros_like(values)
        for i, (at, span) in enumerate(zip(self.late, self.spans, strict=True)):
            level[i, at] = span @ (span.T @ values[i, at])
        return level


def _clusters(runs: _Aligned) -> list[tuple[list[int], list[float]]]:
    """Runs that see the same batches, by their residuals: longest first, each joins the cluster most like it.

    A run too short to tell joins the largest. Each comes with the correlations found inside.
    """
    design = _Design.of(runs)
    loss = np.nan_to_num(runs.loss)
    correlation = _correlations(loss - design.trends(loss), design.present)
    clusters: list[tuple[list[int], list[float]]] = []
    short: list[int] = []
    for i in sorted(range(len(runs.runs)), key=lambda i: -len(runs.at[i])):
        found = [[c for c in correlation[i, members].tolist() if c == c] for members, _ in clusters]
        known = [float(np.median(c)) if c else np.nan for c in found]
        if clusters and np.isnan(known).all():
            short.append(i)
        elif clusters and np.nanmax(known) >= _SHARED:
            best = int(np.nanargmax(known))
            clusters[best][0].append(i)
            clusters[best][1].extend(found[best])
        else:
            clusters.append(([i], []))
    max(clusters, key=lambda cluster: len(cluster[0]))[0].extend(short)
    return clusters


def _correlations(residual: Float, present: Bool) -> Float:
    """Correlation of every two runs over the evaluations both have, float64[runs, runs]; NaN with too few."""
    here = present.astype(np.float64)
    values = np.where(present, residual, 0.0)
    count = np.maximum(here @ here.T, 1.0)
    mean = (values @ here.T) / count
    variance = (values**2 @ here.T) / count - mean**2
    covariance = (values @ values.T) / count - mean * mean.T
    scale = np.sqrt(np.maximum(variance * variance.T, 1e-30))
    return np.asarray(np.where(count >= _MIN_OVERLAP, covariance / scale, np.nan))


@dataclass(frozen=True, eq=False)
class _Fit:
    """What a cluster's runs share, and how it was found: linear in the losses, given the weights and responses."""

    design: _Design
    shared: Float
    residual: Float
    weights: list[Float]
    responses: list[float]

    def memory(self) -> float:
        """Lag-1 correlation of what runs share: batches are drawn anew at every evaluation, schedules are not."""
        here = self.design.present.any(axis=0)
        mean = self.shared.sum(axis=0)[here] / self.design.present.sum(axis=0)[here]
        power = float((mean**2).sum())
        return float((mean[1:] * mean[:-1]).sum()) / power if power > 0 else 0.0

    def unusable(self, i: int, loss: Float, at: npt.NDArray[np.intp]) -> str:
        """Why run i's subtracted curve may not be used; empty if it may."""
        end = at[-max(round(_END_SHARE * len(at)), 5) :]
        if (self.design.present[:, end].sum(axis=0) > 1).mean() < _COVERED:
            return "no other run at its last evaluations"
        before, after = tail_sd(loss), tail_sd(loss - self.shared[i, at])
        return "its noise is no other run's" if before is not None and after is not None and after >= before else ""


def _back_fitted(runs: _Aligned) -> _Fit:
    design = _Design.of(runs)
    loss = np.nan_to_num(runs.loss)
    shared = np.zeros_like(loss)
    for _ in range(_PASSES):
        level = design.trends(loss - shared)
        residual = np.where(design.present, loss - level, 0.0)
        weights = [_likeness(design, level, i) for i in range(len(runs.runs))]
        responses = []
        shared = np.zeros_like(loss)
        for i, at in enumerate(design.late):
            mean = (weights[i] * residual[:, at]).sum(axis=0)
            responses.append(_response(residual[i, at], mean, weights[i].sum(axis=0) > 0))
            shared[i, at] = responses[i] * mean
    return _Fit(design, shared, residual, weights, responses)


def _end_errors(runs: _Aligned, fit: _Fit) -> dict[str, float]:
    """Standard errors of the ends, nats, by run: noise of known size and no trend, through the same subtraction."""
    design = fit.design
    rng = np.random.default_rng(0)
    noise = np.zeros((*runs.loss.shape, _DRAWS), dtype=np.float32)
    common = rng.standard_normal((runs.loss.shape[1], _DRAWS))
    for i, (at, late) in enumerate(zip(runs.at, design.late, strict=True)):
        together = float(np.sqrt((fit.shared[i, late] ** 2).mean()))
        alone = float(np.sqrt(((fit.residual[i, late] - fit.shared[i, late]) ** 2).mean()))
        noise[i, at] = together * common[at] + alone * rng.standard_normal((len(at), _DRAWS))
    shared = np.zeros_like(noise)
    for _ in range(_PASSES):
        residual = (noise - design.trends(noise - shared)) * design.present[:, :, None]
        shared = np.zeros_like(noise)
        for i, at in enumerate(design.late):
            weight = (fit.responses[i] * fit.weights[i]).astype(np.float32)
            shared[i, at] = np.einsum("jk,jkd->kd", weight, residual[:, at])
    left = noise - shared
    return {
        curve.run_id: float(np.sqrt(((end_weights(curve.step) @ left[i, at]) ** 2).mean()))
        for i, (curve, at) in enumerate(zip(runs.runs, runs.at, strict=True))
    }


def _likeness(design: _Design, level: Float, i: int) -> Float:
    """Weights of all runs in run i's mean, float64[runs, its late evaluations]; they add up to 1, or to 0 alone."""
    at = design.late[i]
    weight = design.present[:, at] * (np.exp(-0.5 * ((level[:, at] - level[i, at]) / _LIKE) ** 2) + _UNLIKE)
    weight[i] = 0.0
    return np.asarray(weight / np.maximum(weight.sum(axis=0), 1e-12))


def _response(own: Float, mean: Float, known: Bool) -> float:
    """How strongly a run answers to a hard batch, by regression; 1 with too few evaluations to tell."""
    power = float((mean[known] ** 2).sum())
    if known.sum() < _MIN_OVERLAP or power <= 0:
        return 1.0
    return float(np.clip((own[known] * mean[known]).sum() / power, 0.0, 2.0))
