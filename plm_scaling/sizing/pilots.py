"""Which pilot runs to make before the large one, what each is worth, and when to stop making them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.core.records import Record
from plm_scaling.core.units import format_count, format_usd
from plm_scaling.sizing.information_value import Beliefs, ObservationError
from plm_scaling.sizing.marginal import marginal_values
from plm_scaling.sizing.spending import Spending, best_allocation, can_turn

__all__ = ["Pilot", "PilotPlan", "PilotValue", "pilot_candidates", "pilot_plan"]

FloatArray = npt.NDArray[np.float64]

_DRAWS: Final = 192
_FEWEST_DRAWS: Final = 20
_SIZES: Final = 61
_REACH: Final = math.log(30.0)
_OTHER_SCALE: Final = 0.05
"""Of ln L: how far losses on one's own validation set may lie from those of a law of other data. An assumption."""
_SHARES: Final = (1e-3, 3e-3, 1e-2, 3e-2)
_FACTORS: Final = (0.25, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Pilot:
    """Runs that are made together, float64[J] each."""

    name: str
    N: tuple[float, ...]
    D: tuple[float, ...]
    usd: float


class PilotValue(Record):
    """What one set of pilot runs is worth."""

    name: str
    N: tuple[float, ...]
    D: tuple[float, ...]
    usd: float
    evsi: float
    """Expected fall of the regret, nats: alone, or on top of the sets before it."""
    evsi_se: float
    """Of the sampling."""
    evsi_usd: float
    nats_per_usd: float
    pays: bool
    """Whether it is worth more than it costs."""


class PilotPlan(Record):
    """The value of knowing more before the budget is spent."""

    usd: float
    """The budget that is to be decided on."""
    N_now: float
    """Size to choose without any pilot."""
    evpi: float
    """Expected regret of that choice, nats: more no pilot can save."""
    evpi_usd: float
    usd_per_nat: float
    """What a nat is worth: as stated, or the compute that would buy it."""
    common_sd: float
    """Of the shift of ln L between the pilots' losses and the laws'."""
    candidates: tuple[PilotValue, ...]
    """Each by itself, the most regret per dollar first."""
    first: tuple[PilotValue, ...]
    """What to run, in order; each with what it adds to those before it. Empty: run none."""
    regret_after: float
    """Expected regret once all of `first` are known, nats."""
    stop: str
    """Why no more."""
    flags: tuple[str, ...] = ()


def pilot_candidates(spending: Spending, shares: Sequence[float] = _SHARES) -> tuple[Pilot, ...]:
    """IsoFLOP rows at shares of the budget: five sizes, a factor of two apart, about the best size of each row.

    Every run of a row costs the same.
    """
    made = []
    for share in shares:
        usd = share * spending.usd
        centre = best_allocation(replace(spending, usd=usd, sources=(), N=None)).N
        N = tuple(centre * factor for factor in _FACTORS)
        D = tuple(usd / float(spending.price.usd(n)) for n in N)
        name = f"isoFLOP row at {share:.2g} of the budget, {format_count(N[0], 2)}-{format_count(N[-1], 2)}"
        made.append(Pilot(name, N, D, len(N) * usd))
    return tuple(made)


def pilot_plan(
    spending: Spending,
    pilots: Sequence[Pilot] | None = None,
    *,
    usd_per_nat: float | None = None,
    common_sd: float | None = None,
    outcomes: int = 256,
    seed: int = 0,
) -> PilotPlan:
    """Value of pilot runs for the choice of the size: each alone, and which to make in which order.

    The set with the most regret saved per dollar among those that pay comes first; then the others are valued on top
    of it, until none pays for itself.

    Parameters
    ----------
    pilots : candidate sets of runs; None takes `pilot_candidates`.
    usd_per_nat : what lowering the loss by one nat is worth; None: the compute that would buy it at the optimum.
    common_sd : of ln L, a shift that all pilots share against the laws; None: none for a fit of one's own, 5 %
        for published laws, whose corpus and validation set are not yours.

    Raises
    ------
    RefusedError : laws without draws or a second form: there is nothing to learn about them.
    ConfigError : a value of a nat that is no positive number.

    **Source:** Raiffa & Schlaifer 1961 (EVPI, EVSI); greedy choice per cost.
    """
    spending = replace(spending, ensemble=spending.laws.thinned(_DRAWS))
    laws = spending.laws
    distinct = sum(len(np.unique(member.theta[1:], axis=0)) for member in laws.members)
    if distinct < 2:
        raise RefusedError(
            "the value of pilots cannot be told from a single law",
            why="it states no draws: by its own account there is nothing left to learn",
            hint="give several laws, or a fit of your own runs",
        )
    if usd_per_nat is not None and not (math.isfinite(usd_per_nat) and usd_per_nat > 0):
        raise ConfigError("the value of a nat must be a positive number of dollars", why=f"got {usd_per_nat!r}")
    pilots = pilot_candidates(spending) if pilots is None else tuple(pilots)
    worth = usd_per_nat or _compute_per_nat(spending)
    shift = common_sd if common_sd is not None else (0.0 if laws.status == "own fit" else _OTHER_SCALE)
    valued = _Valued(spending, pilots, shift, worth, outcomes, seed)
    first, stop = valued.in_order()
    beliefs, N = valued.beliefs, valued.sizes
    return PilotPlan(
        usd=spending.usd,
        N_now=float(N[beliefs.choice]),
        evpi=beliefs.perfect,
        evpi_usd=beliefs.perfect * worth,
        usd_per_nat=worth,
        common_sd=shift,
        candidates=tuple(sorted(valued.alone(), key=lambda one: -one.nats_per_usd)),
        first=first,
        regret_after=max(beliefs.perfect - sum(one.evsi for one in first), 0.0),
        stop=stop,
        flags=(("FEW_DRAWS",) if distinct < _FEWEST_DRAWS else ()) + (("OTHER_SCALE",) if shift > 0 else ()),
    )


class _Valued:
    """Losses of decisions and pilots by every draw, computed once."""

    def __init__(
        self, spending: Spending, pilots: Sequence[Pilot], shift: float, worth: float, outcomes: int, seed: int
    ) -> None:
        self.pilots, self.worth, self.outcomes, self.seed = pilots, worth, outcomes, seed
        self.sizes, losses = _decisions(spending)
        laws = spending.laws
        self.beliefs = Beliefs(laws.draw_weights, losses)
        N = np.array([n for pilot in pilots for n in pilot.N])
        D = np.array([d for pilot in pilots for d in pilot.D])
        self.predicted = np.log(laws.losses(N, D, spending.unique_tokens)) if len(N) else np.zeros((len(losses), 0))
        owner = np.repeat(np.arange(len(pilots)), [len(pilot.N) for pilot in pilots])
        self.runs = [np.flatnonzero(owner == k) for k in range(len(pilots))]
        top = laws.range_C[1] if laws.range_C else math.inf
        decades = np.maximum(np.log10(6.0 * N * D / top), 0.0)
        self.error = ObservationError(np.hypot(laws.noise_sd, laws.drift_sd * np.sqrt(decades)), shift)

    def value(self, chosen: Sequence[int]) -> tuple[float, float]:
        if not chosen:
            return 0.0, 0.0
        runs = np.concatenate([self.runs[k] for k in chosen])
        return self.beliefs.sample(
            self.predicted[:, runs], self.error.take(runs), outcomes=self.outcomes, seed=self.seed
        )

    def record(self, k: int, gain: float, se: float) -> PilotValue:
        pilot = self.pilots[k]
        return PilotValue(
            name=pilot.name,
            N=pilot.N,
            D=pilot.D,
            usd=pilot.usd,
            evsi=gain,
            evsi_se=se,
            evsi_usd=gain * self.worth,
            nats_per_usd=gain / pilot.usd,
            pays=gain * self.worth > pilot.usd,
        )

    def alone(self) -> list[PilotValue]:
        return [self.record(k, *self.value([k])) for k in range(len(self.pilots))]

    def in_order(self) -> tuple[tuple[PilotValue, ...], str]:
        chosen: list[int] = []
        made: list[PilotValue] = []
        known = 0.0
        while len(chosen) < len(self.pilots):
            options = []
            for k in set(range(len(self.pilots))) - set(chosen):
                value, se = self.value([*chosen, k])
                options.append((k, self.record(k, max(value - known, 0.0), se)))
            k, best = max(options, key=lambda option: (option[1].pays, option[1].nats_per_usd, -option[0]))
            if not best.pays:
                what = "no pilot pays" if not made else "no further pilot pays"
                return tuple(made), (
                    f"{what}: the best of the others ({best.name}) would save {format_usd(best.evsi_usd)} of regret "
                    f"for {format_usd(best.usd)}"
                )
            chosen.append(k)
            made.append(best)
            known += best.evsi
        return tuple(made), "every candidate pays" if made else "no candidates"


def _decisions(spending: Spending) -> tuple[FloatArray, FloatArray]:
    """Sizes float64[A] (and amounts of compute, where less may be better), and their losses float64[K, A]."""
    best = best_allocation(replace(spending, sources=()))
    sizes = best.N * np.exp(np.linspace(-_REACH, _REACH, _SIZES))
    # With laws that turn, sizes at other amounts of compute are decisions of their own.
    turns = can_turn(spending.laws) and spending.unique_tokens is not None
    used = np.minimum(best.used * np.exp(np.linspace(-2.0, 2.0, 9)), 1.0) if turns else np.ones(1)
    N, share = (axis.ravel() for axis in np.meshgrid(sizes, used, indexing="ij"))
    return N, spending.laws.losses(N, spending.usd * share / spending.price.usd(N), spending.unique_tokens)


def _compute_per_nat(spending: Spending) -> float:
    compute = marginal_values(replace(spending, sources=())).value("compute")
    if compute is None or compute.nats_per_usd.value <= 0:
        raise RefusedError(
            "compute buys nothing here, so that it cannot say what a nat is worth",
            why="the unique tokens cannot use more of it",
            hint="state what one nat is worth in dollars",
        )
    return 1.0 / compute.nats_per_usd.value
