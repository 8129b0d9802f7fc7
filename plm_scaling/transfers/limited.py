"""D_t limited by what the source has to give: 1/D_t = 1/(k D_f^a N^b) + 1/(rate D_source)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from plm_scaling.laws.forms import Atom, FloatArray, Form, Parameter, Rows
from plm_scaling.laws.jets import Value, log_sum_exp
from plm_scaling.laws.newton import Problem, minimise

__all__ = ["LIMITED", "fit_limited", "limited_tokens"]


def _formula(a: Mapping[str, Value], rows: Rows, form: Form) -> Value:
    """Ln D_t; z is the logarithm of the source's tokens."""
    del form
    return -log_sum_exp(-a["cap"], -(a["rate"] + rows.z))


LIMITED = Form(
    "limited transfer",
    "1/D_t = 1/(k D_f^a N^b) + 1/(rate D_source)",
    tuple(Parameter(name, "linear") for name in ("k", "a", "b", "rate")),
    (Atom("cap", (("k", "1"), ("a", "y"), ("b", "x"))), Atom("rate", (("rate", "1"),))),
    _formula,
    "Hernandez et al. 2021, eq. 1.2, with a constant exchange rate of few source tokens",
)
"""theta: ln k, a, b, ln rate; x = ln(N / N0), y = ln(D_f / D0), z = ln D_source."""


def fit_limited(rows: Rows, log_D_t: FloatArray, weights: FloatArray, start: FloatArray) -> FloatArray:
    """Least squares in ln D_t of many samples at once.

    Parameters
    ----------
    rows : the pairs. log_D_t : float64[B, n]. weights : float64[B, n].
    start : ln k, a and b of the law without a limit, float64[3].

    Returns
    -------
    theta float64[B, 4], the first from several starts, the others from its end.
    """
    target = log_D_t[0]
    rates = target - rows.z
    low = np.array([target.min() - 3.0, -4.0, -4.0, rates.min() - 3.0])
    high = np.array([target.max() + 12.0, 4.0, 4.0, rates.max() + 12.0])
    problem = Problem(LIMITED, rows, target, math.inf, low, high)
    shifts = [(0.7, rates.max() + 0.2), (0.2, rates.max() + 1.5), (2.0, float(np.median(rates)) + 0.2)]
    begin = np.array([[start[0] + up, start[1], start[2], rate] for up, rate in shifts])
    ends, values = minimise(problem, begin, weights[0])
    best = ends[int(np.argmin(values))]
    theta, _ = minimise(problem, np.repeat(best[None], len(weights), axis=0), weights, targets=log_D_t, tolerance=1e-9)
    return theta


def limited_tokens(theta: FloatArray, x: float, log_D: FloatArray, D0: float, log_source: FloatArray) -> FloatArray:
    """D_t float64[B, m] of laws float64[B, 4] at size x = ln(N / N0), target tokens and source tokens float64[m]."""
    cap = theta[:, :1] + theta[:, 1:2] * (log_D - math.log(D0)) + theta[:, 2:3] * x
    with np.errstate(divide="ignore"):
        return np.asarray(np.exp(-np.logaddexp(-cap, -(theta[:, 3:] + log_source))))
