"""How much a run that has not been made yet would say about a quantity, by the draws of a fit. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["Beliefs"]

FloatArray = npt.NDArray[np.float64]

_RIDGE: Final = 1e-12
"""Added to variances: draws that all agree leave nothing to learn, and no zero to divide by."""


@dataclass(frozen=True)
class Beliefs:
    """Covariance of a target quantity g (first) and of the losses y_j that candidate runs would have.

    A run at j observes y_j with independent noise of variance s^2. For jointly normal g and y its result lowers the
    variance of g by cov(g, y_j)^2 / (var(y_j) + s^2), whatever the result is; afterwards all covariances are those of
    the conditional distribution. Over the draws of a fit this is the linearised (Laplace) Bayesian design.

    **Source:** Chaloner & Verdinelli 1995, section 2 (Bayesian c-optimality); the gain is that of Gaussian conditioning
    (Rasmussen & Williams 2006, equation A.6).

    Attributes
    ----------
    covariance : float64[1 + J, 1 + J].
    noise_variance : s^2 of one run, in the losses' unit squared.
    """

    covariance: FloatArray
    noise_variance: float

    @classmethod
    def of(cls, target: FloatArray, losses: FloatArray, noise_sd: float) -> Beliefs:
        """From draws.

        Parameters
        ----------
        target : g of every draw, float64[B].
        losses : y_j of every draw, float64[B, J].
        noise_sd : of a single run's loss.
        """
        joint = np.column_stack([target, losses])
        return cls(np.atleast_2d(np.cov(joint, rowvar=False)), noise_sd**2)

    @property
    def variance(self) -> float:
        """Of g."""
        return float(self.covariance[0, 0])

    def gains(self) -> FloatArray:
        """Reduction of the variance of g by each candidate alone, float64[J]."""
        own = np.diag(self.covariance)[1:] + self.noise_variance + _RIDGE
        return np.asarray(self.covariance[0, 1:] ** 2 / own)

    def after(self, candidate: int) -> Beliefs:
        """Beliefs once this candidate has been run."""
        column = self.covariance[:, 1 + candidate]
        own = column[1 + candidate] + self.noise_variance + _RIDGE
        return Beliefs(self.covariance - np.outer(column, column) / own, self.noise_variance)

    def after_all(self, candidates: Sequence[int]) -> Beliefs:
        """Beliefs once all of these have been run."""
        found = self
        for candidate in candidates:
            found = found.after(candidate)
        return found
