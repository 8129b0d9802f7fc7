"""Regression through few points with intervals that stay honest: a line plus a smooth remainder, scales averaged over.

y = line(x) + smooth(x) + noise is a Gaussian process. With a dozen points its scales cannot be chosen; each setting of
a grid is weighed by how well it foretells the points, and the overall size of y is integrated out, which leaves a
mixture of Student's t.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import brentq
from scipy.special import logsumexp, stdtr

__all__ = ["StudentMixture", "StudentProcess"]

Float = npt.NDArray[np.float64]

_LENGTHS: Final = (1.0, 2.0, 4.0)
"""Of the smooth remainder, in standard deviations of the features."""
_SMOOTH: Final = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
_NOISE: Final = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1)
"""Variances beside a slope's, which is 1; both for y in units of its standard deviation."""
_INTERCEPT: Final = 10.0
_PRIOR_DF: Final = 2.0
_PRIOR_SCALE: Final = 0.3
"""The overall scale before anything was seen: worth two points, which keeps a lucky line through few from certainty."""


@dataclass(frozen=True, eq=False)
class StudentMixture:
    """What is known of one number: Student's t distributions of `df` degrees of freedom, mixed.

    Attributes
    ----------
    weight, mean, scale : float64[k]; the weights sum to 1.
    """

    weight: Float
    mean: Float
    scale: Float
    df: float

    @property
    def value(self) -> float:
        """The mean."""
        return float(self.weight @ self.mean)

    @property
    def sd(self) -> float:
        """Standard deviation, of the components and between them."""
        inner = self.weight @ self.scale**2 * self.df / (self.df - 2.0)
        return float(np.sqrt(inner + self.weight @ (self.mean - self.value) ** 2))

    def quantile(self, at: float) -> float:
        """The value below which the share `at` of the distribution lies."""
        reach = 50.0 * self.sd + 1e-12

        def below(x: float) -> float:
            return float(self.weight @ stdtr(self.df, (x - self.mean) / self.scale)) - at

        return float(brentq(below, self.value - reach, self.value + reach))

    def draw(self, draws: int, rng: np.random.Generator) -> Float:
        """Random numbers of the distribution, float64[draws]."""
        part = rng.choice(len(self.weight), size=draws, p=self.weight)
        return np.asarray(self.mean[part] + self.scale[part] * rng.standard_t(self.df, size=draws))

    def widened(self, by: float) -> StudentMixture:
        """The distribution stretched about its mean."""
        centre = self.value
        return StudentMixture(self.weight, centre + by * (self.mean - centre), by * self.scale, self.df)

    def shifted(self, by: float) -> StudentMixture:
        """The distribution of the number plus a constant."""
        return StudentMixture(self.weight, self.mean + by, self.scale, self.df)


@dataclass(frozen=True, eq=False)
class StudentProcess:
    """Points to learn from.

    Attributes
    ----------
    x : float64[n, q], features. y : float64[n].

    **Source:** Rasmussen & Williams 2006, equations 2.25 f. and section 2.7 (explicit basis functions); Shah et al.
    2014, section 3 (Student-t processes); leaving one out: equations 5.10 to 5.12 there.
    """

    x: Float
    y: Float

    def at(self, x: Float) -> list[StudentMixture]:
        """What is known of further y, noise included, at features float64[m, q]."""
        n = len(self.y)
        target, unit = self._target()
        log_weight, means, scales = [], [], []
        for cover, beside, own in _kernels(self._standard(self.x), self._standard(x)):
            factor = cho_factor(cover, lower=True)
            solved = cho_solve(factor, target)
            squares = float(target @ solved) + _PRIOR_DF * _PRIOR_SCALE
            log_weight.append(_evidence(float(np.log(np.diag(factor[0])).sum()), squares, n))
            means.append(beside @ solved)
            known = (beside * cho_solve(factor, beside.T).T).sum(axis=1)
            scales.append(np.sqrt(squares / (n + _PRIOR_DF) * (own - known)))
        columns = zip(np.array(means).T, np.array(scales).T, strict=True)
        return [_mixed(np.array(log_weight), unit * mean, unit * scale, n + _PRIOR_DF) for mean, scale in columns]

    def left_out(self) -> list[StudentMixture]:
        """What the others say of every y, one left out at a time; the features' and y's units are those of all."""
        z, n = self._standard(self.x), len(self.y)
        target, unit = self._target()
        log_weight, means, scales = [], [], []
        for cover, _, _ in _kernels(z, z[:1]):
            factor = cho_factor(cover, lower=True)
            inverse = cho_solve(factor, np.eye(n))
            solved = inverse @ target
            own = np.diag(inverse)
            squares = float(target @ solved) - solved**2 / own + _PRIOR_DF * _PRIOR_SCALE
            half_log_det = float(np.log(np.diag(factor[0])).sum()) + 0.5 * np.log(own)
            log_weight.append(_evidence(half_log_det, squares, n - 1))
            means.append(target - solved / own)
            scales.append(np.sqrt(squares / (n - 1 + _PRIOR_DF) / own))
        columns = zip(np.array(log_weight).T, np.array(means).T, np.array(scales).T, strict=True)
        return [_mixed(weight, unit * mean, unit * scale, n - 1 + _PRIOR_DF) for weight, mean, scale in columns]

    def _standard(self, x: Float) -> Float:
        spread = self.x.std(axis=0)
        return np.asarray((x - self.x.mean(axis=0)) / np.where(spread > 0, spread, 1.0))

    def _target(self) -> tuple[Float, float]:
        """The y in units of their spread about zero, and that unit."""
        unit = float(np.sqrt((self.y**2).mean())) or 1.0
        return self.y / unit, unit


def _kernels(z: Float, point: Float) -> Iterator[tuple[Float, Float, Float]]:
    """Covariances of the points, of other points with them, and variances of the others, for each setting."""
    q = z.shape[1]
    line, line_point = _basis(z), _basis(point)
    linear, beside = line @ line.T, line_point @ line.T
    own = (line_point**2).sum(axis=1)
    far = ((z[:, None] - z[None]) ** 2).sum(axis=-1) / q
    far_point = ((point[:, None] - z[None]) ** 2).sum(axis=-1) / q
    for length, smooth, noise in product(_LENGTHS, _SMOOTH, _NOISE):
        if smooth == 0.0 and length != _LENGTHS[0]:
            continue
        bump, bump_point = (smooth * np.exp(-0.5 * d / length**2) for d in (far, far_point))
        yield linear + bump + noise * np.eye(len(z)), beside + bump_point, own + smooth + noise


def _basis(z: Float) -> Float:
    """A constant and the features, scaled to their prior deviations."""
    return np.column_stack([np.full(len(z), np.sqrt(_INTERCEPT)), z])


def _evidence(half_log_det: float | Float, squares: float | Float, n: int) -> Float:
    """Logarithm of the density of n points, up to a constant that all settings share."""
    return np.asarray(-half_log_det - 0.5 * (n + _PRIOR_DF) * np.log(squares))


def _mixed(log_weight: Float, mean: Float, scale: Float, df: float) -> StudentMixture:
    return StudentMixture(np.exp(log_weight - logsumexp(log_weight)), mean, scale, df)
