"""What observations would be worth before they are made, over weighted draws of laws. numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Beliefs", "ObservationError"]

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.intp]


@dataclass(frozen=True)
class ObservationError:
    """Error of observed ln losses about a law's: of every run by itself, and one shift common to all of them."""

    sd: FloatArray
    """float64[J]."""
    common_sd: float = 0.0
    """Of the shift that all runs share: another corpus or validation set than the laws'."""

    def take(self, keep: npt.NDArray[np.intp]) -> ObservationError:
        """The error of some of the runs."""
        return ObservationError(self.sd[keep], self.common_sd)

    def whitened(self, values: FloatArray) -> FloatArray:
        """Values float64[..., J] in units in which errors are independent with variance 1."""
        covariance = np.diag(self.sd**2) + self.common_sd**2
        factor = np.linalg.cholesky(covariance)
        return np.asarray(np.linalg.solve(factor, values.reshape(-1, len(self.sd)).T).T.reshape(values.shape))


@dataclass(frozen=True)
class Beliefs:
    """Weighted draws, and the loss of every possible decision under each."""

    weights: FloatArray
    """float64[K]; they sum to one."""
    losses: FloatArray
    """Loss of every decision, float64[K, A], nats."""

    @property
    def choice(self) -> int:
        """The decision with the lowest expected loss."""
        return int(np.argmin(self.weights @ self.losses))

    @property
    def perfect(self) -> float:
        """EVPI: expected regret of that decision, which knowing the true law would save."""
        best = self.losses.min(axis=1)
        return max(float(self.weights @ (self.losses[:, self.choice] - best)), 0.0)

    def after(self, predicted: FloatArray, observed: FloatArray, error: ObservationError) -> Beliefs:
        """Beliefs once runs were observed: draws count by the likelihood of what was seen.

        Parameters
        ----------
        predicted : ln losses of the runs by every draw, float64[K, J]. observed : float64[J].
        """
        distance = ((error.whitened(predicted) - error.whitened(observed[None])) ** 2).sum(axis=1)
        log_w = np.log(self.weights) - 0.5 * distance
        likely = np.exp(log_w - log_w.max())
        return Beliefs(likely / likely.sum(), self.losses)

    def sample(
        self, predicted: FloatArray, error: ObservationError, *, outcomes: int = 256, seed: int = 0
    ) -> tuple[float, float]:
        """EVSI of observing runs, and its standard error, nats.

        Each outcome takes one draw for the truth, adds errors to its losses, reweights all other draws, decides, and
        is paid by the truth. The truth itself is left out: among finitely many draws it would be recognised too
        easily. The value is held between zero (results may be ignored) and that of perfect information.

        Parameters
        ----------
        predicted : ln losses of the runs by every draw, float64[K, J].

        **Source:** Raiffa & Schlaifer 1961, chapter 4 (preposterior analysis); Strong et al. 2015 for EVSI by sampling.
        """
        if predicted.shape[1] == 0:
            return 0.0, 0.0
        truth, chosen = self.decisions(predicted, error, outcomes=outcomes, seed=seed)
        gains = self.losses[truth, self.choice] - self.losses[truth, chosen]
        value = min(max(float(gains.mean()), 0.0), self.perfect)
        return value, float(gains.std(ddof=1) / np.sqrt(outcomes))

    def decisions(
        self, predicted: FloatArray, error: ObservationError, *, outcomes: int = 256, seed: int = 0
    ) -> tuple[IndexArray, IndexArray]:
        """The draw that is true in each outcome, and the decision taken after its runs were seen, [outcomes] each.

        Parameters
        ----------
        predicted : ln losses of the runs by every draw, float64[K, J].
        """
        rng = np.random.default_rng(seed)
        # Systematic resampling: every draw stands for the truth as often as it weighs.
        at = (np.arange(outcomes) + rng.random()) / outcomes
        truth = np.minimum(np.searchsorted(np.cumsum(self.weights), at), len(self.weights) - 1)
        if len(self.weights) == 1 or predicted.shape[1] == 0:
            return truth, np.full(outcomes, self.choice)
        noise = rng.standard_normal((outcomes, predicted.shape[1]))
        z = error.whitened(predicted)
        seen = z[truth] + noise
        squares = (seen**2).sum(axis=1)[:, None] + (z**2).sum(axis=1)[None] - 2.0 * seen @ z.T
        log_w = np.log(np.maximum(self.weights, 1e-300)) - 0.5 * squares
        log_w[np.arange(outcomes), truth] = -np.inf
        likely = np.exp(log_w - log_w.max(axis=1, keepdims=True))
        return truth, (likely @ self.losses).argmin(axis=1)
