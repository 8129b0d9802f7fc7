"""What a token of a data pool costs: positions, squared lengths and distinct tokens behind a run's streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.run import RunConfig, Stream
from plm_scaling.core.schedule import Schedule
from plm_scaling.corpus.packing import WindowStats, window_stats
from plm_scaling.corpus.reader import Corpus

__all__ = ["PoolCost", "flops_per_token", "pool_cost"]


@dataclass(frozen=True)
class PoolCost:
    """Means over the windows a run draws, its streams weighted by their shares.

    Attributes
    ----------
    tokens_per_window : tokens (residues and `<eos>`) of a drawn window.
    positions_per_token : processed positions per token; above 1 by the share of `<cls>`.
    squares_per_token : sum of squared document lengths (positions^2) per token.
    unique_tokens : distinct tokens in the pools of all streams.
    stream_tokens : distinct tokens of each stream's pool; with cluster sampling of all members, not of one epoch.
    stream_windows : windows of each stream's pool, with cluster sampling of its first epoch.
    shares : share of the tokens that each stream contributes, summing to 1.
    """

    tokens_per_window: float
    positions_per_token: float
    squares_per_token: float
    unique_tokens: int
    stream_tokens: tuple[int, ...]
    stream_windows: tuple[int, ...]
    shares: tuple[float, ...]

    def steps(self, config: RunConfig) -> int:
        """Optimiser steps that come closest to the run's D."""
        return max(1, round(config.D / (config.windows_per_batch * self.tokens_per_window)))

    def schedule(self, config: RunConfig) -> Schedule:
        """The learning rates of the run, as its training will work them out."""
        return Schedule.of(config, self.steps(config), self.tokens_per_window * config.windows_per_batch)

    def epochs(self, D: float) -> float:
        """Passes over all distinct tokens that D training tokens amount to."""
        return D / self.unique_tokens

    def most_epochs(self, D: float) -> float:
        """Passes over the stream that is repeated most."""
        return max(D * share / tokens for share, tokens in zip(self.shares, self.stream_tokens, strict=True))


def pool_cost(corpus: Corpus, streams: Sequence[Stream], context: int) -> PoolCost:
    """Cost of the streams' windows; packing is worked out once per pool and cached by the corpus.

    With cluster sampling they are the windows of the first epoch: those of other epochs hold other members of the
    same clusters, and are as full.

    Raises
    ------
    PlanError : unknown source, or a pool without sequences.
    """
    stats = [window_stats(corpus, stream, context) for stream in streams]
    weights = [stream.weight / sum(other.weight for other in streams) for stream in streams]
    tokens = [w * s.tokens / s.n_windows for w, s in zip(weights, stats, strict=True)]
    # To the last bit what `Batches` divides by: a run's steps must not depend on who counts them.
    raw = [stream.weight for stream in streams]
    per_window = sum(w * s.tokens_per_window for w, s in zip(raw, stats, strict=True)) / sum(raw)
    distinct = tuple(
        corpus.pool_tokens(stream) if stream.sampling == "cluster50" else s.tokens
        for stream, s in zip(streams, stats, strict=True)
    )
    return PoolCost(
        tokens_per_window=per_window,
        positions_per_token=_mean([s.positions for s in stats], stats, weights) / per_window,
        squares_per_token=_mean([s.sum_length_squared for s in stats], stats, weights) / per_window,
        unique_tokens=sum(distinct),
        stream_tokens=distinct,
        stream_windows=tuple(s.n_windows for s in stats),
        shares=tuple(t / per_window for t in tokens),
    )


def _mean(totals: Sequence[int], stats: Sequence[WindowStats], weights: Sequence[float]) -> float:
    """Weighted mean per window of a quantity given by its totals."""
    return sum(w * total / s.n_windows for w, total, s in zip(weights, totals, stats, strict=True))


def flops_per_token(shape: ModelShape, cost: PoolCost, currency: Literal["C_exact", "C_6nd"]) -> float:
    """Training FLOPs per token in the given currency: C = D x this.

    **Source:** `ModelShape.training_flops` (Hoffmann et al. 2022, appendix F); 6 N (Kaplan et al. 2020).
    """
    if currency == "C_6nd":
        return 6.0 * shape.N
    return shape.training_flops(positions=cost.positions_per_token, sum_length_squared=cost.squares_per_token)
