"""The arms that law sweeps are made of, each expanded into the runs it asks for."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from plm_scaling.core.errors import PlanError
from plm_scaling.core.run import RunConfig
from plm_scaling.sweeps.continued_arms import continued_runs, distil_runs
from plm_scaling.sweeps.drafts import Draft, RunParts, roles_of, weighted
from plm_scaling.sweeps.plan_records import (
    DataArm,
    DiversityArm,
    GridArm,
    IsoflopArm,
    MaskArm,
    RepeatsArm,
    WsdArm,
)
from plm_scaling.sweeps.probe_arms import lr_probe_runs
from plm_scaling.sweeps.transfer_arms import transfer_grid_runs, transfer_runs

__all__ = ["expand_arms"]


def expand_arms(parts: RunParts) -> Iterator[Draft]:
    """The runs of all arms, with repetitions where arms share runs.

    Raises
    ------
    PlanError : a size, source, share or number of tokens that cannot be used, named with its arm.
    """
    spec, known = parts.spec, dict[str, RunConfig]()
    expanded = (
        *(lr_probe_runs(parts, arm, f"lr_probe[{k}]") for k, arm in enumerate(spec.lr_probe)),
        *(_isoflop(parts, arm, f"isoflop[{k}]") for k, arm in enumerate(spec.isoflop)),
        *(_grid(parts, arm, f"grid[{k}]") for k, arm in enumerate(spec.grid)),
        *(_repeats(parts, arm, f"repeats[{k}]") for k, arm in enumerate(spec.repeats)),
        *(transfer_runs(parts, arm, f"transfer[{k}]") for k, arm in enumerate(spec.transfer)),
        *(transfer_grid_runs(parts, arm, f"transfer_grid[{k}]") for k, arm in enumerate(spec.transfer_grid)),
        *(_diversity(parts, arm, f"diversity[{k}]") for k, arm in enumerate(spec.diversity)),
        *(_data(parts, arm, f"data[{k}]") for k, arm in enumerate(spec.data)),
        *(_mask(parts, arm, f"mask[{k}]") for k, arm in enumerate(spec.mask)),
        *(_wsd(parts, arm, f"wsd[{k}]") for k, arm in enumerate(spec.wsd)),
        # Last: these may start from runs of the arms above.
        *(continued_runs(parts, arm, known, f"continued[{k}]") for k, arm in enumerate(spec.continued)),
        *(distil_runs(parts, arm, known, f"distil[{k}]") for k, arm in enumerate(spec.distil)),
    )
    for drafts in expanded:
        for draft in drafts:
            known[draft.config.run_id] = draft.config
            yield draft


def _isoflop(parts: RunParts, arm: IsoflopArm, where: str) -> Iterator[Draft]:
    streams = parts.all_streams()
    seeds = arm.seeds or parts.spec.seeds
    for size in arm.sizes:
        shape = parts.shape(size, where)
        D = parts.tokens_for(arm.C, shape, streams, where)
        for objective in arm.objectives or parts.spec.objectives:
            for seed in seeds:
                yield Draft(parts.config(objective, shape, D, streams, seed), roles_of("isoflop", seeds))


def _grid(parts: RunParts, arm: GridArm, where: str) -> Iterator[Draft]:
    streams = parts.all_streams()
    seeds = arm.seeds or parts.spec.seeds
    for size in arm.sizes:
        shape = parts.shape(size, where)
        for D in arm.D:
            tokens = parts.tokens(D, where, "D")
            for objective in arm.objectives or parts.spec.objectives:
                for seed in seeds:
                    yield Draft(parts.config(objective, shape, tokens, streams, seed), roles_of("grid", seeds))


def _repeats(parts: RunParts, arm: RepeatsArm, where: str) -> Iterator[Draft]:
    spec, shapes = parts.spec, [parts.shape(size, where) for size in arm.all_sizes]
    D = parts.tokens(arm.D, where, "D")
    pools = [parts.all_streams(), *(parts.limited(parts.all_streams(), U, where) for U in arm.unique_tokens)]
    varied = bool(arm.dropout or arm.weight_decay)
    recipes = list(product(arm.dropout or (spec.dropout,), arm.weight_decay or (spec.weight_decay,)))
    for objective, seed in product(arm.objectives or spec.objectives, arm.seeds or spec.seeds):
        # Causal runs have no masks to refresh.
        modes = arm.mask_modes if objective == "mlm" else (True,)
        for shape, refresh, streams, (dropout, decay) in product(shapes, modes, pools, recipes):
            # A law of repeats is about one recipe, the spec's.
            usual = (dropout, decay) == (spec.dropout, spec.weight_decay)
            roles = (*(["repeats"] if usual else []), *(["regularisation"] if varied else []))
            update: dict[str, object] = {"dropout": dropout, "weight_decay": decay}
            if not refresh:
                update["mask_refresh"] = False
            yield Draft(parts.config(objective, shape, D, streams, seed).model_copy(update=update), roles)


def _diversity(parts: RunParts, arm: DiversityArm, where: str) -> Iterator[Draft]:
    if arm.first == arm.second:
        raise PlanError(f"first and second are both {arm.first!r}", where=where, hint="name two sources")
    for share in arm.shares:
        if not 0 < share < 1:
            raise PlanError(f"share {share:g} is not between 0 and 1", where=f"{where}.shares")
    shape = parts.shape(arm.size, where)
    D = parts.tokens(arm.D, where, "D")
    (first,) = parts.limited((parts.only(arm.first),), arm.unique_tokens, where)
    second = parts.only(arm.second)
    mixed = [(weighted(first, 1 - share), weighted(second, share)) for share in arm.shares]
    for objective in arm.objectives or parts.spec.objectives:
        for seed in arm.seeds or parts.spec.seeds:
            for streams in ((first,), *mixed, (second,)):
                yield Draft(parts.config(objective, shape, D, streams, seed), ("diversity",))


def _data(parts: RunParts, arm: DataArm, where: str) -> Iterator[Draft]:
    if not (arm.exclude or arm.sampling or arm.mixture):
        raise PlanError("the arm varies nothing", where=where, hint="list exclude, sampling or mixture")
    shape = parts.shape(arm.size, where)
    D = parts.tokens(arm.D, where, "D")
    choices = [
        parts.streams(shares, sampling, exclude)
        for shares in arm.mixture or (parts.spec.mixture,)
        for sampling in arm.sampling or (parts.spec.sampling,)
        for exclude in arm.exclude or (parts.spec.exclude,)
    ]
    for objective in arm.objectives or parts.spec.objectives:
        for seed in arm.seeds or parts.spec.seeds:
            for streams in choices:
                yield Draft(parts.config(objective, shape, D, streams, seed), ("data",))


def _mask(parts: RunParts, arm: MaskArm, where: str) -> Iterator[Draft]:
    shape, D = parts.shape(arm.size, where), parts.tokens(arm.D, where, "D")
    for rate in arm.mask_rates:
        for seed in arm.seeds or parts.spec.seeds:
            config = parts.config("mlm", shape, D, parts.all_streams(), seed)
            yield Draft(config.model_copy(update={"mask_rate": rate}), ("mask_ratio",))


def _wsd(parts: RunParts, arm: WsdArm, where: str) -> Iterator[Draft]:
    shape, streams = parts.shape(arm.size, where), parts.all_streams()
    horizons = sorted({parts.tokens(D, where, "D") for D in arm.D}, reverse=True)
    update: dict[str, object] = {
        "schedule": "wsd",
        "warmup_tokens": parts.tokens(arm.warmup_tokens, where, "warmup_tokens"),
        "decay_fraction": arm.decay_fraction,
    }
    seeds = arm.seeds or parts.spec.seeds
    for objective, seed in product(arm.objectives or parts.spec.objectives, seeds):
        longest = parts.config(objective, shape, horizons[0], streams, seed).model_copy(update=update)
        for D in horizons:
            config = longest.model_copy(update={"D": D})
            schedule = parts.cost(streams).schedule(config)
            if schedule.warmup_steps > schedule.decay_begins:
                raise PlanError(
                    f"at D = {D:,} the decay begins before the warm-up has ended",
                    where=where,
                    why=f"{schedule.warmup_steps} steps of warm-up, the decay begins at step {schedule.decay_begins} "
                    f"of {schedule.n_steps}",
                    hint="lower warmup_tokens or decay_fraction, or leave the horizon out",
                )
            yield Draft(config, (*roles_of("grid", seeds), "wsd"))
