"""What a run costs and how well it uses the machine: exact FLOPs, 6ND, tokens/s, MFU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch

from plm_scaling.core.run import RunConfig
from plm_scaling.core.units import six_nd
from plm_scaling.corpus.batches import Batches
from plm_scaling.training.memory import peak_memory_bytes
from plm_scaling.training.peak import known_peak

__all__ = ["Meter", "flops_per_token"]


def flops_per_token(config: RunConfig, batches: Batches) -> float:
    """Mean exact training FLOPs of a token, over the first pass of the run's streams weighted by their shares.

    **Source:** `ModelShape.training_flops`. The record's `C_exact` sums over the documents really drawn.
    """
    weights = batches.order.weights
    stats = [batches.pass_stats(number, 0) for number in range(len(weights))]

    shares = [weight / stat.n_windows for weight, stat in zip(weights, stats, strict=True)]
    tokens = sum(share * stat.tokens for share, stat in zip(shares, stats, strict=True))
    positions = sum(share * stat.positions for share, stat in zip(shares, stats, strict=True))
    squared = sum(share * stat.sum_length_squared for share, stat in zip(shares, stats, strict=True))
    return config.shape.training_flops(positions=positions / tokens, sum_length_squared=squared / tokens)


@dataclass(frozen=True)
class Meter:
    """Turns tokens and seconds into the numbers of a line of metrics.

    Attributes
    ----------
    exact, six_n : FLOPs of a token, by exact count and as 6N.
    peak : measured FLOP/s of all devices of the run; None if never measured here.
    device : of this process.
    """

    exact: float
    six_n: float
    peak: float | None
    device: torch.device

    @classmethod
    def of(cls, config: RunConfig, batches: Batches, device: torch.device, *, threads: int, world_size: int) -> Self:
        """The meter of a run; reads the known peaks once."""
        peak = known_peak(device, config.dtype, threads)
        whole = None if peak is None else peak * world_size
        return cls(flops_per_token(config, batches), six_nd(config.N, 1), whole, device)

    def mfu(self, tokens_per_s: float | None) -> float | None:
        """Exact FLOP/s over the measured peak.

        **Source:** Chowdhery et al. 2022 (PaLM), appendix B, with exact FLOPs and a measured peak.
        """
        return None if tokens_per_s is None or self.peak is None else tokens_per_s * self.exact / self.peak

    def memory(self) -> int | None:
        """Peak memory so far, bytes."""
        return peak_memory_bytes(self.device)

    def line(self, D: int, tokens_per_s: float | None) -> dict[str, float | None]:
        """What a logged line says beside the loss.

        Parameters
        ----------
        D : tokens seen.
        tokens_per_s : since the line before, validation excluded.
        """
        return {
            "tokens_per_s": tokens_per_s,
            "mfu": self.mfu(tokens_per_s),
            "memory_bytes": self.memory(),
            "flops": self.exact * D,
            "flops_6nd": self.six_n * D,
        }
