"""Losses of every draw over the sizes and stops a budget allows; the best for each draw and for all together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import RefusedError
from plm_scaling.laws.repeat_fit import RepeatFit
from plm_scaling.sizing.interpolation import PanelGrid, lowest_point
from plm_scaling.sizing.law_ensemble import LawEnsemble
from plm_scaling.sizing.size_limit import SCAN, SIZES, Purse, largest_claimed

__all__ = ["Purse", "Search", "search_sizes"]

FloatArray = npt.NDArray[np.float64]
_MARGIN: Final = 2.5 * math.log(10.0)
"""Sizes on either side of the forms' best that draws are followed to."""
_NODES_PER_UNIT: Final = 3.4
"""Nodes per unit of ln N: sums of powers whose exponents add up to 1 are then interpolated to 1e-9 nats."""
_FINE: Final = 385
_LEAST_PANEL: Final = 1e-3
_COARSE_STEP: Final = 0.2
"""Of ln N, on which every draw is first searched."""
_REFINED: Final = 0.03
"""Of ln N about that: the vertex of the parabola through three points is then exact to 1e-4."""
_STOP_NODES: Final = 21
_STOPS: Final = 49
_TURNING_DRAWS: Final = 120
"""Of a form, where stopping early is a choice of its own."""
_QUADRATIC_STOP: Final = 1e-3
_BEYOND: Final = 10.0
"""Epochs beyond so many times the most that were run are not claimed where repeats are penalised."""


@dataclass(frozen=True)
class Search:
    """Losses [K draws, T stops, P sizes] at the nodes of a grid over x = ln N and the stop t in [0, 1].

    Stop t spends D = D_low (D_full / D_low)^t of the tokens D_full that the budget pays for; with laws that cannot
    turn upwards t = 1 is the only one. Where there are stops `values` are ln L: penalties span orders of magnitude.
    """

    ensemble: LawEnsemble
    tokens: Purse
    unique_tokens: float | None
    sizes: PanelGrid
    stops: PanelGrid | None
    values: FloatArray

    @cached_property
    def x(self) -> FloatArray:
        """Even grid of ln N, float64[M]."""
        return np.linspace(self.sizes.breaks[0], self.sizes.breaks[-1], _FINE)

    @cached_property
    def mean(self) -> FloatArray:
        """Mean loss along `x`, float64[M]."""
        return self.mean_along(self.x)

    @cached_property
    def weights(self) -> FloatArray:
        """Of the draws, [K]."""
        return self.ensemble.draw_weights

    @cached_property
    def own_best(self) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
        """Of every draw: ln N of its lowest loss, that loss, and whether it lies at the end of the search, [K]."""
        x = self._coarse
        losses = self._along(self.values, x)[:, 0] if self.stops is None else self._lowest_over_stops(x)
        offset, lowest, index = lowest_point(losses, float(x[1] - x[0]))
        best, at_end = x[0] + offset, (index == 0) | (index == len(x) - 1)
        near = np.clip(best[:, None] + _REFINED * np.array([-1.0, 0.0, 1.0]), x[0], x[-1])
        offset, lower, _ = lowest_point(self._each_at(near), _REFINED)
        return np.where(at_end, best, near[:, 0] + offset), np.where(at_end, lowest, lower), at_end

    def tokens_at(self, N: FloatArray, stop: FloatArray) -> FloatArray:
        """Tokens of sizes [n] at their stops [n]."""
        full = self.tokens(N)
        return np.asarray(full if self.stops is None else _stopped(self.ensemble, full, self.unique_tokens, stop))

    def best_stops(self, x: FloatArray) -> FloatArray:
        """The stop with the lowest mean loss at every size, [n]."""
        if self.stops is None:
            return np.ones(len(x))
        grid = np.linspace(0.0, 1.0, _STOPS)
        mean = self.stops.matrix(grid).T @ self._mean @ self.sizes.matrix(x)
        return np.clip(lowest_point(np.ascontiguousarray(mean.T), float(grid[1]))[0], 0.0, 1.0)

    def losses_along(self, x: FloatArray, which: npt.NDArray[np.intp] | slice = slice(None)) -> FloatArray:
        """Losses float64[k, n] of some draws at sizes x [n], each size at the stop that is best on average."""
        by_size = self._along(self.values[which], x)
        if self.stops is None:
            return np.asarray(by_size[:, 0])
        return np.asarray(np.exp(np.einsum("ktn,tn->kn", by_size, self.stops.matrix(self.best_stops(x)))))

    def mean_along(self, x: FloatArray) -> FloatArray:
        """Mean loss at sizes x [n], each at its best stop."""
        mean = self._mean @ self.sizes.matrix(x)
        if self.stops is None:
            return np.asarray(mean[0])
        return np.asarray(np.exp((mean * self.stops.matrix(self.best_stops(x))).sum(axis=0)))

    def best_plan(self) -> tuple[float, float]:
        """Ln N and stop of the lowest mean loss.

        Along sizes alone by windows on the interpolated mean, to six digits. With stops by windows of exact losses
        around the best node, good to 1e-5 nats: where a penalty sets in, losses bend too sharply for the nodes.
        """
        if self.stops is None:
            return self._narrowed(self.mean_along, float(self.x[self.mean.argmin()]), float(self.x[1] - self.x[0])), 1.0
        t, x = np.unravel_index(int(self._mean.argmin()), self._mean.shape)
        plan = np.array([self.sizes.nodes[x], self.stops.nodes[t]])
        width = np.array([0.6, 0.15])
        floor, top = np.array([self.x[0], 0.0]), np.array([self.x[-1], 1.0])
        while width[0] > 3e-4:
            low, high = np.maximum(plan - width, floor), np.minimum(plan + width, top)
            # All of the budget is always tried: where it hardly pays for one pass, every stop is nearly the same.
            grid = np.meshgrid(np.linspace(low[0], high[0], 7), np.append(np.linspace(low[1], high[1], 7), 1.0))
            # The point reached so far stays among those compared: a window never ends above where it began.
            sizes, stops = (np.append(axis.ravel(), plan[k]) for k, axis in enumerate(grid))
            N = np.exp(sizes)
            losses = self.ensemble.losses(N, self.tokens_at(N, stops), self.unique_tokens)
            best = int((self.weights @ losses).argmin())
            plan, width = np.array([sizes[best], stops[best]]), 0.55 * width
        return float(plan[0]), float(plan[1])

    def best_size(self) -> float:
        """Ln N of the lowest mean loss."""
        return self.best_plan()[0]

    def minimax_size(self) -> float:
        """Ln N of the smallest largest regret over the draws."""
        x, lowest, late = self._coarse, self.own_best[1], np.arange(len(self.weights))
        for _ in range(2):
            regrets = self.losses_along(x, late) - lowest[late, None]
            worst = regrets.max(axis=0)
            at, step = int(worst.argmin()), float(x[1] - x[0])
            # Only draws that are among the worst nearby can be the worst at the lowest point.
            late = late[regrets[:, max(at - 1, 0) : at + 2].max(axis=1) >= 0.5 * worst[at]]
            centre = float(x[at])
            x = np.linspace(max(centre - step, self.x[0]), min(centre + step, self.x[-1]), 9)

        def largest(x: FloatArray) -> FloatArray:
            return np.asarray((self.losses_along(x, late) - lowest[late, None]).max(axis=0))

        return self._narrowed(largest, centre, step)

    @cached_property
    def _coarse(self) -> FloatArray:
        low, high = self.sizes.breaks[0], self.sizes.breaks[-1]
        return np.linspace(low, high, math.ceil((high - low) / _COARSE_STEP) + 1)

    @cached_property
    def _mean(self) -> FloatArray:
        """Mean loss at the nodes, [T, P]; its logarithm where `values` are logarithms."""
        if self.stops is None:
            return np.asarray(np.tensordot(self.weights, self.values, axes=1))
        return np.asarray(np.log(np.tensordot(self.weights, np.exp(self.values), axes=1)))

    def _narrowed(self, value: Callable[[FloatArray], FloatArray], centre: float, width: float) -> float:
        while width > 1e-6:
            x = np.clip(np.linspace(centre - width, centre + width, 17), self.x[0], self.x[-1])
            centre, width = float(x[value(x).argmin()]), width / 7.0
        return centre

    def _along(self, values: FloatArray, x: FloatArray) -> FloatArray:
        return np.asarray(values @ self.sizes.matrix(x))

    def _each_at(self, x: FloatArray) -> FloatArray:
        """Losses float64[K, n] of every draw at sizes x [K, n] of its own, each at its own best stop."""
        here = self.sizes.matrix(x.ravel()).reshape(-1, *x.shape)
        by_size = np.einsum("ktp,pkn->ktn", self.values, here, optimize=True)
        if self.stops is None:
            return np.asarray(by_size[:, 0])
        return self._over_stops(by_size)

    def _lowest_over_stops(self, x: FloatArray) -> FloatArray:
        return self._over_stops(self._along(self.values, x))

    def _over_stops(self, by_size: FloatArray) -> FloatArray:
        """Lowest over the stops of losses [K, T, n], float64[K, n]."""
        assert self.stops is not None
        grid = np.linspace(0.0, 1.0, _STOPS)
        losses = np.moveaxis(np.matmul(self.stops.matrix(grid).T, by_size), 1, 2)
        return np.asarray(np.exp(lowest_point(losses.reshape(-1, _STOPS), float(grid[1]))[1].reshape(losses.shape[:2])))


def search_sizes(ensemble: LawEnsemble, tokens: Purse, unique_tokens: float | None = None) -> Search:
    """Evaluate an ensemble over the sizes, and where it can turn upwards the stops, that a budget allows.

    Raises
    ------
    RefusedError : no form of the ensemble has a lowest loss at this budget.
    """
    turns = _turns(ensemble, unique_tokens)
    if turns:
        ensemble = ensemble.thinned(_TURNING_DRAWS)
    low, high = _span(ensemble, tokens, unique_tokens, turns)
    if (cap := largest_claimed(ensemble, unique_tokens)) is not None:
        high = min(high, cap)
        low = min(low, high - _MARGIN)
    breaks = _breaks(low, high, tokens, unique_tokens)
    sizes = PanelGrid(breaks, tuple(_nodes_for(after - before) for before, after in pairwise(breaks)))
    stops = PanelGrid((0.0, 1.0), (_STOP_NODES,)) if turns else None
    N, t = np.exp(sizes.nodes), np.ones(1) if stops is None else stops.nodes
    grid_t, grid_N = (axis.ravel() for axis in np.meshgrid(t, N, indexing="ij"))
    full = np.tile(tokens(N), len(t))
    D = full if stops is None else _stopped(ensemble, full, unique_tokens, grid_t)
    losses = ensemble.losses(grid_N, D, unique_tokens).reshape(-1, len(t), len(N))
    return Search(ensemble, tokens, unique_tokens, sizes, stops, losses if stops is None else np.log(losses))


def _turns(ensemble: LawEnsemble, unique_tokens: float | None) -> bool:
    """Whether more tokens can raise a loss: by a penalty on repeats, or by a quadratic beyond its vertex."""
    penalty = isinstance(ensemble.repeats, RepeatFit) and ensemble.repeats.form == "penalty"
    return (penalty and unique_tokens is not None) or _quadratic(ensemble)


def _quadratic(ensemble: LawEnsemble) -> bool:
    return any(member.form.name == "log_quadratic" for member in ensemble.members)


def _stopped(ensemble: LawEnsemble, full: FloatArray, unique_tokens: float | None, stop: FloatArray) -> FloatArray:
    """Tokens at stops: from one pass over the unique tokens to all the budget pays for, or ten times the epochs run."""
    if _quadratic(ensemble) or unique_tokens is None:
        return np.asarray(_QUADRATIC_STOP * full * (1.0 / _QUADRATIC_STOP) ** stop)
    low, repeats = np.minimum(full, unique_tokens), ensemble.repeats
    if isinstance(repeats, RepeatFit):
        full = np.minimum(full, unique_tokens * _BEYOND * max(repeats.range_epochs[1], 1.0))
    return np.asarray(low * (full / low) ** stop)


def _span(ensemble: LawEnsemble, tokens: Purse, unique_tokens: float | None, turns: bool) -> tuple[float, float]:
    """Ln N of the smallest and the largest size worth looking at: the forms' own best and 2.5 decades about them."""
    x = np.linspace(*SIZES, SCAN)
    N = np.exp(x)
    full, best = tokens(N), []
    for stop in np.linspace(0.0, 1.0, 9) if turns else (1.0,):
        D = _stopped(ensemble, full, unique_tokens, np.full(len(N), stop)) if turns else full
        best.append(ensemble.estimates(N, D, unique_tokens))
    index = np.min(best, axis=0).argmin(axis=1)
    inside = index[(index > 0) & (index < len(x) - 1)]
    if not inside.size:
        names = ", ".join(member.name for member in ensemble.members)
        raise RefusedError(
            "no size is best for this budget",
            why=f"the lowest loss lies outside 1e3 to 1e15 parameters, or there is none, under {names}",
            hint="a budget and unique tokens nearer to the runs, or a form with A N^-alpha + B D^-beta",
        )
    return max(float(x[inside.min()]) - _MARGIN, SIZES[0]), min(float(x[inside.max()]) + _MARGIN, SIZES[1])


def _nodes_for(width: float) -> int:
    """Nodes of a panel so wide in ln N."""
    return max(9 + math.ceil(2.2 * width), math.ceil(_NODES_PER_UNIT * width))


def _breaks(low: float, high: float, tokens: Purse, unique_tokens: float | None) -> tuple[float, ...]:
    """Ends of the panels: kinks of the purse, and where its tokens are just as many as the unique ones."""
    kinks = [math.log(N) for N in getattr(tokens, "kinks", ())]
    if (last := _tokens_run_out(low, high, tokens, unique_tokens)) is not None:
        kinks.append(last)
    breaks = [low]
    for kink in sorted(kinks):
        if kink - breaks[-1] > _LEAST_PANEL and high - kink > _LEAST_PANEL:
            breaks.append(kink)
    return (*breaks, high)


def _tokens_run_out(low: float, high: float, tokens: Purse, unique_tokens: float | None) -> float | None:
    """Ln N below which the budget pays for more tokens than are unique; None where it does everywhere, or nowhere."""

    def more(x: float) -> bool:
        return float(tokens(np.array([math.exp(x)]))[0]) > (unique_tokens or math.inf)

    if more(high) or not more(low):
        return None
    left, right = low, high
    for _ in range(50):
        middle = 0.5 * (left + right)
        left, right = (middle, right) if more(middle) else (left, middle)
    return 0.5 * (left + right)
