"""L(N, D) = E + A N^-alpha + B D^-beta in centred logs: values, gradients, optima. numpy only.

theta = (ln E, ln A0, ln B0, alpha, beta) with A = A0 N0^alpha, B = B0 D0^beta; x = ln(N/N0), y = ln(D/D0).
Then ln L = logsumexp(theta_0, theta_1 - alpha x, theta_2 - beta y): each exponent is linear in theta.
Shapes: B problems, n rows, 5 parameters.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.laws.law_fit import IsoflopFit, SurfaceFit

__all__ = [
    "PARAMETER_NAMES",
    "FloatArray",
    "isoflop_optimum",
    "log_loss_gradient",
    "log_loss_terms",
    "predict_log_loss",
    "surface_loss",
    "surface_optimum",
]

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


def predict_log_loss(theta: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """Log loss ln L, float64[B, n]. **Source:** Hoffmann et al. 2022, eq. 2."""
    return log_loss_terms(theta, x, y)[0]


def log_loss_gradient(theta: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """Derivative of ln L by theta, float64[B, n, 5]: the shares of the terms, times -x and -y for the exponents.

    **Source:** derivative of Hoffmann et al. 2022, eq. 2, in the centred parameters.
    """
    shares = log_loss_terms(theta, x, y)[1]
    return np.stack([shares[0], shares[1], shares[2], -shares[1] * x, -shares[2] * y], axis=-1)


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
    loss: FloatArray = np.exp(predict_log_loss(_theta(fit), x, y))[0].reshape(n.shape)
    return loss


def surface_optimum(fit: SurfaceFit, C: float) -> tuple[float, float]:
    """(N, D) of least loss on 6 N D = C FLOPs. **Source:** Hoffmann et al. 2022, eq. 4."""
    _, a, b, alpha, beta = _theta(fit)[0]
    log_G = (a + math.log(alpha) - b - math.log(beta) + alpha * math.log(fit.N0) - beta * math.log(fit.D0)) / (
        alpha + beta
    )
    log_N = log_G + math.log(C / 6.0) * beta / (alpha + beta)
    return math.exp(log_N), C / 6.0 / math.exp(log_N)


def isoflop_optimum(fit: IsoflopFit, C: float) -> tuple[float, float] | None:
    """(N, D) at C FLOPs of the fit's currency by the power laws through the minima; None if they were refused.

    **Source:** Hoffmann et al. 2022, section 3.2.
    """
    if fit.a_N is None or fit.a_D is None or fit.k_N is None or fit.k_D is None:
        return None
    return float(fit.k_N * C**fit.a_N.value), float(fit.k_D * C**fit.a_D.value)
