"""The verb `plan`; part of `plm_scaling.api`, where it is found with the others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from plm_scaling.core.errors import ConfigError

if TYPE_CHECKING:
    from plm_scaling.corpus.reader import Corpus
    from plm_scaling.sizing.costs import Gpu, Hardware
    from plm_scaling.sweeps.plan_records import SweepPlan, SweepSpec
    from plm_scaling.sweeps.trim import TrimUnit

__all__ = ["plan"]


def plan(
    spec: Path,
    out: Path | None = None,
    *,
    corpus: Path | None = None,
    scale: float = 1.0,
    hardware: str | None = None,
    measure: bool = False,
    devices: int | None = None,
    time_limit_h: float | None = None,
    budget_flops: float | None = None,
    gpu_hours: float | None = None,
    usd: float | None = None,
    next_runs: Path | None = None,
) -> SweepPlan:
    """Turn a sweep spec (TOML) into a plan; written to `out` if given.

    Parameters
    ----------
    corpus : replaces the spec's.
    scale : multiplies every budget and every number of tokens.
    hardware : accelerator to price the plan on: an entry of configs/hardware.toml, or FILE.toml:NAME.
    measure : price it on this machine instead, whose steps are timed; price and power are those of `hardware`.
    devices : of that kind, for the wall time; None for one, or for all of this machine.
    time_limit_h : longest time of a job, hours: runs that take longer need several.
    budget_flops, gpu_hours, usd : at most one: cut the plan down to what it pays for (`sweeps.trim`).
    next_runs : runs folder with the small budgets complete: plan the next budget alone, its sizes chosen by their fit
        (`sweeps.adaptive`).

    Raises
    ------
    ConfigError : an unknown accelerator, or two budgets. PlanError : a sweep that cannot be carried out as asked, or a
    budget that pays for nothing of it. RefusedError : the runs do not determine the next budget's sizes.
    """
    from plm_scaling.corpus.reader import Corpus
    from plm_scaling.sweeps.costs import price_doubts, priced
    from plm_scaling.sweeps.plan import read_spec
    from plm_scaling.sweeps.trim import trimmed

    limit = _trim_limit(budget_flops, gpu_hours, usd)
    named = _named(hardware)
    wanted = read_spec(spec)
    if corpus is None and not wanted.corpus:
        raise ConfigError("no corpus is named", where=str(spec), hint='corpus = "corpus" in the sweep, or --corpus')
    found = Corpus.open(Path(wanted.corpus) if corpus is None else corpus)
    made = _laid_out(wanted, found, scale, named, next_runs)
    made = _priced(made, named, measure, devices, time_limit_h)
    if limit is not None:
        made = trimmed(made, *limit)
        if made.cut and made.costs:
            made = priced(made, made.costs.device, n_devices=made.costs.n_devices, time_limit_h=time_limit_h)
    made = made.model_copy(update={"remarks": (*made.remarks, *price_doubts(made))})
    if out is not None:
        made = made.model_copy(update={"corpus": _relative(found.path.resolve(), out.resolve().parent)})
        made.write(out)
    return made


def _trim_limit(flops: float | None, gpu_hours: float | None, usd: float | None) -> tuple[float, TrimUnit] | None:
    units: tuple[tuple[float | None, TrimUnit], ...] = ((flops, "FLOPs"), (gpu_hours, "GPU-hours"), (usd, "USD"))
    given = [(value, unit) for value, unit in units if value is not None]
    if len(given) > 1:
        said = " and ".join(f"{value:g} {unit}" for value, unit in given)
        raise ConfigError("a plan is cut down to one budget", why=f"given: {said}", hint="give one of them")
    return given[0] if given else None


def _named(hardware: str | None) -> tuple[Gpu, Hardware] | None:
    from plm_scaling.sizing.device_profiles import find_hardware

    return None if hardware is None else find_hardware(hardware)


def _laid_out(
    spec: SweepSpec, corpus: Corpus, scale: float, named: tuple[Gpu, Hardware] | None, next_runs: Path | None
) -> SweepPlan:
    """All runs of the spec, or those of the next budget, checked against the memory of the device they are for."""
    from plm_scaling.core.gpus import count_gpus
    from plm_scaling.core.processor import has_bf16
    from plm_scaling.sweeps.plan import plan_sweep

    dtype: Literal["fp32", "bf16"] = "bf16" if has_bf16() or count_gpus() else "fp32"
    memory = named[0].memory_gb * 1e9 if named else None
    if next_runs is None:
        return plan_sweep(spec, corpus, scale=scale, dtype=dtype, memory_bytes=memory)
    from plm_scaling.sweeps.adaptive import plan_next

    return plan_next(spec, corpus, next_runs, scale=scale, dtype=dtype, memory_bytes=memory)


def _priced(
    plan: SweepPlan,
    named: tuple[Gpu, Hardware] | None,
    measure: bool,
    devices: int | None,
    time_limit_h: float | None,
) -> SweepPlan:
    """The plan with its costs, where a device was named or is to be measured."""
    from plm_scaling.core.gpus import count_gpus
    from plm_scaling.execution.local import default_workers
    from plm_scaling.sizing.device_profiles import hardware_profile, with_prices_of
    from plm_scaling.sweeps.costs import measured_profile, priced

    if measure:
        profile = measured_profile(plan)
        profile = with_prices_of(profile, *named) if named else profile
        devices = devices or count_gpus() or default_workers()
    elif named:
        profile = hardware_profile(*named, (run.config.d_model for run in plan.runs))
    elif devices is not None or time_limit_h is not None:
        raise ConfigError("nothing says how fast a device is", hint="--hardware NAME, or --measure on this machine")
    else:
        return plan
    return priced(plan, profile, n_devices=devices or 1, time_limit_h=time_limit_h)


def _relative(path: Path, start: Path) -> str:
    import os

    return os.path.relpath(path, start)
