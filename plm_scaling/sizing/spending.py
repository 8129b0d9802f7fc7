"""What a sum of money buys at best: size, tokens, epochs, and unique tokens from several priced sources. numpy only.

Losses are those of a weighted ensemble of laws; the best spending has the lowest mean loss over its draws, which is
also the one with the least mean regret. Every token is visited equally often, whichever source it is of.
"""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.laws.interval import Interval, normal_strata, weighted_quantiles
from plm_scaling.laws.repeat_fit import RepeatFit
from plm_scaling.sizing.answers import decades_outside
from plm_scaling.sizing.descent import descend
from plm_scaling.sizing.law_ensemble import LawEnsemble, TokenDecay, normal_quantiles
from plm_scaling.sizing.size_limit import Purse, fresh_size, largest_claimed
from plm_scaling.sizing.token_source import TokenSource, rho_strata
from plm_scaling.sizing.training_price import TrainingPrice

__all__ = [
    "Allocation",
    "Spending",
    "allocation_at",
    "best_allocation",
    "can_turn",
    "loss_interval",
    "quantile_interval",
    "run_interval",
    "search_ensemble",
]

FloatArray = npt.NDArray[np.float64]

_SEARCH_DRAWS: Final = 6
_FULL_DRAWS: Final = 100
_NEAR: Final = 0.03
_POLISH: Final = 0.3
_POLISHED: Final = 5
"""Rounds, and the size of their first step, in which the few draws' best point is moved to that of the many."""
_LEAST_COMPUTE: Final = 1e-3
"""Share of the money that data never takes: without compute there is no model."""
_LOG_N: Final = (math.log(1e4), math.log(1e13))
_GRID: Final = 91
_KEPT: Final = 128
"""Spendings whose answers are held in memory."""
_FRESH_NODES: Final = 13
_LEAST_EPOCHS: Final = -5.0
_BEYOND: Final = 10.0
_LEAST_WORTH: Final = 1e-3
"""A distinct token is never worth less than so much of a fresh one of the target: a law takes no other tokens."""
_FEW_STRATA: Final = 4
_NOISE_STRATA: Final = 9
LEVEL: Final = 0.8


@dataclass(frozen=True)
class Spending:
    """A budget and what it may be spent on."""

    ensemble: LawEnsemble
    price: TrainingPrice
    usd: float
    unique_tokens: float | None = None
    """Unique tokens of the target at hand, free; None: as many as are trained on."""
    sources: tuple[TokenSource, ...] = ()
    """More unique tokens; they matter only where `unique_tokens` is a number."""
    N: float | None = None
    """Size, where it is settled."""
    spend_all: bool = False
    """Train as long as the money lasts, even where that makes the model worse."""

    def __post_init__(self) -> None:
        for name in ("usd", "unique_tokens", "N"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} must be a positive number", why=f"got {value!r}")

    @cached_property
    def laws(self) -> LawEnsemble:
        """The ensemble, with enough draws for what is known of repeats; losses and weights here are of its draws."""
        return _with_strata(self.ensemble)

    @cached_property
    def largest_N(self) -> float:
        """Largest size considered: ten times what laws that turn have seen, where they are all that holds it back."""
        claimed = largest_claimed(self.laws, self.unique_tokens)
        return math.exp(_LOG_N[1] if claimed is None else min(claimed, _LOG_N[1]))

    def holds(self, found: Allocation) -> bool:
        """Whether a spending repeats tokens at the size of unlimited data, as `is_held` has it."""
        decays = self.N is None and isinstance(self.ensemble.repeats, TokenDecay)
        return decays and found.unique_tokens is not None and found.unique_tokens < found.D

    @property
    def bought(self) -> tuple[TokenSource, ...]:
        """The sources that can matter."""
        return self.sources if self.unique_tokens is not None else ()


@dataclass(frozen=True)
class Allocation:
    """One way to spend the money, with its losses by every draw."""

    N: float
    D: float
    """Tokens trained on, repeats and all sources included."""
    unique_tokens: float | None
    """Distinct tokens, of all sources."""
    taken: tuple[float, ...]
    """Unique tokens from each source."""
    worth_tokens: float | None
    """What the distinct tokens are worth in fresh tokens of the target, by the rates' estimates."""
    usd_compute: float
    usd_data: float
    gpu_hours: float
    used: float
    """Share of the money for compute that is spent; below 1: training longer would make the model worse."""
    losses: FloatArray
    """Nats per token by draw of the ensemble and stratum of the sources' rates, float64[K, S]."""
    loss: float
    """Their mean."""

    @property
    def epochs(self) -> float | None:
        """Visits of every distinct token."""
        return None if self.unique_tokens is None else self.D / self.unique_tokens

    @property
    def C(self) -> float:
        """6 N D."""
        return 6.0 * self.N * self.D

    @property
    def usd(self) -> float:
        """All that is spent."""
        return self.usd_compute + self.usd_data


def can_turn(ensemble: LawEnsemble) -> bool:
    """Whether repeats can make the loss rise, so that the last of the money may be better kept."""
    return isinstance(ensemble.repeats, RepeatFit) and ensemble.repeats.form == "penalty"


def _with_strata(ensemble: LawEnsemble) -> LawEnsemble:
    """Laws that state no draws of their own, copied often enough to hold every quantile of R_D."""
    if not isinstance(ensemble.repeats, TokenDecay) or ensemble.repeats.log_sd == 0:
        return ensemble
    members = (
        replace(m, theta=m.theta[np.zeros(1 + len(normal_quantiles()), dtype=np.intp)]) if len(m.theta) == 2 else m
        for m in ensemble.members
    )
    return replace(ensemble, members=tuple(members))


def search_ensemble(ensemble: LawEnsemble, draws: int = _SEARCH_DRAWS) -> LawEnsemble:
    """A few draws of every form and of the law of repeats: enough to find where the mean loss is lowest."""
    few = ensemble.thinned(draws)
    repeats = few.repeats
    if isinstance(repeats, RepeatFit) and len(repeats.draws) > draws:
        kept = np.linspace(0, len(repeats.draws) - 1, draws).round().astype(int)
        few = replace(few, repeats=repeats.model_copy(update={"draws": tuple(repeats.draws[k] for k in kept)}))
    return few


class _Question:
    """A spending by what decides its answer, compared by content."""

    def __init__(self, spending: Spending) -> None:
        self.spending = spending
        laws = tuple(getattr(spending.ensemble, one.name) for one in fields(spending.ensemble))
        rest = (spending.usd, spending.unique_tokens, spending.bought, spending.N, spending.spend_all)
        self.digest = blake2b(pickle.dumps((laws, spending.price, rest))).digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Question) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def best_allocation(spending: Spending) -> Allocation:
    """The spending with the lowest mean loss over draws x forms x exchange rates.

    A grid over size and money for data, then a compass search; the draws are thinned for the search alone. Where only
    the worth of repeated tokens is known the size is the one that unlimited data would ask for, as `is_held` has it.

    Raises
    ------
    RefusedError : the laws give no finite loss anywhere.

    **Source:** Hoffmann et al. 2022, section 3 (loss at a budget); Muennighoff et al. 2023, section 3.1 (unique
    tokens as a resource of their own).
    """
    # Actions, marginal values, limits and pilots of one budget ask for the same spendings several times over.
    return _searched(_Question(spending))


@lru_cache(maxsize=_KEPT)
def _searched(question: _Question) -> Allocation:
    spending = question.spending
    search = _Search(spending, search_ensemble(spending.laws), _fresh_sizes(spending))
    starts = search.starts()
    values = search.means(starts, rough=True)
    if not np.any(np.isfinite(values)):
        raise RefusedError("the laws give no loss for this budget", why="none of the sizes has a finite one")
    order = np.argsort(np.where(np.isfinite(values), values, np.inf), kind="stable")[: 2 if search.m else 1]
    low, high, step = search.box()
    ends = [descend(search.means, starts[k], low, high, step, finest=_NEAR) for k in order]
    best = min(ends, key=lambda end: end[1])[0]
    return search.allocation(descend(search.full_means, best, low, high, _POLISH * step, _POLISHED)[0])


def allocation_at(spending: Spending, N: float, D: float, taken: tuple[float, ...] = ()) -> Allocation:
    """A spending of the user's own choice, whatever it costs: N parameters, D tokens, unique tokens of each source."""
    sources = spending.bought
    if len(taken) not in (0, len(sources)):
        raise ConfigError(f"{len(taken)} amounts for {len(sources)} sources of tokens")
    u = np.array(taken or (0.0,) * len(sources))
    usd_data = float(sum(source.usd_per_token * amount for source, amount in zip(sources, u, strict=True)))
    usd_compute = D * float(spending.price.usd(N))
    left = spending.usd - usd_data
    used = usd_compute / left if left > 0 else math.inf
    return _allocation(spending, N, D, u, usd_compute, usd_data, min(used, 1.0))


@dataclass(frozen=True)
class _Search:
    """Points are (ln N, root of the share of the money left that goes to each source..., ln of the epochs at most)."""

    spending: Spending
    few: LawEnsemble
    fresh: _FreshSizes | None = None
    """Sizes that are taken wherever tokens would have to be repeated."""

    @property
    def m(self) -> int:
        return len(self.spending.bought)

    @property
    def most_epochs(self) -> float:
        """Ln of ten times the most epochs that were run: what a law that turns is asked about."""
        repeats = self.few.repeats
        run = repeats.range_epochs[1] if isinstance(repeats, RepeatFit) else 1.0
        return math.log(_BEYOND * max(run, 1.0))

    @property
    def turns(self) -> bool:
        return can_turn(self.few) and self.spending.unique_tokens is not None and not self.spending.spend_all

    def box(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        N = self.spending.N
        low_N, high_N = (_LOG_N[0], math.log(self.spending.largest_N)) if N is None else (math.log(N), math.log(N))
        stop = ((_LEAST_EPOCHS, self.most_epochs, 0.2),) if self.turns else ()
        rows = ((low_N, high_N, 0.2), *(((0.0, 1.0, 0.1),) * self.m), *stop)
        low, high, step = (np.array(column) for column in zip(*rows, strict=True))
        return low, high, step

    def starts(self) -> FloatArray:
        N = self.spending.N
        sizes = np.array([math.log(N)]) if N else np.linspace(_LOG_N[0], math.log(self.spending.largest_N), _GRID)
        shares = np.array([0.0, 0.03, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0] if self.m <= 1 else [0.0, 0.15, 0.5, 1.0])
        if self.m > 2:
            shares = np.array([0.0, 0.5])
        stops = (np.linspace(_LEAST_EPOCHS, self.most_epochs, 31),) if self.turns else ()
        columns = (sizes, *((shares,) * self.m), *stops)
        return np.stack([axis.ravel() for axis in np.meshgrid(*columns, indexing="ij")], axis=1)

    def decode(self, points: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """N, D, unique tokens of each source [n, m], and money for compute [n]."""
        spending = self.spending
        N, left = np.exp(points[:, 0]), np.full(len(points), spending.usd)
        taken = np.zeros((len(points), self.m))
        for k, source in enumerate(spending.bought):
            share = points[:, 1 + k] ** 2
            if source.usd_per_token == 0:
                most = np.minimum(source.tokens, left / spending.price.usd(N))
            else:
                spare = np.maximum(left - _LEAST_COMPUTE * spending.usd, 0.0)
                most = np.minimum(spare / source.usd_per_token, source.tokens)
            taken[:, k] = share * most
            left = left - taken[:, k] * source.usd_per_token
        if self.fresh is not None and spending.unique_tokens is not None:
            held = self.fresh.at(left)
            N = np.where(left / spending.price.usd(held) > spending.unique_tokens + taken.sum(axis=1), held, N)
        with np.errstate(over="ignore"):  # more than a number holds: the laws refuse it by their range
            D = left / spending.price.usd(N)
        if self.turns and spending.unique_tokens is not None:
            D = np.minimum(D, (spending.unique_tokens + taken.sum(axis=1)) * np.exp(points[:, -1]))
        return N, D, taken, left

    @cached_property
    def fewest(self) -> LawEnsemble:
        """Enough to see which start is best."""
        return search_ensemble(self.few, 2)

    def means(self, points: FloatArray, *, rough: bool = False) -> FloatArray:
        """Mean loss float64[n]; inf where there is none. Rough: of few draws, at the middle of what is uncertain."""
        N, D, taken, _ = self.decode(points)
        few, strata = (self.fewest, 1) if rough else (self.few, _FEW_STRATA)
        repeats = few.repeats
        if isinstance(repeats, TokenDecay) and self.spending.unique_tokens is not None:
            found = _decayed_losses(self.spending, few, repeats, (N, D, taken), strata)
        else:
            found = _losses(self.spending, few, N, D, taken, strata)
        mean = np.tensordot(few.draw_weights, found, 1).mean(axis=-1)
        return np.where(np.isfinite(mean), mean, np.inf)

    @cached_property
    def full(self) -> LawEnsemble:
        """Enough for the last steps."""
        return search_ensemble(self.spending.laws, _FULL_DRAWS)

    def full_means(self, points: FloatArray) -> FloatArray:
        """Mean loss float64[n] of nearly all draws, each with its own worth of repeats."""
        N, D, taken, _ = self.decode(points)
        found = _losses(self.spending, self.full, N, D, taken, _FEW_STRATA)
        mean = np.tensordot(self.full.draw_weights, found, 1).mean(axis=-1)
        return np.where(np.isfinite(mean), mean, np.inf)

    def allocation(self, point: FloatArray) -> Allocation:
        N, D, taken, left = self.decode(point[None])
        usd_compute = float(D[0] * self.spending.price.usd(N[0])) if self.turns else float(left[0])
        used = min(usd_compute / float(left[0]), 1.0)
        return _allocation(
            self.spending, float(N[0]), float(D[0]), taken[0], usd_compute, self.spending.usd - float(left[0]), used
        )


@dataclass(frozen=True)
class _FreshSizes:
    """Sizes that unlimited data would ask for, by the money for compute; straight lines in log-log between nodes."""

    log_usd: FloatArray
    log_N: FloatArray

    def at(self, usd: FloatArray) -> FloatArray:
        """Parameters float64[n] for sums float64[n]."""
        return np.exp(np.interp(np.log(usd), self.log_usd, self.log_N))


def _purse(price: TrainingPrice, usd: float) -> Purse:
    return lambda N: usd / price.usd(N)


def _fresh_sizes(spending: Spending) -> _FreshSizes | None:
    """None where the laws of repeats, or the user, decide the size.

    The best size with all the money is that of all draws; with less it follows the estimates from there.
    """
    decays = isinstance(spending.ensemble.repeats, TokenDecay)
    if not decays or spending.unique_tokens is None or spending.N is not None:
        return None
    free = best_allocation(replace(spending, unique_tokens=None, sources=()))
    nodes = math.log(spending.usd) + np.linspace(math.log(_LEAST_COMPUTE), 0.0, _FRESH_NODES if spending.bought else 1)
    if len(nodes) == 1:
        return _FreshSizes(nodes, np.array([math.log(free.N)]))
    found = [fresh_size(spending.laws, _purse(spending.price, math.exp(log))) for log in nodes]
    sizes = np.array([math.nan if x is None else x for x in found])
    if not np.all(np.isfinite(sizes)):
        sizes = np.full(len(nodes), math.log(free.N))
    return _FreshSizes(nodes, sizes + (math.log(free.N) - sizes[-1]))


def _losses(
    spending: Spending, ensemble: LawEnsemble, N: FloatArray, D: FloatArray, taken: FloatArray, strata: int = 8
) -> FloatArray:
    """Losses float64[K, n, S] of n spendings."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        if spending.unique_tokens is None:
            return ensemble.losses(N, D)[:, :, None]
        tokens, worth = _target_tokens(spending, D, taken, strata)
        points = np.broadcast_arrays(N[:, None], tokens, worth)
        found = ensemble.losses(*(axis.ravel() for axis in points))
        return found.reshape(len(found), *points[0].shape)


def _decayed_losses(
    spending: Spending,
    few: LawEnsemble,
    decay: TokenDecay,
    points: tuple[FloatArray, FloatArray, FloatArray],
    strata: int,
) -> FloatArray:
    """`_losses` with every draw at every quantile of R_D: one call for each form, where there are few draws."""
    N, D, taken = points
    tokens, worth = (np.log(v)[..., None] for v in _target_tokens(spending, D, taken, strata))
    z = normal_strata(strata)
    fresh = np.concatenate([decay.log_worth(tokens, worth, float(quantile)) for quantile in z], axis=-1)
    where = np.broadcast_arrays(N[:, None, None], np.exp(fresh))
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        found = replace(few, repeats=None).losses(*(axis.ravel() for axis in where))
    return found.reshape(len(found), len(N), -1)


def _target_tokens(spending: Spending, D: FloatArray, taken: FloatArray, strata: int) -> tuple[FloatArray, FloatArray]:
    """Tokens trained on and distinct ones in fresh tokens of the target, float64[n, S] each.

    All D tokens are spread evenly over the distinct ones, so that D counts by what a distinct token is worth.
    """
    unique, sources = spending.unique_tokens, spending.bought
    assert unique is not None
    raw = unique + taken.sum(axis=1)
    worth = np.stack([_worth(unique, sources, taken, z) for z in rho_strata(sources, strata)], axis=1)
    worth = np.maximum(worth, _LEAST_WORTH * raw[:, None])
    return D[:, None] * (worth / raw[:, None]), worth


def _worth(unique: float, sources: tuple[TokenSource, ...], taken: FloatArray, z: FloatArray) -> FloatArray:
    """Fresh target tokens that the distinct tokens are worth, float64[n]."""
    worth = np.full(len(taken), unique)
    for k, source in enumerate(sources):
        worth = worth + source.worth(taken[:, k], float(z[k]))
    return worth


def _allocation(
    spending: Spending, N: float, D: float, taken: FloatArray, usd_compute: float, usd_data: float, used: float
) -> Allocation:
    ensemble, sources = spending.laws, spending.bought
    losses = _losses(spending, ensemble, np.array([N]), np.array([D]), taken[None])[:, 0, :]
    raw = worth = None
    if spending.unique_tokens is not None:
        raw = spending.unique_tokens + float(taken.sum())
        worth = float(_worth(spending.unique_tokens, sources, taken[None], np.zeros(len(sources)))[0])
        worth = max(worth, _LEAST_WORTH * raw)
    return Allocation(
        N=N,
        D=D,
        unique_tokens=raw,
        taken=tuple(taken.tolist()),
        worth_tokens=worth,
        usd_compute=usd_compute,
        usd_data=usd_data,
        gpu_hours=D * float(spending.price.hours(N)),
        used=used,
        losses=losses,
        loss=float((ensemble.draw_weights @ losses).mean()),
    )


def quantile_interval(
    values: FloatArray, weights: FloatArray, value: float | None = None, level: float = LEVEL
) -> Interval:
    """Central interval of weighted values float64[k] or [k, S] (weights [k]); `value` or else their mean."""
    spread = np.broadcast_to(values.T, (*values.shape[1:], len(weights))).reshape(-1, len(weights))
    w = np.tile(weights, len(spread)) / len(spread)
    flat = spread.ravel()
    low, high = weighted_quantiles(flat, w, [0.5 - 0.5 * level, 0.5 + 0.5 * level])
    centre = float(w @ flat) if value is None else value
    return Interval(value=centre, low=min(float(low), centre), high=max(float(high), centre), level=level)


def loss_interval(spending: Spending, found: Allocation, level: float = LEVEL) -> Interval:
    """Interval of the loss that one run would have: draws, forms, exchange rates, noise of a run, and extrapolation."""
    return run_interval(spending.laws, found.losses, found.loss, found.C, level)


def run_interval(laws: LawEnsemble, losses: FloatArray, value: float, C: float, level: float = LEVEL) -> Interval:
    """Interval of one run of C = 6 N D FLOPs whose losses by the law are float64[K, S].

    **Source:** law of total variance; the extrapolation term grows with the root of the decades beyond the runs.
    """
    decades = decades_outside(C, laws.range_C)
    sd = math.hypot(laws.noise_sd, laws.drift_sd * math.sqrt(decades))
    spread = losses[:, :, None] * np.exp(sd * normal_strata(_NOISE_STRATA))
    return quantile_interval(spread.reshape(len(losses), -1), laws.draw_weights, value, level)
