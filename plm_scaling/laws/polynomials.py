"""Parabolas and cubics in ln N through the losses of one budget: fits, minima and valley widths of many at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from plm_scaling.laws.budgets import Budget
from plm_scaling.laws.forms import FloatArray

__all__ = ["LocalMinima", "band_about", "fit_polynomial", "is_bracketed", "local_minima"]


def fit_polynomial(budget: Budget, loss: FloatArray, degree: int) -> tuple[FloatArray, FloatArray]:
    """Weighted least squares of loss float64[m, k] on 1, u, u^2, .. with u = ln N - mean; coefficients, design."""
    u = np.log(budget.N) - np.log(budget.N).mean()
    design = u[:, None] ** np.arange(degree + 1)
    root = 1.0 / budget.se if (budget.se > 0).all() else np.sqrt(budget.n_seeds)
    solver = np.linalg.pinv(design * root[:, None])
    return (loss * root) @ solver.T, design


@dataclass(frozen=True)
class LocalMinima:
    """Local minima of m polynomials in u, NaN where there is none: place, loss, half the second derivative."""

    u: FloatArray
    loss: FloatArray
    curvature: FloatArray


def local_minima(coefficients: FloatArray) -> LocalMinima:
    """Where a polynomial of degree 2 or 3 has its only local minimum; coefficients float64[m, 3 or 4], rising."""
    padded = np.pad(coefficients, ((0, 0), (0, 4 - coefficients.shape[1])))
    c0, c1, c2, c3 = padded.T
    discriminant = c2**2 - 3.0 * c1 * c3
    root = np.sqrt(np.maximum(discriminant, 0.0))
    exists = (discriminant > 0) & ((c2 > 0) | (c3 != 0))
    # The minimum is the root of the derivative where the second derivative is +2 root; of its two equal formulas the
    # one without a difference of like numbers is used.
    with np.errstate(over="ignore", invalid="ignore"):
        direct = -c1 / np.where(c2 > 0, c2 + root, 1.0)
        u = np.where(c2 > 0, direct, (root - c2) / np.where(c3 != 0, 3.0 * c3, 1.0))
        u = np.where(exists, u, np.nan)
        loss = c0 + u * (c1 + u * (c2 + u * c3))
    return LocalMinima(u, loss, np.where(exists, root, np.nan))


def is_bracketed(minima: LocalMinima, coefficients: FloatArray, design: FloatArray) -> npt.NDArray[np.bool_]:
    """Whether each minimum lies inside the sizes and below the curve's values at both edges, bool[m]."""
    edges = coefficients @ design[[0, -1]].T
    u = design[[0, -1], 1]
    with np.errstate(invalid="ignore"):
        return np.asarray(
            (minima.u >= u[0]) & (minima.u <= u[1]) & (minima.loss <= edges[:, 0]) & (minima.loss <= edges[:, 1])
        )


def band_about(curvature: float, cubic: float, width: float) -> tuple[float, float]:
    """Distances in ln N, below and above a minimum, at which a v^2 + c v^3 reaches `width`; inf where it never does."""
    if not abs(cubic) * math.sqrt(width / curvature) > 1e-9 * curvature:
        half = math.sqrt(width / curvature)
        return half, half
    roots = np.roots([cubic, curvature, 0.0, -width])
    real = roots[np.abs(roots.imag) <= 1e-9 * np.abs(roots)].real
    below, above = -real[real < 0], real[real > 0]
    return (float(below.min()) if below.size else math.inf), (float(above.min()) if above.size else math.inf)
