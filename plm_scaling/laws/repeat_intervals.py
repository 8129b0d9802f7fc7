"""Intervals of a law of repeats: bootstrap percentiles and profile likelihood, open where nothing bounds them."""

from __future__ import annotations

import math
from functools import partial
from typing import Final

import numpy as np

from plm_scaling.laws.fit import percentile_interval
from plm_scaling.laws.jets import FloatArray
from plm_scaling.laws.law_fit import Interval
from plm_scaling.laws.profile import profile_intervals
from plm_scaling.laws.repeat_forms import excess_size, repeat_parameters
from plm_scaling.laws.repeat_problem import SHORTEST, RepeatRuns
from plm_scaling.laws.repeat_search import Found

__all__ = ["natural_of", "percentiles_of", "profiles_of"]

_FAR: Final = 10.0
"""A decay ten times slower than the most repeats that were run is none that the runs can see."""


def natural_of(found: Found, theta: FloatArray) -> FloatArray:
    """Theta float64[..., all] in the parameters' own units."""
    setup = found.setup
    parameters = (*setup.base.form.parameters, *repeat_parameters(setup.kind, offset=setup.offset))
    logs = np.array([parameter.is_log for parameter in parameters], dtype=bool)
    return np.where(logs, np.exp(np.where(logs, theta, 0.0)), theta)


def _far(found: Found, runs: RepeatRuns) -> dict[str, float]:
    """R_D and R_N beyond which a decay cannot be seen in these runs."""
    setup = found.setup
    base = dict(zip(setup.names, found.theta.tolist(), strict=True))
    most = float(np.expm1(np.minimum(excess_size(setup.base.form, base, setup.rows), 40.0)).max())
    seen = {"R_D": _FAR * float(runs.R.max()), "R_N": _FAR * max(most, 1.0)}
    names, high = setup.problem.form.names, setup.problem.high
    # Beyond half its bound a draw has only run into it.
    return {name: min(limit, 0.5 * math.exp(high[names.index(name)])) for name, limit in seen.items() if name in names}


def percentiles_of(found: Found, runs: RepeatRuns, natural: FloatArray, drawn: FloatArray) -> dict[str, Interval]:
    """Percentile interval of every parameter; a base law that was given keeps its own."""
    far, silent = _far(found, runs), found.setup.silent
    out = {}
    for i, name in enumerate(found.setup.names):
        value = float(natural[i])
        if name in silent:
            out[name] = Interval(value=value, low=0.0, high=math.inf)
        elif name in found.setup.base.intervals:
            out[name] = found.setup.base.intervals[name]
        else:
            plain = percentile_interval(value, drawn[:, i])
            out[name] = _opened(plain, far[name]) if name in far else plain
    return out


def profiles_of(found: Found, runs: RepeatRuns) -> dict[str, Interval]:
    """Profile intervals of the fitted parameters of the repeats; a bound of the box is no end."""
    setup, problem = found.setup, found.setup.problem
    names = problem.form.names
    quantities = {name: partial(_column, k=names.index(name)) for name in setup.own}
    if not quantities:
        return {}
    far = _far(found, runs)
    out = {}
    for name, interval in profile_intervals(problem, found.reached.theta, runs.sample.weights, quantities).items():
        k = names.index(name)
        low = interval.low if interval.low > problem.low[k] else -math.inf
        high = interval.high if interval.high < problem.high[k] else math.inf
        ends = np.array([interval.value, low, high])
        value, low, high = (np.exp(ends) if problem.form.parameters[k].is_log else ends).tolist()
        plain = Interval(value=value, low=low, high=high, level=interval.level)
        out[name] = _opened(plain, far[name]) if name in far else plain
    return out


def _column(theta: FloatArray, k: int) -> FloatArray:
    return theta[:, k]


def _opened(interval: Interval, limit: float) -> Interval:
    """An interval of R_D or R_N: an end beyond what the runs can see is none."""
    low = 0.0 if interval.low <= 1.5 * SHORTEST else min(interval.low, limit)
    return interval.model_copy(update={"low": low, "high": math.inf if interval.high > limit else interval.high})
