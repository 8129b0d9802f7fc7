"""The columns in which a group's loss departs from the law of all: a constant, cuts along N and D, the bend of each.

n points; p columns: 3, or 5 with bends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from plm_scaling.laws.forms import log_loss
from plm_scaling.laws.jets import FloatArray
from plm_scaling.laws.law_fit import SurfaceFit
from plm_scaling.laws.surface import form_of, rows_at, surface_loss, theta_draws

__all__ = ["GroupBasis", "bases_of", "law_draws", "law_slopes"]

Basis = Literal["law", "log"]

_STEP: Final = 0.05
"""Half step in ln N or ln D of a slope's central difference."""
_ALIKE: Final = 0.98
"""Correlation of the two columns over the runs from which on they cannot be told apart."""
_LEAST_RANGE: Final = 1e-4
"""Nats over which a cut of the law must move for the runs to scale by it."""
_BEND_RUNS: Final = 12
"""Runs from which on a group may bend away from the cuts: below, five columns leave too little to judge noise by."""
_BEND_SHARE: Final = 0.05
"""Of a bend's variance over the runs that the other columns must leave unexplained."""


@dataclass(frozen=True)
class GroupBasis:
    """`law`: cuts of the fitted surface through the centre of the runs; `log`: logarithms.

    A bend is a cut times the logarithm it is cut along, which is what a small change of the law's exponent adds
    (d/d beta of B (D/D0)^-beta = -ln(D/D0) B (D/D0)^-beta) up to a multiple of ln(D/D0); it vanishes at the centre with
    its slope, so that the changes per doubling there are those of the first three columns.
    """

    name: Basis
    surface: SurfaceFit
    N0: float
    D0: float
    bends: bool = False

    def columns(self, N: FloatArray, D: FloatArray) -> FloatArray:
        """float64[n, p] at points N, D float64[n]."""
        ln_N, ln_D = np.log(N / self.N0), np.log(D / self.D0)
        cut_N, cut_D = ln_N, ln_D
        if self.name == "law":
            centre = surface_loss(self.surface, self.N0, self.D0)
            cut_N = surface_loss(self.surface, N, self.D0) - centre
            cut_D = surface_loss(self.surface, self.N0, D) - centre
        bends = [cut_N * ln_N, cut_D * ln_D] if self.bends else []
        return np.stack([np.ones_like(N), cut_N, cut_D, *bends], axis=1)

    def doublings(self) -> FloatArray:
        """float64[2, p]: what the coefficients change the loss by, per doubling of N and of D at the centre."""
        up, down = math.exp(_STEP), math.exp(-_STEP)
        N0, D0 = np.array([self.N0]), np.array([self.D0])
        slopes = [
            self.columns(N0 * up, D0) - self.columns(N0 * down, D0),
            self.columns(N0, D0 * up) - self.columns(N0, D0 * down),
        ]
        return np.concatenate(slopes) * (math.log(2.0) / (2.0 * _STEP))


def bases_of(surface: SurfaceFit, N: FloatArray, D: FloatArray) -> tuple[GroupBasis, ...]:
    """The bases that runs at N, D float64[n] identify; empty where N and D never move apart."""
    N0, D0 = float(np.exp(np.log(N).mean())), float(np.exp(np.log(D).mean()))
    names: tuple[Basis, ...] = ("law", "log")
    made = []
    for name in names:
        basis = GroupBasis(name, surface, N0, D0)
        columns = basis.columns(N, D)
        spread = columns[:, 1:].max(axis=0) - columns[:, 1:].min(axis=0)
        if float(spread.min()) > _LEAST_RANGE and abs(float(np.corrcoef(columns[:, 1], columns[:, 2])[0, 1])) < _ALIKE:
            made.append(replace(basis, bends=_can_bend(replace(basis, bends=True).columns(N, D))))
    return tuple(made)


def _can_bend(columns: FloatArray) -> bool:
    """Whether runs with these columns float64[R, 5] tell bends from the cuts and from each other."""
    if len(columns) < _BEND_RUNS or np.linalg.matrix_rank(columns / np.linalg.norm(columns, axis=0), tol=1e-6) < 5:
        return False
    for bend in (3, 4):
        others = np.delete(columns, bend, axis=1)
        left = columns[:, bend] - others @ np.linalg.lstsq(others, columns[:, bend])[0]
        if float(left.var()) < _BEND_SHARE * float(columns[:, bend].var()):
            return False
    return True


def law_draws(surface: SurfaceFit, N: FloatArray, D: FloatArray) -> FloatArray:
    """Losses of the law's draws at points [n], float64[B, n], nats per token."""
    return np.asarray(np.exp(log_loss(form_of(surface), theta_draws(surface), rows_at(surface, N, D))))


def law_slopes(surface: SurfaceFit, N: float, D: float) -> tuple[FloatArray, FloatArray]:
    """Change of the law's loss per doubling of (N, D) at a point, nats: estimate float64[2] and draws float64[B, 2]."""
    up, down = math.exp(_STEP), math.exp(-_STEP)
    at_N, at_D = np.array([N * up, N * down, N, N]), np.array([D, D, D * up, D * down])

    def slopes(loss: FloatArray) -> FloatArray:
        both = np.stack([loss[..., 0] - loss[..., 1], loss[..., 2] - loss[..., 3]], axis=-1)
        return np.asarray(both * (math.log(2.0) / (2.0 * _STEP)))

    return slopes(surface_loss(surface, at_N, at_D)), slopes(law_draws(surface, at_N, at_D))
