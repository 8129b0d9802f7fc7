"""L(C): how the loss of the best run falls with compute, through the minima of isoFLOP rows."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import FitError
from plm_scaling.laws.fit import ZERO_FLOOR, percentile_interval
from plm_scaling.laws.forms import Atom, Form, Parameter, Rows
from plm_scaling.laws.jets import log_sum_exp
from plm_scaling.laws.law_fit import FrontierFit, IsoflopFit
from plm_scaling.laws.newton import Problem, minimise

__all__ = ["fit_frontier", "frontier_of"]

_MIN_POINTS: Final = 4
_FRONTIER: Final = Form(
    "frontier",
    "L = E + A C^-a",
    (Parameter("E", "floor", "nats"), Parameter("A0", "amplitude", "nats"), Parameter("a", "exponent")),
    (Atom("E", (("E", "1"),)), Atom("N", (("A0", "1"), ("a", "-c")))),
    lambda atoms, rows, form: log_sum_exp(atoms["E"], atoms["N"]),
    "Kaplan et al. 2020, eq. 1.3, with an asymptote",
)


def fit_frontier(
    C: npt.ArrayLike,
    loss: npt.ArrayLike,
    *,
    se: npt.ArrayLike | None = None,
    asymptote: float | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> FrontierFit:
    """Fit L = E + A C^-a to the lowest losses at several computes by least squares on ln L.

    Parameters
    ----------
    C : FLOPs, [n]. loss : nats, [n]. se : standard errors of the losses, [n], for weights and draws.
    asymptote : E, where it is given (0: a pure power law); None leaves it free.
    draws : of the losses' noise (given, or the residuals' sd) behind the intervals.

    Raises
    ------
    FitError : fewer than four points, or values that are not positive.

    **Source:** Kaplan et al. 2020, eq. 1.3; Hoffmann et al. 2022, section 3.
    """
    c, L = np.asarray(C, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    if len(c) < _MIN_POINTS or not ((c > 0).all() and (L > 0).all()):
        raise FitError(f"L(C) needs at least {_MIN_POINTS} positive points, got {len(c)}")
    if asymptote is not None and asymptote >= L.min():
        raise FitError(f"the asymptote {asymptote:.4g} lies above the lowest loss {L.min():.4g}")
    C0 = math.exp(float(np.log(c).mean()))
    rows = Rows(np.log(c / C0), np.zeros_like(c), np.zeros_like(c))
    target = np.log(L)
    low = np.array([target.min() - 9.0, target.min() - 12.0, 1e-3])
    high = np.array([float(target.max()), target.max() + 1.0, 2.0])
    if asymptote is not None:
        low[0] = high[0] = math.log(max(asymptote, 1e-12))
    error = np.full(len(c), np.nan) if se is None else np.asarray(se, dtype=np.float64) / L
    known = bool((error > 0).all())
    weights = 1.0 / error**2 if known else np.ones(len(c))
    weights = weights / weights.mean()
    problem = Problem(_FRONTIER, rows, target, math.inf, low, high)
    begin = np.array([[math.log(share * L.min()), math.log((1 - share) * L.min()), a] for share, a in _STARTS])
    ends, values = minimise(problem, begin, weights)
    theta = ends[int(np.argmin(values))]
    residual = problem.residual(theta[None])[0]
    free = 3 - (asymptote is not None)
    sd = error if known else np.full(len(c), math.sqrt(float((residual**2).sum()) / max(len(c) - free, 1)))
    noise = np.random.default_rng(seed).standard_normal((draws, len(c))) * sd
    fitted = target + residual
    drawn, _ = minimise(problem, np.repeat(theta[None], draws, axis=0), weights, targets=fitted + noise, tolerance=1e-9)
    natural, drawn_natural = _FRONTIER.natural(theta), _FRONTIER.natural(drawn)
    flags = ("E_UNIDENTIFIED",) if asymptote is None and np.quantile(drawn[:, 0], 0.025) <= low[0] + ZERO_FLOOR else ()
    return FrontierFit(
        C0=C0,
        E=percentile_interval(float(natural[0]), drawn_natural[:, 0]),
        A0=percentile_interval(float(natural[1]), drawn_natural[:, 1]),
        a=percentile_interval(float(natural[2]), drawn_natural[:, 2]),
        asymptote_given=asymptote is not None,
        n_points=len(c),
        range_C=(float(c.min()), float(c.max())),
        rms_relative_error=float(np.sqrt(np.mean(np.expm1(residual) ** 2))),
        flags=flags,
    )


_STARTS: Final = ((0.9, 0.2), (0.6, 0.1), (0.2, 0.05), (0.97, 0.4))


def frontier_of(isoflop: IsoflopFit, draws: int = 1000, seed: int = 0) -> FrontierFit | None:
    """L(C) through the interior minima of an isoFLOP fit; None with fewer than four."""
    rows = [row for row in isoflop.rows if row.L_opt is not None]
    if len(rows) < _MIN_POINTS:
        return None
    return fit_frontier([row.C for row in rows], [row.L_opt for row in rows if row.L_opt], draws=draws, seed=seed)
