"""Repeated runs and a form made into a fitting problem: which base law, what is known, what these runs cannot show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError, FitError, did_you_mean
from plm_scaling.laws.forms import Form
from plm_scaling.laws.jets import FloatArray
from plm_scaling.laws.newton import Problem
from plm_scaling.laws.problem import Sample, make_problem, make_sample
from plm_scaling.laws.repeat_base import BaseLaw
from plm_scaling.laws.repeat_forms import (
    RepeatRows,
    excess_size,
    make_repeat_rows,
    repeat_form,
    repeat_parameters,
)

__all__ = [
    "ENDLESS",
    "REPEATED",
    "SHORTEST",
    "RepeatProblem",
    "RepeatRuns",
    "count_levels",
    "make_repeat_problem",
    "make_runs",
]

REPEATED: Final = 0.1
"""A run with more repeats than this counts as repeated: 1.1 epochs."""
SHORTEST: Final = 1e-2
"""Lower bound of R_D and R_N."""
ENDLESS: Final = {"R_D": 1e6, "R_N": 1e14}
"""Their upper bounds, where nothing decays; a free base law may find a model 1e10 times too large for its data."""
_SLOWEST: Final = 1e3
"""A decay this many times slower than the most repeats (or the largest excess of size) that were run is none."""
_LEVEL: Final = 0.02
_EXACT: Final = 1e-9


@dataclass(frozen=True)
class RepeatRuns:
    """Runs [n] with their unique tokens; `shifted` ones come from another corpus than the base law's."""

    sample: Sample
    U: FloatArray
    shifted: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.U)

    @property
    def R(self) -> FloatArray:
        """Repeats, D/U - 1."""
        return self.sample.D / self.U - 1.0

    @property
    def repeated(self) -> npt.NDArray[np.bool_]:
        """Runs of more than 1.1 epochs."""
        return self.R > REPEATED


def make_runs(
    N: npt.ArrayLike,
    D: npt.ArrayLike,
    U: npt.ArrayLike,
    loss: npt.ArrayLike,
    batch_tokens: npt.ArrayLike | None = None,
    shifted: npt.ArrayLike | None = None,
    weights: npt.ArrayLike | None = None,
) -> RepeatRuns:
    """Check and gather columns [n]; a U above D, as of a run that did not see all of its data, is D.

    Raises
    ------
    FitError : lengths that differ, or values that are not positive and finite, naming the row.
    """
    sample = make_sample(N, D, loss, batch_tokens, weights)
    unique = np.asarray(U, dtype=np.float64).ravel()
    moved = np.zeros(len(sample), dtype=bool) if shifted is None else np.asarray(shifted, dtype=bool).ravel()
    if not len(unique) == len(moved) == len(sample):
        raise FitError(f"N has {len(sample)} rows, U {len(unique)}, shifted {len(moved)}")
    bad = ~(np.isfinite(unique) & (unique > 0))
    if bad.any():
        raise FitError(f"U of row {int(np.argmax(bad))} is not a positive number: {unique[bad][0]}")
    return RepeatRuns(sample, np.minimum(unique, sample.D), moved)


def count_levels(values: FloatArray) -> int:
    """Different values among positive numbers [n], 2 % apart or more."""
    return len(np.unique(np.round(np.log(values) / _LEVEL)))


@dataclass(frozen=True)
class RepeatProblem:
    """A form of repeats on some runs: the problem of its free parameters, and the others with the reason."""

    kind: str
    base: BaseLaw
    problem: Problem
    known: dict[str, float]
    """theta of every parameter that is not fitted."""
    silent: dict[str, str]
    """Parameters these runs say nothing about, and why; they are known at the value without effect."""
    offset: bool
    confounded: bool
    """Whether the offset and the cost of repeating cannot be told apart."""

    @property
    def rows(self) -> RepeatRows:
        """The runs as the formula sees them."""
        assert isinstance(self.problem.rows, RepeatRows)
        return self.problem.rows

    @property
    def names(self) -> tuple[str, ...]:
        """Every parameter, the base law's first."""
        own = repeat_parameters(self.kind, offset=self.offset)
        return (*self.base.form.names, *(parameter.name for parameter in own))

    @property
    def own(self) -> tuple[str, ...]:
        """The free parameters of the repeats."""
        return tuple(name for name in self.problem.form.names if name not in self.base.form.names)

    def full(self, theta: FloatArray) -> FloatArray:
        """Theta float64[B, free] with the known parameters, float64[B, all], in the order of `names`."""
        free = self.problem.form.names
        columns = [
            theta[:, free.index(name)] if name in free else np.full(len(theta), self.known[name]) for name in self.names
        ]
        return np.stack(columns, axis=1)


def make_repeat_problem(
    runs: RepeatRuns,
    kind: str,
    base: BaseLaw,
    *,
    held: Mapping[str, float] | None = None,
    offset: bool = False,
    delta: float = 1e-3,
    base_theta: Mapping[str, float] | None = None,
) -> RepeatProblem:
    """The problem of fitting a law of repeats.

    Parameters
    ----------
    held : parameters of the repeats that are given, by name, in their own unit.
    base_theta : another draw of the base law's known values.

    Raises
    ------
    FitError : fewer runs than parameters and two more.
    ConfigError : a held parameter that the form does not have.
    """
    own = {parameter.name: parameter for parameter in repeat_parameters(kind, offset=offset)}
    given = dict(held or {})
    if unknown := set(given) - set(own):
        name = min(unknown)
        raise ConfigError(f"{kind} has no parameter {name!r}", hint=did_you_mean(name, own))
    known = {name: math.log(max(v, 1e-300)) if own[name].is_log else v for name, v in given.items()}
    known |= dict(base_theta or base.theta or {})
    rows = _rows(runs, base)
    confounded = offset and _confounded(runs)
    silent = {name: why for name, why in _silent(runs, rows, kind, base, confounded).items() if name not in known}
    known |= {name: _without_effect(name) for name in silent}
    form = repeat_form(kind, base.form, known, offset=offset)
    if len(runs) < len(form.names) + 2:
        raise FitError(
            f"a law of repeats with {len(form.names)} parameters cannot be fitted to {len(runs)} runs",
            why=f"at least {len(form.names) + 2} runs are needed",
            hint="take the base law from unrepeated runs (base=...), or hold parameters",
        )
    target = np.log(runs.sample.loss)
    low, high = _bounds(runs, rows, form, base, delta)
    return RepeatProblem(kind, base, Problem(form, rows, target, delta, low, high), known, silent, offset, confounded)


def _rows(runs: RepeatRuns, base: BaseLaw) -> RepeatRows:
    sample = runs.sample
    centre = base.centre if base.theta else (float(np.log(sample.N).mean()), float(np.log(sample.D).mean()))
    which = runs.repeated if runs.repeated.any() else np.ones(len(runs), dtype=bool)
    log_R0 = float(np.log(np.maximum(runs.R[which], REPEATED)).mean())
    log_ratio0 = float(np.log(sample.N[which] / runs.U[which]).mean())
    batch = None
    if base.form.has_batch:
        typical = base.batch_typical or float(np.nanmedian(np.append(sample.batch, 1.0)))
        batch = np.where(np.isfinite(sample.batch), sample.batch, typical)
    shift = runs.shifted.astype(np.float64)
    return make_repeat_rows(sample.N, sample.D, runs.U, batch, shift, (*centre, log_R0, log_ratio0))


def _confounded(runs: RepeatRuns) -> bool:
    """Whether every repeated run is shifted, and all shifted runs have the same number of epochs."""
    shifted = runs.shifted
    apart = (runs.repeated & ~shifted).any() or count_levels(1.0 + runs.R[shifted]) > 1
    return bool(runs.repeated.any() and not apart)


def _silent(runs: RepeatRuns, rows: RepeatRows, kind: str, base: BaseLaw, confounded: bool) -> dict[str, str]:
    """Parameters that these runs cannot tell from their absence, with the reason."""
    own = [parameter.name for parameter in repeat_parameters(kind)]
    repeats = runs.repeated
    reason = "" if runs.repeated.any() else "no run repeats its data"
    if confounded:
        reason = "every repeated run is shifted by the same offset and has the same number of epochs"
    out = {name: reason for name in own if reason and (confounded or name != "R_N")}
    if "R_N" in own and base.theta and not (excess_size(base.form, base.theta, rows) > _EXACT).any():
        out["R_N"] = "no run is larger than the best size for its unique tokens"
    if kind == "penalty" and not reason:
        if count_levels(runs.R[repeats]) < 2:
            out["delta"] = "all repeated runs have the same number of epochs"
        if count_levels(runs.sample.N[repeats] / runs.U[repeats]) < 2:
            out["kappa"] = "all repeated runs have the same number of parameters per unique token"
    return out


def _without_effect(name: str) -> float:
    """Theta at which a parameter changes nothing: endless decay, no penalty; the penalty's exponents stand at one."""
    return math.log(ENDLESS[name]) if name in ENDLESS else {"P0": -690.0}.get(name, 1.0)


def _bounds(
    runs: RepeatRuns, rows: RepeatRows, form: Form, base: BaseLaw, delta: float
) -> tuple[FloatArray, FloatArray]:
    loss = runs.sample.loss
    slowest = {"R_D": math.log(_SLOWEST * max(float(rows.R.max()), 1.0)), "R_N": math.log(ENDLESS["R_N"])}
    if base.theta:
        excess = float(excess_size(base.form, base.theta, rows).max())
        slowest["R_N"] = min(slowest["R_N"], math.log(_SLOWEST) + max(excess, 1.0))
    limits = {
        "R_D": (math.log(SHORTEST), slowest["R_D"]),
        "R_N": (math.log(SHORTEST), slowest["R_N"]),
        "P0": (math.log(float(loss.min())) - 12.0, math.log(float(loss.max())) + 3.0),
        "delta": (0.05, 6.0),
        "kappa": (0.0, 6.0),
        "offset": (-1.0, 1.0),
    }
    if base.theta is None:
        alone = make_problem(base.form, runs.sample, delta)
        limits |= dict(zip(base.form.names, zip(alone.low.tolist(), alone.high.tolist(), strict=True), strict=True))
        if "L0" in limits and not runs.repeated.all():
            # A penalty may lift a loss above the plateau of the unrepeated runs.
            limits["L0"] = (math.log(float(loss[~runs.repeated].max())) + 1e-4, limits["L0"][1])
    table = np.array([limits[name] for name in form.names]).reshape(-1, 2)
    return table[:, 0].copy(), table[:, 1].copy()
