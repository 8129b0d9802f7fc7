"""Training and serving together: the cheapest model of a given loss over its life, for any ensemble of laws."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.core.records import Record
from plm_scaling.core.units import format_count
from plm_scaling.laws.jets import FloatArray
from plm_scaling.sizing.law_ensemble import LawEnsemble
from plm_scaling.sizing.size_limit import fresh_size, is_held

__all__ = ["LifetimeChoice", "LifetimePlan", "lifetime_line", "lifetime_optimum"]

_N_RANGE: Final = (1e5, 1e13)
_D_RANGE: Final = (1e6, 1e16)
_SIZES: Final = 65
_TOKENS: Final = 41
_ZOOMS: Final = 6
_CUTS: Final = 17
_CUTTINGS: Final = 9
"""A step of tokens is cut in 16 so often: 1e-11 of it is left."""
_DRAW_SIZES: Final = 49
_DRAW_TOKENS: Final = 41
_LEVEL: Final = 0.8


class LifetimeChoice(Record):
    """One size, the tokens that bring it to the loss asked for, and what it takes over its life."""

    N: float
    D: float
    train_flops: float
    """6 N D."""
    inference_flops: float
    """2 N T."""

    @property
    def total_flops(self) -> float:
        """Training and inference."""
        return self.train_flops + self.inference_flops


class LifetimePlan(Record):
    """The cheapest model over its life beside the cheapest to train, both of one loss."""

    target_loss: float
    tokens: float
    """T, tokens processed at inference."""
    best: LifetimeChoice
    trained_cheapest: LifetimeChoice
    saving: float
    """Share of the lifetime cost that `best` saves over `trained_cheapest`."""
    N_low: float
    N_high: float
    """80 % of the draws, each at the loss it gives `trained_cheapest`."""
    flags: tuple[str, ...] = ()


def lifetime_optimum(
    ensemble: LawEnsemble,
    tokens: float,
    *,
    C: float | None = None,
    target_loss: float | None = None,
    unique_tokens: float | None = None,
    inference_weight: float = 1.0,
) -> LifetimePlan:
    """N and D of a loss at the least 6 N D + 2 N T, by the ensemble's own loss; repeats may count.

    Parameters
    ----------
    tokens : T, tokens processed over the model's life; 0 for training alone.
    C : training FLOPs whose compute-optimal loss is the target.
    target_loss : or the loss itself, nats per token.
    unique_tokens : training tokens that are not repeats; None for as many as needed.
    inference_weight : price of an inference FLOP over that of a training FLOP.

    Raises
    ------
    ConfigError : neither or both targets, or a number out of bounds.
    RefusedError : no size reaches the loss.

    **Source:** Sardana et al. 2023, eq. 2; found on a grid that is zoomed, so that any form has an answer.
    """
    if (C is None) == (target_loss is None):
        raise ConfigError("a lifetime needs one target: a loss, or the training budget whose loss it is")
    if not (tokens >= 0 and math.isfinite(tokens)) or not inference_weight >= 0:
        raise ConfigError("inference tokens and their weight cannot be negative", why=f"{tokens}, {inference_weight}")
    target, top = target_loss, _N_RANGE[1]
    if C is not None:
        target, top = _loss_at(ensemble, C, unique_tokens)
    assert target is not None
    price = inference_weight * tokens

    def tokens_for(N: FloatArray) -> FloatArray:
        return _tokens_for(ensemble, N, target, unique_tokens)

    best, cheapest = _cheapest(tokens_for, price, top), _cheapest(tokens_for, 0.0, top)
    if best is None or cheapest is None:
        raise RefusedError(
            f"no size reaches a loss of {target:.4g} nats per token",
            why="the laws' lowest loss lies above it" if unique_tokens is None else "with these unique tokens",
            hint="a higher loss, or more unique tokens",
        )
    low, high, unreached = _spread(ensemble, cheapest, price, unique_tokens, top)
    chosen, reference = (_choice(*found, tokens) for found in (best, cheapest))
    totals = [6.0 * one.N * one.D + 2.0 * one.N * price for one in (chosen, reference)]
    return LifetimePlan(
        target_loss=target,
        tokens=tokens,
        best=chosen,
        trained_cheapest=reference,
        saving=1.0 - totals[0] / totals[1],
        N_low=min(low, chosen.N),
        N_high=max(high, chosen.N),
        flags=("DRAWS_DO_NOT_REACH_LOSS",) if unreached else (),
    )


def _choice(N: float, D: float, tokens: float) -> LifetimeChoice:
    return LifetimeChoice(N=N, D=D, train_flops=6.0 * N * D, inference_flops=2.0 * N * tokens)


def _loss_at(ensemble: LawEnsemble, C: float, unique: float | None) -> tuple[float, float]:
    """Lowest loss of the ensemble at 6 N D = C, and the largest size that may reach it.

    That is the size of unlimited data where it is held (`is_held`), and no bound elsewhere.
    """
    if not (C > 0 and math.isfinite(C)):
        raise ConfigError("a training budget must be a positive number of FLOPs", why=f"got {C!r}")

    def tokens(N: FloatArray) -> FloatArray:
        return np.asarray(C / (6.0 * N))

    if is_held(ensemble, tokens, unique) and (x := fresh_size(ensemble, tokens)) is not None:
        N = np.exp([x])
        return float(_losses(ensemble, N, tokens(N), unique)[0]), float(N[0])
    lower, upper = max(_N_RANGE[0], C / 6.0 / _D_RANGE[1]), min(_N_RANGE[1], C / 6.0 / _D_RANGE[0])
    for _ in range(_ZOOMS):
        N = np.geomspace(lower, upper, _SIZES)
        losses = _losses(ensemble, N, tokens(N), unique)
        at = int(np.argmin(losses))
        lower, upper = float(N[max(at - 1, 0)]), float(N[min(at + 1, _SIZES - 1)])
    return float(losses[at]), _N_RANGE[1]


def _losses(ensemble: LawEnsemble, N: FloatArray, D: FloatArray, unique: float | None) -> FloatArray:
    """The ensemble's loss at points [n], as `LawEnsemble.loss` has it."""
    U = None if unique is None else np.minimum(D, unique)
    return np.asarray(np.exp(ensemble.member_weights @ np.log(ensemble.estimates(N, D, U))))


def _tokens_for(ensemble: LawEnsemble, N: FloatArray, target: float, unique: float | None) -> FloatArray:
    """Fewest tokens at which each size [n] has the loss; inf where it never does."""
    grid = np.geomspace(*_D_RANGE, _TOKENS)
    log_D = np.tile(np.log(grid), (len(N), 1))
    rows = np.arange(len(N))
    for cutting in range(1 + _CUTTINGS):
        points = log_D.shape[1]
        flat = _losses(ensemble, np.repeat(N, points), np.exp(log_D).ravel(), unique)
        reached = flat.reshape(log_D.shape) <= target
        if cutting == 0:
            found = reached.any(axis=1)
        first = np.argmax(reached, axis=1)
        low, high = log_D[rows, np.maximum(first - 1, 0)], log_D[rows, first]
        log_D = np.linspace(low, high, _CUTS, axis=1)
    return np.where(found, np.exp(high), np.inf)


def _cheapest(tokens_for: Callable[[FloatArray], FloatArray], price: float, top: float) -> tuple[float, float] | None:
    """(N, D) of the least 6 N D + 2 N price among sizes up to `top`; None if none reaches the loss."""
    lower, upper = _N_RANGE[0], top
    for _ in range(_ZOOMS):
        N = np.geomspace(lower, upper, _SIZES)
        D = tokens_for(N)
        cost = 6.0 * N * D + 2.0 * N * price
        at = int(np.argmin(cost))
        if not math.isfinite(cost[at]):
            return None
        lower, upper = float(N[max(at - 1, 0)]), float(N[min(at + 1, _SIZES - 1)])
    return float(N[at]), float(D[at])


def _spread(
    ensemble: LawEnsemble, cheapest: tuple[float, float], price: float, unique: float | None, top: float
) -> tuple[float, float, bool]:
    """Weighted 10 and 90 % of the draws' own N, on a grid; True if over a tenth of them find none."""
    thin = ensemble.thinned(64)
    N0, D0 = cheapest
    N = N0 * np.geomspace(1e-3, min(1e2, top / N0), _DRAW_SIZES)
    D = D0 * np.geomspace(1e-2, 1e4, _DRAW_TOKENS)
    U = None if unique is None else np.minimum(D, unique)
    every = None if U is None else np.tile(U, len(N))
    losses = thin.losses(np.repeat(N, len(D)), np.tile(D, len(N)), every).reshape(-1, len(N), len(D))
    own = thin.losses(N0, D0, None if unique is None else min(D0, unique))[:, 0]
    reached = losses <= own[:, None, None]
    first = np.maximum(np.argmax(reached, axis=2), 1)
    right = np.take_along_axis(losses, first[..., None], 2)[..., 0]
    left = np.take_along_axis(losses, first[..., None] - 1, 2)[..., 0]
    part = np.clip((left - own[:, None]) / np.maximum(left - right, 1e-300), 0.0, 1.0)
    log_D = np.log(D)
    needed = np.where(reached.any(axis=2), np.exp(log_D[first - 1] + part * (log_D[first] - log_D[first - 1])), np.inf)
    cost = 6.0 * N * needed + 2.0 * N * price
    best, found = N[np.argmin(cost, axis=1)], np.isfinite(cost.min(axis=1))
    weights = thin.draw_weights * found
    order = np.argsort(best)
    summed = np.cumsum(weights[order]) / weights.sum()
    low, high = (float(best[order][np.searchsorted(summed, q)]) for q in ((1 - _LEVEL) / 2, (1 + _LEVEL) / 2))
    return low, high, bool(thin.draw_weights[~found].sum() > 0.1)


def lifetime_line(plan: LifetimePlan) -> str:
    """The plan in one sentence."""
    count = format_count
    best, other = plan.best, plan.trained_cheapest
    if plan.tokens == 0:
        return f"nothing served: {count(best.N)} on {count(best.D)} tokens is the cheapest of its loss"
    return (
        f"over {count(plan.tokens)} tokens served: {count(best.N)} (80 %: {count(plan.N_low, 2)} to "
        f"{count(plan.N_high, 2)}) on {count(best.D)} tokens, {best.total_flops:.3g} FLOPs in all, {plan.saving:.0%} "
        f"less than {count(other.N)} on {count(other.D)} of the same loss {plan.target_loss:.4g}"
    )
