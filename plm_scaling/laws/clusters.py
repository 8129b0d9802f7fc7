"""Losses by validation sequence: the second level of a bootstrap, which sequences happened to be held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from plm_scaling.laws.jets import FloatArray

__all__ = ["ResampledLosses", "ValidationClusters"]


class ResampledLosses(Protocol):
    """What gives every resample of a bootstrap its own losses."""

    def resampled(self, run_ids: Sequence[str], losses: FloatArray, draws: int, seed: int) -> FloatArray | None:
        """Ln L float64[draws, n] of runs whose losses are [n]; None where it cannot speak of one of them."""
        ...


@dataclass(frozen=True)
class ValidationClusters:
    """Loss sums of R runs on the same K clusters of validation sequences."""

    run_ids: tuple[str, ...]
    loss_sum: FloatArray
    """float64[R, K], nats."""
    n_targets: FloatArray
    """float64[K], tokens scored."""

    def resampled(self, run_ids: Sequence[str], losses: FloatArray, draws: int, seed: int) -> FloatArray | None:
        """Ln L of some runs on resampled clusters, float64[draws, n]; None where a run is not among them.

        Every run of a draw is scored on the same resample, so what is common to all runs stays common. The losses
        [n] of the table are moved by the ratio of resampled to full loss: a table may hold them per residue.

        **Source:** Davison & Hinkley 1997, section 3.8 (hierarchical data: resample both levels).
        """
        position = {run_id: i for i, run_id in enumerate(self.run_ids)}
        if any(run_id not in position for run_id in run_ids):
            return None
        sums = self.loss_sum[[position[run_id] for run_id in run_ids]]
        k = len(self.n_targets)
        counts = np.random.default_rng([seed, 1]).multinomial(k, np.full(k, 1.0 / k), size=max(draws, 1))
        mean = (counts @ sums.T) / (counts @ self.n_targets)[:, None]
        full = sums.sum(axis=1) / self.n_targets.sum()
        return np.asarray(np.log(losses * mean / full))
