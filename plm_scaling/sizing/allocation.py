"""A whole allocation as pilots, sweep, final run, evaluation and reserve, against 'no sweep, use the published law'."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.core.units import format_count
from plm_scaling.laws.jets import FloatArray
from plm_scaling.sizing.allocation_record import NO_SWEEP, AllocationOption, AllocationPlan, StageShare
from plm_scaling.sizing.allocation_risk import (
    Allocation,
    Conditions,
    Stage,
    jobs_of,
    largest_work,
    simulate_stages,
)
from plm_scaling.sizing.answers import decades_outside
from plm_scaling.sizing.costs import Gpu, Hardware, gpu_named, load_hardware, throughput_for
from plm_scaling.sizing.decision import refuse_far
from plm_scaling.sizing.decision_search import search_sizes
from plm_scaling.sizing.law_ensemble import LawEnsemble, TokenDecay
from plm_scaling.sizing.run_bill import run_bill
from plm_scaling.sizing.size_limit import SIZES, deciding_tokens
from plm_scaling.sizing.sweep_value import doubted, expected_optimum, regrets_of_choice, sweep_design
from plm_scaling.sizing.unique_data import MAX_EPOCHS

__all__ = ["plan_allocation"]

_PILOTS: Final = 0.02
_EVALUATION: Final = 0.03
_SWEEPS: Final = (0.0, 0.02, 0.05, 0.10, 0.15, 0.20, 0.30)
_LEAST_FINAL: Final = 0.05
"""Share of the hours below which a final run is no longer the point of an allocation."""
_TIE: Final = 5e-4
"""Nats of mean regret that count as no difference: less than a run's noise by an order."""
_OTHER_CORPUS: Final = 0.54
_MEMBER_DRAWS: Final = 80
_ENDS: Final = (0.1, 0.9)
_FEW_DRAWS: Final = 50
_FAR: Final = 10.0**1.5


@dataclass(frozen=True)
class _Asked:
    """What every option is worked out from."""

    ensemble: LawEnsemble
    allocation: Allocation
    conditions: Conditions
    gpu: Gpu
    hardware: Hardware
    mfu: float | None
    unique_tokens: float | None
    evaluation: float
    risk: float
    reserve: float | None
    doubt: float
    draws: int
    seed: int

    @cached_property
    def deciding(self) -> float | None:
        """Unique tokens by which sizes and their regrets are decided; None for unlimited ones."""
        hours = self.allocation.node_hours
        return deciding_tokens(self.ensemble, lambda N: self.tokens(hours, N), self.unique_tokens)

    def speed(self, N: float) -> float:
        """6 N D FLOPs per second of one accelerator."""
        return throughput_for(N, self.gpu, self.hardware, mfu=self.mfu).flops_6nd_per_s

    @cached_property
    def _log_speeds(self) -> tuple[FloatArray, FloatArray]:
        log_N = np.linspace(*SIZES, 400)
        return log_N, np.log([self.speed(float(N)) for N in np.exp(log_N)])

    def tokens(self, node_hours: float, N: FloatArray) -> FloatArray:
        """Tokens that node-hours pay for at sizes [n]."""
        speeds = np.exp(np.interp(np.log(N), *self._log_speeds))
        return np.asarray(3600.0 * node_hours * self.allocation.gpus_per_node * speeds / (6.0 * N))


def plan_allocation(
    ensemble: LawEnsemble,
    allocation: Allocation,
    *,
    gpu: str | Gpu = "a100",
    hardware: Hardware | None = None,
    mfu: float | None = None,
    unique_tokens: float | None = None,
    conditions: Conditions | None = None,
    sweeps: tuple[float, ...] = _SWEEPS,
    pilots: float = _PILOTS,
    evaluation: float = _EVALUATION,
    reserve: float | None = None,
    risk: float = 0.05,
    law_doubt: float | None = None,
    force: bool = False,
    draws: int = 1000,
    seed: int = 0,
) -> AllocationPlan:
    """How to split an allocation: each sweep's worth against the compute it takes, and the risk of missing the end.

    The final run of every split is as long as the accepted risk allows (or as a stated reserve leaves); its regret is
    the mean over draws of the ensemble of L(chosen size, its hours) - lowest L(all hours).

    Parameters
    ----------
    mfu : measured utilisation; None takes the hardware file's by width.
    unique_tokens : training tokens that are not repeats; None for as many as needed.
    conditions : queue, failures, speed: assumptions of the simulation.
    sweeps : shares of the node-hours tried for the sweep; 0 is 'pilots, then the published law'.
    pilots, evaluation : shares of the node-hours; without a sweep and pilots the speed stays unmeasured.
    reserve : share kept back; None for the least that keeps the risk.
    risk : probability of missing the end that is accepted.
    law_doubt : standard deviation of ln(best N for your corpus / best N by these laws) at equal compute; None for 0
        with laws fitted to runs of your own, else 0.54: a factor of two either way in 80 % of cases. An assumption.
    force : plan even more than 1.5 decades of compute outside the range of the laws.

    Raises
    ------
    ConfigError : a share outside [0, 1), or no such accelerator.
    RefusedError : no final run fits, or the laws are too far from their runs.

    **Source:** preposterior analysis over the draws: `sweep_value`; risk: `allocation_risk`.
    """
    _check(sweeps, pilots, evaluation, reserve, risk)
    doubt = law_doubt if law_doubt is not None else (0.0 if ensemble.status == "own fit" else _OTHER_CORPUS)
    ensemble = doubted(ensemble.thinned(_MEMBER_DRAWS), doubt)
    hardware = hardware or load_hardware()
    device = gpu_named(gpu, hardware) if isinstance(gpu, str) else gpu
    asked = _Asked(
        *(ensemble, _within_time(allocation), conditions or Conditions(), device, hardware, mfu, unique_tokens),
        *(evaluation, risk, reserve, doubt, draws, seed),
    )
    oracle = search_sizes(ensemble, lambda N: asked.tokens(asked.allocation.node_hours, N), asked.deciding)
    N = math.exp(oracle.best_size())
    C = 6.0 * N * float(asked.tokens(asked.allocation.node_hours, np.array([N]))[0])
    refuse_far(f"the {ensemble.objective.upper()} laws", ensemble.range_C, C, force)
    optimum = expected_optimum(ensemble, [C / 1e4, C / 1e3, C / 1e2, C / 10.0])
    known = "own law" if ensemble.status == "own fit" else "published law"
    shares = [(f"{NO_SWEEP}{known}", 0.0, 0.0), *((_name(share, known), pilots, share) for share in sweeps)]
    lowest = regrets_of_choice(oracle, None, seed=seed).lowest
    made = [_split(asked, name, pilot, sweep, optimum, lowest) for name, pilot, sweep in shares]
    splits = [split for split in made if split is not None]
    if made[0] is None:
        raise RefusedError(
            f"no final run ends in time with a risk of {risk:.0%}",
            why=f"waits and losses leave less than {_LEAST_FINAL:.0%} of the hours to it",
            hint="more time, a longer queue limit, fewer nodes at a time, or more accepted risk",
        )
    return _assembled(asked, splits, allocation)


def _check(sweeps: tuple[float, ...], pilots: float, evaluation: float, reserve: float | None, risk: float) -> None:
    named = {"pilots": pilots, "evaluation": evaluation, "reserve": reserve or 0.0}
    for name, share in (*named.items(), *(("sweeps", share) for share in sweeps)):
        if not 0 <= share < 1:
            raise ConfigError(f"{name} is a share of the node-hours, at least 0 and below 1", why=f"got {share!r}")
    if not 0 < risk < 1:
        raise ConfigError("risk is a probability above 0 and below 1", why=f"got {risk!r}")
    if not sweeps:
        raise ConfigError("no sweep to compare with", hint="give shares of the node-hours, e.g. 0.05")


def _within_time(allocation: Allocation) -> Allocation:
    """Node-hours that cannot be used before the end are none."""
    if allocation.wall_hours is None:
        return allocation
    most = allocation.nodes * allocation.wall_hours
    return allocation.model_copy(update={"node_hours": min(allocation.node_hours, most)})


def _name(sweep: float, known: str) -> str:
    return f"sweep {sweep:.0%}" if sweep else f"pilots, {known}"


@dataclass(frozen=True)
class _Split:
    """An option, and its regret under every law that may be true."""

    option: AllocationOption
    sweep: float
    values: FloatArray


def _split(
    asked: _Asked, name: str, pilot: float, sweep: float, optimum: Callable[[float], float], lowest: FloatArray
) -> _Split | None:
    """One split worked out; None where no final run worth the name fits."""
    allocation, conditions = asked.allocation, asked.conditions
    hours, measured = allocation.node_hours, pilot > 0
    before = (
        Stage(name="pilots", node_hours=pilot * hours),
        Stage(name="sweep", node_hours=sweep * hours, measured=measured, packing=conditions.sweep_packing),
    )
    after = (Stage(name="evaluation", node_hours=asked.evaluation * hours, measured=measured),)
    final = Stage(name="final run", node_hours=0.0, measured=measured)
    if asked.reserve is None:
        luck = {"risk": asked.risk, "draws": asked.draws, "seed": asked.seed}
        most = largest_work(before, final, after, allocation, conditions, **luck)  # type: ignore[arg-type]
    else:
        most = hours * (1.0 - pilot - sweep - asked.evaluation - asked.reserve)
    if most < _LEAST_FINAL * hours:
        return None
    stages = (*before, final.model_copy(update={"node_hours": most}), *after)
    kept = max(hours - math.fsum(stage.node_hours for stage in stages), 0.0)
    spent = (*before, final.model_copy(update={"node_hours": most + kept}), *after)
    outcomes, bare = (
        simulate_stages(plan, allocation, conditions, draws=asked.draws, seed=asked.seed) for plan in (stages, spent)
    )
    search = search_sizes(asked.ensemble, lambda N: asked.tokens(most, N), asked.deciding)
    design = sweep_design(sweep * hours * allocation.gpus_per_node * conditions.sweep_packing, optimum, asked.speed)
    found = regrets_of_choice(search, design, seed=asked.seed)
    values = found.values + found.lowest - lowest
    x = float(np.mean(found.log_N))
    D = float(search.tokens_at(np.exp([x]), search.best_stops(np.array([x])))[0])
    low, high = np.quantile(found.log_N, _ENDS).tolist()
    regret_low, regret_high = np.quantile(values, _ENDS).tolist()
    median, late = np.quantile(outcomes.wall_hours, [0.5, 0.9]).tolist()
    option = AllocationOption(
        name=name,
        stages=tuple(_share(stage, asked) for stage in (*stages, Stage(name="reserve", node_hours=kept))),
        C=6.0 * math.exp(x) * D,
        C_sweep=None if design is None else design.C_top,
        N=math.exp(x),
        N_low=math.exp(low),
        N_high=math.exp(high),
        D=D,
        miss_probability=outcomes.miss_probability(allocation),
        miss_probability_no_reserve=bare.miss_probability(allocation),
        end_hours_median=median,
        end_hours_p90=late,
        regret=float(values.mean()),
        regret_size=float(found.values.mean()),
        regret_compute=float((found.lowest - lowest).mean()),
        regret_low=regret_low,
        regret_high=regret_high,
    )
    return _Split(option, sweep, values)


def _share(stage: Stage, asked: _Asked) -> StageShare:
    jobs = 0 if stage.name == "reserve" else jobs_of(stage, asked.allocation, asked.conditions)
    share = stage.node_hours / asked.allocation.node_hours
    return StageShare(name=stage.name, node_hours=stage.node_hours, share=share, jobs=jobs)


def _assembled(asked: _Asked, splits: Sequence[_Split], granted: Allocation) -> AllocationPlan:
    """The split with the lowest mean regret within the risk; of those that are alike the one with the least sweep."""
    within = [split for split in splits if split.option.miss_probability <= asked.risk] or list(splits)
    lowest = min(split.option.regret for split in within)
    best = next(split for split in within if split.option.regret <= lowest + _TIE)
    rivals = [[split for split in splits if (split.sweep > 0) is swept] for swept in (False, True)]
    bare, swept = (min(some, key=lambda split: split.option.regret, default=None) for some in rivals)
    pays = 0.0 if bare is None or swept is None else float(np.mean(swept.values < bare.values))
    doubts = _doubts(asked, best, granted)
    return AllocationPlan(
        objective=asked.ensemble.objective,
        law=asked.ensemble.source,
        law_status=asked.ensemble.status,
        gpu=asked.gpu.name,
        allocation=granted,
        conditions=asked.conditions,
        risk=asked.risk,
        law_doubt=asked.doubt,
        options=tuple(split.option for split in splits),
        best=best.option.name,
        probability_sweep_pays=pays,
        bill=run_bill(
            best.option.N,
            best.option.D,
            gpu=asked.gpu,
            n_gpus=granted.nodes * granted.gpus_per_node,
            hardware=asked.hardware,
            mfu=asked.mfu,
            queue_limit_hours=granted.queue_limit_hours,
            segment_overhead=asked.conditions.segment_overhead,
        ),
        flags=tuple(doubts),
        warnings=tuple(doubts.values()),
    )


def _far_doubts(asked: _Asked, option: AllocationOption) -> dict[str, str]:
    """How far the final run lies from the runs behind the laws, and how often it repeats its tokens."""
    found = {}
    decades = decades_outside(option.C, asked.ensemble.range_C)
    if decades > 0:
        doubt = "treat N as an order of magnitude" if decades > 1 else "an extrapolation"
        flag = "FAR_OUTSIDE_RANGE" if decades > 1 else "OUTSIDE_RANGE"
        found[flag] = f"the final run lies {decades:.1f} decades outside the runs behind the laws: {doubt}."
    epochs = 0.0 if asked.unique_tokens is None else option.D / asked.unique_tokens
    if epochs > MAX_EPOCHS:
        said = f"the final run repeats its {format_count(asked.unique_tokens or 0.0)} unique tokens {epochs:.1f} times"
        if isinstance(asked.ensemble.repeats, TokenDecay):
            said += ": what repeats are worth is taken from text, and N and the regrets are those of unlimited data"
        found["REPEATS"] = f"{said}."
    return found


def _doubts(asked: _Asked, best: _Split, granted: Allocation) -> dict[str, str]:
    """A plain sentence for every flag."""
    found, option = _far_doubts(asked, best.option), best.option
    if asked.allocation.node_hours < granted.node_hours:
        found["TIME_BEFORE_HOURS"] = (
            f"{granted.nodes} nodes use at most {asked.allocation.node_hours:,.0f} of {granted.node_hours:,.0f} "
            "node-hours before the end; ask for more nodes, or more time."
        )
    if option.miss_probability > asked.risk:
        found["RISK"] = (
            f"every split misses the end with more than {asked.risk:.0%}; this one with {option.miss_probability:.0%}."
        )
    draws = len(asked.ensemble.draw_weights)
    if draws < _FEW_DRAWS:
        found["FEW_LAWS"] = f"{draws} draws are all the laws there are: a sweep looks better than it is."
    if option.C_sweep is not None and option.C / option.C_sweep > _FAR:
        found["SWEEP_FAR_BELOW"] = (
            f"the sweep ends {math.log10(option.C / option.C_sweep):.1f} decades below the final run: refit with the "
            "largest budgets you can before you believe its N."
        )
    if asked.doubt and asked.ensemble.status != "own fit":
        found["OTHER_CORPUS"] = (
            f"the laws are of other runs than yours: the best N is taken as known to a factor of "
            f"{math.exp(1.2816 * asked.doubt):.1f} either way (80 %) beside their own spread, which is an assumption."
        )
    found["ASSUMED_MACHINE"] = (
        f"queue waits of {asked.conditions.queue_wait_hours:g} h in the mean, "
        f"{asked.conditions.failures_per_node_hour:g} failures per node-hour and a speed known to "
        f"{asked.conditions.speed_sd:.0%} are assumptions: put in your own centre's."
    )
    return found
