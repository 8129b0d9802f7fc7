"""What a sweep would teach an ensemble of laws about the size to train, before it is run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from plm_scaling.laws.interval import normal_strata
from plm_scaling.laws.jets import FloatArray
from plm_scaling.sizing.decision_search import Search, search_sizes
from plm_scaling.sizing.information_value import Beliefs, ObservationError
from plm_scaling.sizing.law_ensemble import LawEnsemble, LawMember

__all__ = ["Regrets", "SweepDesign", "doubted", "expected_optimum", "regrets_of_choice", "sweep_design"]

_SIZES: Final = 161
_BUDGETS: Final = (1.0, 1.0 / 4.0, 1.0 / 16.0)
_FACTORS: Final = (0.25, 0.5, 1.0, 2.0, 4.0)
_TRUTHS: Final = 256
_HALVINGS: Final = 60
_STRATA: Final = 4
_FREE_LEVEL: Final = 1.0
"""Of ln L: as good as unknown. Losses of another corpus differ by their level most."""
_C_RANGE: Final = (math.log(1e6), math.log(1e32))


@dataclass(frozen=True)
class SweepDesign:
    """Sizes at three budgets, each a quarter of the next: what an isoFLOP sweep of so many hours can hold."""

    N: FloatArray
    """[n], block parameters."""
    D: FloatArray
    """[n], tokens."""
    C_top: float
    """Largest budget, FLOPs."""


def sweep_design(
    gpu_hours: float, optimum: Callable[[float], float], speed: Callable[[float], float]
) -> SweepDesign | None:
    """Five sizes about the expected optimum, a factor of two apart, at three budgets; None for no hours.

    Parameters
    ----------
    optimum : FLOPs -> block parameters.
    speed : block parameters -> 6 N D FLOPs per second of one accelerator.
    """
    if gpu_hours <= 0:
        return None

    def points(C_top: float) -> tuple[FloatArray, FloatArray]:
        sizes = [(optimum(C_top * share) * factor, C_top * share) for share in _BUDGETS for factor in _FACTORS]
        N = np.array([size for size, _ in sizes])
        return N, np.array([C for _, C in sizes]) / (6.0 * N)

    def hours(C_top: float) -> float:
        N, D = points(C_top)
        return math.fsum(6.0 * n * d / speed(n) / 3600.0 for n, d in zip(N.tolist(), D.tolist(), strict=True))

    low, high = _C_RANGE
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if hours(math.exp(middle)) <= gpu_hours else (low, middle)
    return SweepDesign(*points(math.exp(low)), math.exp(low))


def expected_optimum(ensemble: LawEnsemble, budgets: Sequence[float]) -> Callable[[float], float]:
    """FLOPs -> size of the lowest mean loss of an ensemble: a line in logs through its sizes at some budgets."""
    log_N = [search_sizes(ensemble, lambda N, C=C: C / (6.0 * N)).best_size() for C in budgets]  # type: ignore[misc]
    slope, level = np.polyfit(np.log(np.asarray(budgets, dtype=np.float64)), log_N, 1).tolist()
    return lambda C: math.exp(level + slope * math.log(C))


def doubted(ensemble: LawEnsemble, log_N_sd: float) -> LawEnsemble:
    """An ensemble whose best N may lie elsewhere for another corpus: each law moved along its budgets by a factor.

    L'(N, D) = L(N / f, f D) has the same lowest loss at every budget, at f times the size; f is log-normal, dealt out
    to the draws in quantiles.

    Parameters
    ----------
    log_N_sd : standard deviation of ln f; 0 leaves the laws as they are.
    """
    if log_N_sd == 0:
        return ensemble
    strata = normal_strata(_STRATA)
    shifts = (log_N_sd * strata / strata.std()).tolist()

    def moved(member: LawMember) -> list[LawMember]:
        draws = member.theta[1:]
        own = [draws[k::_STRATA] if len(draws) >= _STRATA else draws for k in range(_STRATA)]
        return [
            replace(
                member,
                weight=member.weight / _STRATA,
                theta=np.concatenate([member.theta[:1], some]),
                log_N0=member.log_N0 + shift,
                log_D0=member.log_D0 - shift,
            )
            for some, shift in zip(own, shifts, strict=True)
        ]

    return replace(ensemble, members=tuple(one for member in ensemble.members for one in moved(member)))


@dataclass(frozen=True)
class Regrets:
    """What a way of choosing N costs, over the laws that may be true."""

    values: FloatArray
    """float64[t], nats above the lowest loss of the same hours; equally likely."""
    lowest: FloatArray
    """float64[t], that lowest loss."""
    log_N: FloatArray
    """float64[t], the size that is chosen if this law is true."""


def regrets_of_choice(search: Search, design: SweepDesign | None, *, seed: int = 0) -> Regrets:
    """Regret of the size with the lowest expected loss, after the sweep has told the laws apart; or without one.

    Each truth makes the sweep's losses, ln L of that law with the ensemble's run noise, on a level that is free unless
    the laws were fitted to runs of one's own; the other draws are weighted anew by their likelihood. Losses count less
    the further below the final run they lie: their variance grows by what the ensemble was seen to be off by.

    **Source:** preposterior analysis: `information_value`. The mean is the expected regret after the sweep; what it
    lacks to the regret without one is the expected value of sample information.
    """
    x = np.linspace(search.x[0], search.x[-1], _SIZES)
    beliefs = Beliefs(search.weights, search.losses_along(x))
    predicted, error = _observed(search, design)
    truth, at = beliefs.decisions(predicted, error, outcomes=_TRUTHS, seed=seed)
    lowest = search.own_best[1][truth]
    return Regrets(np.maximum(beliefs.losses[truth, at] - lowest, 0.0), lowest, x[at])


def _observed(search: Search, design: SweepDesign | None) -> tuple[FloatArray, ObservationError]:
    """Ln losses of the sweep's runs by every draw, float64[K, J], and how far observed ones lie from them."""
    ensemble = search.ensemble
    if design is None:
        return np.zeros((len(search.weights), 0)), ObservationError(np.zeros(0))
    N = math.exp(search.best_size())
    C = 6.0 * N * float(search.tokens(np.array([N]))[0])
    decades = np.maximum(np.log10(C / (6.0 * design.N * design.D)), 0.0)
    sd = np.hypot(max(ensemble.noise_sd, 1e-6), ensemble.drift_sd * np.sqrt(decades))
    level = 0.0 if ensemble.status == "own fit" else _FREE_LEVEL
    return np.log(ensemble.losses(design.N, design.D)), ObservationError(sd, level)
