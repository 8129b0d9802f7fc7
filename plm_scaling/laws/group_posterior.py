"""Shrinkage: coefficients of many groups given what each group's own data says. G groups, p coefficients, q covariates.

    estimate_g ~ t(own degrees, beta_g, covariance_g)      what the group's sequences and runs say
    beta_g     ~ t(5, w_g Gamma, Omega)                    groups are draws around a line in their covariates w_g

Heavy tails on both sides: a small group knows its own variance badly, and a family may be unlike all others. Gamma is
flat; Omega's standard deviations are half-t of wide scale, its correlations uniform. All are drawn by Gibbs steps, so
that intervals hold what is left open about Gamma and Omega, which plug-in shrinkage of few groups does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from plm_scaling.laws.jets import FloatArray

__all__ = ["GroupPosterior", "draw_posterior"]

_TAIL: Final = 5.0
"""Degrees of freedom of the groups about their line."""
_WIDE: Final = 3.0
"""Scale of the half-t priors over the spread of the estimates."""
_ROUNDING: Final = 1e-9
_HALF_T: Final = 2.0
"""Degrees of freedom of the half-t; 2 makes correlations uniform."""


@dataclass(frozen=True)
class GroupPosterior:
    """Draws, S of them."""

    beta: FloatArray
    """float64[S, G, p]."""
    gamma: FloatArray
    """float64[S, q, p]."""
    omega: FloatArray
    """float64[S, p, p]: scale matrix of the groups about their line."""


def draw_posterior(
    estimate: FloatArray,
    covariance: FloatArray,
    degrees: FloatArray,
    covariates: FloatArray,
    *,
    draws: int = 2000,
    burn_in: int = 200,
    seed: int = 0,
) -> GroupPosterior:
    """Draws of the coefficients of all groups, of their line, and of their spread about it.

    Parameters
    ----------
    estimate : float64[G, p]. covariance : float64[G, p, p]. degrees : float64[G]. covariates : float64[G, q], G > q.

    **Source:** Gibbs steps of the normal hierarchy (Gelman et al. 2013, section 15.2) with the line drawn after the
    groups are integrated out; Huang & Wand 2013, eq. 2, for Omega; t as a mixture of normals (West 1987).
    """
    G, p = estimate.shape
    q = covariates.shape[1]
    rng = np.random.default_rng([seed, 7])
    unit = np.maximum(estimate.std(axis=0), np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)).min(axis=0))
    y, V = estimate / unit, covariance / np.outer(unit, unit)
    design = np.einsum("gq,ij->giqj", covariates, np.eye(p)).reshape(G, p, q * p)
    turned: FloatArray = np.swapaxes(design, 1, 2).copy()
    inverse = _inverse(V)
    omega, own, tail = np.eye(p), np.ones(G), np.ones(G)
    kept_beta, kept_gamma, kept_omega = np.empty((draws, G, p)), np.empty((draws, q, p)), np.empty((draws, p, p))
    for step in range(burn_in + draws):
        noise, prior = V / own[:, None, None], omega / tail[:, None, None]
        total = np.linalg.inv(noise + prior)
        weighted = turned @ total
        spread = np.linalg.inv((weighted @ design).sum(axis=0))
        middle = spread @ (weighted @ y[:, :, None]).sum(axis=0)[:, 0]
        line = middle + _root(spread) @ rng.standard_normal(q * p)
        mean = design @ line
        # beta = mean + gain (y - mean), its covariance prior - gain prior: no inverse of a prior that may vanish.
        gain = prior @ total
        left = prior - gain @ prior
        away = gain @ (y - mean)[:, :, None] + _root(left) @ rng.standard_normal((G, p, 1))
        away = away[:, :, 0]
        beta = mean + away
        off = y - beta
        tail = rng.gamma(0.5 * (_TAIL + p), 1.0 / (0.5 * (_TAIL + _form(away, _inverse(omega)))))
        own = rng.gamma(0.5 * (degrees + p), 1.0 / (0.5 * (degrees + _form(off, inverse))))
        omega = _draw_omega(omega, (away * tail[:, None]).T @ away, G, rng)
        if step >= burn_in:
            k = step - burn_in
            kept_beta[k], kept_gamma[k], kept_omega[k] = beta, line.reshape(q, p), omega
    return GroupPosterior(kept_beta * unit, kept_gamma * unit, kept_omega * np.outer(unit, unit))


def _root(matrix: FloatArray) -> FloatArray:
    """The lower root of covariances [..., p, p] in units of about 1, which may be singular by rounding."""
    matrix = 0.5 * (matrix + np.swapaxes(matrix, -1, -2))
    return np.asarray(np.linalg.cholesky(matrix + _ROUNDING * np.eye(matrix.shape[-1])))


def _inverse(matrix: FloatArray) -> FloatArray:
    return np.asarray(np.linalg.inv(matrix), dtype=np.float64)


def _form(x: FloatArray, matrix: FloatArray) -> FloatArray:
    """Quadratic forms x' M x of vectors [G, p] and one matrix, or one each."""
    return np.asarray(np.maximum(((x[:, None, :] @ matrix)[:, 0] * x).sum(axis=1), 0.0))


def _draw_omega(omega: FloatArray, scatter: FloatArray, n: int, rng: np.random.Generator) -> FloatArray:
    """The next Omega given the scatter of the groups about their line. **Source:** Huang & Wand 2013, section 4."""
    p = len(omega)
    rate = _HALF_T * np.diagonal(np.linalg.inv(omega)) + 1.0 / _WIDE**2
    helper = 1.0 / rng.gamma(0.5 * (_HALF_T + p), 1.0 / rate)
    scale = scatter + 2.0 * _HALF_T * np.diag(1.0 / helper)
    degrees = _HALF_T + p - 1 + n
    # Bartlett: a Wishart of the inverse scale, turned round.
    root = np.linalg.cholesky(np.linalg.inv(scale))
    lower = np.tril(rng.standard_normal((p, p)), -1)
    lower[np.diag_indices(p)] = np.sqrt(rng.chisquare(degrees - np.arange(p)))
    half = root @ lower
    made = np.linalg.inv(half @ half.T)
    return np.asarray(0.5 * (made + made.T) + 1e-12 * np.eye(p))
