"""Losses of every run by group of validation sequences, and what runs say about each group. R runs, K sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.laws.jets import FloatArray

__all__ = ["GroupEvidence", "GroupLosses", "evidence_of"]

Int = npt.NDArray[np.int64]

_PRIOR_DEGREES: Final = 4.0
"""Of a variance that is drawn towards that of all groups, where groups cannot say how much they differ."""


@dataclass(frozen=True)
class GroupLosses:
    """Loss sums of R runs of one objective on the same K sequences, each of one of G groups."""

    run_ids: tuple[str, ...]
    loss_sum: FloatArray
    """float64[R, K], nats."""
    n_targets: FloatArray
    """float64[K], tokens scored."""
    label: Int
    """int64[K], position in `names`; -1 for sequences of no group."""
    names: tuple[str, ...]
    length: FloatArray
    """float64[K], residues of each sequence."""
    share: FloatArray | None = None
    """float64[G], each group's share of the training tokens; None where nobody knows."""

    def largest(self, count: int) -> GroupLosses:
        """The groups with most targets alone, in their order."""
        total = np.bincount(self.label[self.label >= 0], self.n_targets[self.label >= 0], len(self.names))
        return self.keep(np.sort(np.argsort(-total, kind="stable")[:count]))

    def keep(self, groups: Int) -> GroupLosses:
        """Some of the groups: int64[g] rising positions; the sequences of others go."""
        place = np.full(len(self.names) + 1, -1)
        place[groups] = np.arange(len(groups))
        label = place[self.label]
        here = label >= 0
        return GroupLosses(
            self.run_ids,
            self.loss_sum[:, here],
            self.n_targets[here],
            label[here],
            tuple(self.names[group] for group in groups),
            self.length[here],
            None if self.share is None else self.share[groups],
        )


@dataclass(frozen=True)
class GroupEvidence:
    """What the runs say about each group alone: coefficients of its loss minus the law of all, on p columns."""

    estimate: FloatArray
    """float64[G, p], nats."""
    loading: FloatArray
    """float64[G]: how much of what befalls all sequences in a run, a seed for instance, befalls the group; 1 is all."""
    covariance: FloatArray
    """float64[G, p, p]: of sequences (moderated) and of what runs do to single groups."""
    degrees: FloatArray
    """float64[G]: degrees of freedom behind each covariance."""
    sequences: Int
    targets: Int
    length: FloatArray
    """float64[G], mean residues of a group's sequences."""
    run_sd: float
    """Of the loss of a typical group in one run about its law, beyond what its sequences explain; nats."""
    misfit: float
    """Mean residual square of a run and group, weighted by targets, nats^2: compares columns on the same losses."""


def evidence_of(losses: GroupLosses, law: FloatArray, off: FloatArray, columns: FloatArray) -> GroupEvidence:
    """Least squares on the columns of each group's loss minus the law's and minus its share of `off`.

    A group's loss is the ratio of its sums. Each sequence's departures from it are projected on the same columns, so
    that what one sequence does to all runs is counted once: runs are scored on the same sequences. What is left in
    the residuals is a variance of runs (seeds, the law's shape), of each group and drawn towards that of all.

    Parameters
    ----------
    law : float64[R], loss of each run by the law of all sequences, nats per token.
    off : float64[R], how far each run's loss over all sequences is off that law. columns : float64[R, p].

    **Source:** Cochran 1977, Sampling Techniques, eq. 6.13 (variance of a ratio), multivariate; DerSimonian & Laird
    1986 for the variance left over; Smyth 2004, section 6.2, for the moderated covariances.
    """
    n_groups, p = len(losses.names), columns.shape[1]
    inverse = np.linalg.inv(columns.T @ columns)
    project = inverse @ columns.T
    count = np.bincount(losses.label, minlength=n_groups)
    targets = np.bincount(losses.label, losses.n_targets, n_groups)
    sums = np.stack([np.bincount(losses.label, row, n_groups) for row in losses.loss_sum])
    mean = (sums / targets).T
    departures = losses.loss_sum - mean[losses.label].T * losses.n_targets
    residual = np.eye(len(law)) - columns @ project
    apart = mean - law
    # Sampling covariance of the coefficients, and the part of `squares` that sequences explain.
    scale = count / np.maximum(count - 1, 1) / targets**2
    pieces = project @ departures
    outer = np.einsum("ik,jk->kij", pieces, pieces).reshape(len(losses.label), p * p)
    per_group = np.stack([np.bincount(losses.label, column, n_groups) for column in outer.T], axis=1)
    own: FloatArray = per_group.reshape(-1, p, p) * (scale * count)[:, None, None]
    explained = scale * np.bincount(losses.label, ((residual @ departures) ** 2).sum(axis=0), n_groups)
    unit, prior_degrees = _moderated(own, count)
    explained = _filled(explained, count)
    degrees = float(len(law) - p)
    loading = _loadings(apart @ residual, off @ residual, explained, degrees)
    apart = apart - loading[:, None] * off
    squares = ((apart @ residual) ** 2).sum(axis=1)
    run_variance, of_group = _left_over(squares / degrees, explained / degrees, degrees)
    return GroupEvidence(
        estimate=apart @ project.T,
        loading=loading,
        covariance=unit / count[:, None, None] + of_group[:, None, None] * inverse,
        degrees=np.maximum(count - 1.0, 0.0) + prior_degrees,
        sequences=count,
        targets=targets.astype(np.int64),
        length=np.bincount(losses.label, losses.length, n_groups) / count,
        run_sd=float(np.sqrt(run_variance)),
        misfit=float(squares @ targets / targets.sum() / len(law)),
    )


def _loadings(apart: FloatArray, off: FloatArray, explained: FloatArray, degrees: float) -> FloatArray:
    """Slopes of the groups' residuals [G, R] on those of all sequences [R], drawn towards 1: float64[G].

    **Source:** empirical Bayes with the variance of DerSimonian & Laird 1986.
    """
    size = float(off @ off)
    if size <= 1e-12 * float((apart**2).mean()) * len(off) or size == 0.0:
        return np.ones(len(apart))
    raw = apart @ off / size
    left = ((apart - raw[:, None] * off) ** 2).sum(axis=1) / max(degrees - 1.0, 1.0)
    error = np.maximum(left, explained / degrees) / size
    spread = float(np.median((raw - 1.0) ** 2 - error))
    for _ in range(20):
        weights = 1.0 / (max(spread, 0.0) + error) ** 2
        spread = max(float((weights * ((raw - 1.0) ** 2 - error)).sum() / weights.sum()), 0.0)
    return np.asarray(1.0 + spread / (spread + error) * (raw - 1.0))


def _filled(explained: FloatArray, count: Int) -> FloatArray:
    """The sequences' share of residual squares, that of single sequences from all others'."""
    known = count > 1
    if not known.any():
        return np.zeros_like(explained)
    per_sequence = float((explained[known] * count[known] * (count[known] - 1)).sum() / (count[known] - 1).sum())
    return np.where(known, explained, per_sequence / count)


def _left_over(squares: FloatArray, explained: FloatArray, degrees: float) -> tuple[float, FloatArray]:
    """Variance that makes mean squares [G] what sequences explain [G] and itself: of all groups, and of each [G].

    Groups weigh by their precision. A group's own is drawn towards that of all by as many degrees of freedom as its
    residuals hold about it: few where sequences explain most of them.
    """
    least = 1e-12 * (1.0 + float(squares.max()))
    over = squares - explained
    variance = max(float(np.median(over)), 0.0)
    for _ in range(20):
        weights = 1.0 / (variance + explained + least) ** 2
        variance = max(float((weights * over).sum() / weights.sum()), 0.0)
    known = degrees * (variance / (variance + explained + least)) ** 2
    own = (_PRIOR_DEGREES * variance + known * np.maximum(over, 0.0)) / (_PRIOR_DEGREES + known)
    return variance, own


def _moderated(unit: FloatArray, count: Int) -> tuple[FloatArray, float]:
    """Covariances of a single sequence [G, p, p], drawn towards their mean over groups, and the mean's degrees.

    **Source:** Smyth 2004, eq. of s^2_tilde and moments of ln s^2 (section 6.2), over all coefficients at once.
    """
    from scipy.special import digamma, polygamma

    known = count > 1
    own = np.maximum(count - 1.0, 0.0)
    if not known.any():
        return unit, 1.0
    pooled = (own[:, None, None] * unit).sum(axis=0) / own.sum()
    prior = _PRIOR_DEGREES
    variances = np.diagonal(unit, axis1=1, axis2=2)[known]
    if known.sum() >= 3 and (variances > 0).all():
        half = 0.5 * own[known]
        logs = np.log(variances) - (digamma(half) - np.log(half))[:, None]
        spread = logs.var(axis=0, ddof=1).mean() - polygamma(1, half).mean()
        prior = 2.0 * _inverse_trigamma(float(spread)) if spread > 1e-3 else 1000.0
    made = (prior * pooled + own[:, None, None] * unit) / (prior + own)[:, None, None]
    return made, min(prior, 1000.0)


def _inverse_trigamma(value: float) -> float:
    """X with trigamma(x) = value > 0, by Newton's method. **Source:** Smyth 2004, appendix."""
    from scipy.special import polygamma

    x = 0.5 + 1.0 / value
    for _ in range(50):
        trigamma = float(polygamma(1, x))
        step = trigamma * (1.0 - trigamma / value) / float(polygamma(2, x))
        x += step
        if -step / x < 1e-8:
            break
    return x
