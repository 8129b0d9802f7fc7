"""The optimum when attention is paid for: a token costs c(N) training FLOPs, not 6 N."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from plm_scaling.laws.bracket import root_of_rising
from plm_scaling.laws.two_powers import TwoPowers

__all__ = ["ExactOptimum", "attention_over_6nd", "exact_optimum"]

_SIZES: Final = (1e6, 1e12)
"""Parameters among which the optimum is looked for."""


class ExactOptimum(NamedTuple):
    """The best size at the true cost of a token, and what choosing it by 6 N D costs."""

    N: float
    D: float
    loss: float
    N_6nd: float
    """The size that 6 N D = C asks for."""
    regret_6nd: float
    """Loss of that size at the tokens C pays for, minus the lowest; nats."""
    token_shortfall: float
    """Share of the tokens that 6 N D promised at that size which C does not pay for."""


def attention_over_6nd(N: float, seq_len: float, width_per_layer: float) -> float:
    """FLOPs of attention over those of the matrices, s / (6 d), every token attending to `seq_len` tokens.

    The width d = (N r / 12)^(1/3) is that of N = 12 n_layers d^2 with d = r n_layers.

    **Source:** Hoffmann et al. 2022, appendix F: 24 d^2 + 4 s d forward FLOPs per token and layer.
    """
    return seq_len / (6.0 * math.exp((math.log(N) + math.log(width_per_layer / 12.0)) / 3.0))


def exact_optimum(law: TwoPowers, C: float, seq_len: float, width_per_layer: float) -> ExactOptimum:
    """The lowest loss at C training FLOPs when a token costs c(N) = 6 N (1 + s / (6 d)), 1e6 <= N <= 1e12.

    ln c is convex in ln N, hence so is the reducible loss: its slope changes sign once.

    Parameters
    ----------
    seq_len : tokens that a token attends to, s.
    width_per_layer : r = d / n_layers.
    """

    def log_cost(log_N: float) -> float:
        share = attention_over_6nd(math.exp(log_N), seq_len, width_per_layer)
        return log_N + math.log(6.0) + math.log1p(share)

    def tokens(N: float) -> float:
        return math.exp(math.log(C) - log_cost(math.log(N)))

    def excess(log_N: float) -> float:
        share = attention_over_6nd(math.exp(log_N), seq_len, width_per_layer)
        steepness = 1.0 - share / (3.0 * (1.0 + share))  # d ln c / d ln N, since s / (6 d) falls as N^(-1/3)
        gain = law.log_data_gain(math.log(C) - log_cost(log_N))
        return gain + math.log(steepness) - law.log_size_gain(log_N)

    N = math.exp(root_of_rising(excess, math.log(_SIZES[0]), math.log(_SIZES[1])))
    N_6nd = law.optimum(C)[0]
    loss = law.loss(N, tokens(N))
    share = attention_over_6nd(N_6nd, seq_len, width_per_layer)
    return ExactOptimum(
        N=N,
        D=tokens(N),
        loss=loss,
        N_6nd=N_6nd,
        regret_6nd=law.loss(N_6nd, tokens(N_6nd)) - loss,
        token_shortfall=share / (1.0 + share),
    )
