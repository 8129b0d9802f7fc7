"""L(N, D) = E + A N^-alpha + B D^-beta in centred logs: values and shares of the terms. numpy only.

theta = (ln E, ln A0, ln B0, alpha, beta) with A = A0 N0^alpha, B = B0 D0^beta; x = ln(N/N0), y = ln(D/D0).
Then ln L = logsumexp(theta_0, theta_1 - alpha x, theta_2 - beta y): each exponent is linear in theta.
Shapes: B problems, n rows, 5 parameters.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.laws.law_fit import SurfaceFit

__all__ = ["PARAMETER_NAMES", "FloatArray", "log_loss_terms", "surface_loss"]

FloatArray = npt.NDArray[np.float64]
PARAMETER_NAMES: Final = ("E", "A0", "B0", "alpha", "beta")


def log_loss_terms(theta: FloatArray, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Log loss and the shares of its three terms.

    Parameters
    ----------
    theta : float64[B, 5].
    x, y : float64[n], ln(N/N0) and ln(D/D0).

    Returns
    -------
    ln L float64[B, n]; shares float64[3, B, n] of E, the N term and the D term (they sum to 1).

    **Source:** Hoffmann et al. 2022, eq. 2 and appendix D.2 (log-sum-exp).
    """
    terms = np.empty((3, theta.shape[0], x.shape[0]))
    terms[0] = theta[:, 0, None]
    terms[1] = theta[:, 1, None] - theta[:, 3, None] * x
    terms[2] = theta[:, 2, None] - theta[:, 4, None] * y
    top = terms.max(axis=0)
    np.exp(terms - top, out=terms)
    total = terms.sum(axis=0)
    terms /= total
    return top + np.log(total), terms


def _theta(fit: SurfaceFit) -> FloatArray:
    values = [fit.parameters[name].value for name in PARAMETER_NAMES]
    logs = [math.log(max(value, 1e-300)) for value in values[:3]]
    return np.array([[*logs, *values[3:]]])


def surface_loss(fit: SurfaceFit, N: npt.ArrayLike, D: npt.ArrayLike) -> FloatArray:
    """Loss of a fitted surface in nats per token, float64 of the broadcast shape of N (parameters) and D (tokens).

    **Source:** Hoffmann et al. 2022, eq. 2.
    """
    n, d = np.broadcast_arrays(np.asarray(N, dtype=np.float64), np.asarray(D, dtype=np.float64))
    x, y = np.log(n / fit.N0).ravel(), np.log(d / fit.D0).ravel()
    loss: FloatArray = np.exp(log_loss_terms(_theta(fit), x, y)[0][0]).reshape(n.shape)
    return loss
