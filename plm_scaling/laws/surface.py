"""What a fitted surface says: losses, compute-optimal sizes, and their bootstrap draws. numpy only."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from plm_scaling.laws.forms import Form, Rows, find_form, inner_terms, log_loss
from plm_scaling.laws.jets import FloatArray
from plm_scaling.laws.law_fit import SurfaceFit

__all__ = [
    "form_of",
    "log_optimum",
    "optimal_exponent",
    "rows_at",
    "surface_loss",
    "surface_optimum",
    "theta_draws",
    "theta_of",
]


def form_of(fit: SurfaceFit) -> Form:
    """The form a fit is of."""
    return find_form(fit.form, fit.plateau)


def theta_of(fit: SurfaceFit) -> FloatArray:
    """The estimate, float64[1, p]."""
    form = form_of(fit)
    return form.theta(np.array([[fit.parameters[name].value for name in form.names]]))


def theta_draws(fit: SurfaceFit) -> FloatArray:
    """The bootstrap draws, float64[B, p]; the estimate alone where there are none."""
    return form_of(fit).theta(np.array(fit.draws)) if fit.draws else theta_of(fit)


def rows_at(fit: SurfaceFit, N: FloatArray, D: FloatArray, batch_tokens: npt.ArrayLike | None = None) -> Rows:
    """Points N, D float64[n] as the fit's form sees them; a missing batch is the runs' median."""
    typical = fit.batch_typical if fit.batch_typical is not None else 1.0
    batch = np.broadcast_to(np.asarray(typical if batch_tokens is None else batch_tokens, dtype=np.float64), N.shape)
    batch = np.where(np.isfinite(batch), batch, typical)
    log_N0, log_D0 = math.log(fit.N0), math.log(fit.D0)
    return Rows(np.log(N) - log_N0, np.log(D) - log_D0, np.log(batch), log_N0=log_N0, log_D0=log_D0)


def surface_loss(
    fit: SurfaceFit, N: npt.ArrayLike, D: npt.ArrayLike, batch_tokens: npt.ArrayLike | None = None
) -> FloatArray:
    """Loss of a fitted surface, nats per token, float64 of the broadcast shape of N (parameters) and D (tokens).

    **Source:** Hoffmann et al. 2022, eq. 2, or the form's own.
    """
    n, d = np.broadcast_arrays(np.asarray(N, dtype=np.float64), np.asarray(D, dtype=np.float64))
    batch = (
        None if batch_tokens is None else np.broadcast_to(np.asarray(batch_tokens, dtype=np.float64), n.shape).ravel()
    )
    rows = rows_at(fit, n.ravel(), d.ravel(), batch)
    loss: FloatArray = np.exp(log_loss(form_of(fit), theta_of(fit), rows)[0]).reshape(n.shape)
    return loss


def log_optimum(form: Form, theta: FloatArray, log_ND: float, rows: Rows) -> FloatArray:
    """ln(N_opt / N0) float64[B] on N D = e^log_ND, batch at the first of `rows`; NaN where there is no minimum.

    **Source:** Hoffmann et al. 2022, eq. 4: alpha A N^-alpha = beta B D^-beta; floor, plateau and any outer exponent
    drop out, since the loss rises with the sum alone.
    """
    c = log_ND - rows.log_N0 - rows.log_D0
    if form.name == "log_quadratic":
        return _quadratic_optimum(form, theta, c)
    inner = inner_terms(form, theta)
    if inner is None:
        return np.full(len(theta), np.nan)
    log_A, log_B, alpha, beta = inner
    if form.has_batch:
        log_B = log_B + beta * np.logaddexp(0.0, rows.z[0] - theta[:, form.index("B_c")])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((np.log(alpha) + log_A - np.log(beta) - log_B + beta * c) / (alpha + beta))


def _quadratic_optimum(form: Form, theta: FloatArray, c: float) -> FloatArray:
    """Vertex in x of the quadratic on y = c - x."""
    lN, lD, lNN, lND, lDD = (theta[:, form.index(name)] for name in ("lN", "lD", "lNN", "lND", "lDD"))
    bend = lNN - lND + lDD
    slope = lN - lD + (lND - 2.0 * lDD) * c
    return np.where(bend > 0, -slope / (2.0 * np.where(bend > 0, bend, 1.0)), np.nan)


def optimal_exponent(form: Form, theta: FloatArray, rows: Rows) -> FloatArray:
    """Exponent d ln N_opt / d ln C at the centre of the runs, float64[B]; NaN without an optimum."""
    centre = rows.log_N0 + rows.log_D0
    up, down = (log_optimum(form, theta, centre + step, rows) for step in (0.5, -0.5))
    return np.asarray(up - down)


def surface_optimum(fit: SurfaceFit, C: float, batch_tokens: float | None = None) -> tuple[FloatArray, FloatArray]:
    """Compute-optimal (N, D) at C = 6 N D FLOPs: float64[1 + B], the estimate first, then the draws; NaN for none."""
    form = form_of(fit)
    theta = np.concatenate([theta_of(fit), theta_draws(fit)])
    at = rows_at(fit, np.array([fit.N0]), np.array([fit.D0]), batch_tokens)
    log_ND = math.log(C / 6.0)
    with np.errstate(over="ignore", under="ignore", divide="ignore"):
        N = np.exp(log_optimum(form, theta, log_ND, at) + at.log_N0)
        D = C / 6.0 / N
    # Exponents that vanish put the optimum beyond all numbers: that is none.
    found = np.isfinite(N) & np.isfinite(D) & (N > 0) & (D > 0)
    return np.where(found, N, np.nan), np.where(found, D, np.nan)
