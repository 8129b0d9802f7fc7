"""`SweepSpec` -> `SweepPlan`: which runs, in which order, what they cost and what is doubtful about them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from plm_scaling.core.errors import PlanError
from plm_scaling.corpus.reader import Corpus
from plm_scaling.sweeps.arms import expand_arms
from plm_scaling.sweeps.branches import Branching, find_branches
from plm_scaling.sweeps.decisions import needed_runs
from plm_scaling.sweeps.drafts import Draft, RunParts
from plm_scaling.sweeps.feasibility import feasibility_notes, machine_memory, memory_estimate
from plm_scaling.sweeps.plan_records import ARMS, PlannedRun, SweepPlan, SweepSpec
from plm_scaling.sweeps.pools import PoolCost, flops_per_token
from plm_scaling.sweeps.sizes import parse_size

__all__ = ["parse_size", "plan_drafts", "plan_sweep", "read_spec", "run_parts"]

_REPEATING = frozenset({"repeats", "regularisation", "diversity", "continued"})


def read_spec(path: Path) -> SweepSpec:
    """Read a sweep from TOML; its paths become absolute.

    Raises
    ------
    ConfigError : missing file, TOML syntax, unknown or ill-typed keys.
    PlanError : a spec without an arm.
    """
    spec = SweepSpec.read_toml(path)
    if not any(getattr(spec, arm) for arm in ARMS):
        raise PlanError(
            "the sweep asks for no run",
            where=str(path),
            hint=f"add an arm: {', '.join(f'[[{arm}]]' for arm in ARMS)}",
        )
    return spec.located(path.parent)


def plan_sweep(
    spec: SweepSpec,
    corpus: Corpus,
    *,
    scale: float = 1.0,
    dtype: Literal["fp32", "bf16"] = "fp32",
    memory_bytes: float | None = None,
) -> SweepPlan:
    """Lay out the runs of a sweep. Runs that several arms ask for are planned once, with all their roles.

    Sources come before the runs that start from them, trunks before their branches. Probes of the learning rate come
    first: what they say may change the rest. Otherwise the run that heads the costliest chain comes first, so that a
    pool of workers ends about evenly.

    Parameters
    ----------
    scale : factor on every budget, D and number of unique tokens.
    dtype : number format where the spec says auto.
    memory_bytes : memory to check runs against; None for that of this machine.

    Raises
    ------
    PlanError : a size, source, share or number of tokens that cannot be used.
    """
    parts = run_parts(spec, corpus, scale=scale, dtype=dtype)
    return plan_drafts(expand_arms(parts), parts, memory_bytes=memory_bytes)


def run_parts(spec: SweepSpec, corpus: Corpus, *, scale: float, dtype: Literal["fp32", "bf16"]) -> RunParts:
    """What the runs of a spec are made of.

    Raises
    ------
    PlanError : a scale that is no positive number.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise PlanError(f"scale {scale} is not a positive number", where="scale")
    return RunParts(spec, corpus, scale, dtype if spec.dtype == "auto" else spec.dtype)


def plan_drafts(drafts: Iterable[Draft], parts: RunParts, *, memory_bytes: float | None = None) -> SweepPlan:
    """The plan of these runs, each once, in the order they are to be trained in; arguments as of `plan_sweep`."""
    limit = machine_memory() if memory_bytes is None else memory_bytes
    merged = _merged(drafts)
    branches = find_branches(
        (draft.config for draft in merged.values()), lambda config: parts.cost(config.streams).schedule(config)
    )
    planned = [
        _planned(run_id, draft, parts, branches.get(run_id, Branching()), limit) for run_id, draft in merged.items()
    ]
    return SweepPlan(
        name=parts.spec.name,
        corpus=str(parts.corpus.path.resolve()),
        corpus_id=parts.corpus.corpus_id,
        currency=parts.spec.currency,
        runs=tuple(_ordered(planned)),
        scale=parts.scale,
    )


def _merged(drafts: Iterable[Draft]) -> dict[str, Draft]:
    """One draft per run id, roles united in the order they appear; an id is a hash, and is worked out once."""
    found: dict[str, Draft] = {}
    for draft in drafts:
        run_id = draft.config.run_id
        earlier = found.get(run_id, draft)
        found[run_id] = replace(earlier, roles=tuple(dict.fromkeys((*earlier.roles, *draft.roles))))
    return found


def _planned(run_id: str, draft: Draft, parts: RunParts, branching: Branching, memory_bytes: float) -> PlannedRun:
    config = draft.config
    cost = parts.cost(config.streams)
    limited = any(stream.unique_tokens for stream in config.streams)
    notes = feasibility_notes(
        config,
        cost,
        # The unlimited reference of a repeats arm is meant to be unlimited, and so is flagged.
        repeats_wanted=_REPEATING.issuperset(draft.roles) and (limited or "diversity" in draft.roles),
        max_epochs=parts.spec.max_epochs,
        memory_bytes=memory_bytes,
    )
    return PlannedRun(
        run_id=run_id,
        config=config,
        roles=draft.roles,
        C_exact=config.D * flops_per_token(config.shape, cost, "C_exact"),
        C_teacher=_teacher_flops(draft, cost),
        unique_tokens=cost.unique_tokens,
        epochs=cost.epochs(config.D),
        steps=cost.steps(config),
        memory_bytes=memory_estimate(config),
        notes=notes,
        init_path=draft.init_path,
        teacher_path=draft.teacher_path,
        trunk=branching.trunk,
        keep_steps=branching.keep_steps,
        begin_step=branching.begin_step,
    )


def _teacher_flops(draft: Draft, cost: PoolCost) -> float | None:
    """Forward FLOPs of a run's teacher, a third of what training it on the same tokens would take."""
    if draft.teacher_shape is None:
        return None
    return draft.config.D * flops_per_token(draft.teacher_shape, cost, "C_exact") / 3.0


def _ordered(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """By falling cost of the chain that a run heads: a source costs more than what follows it, so it comes first."""
    chains = _chain_costs(runs)
    probes = _with_needed(runs, {run.run_id for run in runs if "lr_probe" in run.roles and not run.config.init_from})
    return sorted(runs, key=lambda run: (run.run_id not in probes, -chains[run.run_id], run.run_id))


def _with_needed(runs: Sequence[PlannedRun], wanted: set[str]) -> set[str]:
    """Ids of the wanted runs and of those that they wait for, on through the chain."""
    by_id = {run.run_id: run for run in runs}
    found: set[str] = set()
    ahead = [run_id for run_id in wanted if run_id in by_id]
    while ahead:
        run = by_id[ahead.pop()]
        found.add(run.run_id)
        earlier = (*needed_runs(run.config), *([run.trunk] if run.trunk else []))
        ahead += [run_id for run_id in earlier if run_id in by_id and run_id not in found]
    return found


def _chain_costs(runs: Sequence[PlannedRun]) -> Mapping[str, float]:
    """FLOPs spent on each run and on the costliest chain of runs that wait for it."""
    followers: dict[str, list[PlannedRun]] = {}
    for run in runs:
        for earlier in (*needed_runs(run.config), *([run.trunk] if run.trunk else [])):
            followers.setdefault(earlier, []).append(run)
    costs: dict[str, float] = {}

    def cost(run: PlannedRun) -> float:
        if run.run_id not in costs:
            own = run.C_exact * run.computed_share
            costs[run.run_id] = own + max((cost(f) for f in followers.get(run.run_id, ())), default=0.0)
        return costs[run.run_id]

    for run in runs:
        cost(run)
    return costs
