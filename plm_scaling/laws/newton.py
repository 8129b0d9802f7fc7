"""Summed Huber loss on ln L, minimised for many weightings of the same rows at once: damped Newton, numpy only.

The Hessian is exact (quadratic zone plus psi times the curvature of ln L); the damping is the IRLS matrix, which is
positive where the exact one is not. Row products are shared monomials in x and y, so that every entry of every
Hessian is one product of a (B, n) with a (n, k) matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from plm_scaling.laws.forms import FloatArray, log_loss_terms

__all__ = ["HuberProblem", "minimise"]

_CHUNK: Final = 256
"""Problems per batch: keeps the working set in the processor's cache."""
_MAX_STEPS: Final = 200


@dataclass(frozen=True)
class HuberProblem:
    """Rows shared by all problems: x = ln(N/N0), y = ln(D/D0), target = ln L, all float64[n]; box bounds float64[5]."""

    x: FloatArray
    y: FloatArray
    target: FloatArray
    delta: float
    low: FloatArray
    high: FloatArray

    def value(self, theta: FloatArray, weights: FloatArray) -> FloatArray:
        """Sum over rows of weight times Huber loss, float64[B], for theta float64[B, 5], weights float64[B, n].

        **Source:** Huber 1964; Hoffmann et al. 2022, eq. 10 (sum over runs).
        """
        residual = log_loss_terms(theta, self.x, self.y)[0] - self.target
        size = np.abs(residual)
        huber = np.where(size <= self.delta, 0.5 * residual**2, self.delta * (size - 0.5 * self.delta))
        return np.asarray((weights * huber).sum(axis=1))


def minimise(problem: HuberProblem, start: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Local minima from every start.

    Parameters
    ----------
    start : float64[B, 5].
    weights : float64[B, n] row weights of each problem.

    Returns
    -------
    theta float64[B, 5] and the objective float64[B].

    **Source:** Levenberg 1944, Marquardt 1963 (accept/reject damping), with the Huber loss's own Hessian.
    """
    theta = np.clip(start, problem.low, problem.high)
    value = np.empty(len(theta))
    for first in range(0, len(theta), _CHUNK):
        part = slice(first, first + _CHUNK)
        theta[part], value[part] = _minimise_chunk(problem, theta[part].copy(), weights[part])
    return theta, value


def _minimise_chunk(problem: HuberProblem, theta: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    value = problem.value(theta, weights)
    damping = np.full(len(theta), 1e-2)
    stalled = np.zeros(len(theta), dtype=np.int64)
    active = np.arange(len(theta))
    for _ in range(_MAX_STEPS):
        if not active.size:
            break
        w, current = weights[active], theta[active]
        gradient, exact, irls = _derivatives(problem, current, w)
        step = _step(problem, current, gradient, exact, irls, damping[active])
        trial = np.clip(current + step, problem.low, problem.high)
        new = problem.value(trial, w)
        better = new < value[active]
        gain = value[active] - new
        done = better & (gain <= 1e-15 * value[active])
        accepted = active[better]
        theta[accepted], value[accepted] = trial[better], new[better]
        damping[active] = np.clip(np.where(better, damping[active] * 0.2, damping[active] * 6.0), 1e-12, 1e12)
        stalled[active] = np.where(better, 0, stalled[active] + 1)
        # Twelve rejections in a row raise the damping by 6^12: no descent is left at double precision.
        done |= (stalled[active] >= 12) | (np.abs(trial - current).max(axis=1) < 1e-13)
        active = active[~done]
    return theta, value


def _step(
    problem: HuberProblem,
    theta: FloatArray,
    gradient: FloatArray,
    exact: FloatArray,
    irls: FloatArray,
    damping: FloatArray,
) -> FloatArray:
    """Damped Newton step; parameters held by a bound that the gradient points out of stay where they are."""
    held = ((theta <= problem.low) & (gradient > 0)) | ((theta >= problem.high) & (gradient < 0))
    matrix = exact + damping[:, None, None] * irls
    diagonal = np.arange(theta.shape[1])
    scale = np.abs(irls[:, diagonal, diagonal])
    matrix[:, diagonal, diagonal] += 1e-12 * scale.max(axis=1, keepdims=True) + damping[:, None] * scale + 1e-300
    free = ~held
    matrix *= free[:, :, None] & free[:, None, :]
    matrix[:, diagonal, diagonal] += held
    right = np.where(held, 0.0, -gradient)
    try:
        solution = np.asarray(np.linalg.solve(matrix, right[:, :, None])[:, :, 0])
    except np.linalg.LinAlgError:
        solution = np.einsum("bij,bj->bi", np.linalg.pinv(matrix, hermitian=True), right)
    # A step of more than 2 in log units or exponents leaves the region where the expansion means anything.
    longest = np.abs(solution).max(axis=1, keepdims=True)
    return np.asarray(
        np.where(np.isfinite(solution), solution, 0.0) * np.minimum(1.0, 2.0 / np.maximum(longest, 1e-300))
    )


def _derivatives(
    problem: HuberProblem, theta: FloatArray, weights: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Gradient float64[B, 5], exact Hessian and IRLS matrix float64[B, 5, 5]."""
    log_loss, shares = log_loss_terms(theta, problem.x, problem.y)
    residual = log_loss - problem.target
    size = np.abs(residual)
    psi = weights * np.clip(residual, -problem.delta, problem.delta)
    quadratic = weights * (size <= problem.delta)
    robust = weights * np.minimum(1.0, problem.delta / np.maximum(size, 1e-300))
    own = _own_products(problem, psi, shares)
    gradient = np.stack([own[0], own[1], own[4], -own[2], -own[5]], axis=1)
    exact = _gram(problem, quadratic - psi, shares) + _own_matrix(own)
    return gradient, exact, _gram(problem, robust, shares)


def _own_products(problem: HuberProblem, weights: FloatArray, shares: FloatArray) -> tuple[FloatArray, ...]:
    """Row sums of share_E; share_N (1, x, x^2); share_D (1, y, y^2)."""
    e, n, d = (weights * share for share in shares)
    by_x = n @ np.stack([np.ones_like(problem.x), problem.x, problem.x**2], axis=1)
    by_y = d @ np.stack([np.ones_like(problem.y), problem.y, problem.y**2], axis=1)
    return e.sum(axis=1), by_x[:, 0], by_x[:, 1], by_x[:, 2], by_y[:, 0], by_y[:, 1], by_y[:, 2]


def _own_matrix(own: tuple[FloatArray, ...]) -> FloatArray:
    """Sum over rows and terms of share_k c_k c_k', c_k the coefficients of theta in exponent k."""
    out = np.zeros((len(own[0]), 5, 5))
    out[:, 0, 0], out[:, 1, 1], out[:, 2, 2], out[:, 3, 3], out[:, 4, 4] = own[0], own[1], own[4], own[3], own[6]
    out[:, 1, 3] = out[:, 3, 1] = -own[2]
    out[:, 2, 4] = out[:, 4, 2] = -own[5]
    return out


def _gram(problem: HuberProblem, weights: FloatArray, shares: FloatArray) -> FloatArray:
    """Sum over rows of weight times the outer product of d ln L / d theta."""
    e, n, d = shares
    x, y, one = problem.x, problem.y, np.ones_like(problem.x)
    we, wn = weights * e, weights * n
    en, ed = (we * n) @ np.stack([one, x], axis=1), (we * d) @ np.stack([one, y], axis=1)
    nn = (wn * n) @ np.stack([one, x, x * x], axis=1)
    dd = (weights * d * d) @ np.stack([one, y, y * y], axis=1)
    nd = (wn * d) @ np.stack([one, x, y, x * y], axis=1)
    upper = [
        ((0, 0), (we * e).sum(axis=1)),
        *(((0, 1), en[:, 0]), ((0, 2), ed[:, 0]), ((0, 3), -en[:, 1]), ((0, 4), -ed[:, 1])),
        *(((1, 1), nn[:, 0]), ((1, 2), nd[:, 0]), ((1, 3), -nn[:, 1]), ((1, 4), -nd[:, 2])),
        *(((2, 2), dd[:, 0]), ((2, 3), -nd[:, 1]), ((2, 4), -dd[:, 1])),
        *(((3, 3), nn[:, 2]), ((3, 4), nd[:, 3]), ((4, 4), dd[:, 2])),
    ]
    out = np.empty((len(weights), 5, 5))
    for (i, j), entry in upper:
        out[:, i, j] = out[:, j, i] = entry
    return out
