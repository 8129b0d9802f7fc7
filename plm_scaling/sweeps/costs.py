"""What a plan costs on a kind of device: seconds, device-hours, money, energy, jobs within a time limit."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from plm_scaling.core.errors import PlanError
from plm_scaling.core.gpus import count_gpus
from plm_scaling.core.processor import processor_name
from plm_scaling.core.run import RunConfig
from plm_scaling.execution.local import default_workers
from plm_scaling.sweeps.cost_records import DeviceProfile, PlanCosts, RunCost, StepShape
from plm_scaling.sweeps.forecast import START_S, measure_steps, step_shape, wall_seconds
from plm_scaling.sweeps.plan_records import PlannedRun, SweepPlan

__all__ = ["TRAINING_SHARE", "measured_profile", "price_doubts", "priced", "run_pricer", "segments_of"]

TRAINING_SHARE: Final = 0.95
"""Share of a job's time limit that is planned as training: the rest is its start, and the steps since the last
checkpoint, which the next job trains again. Signals before the limit come late, so that no more is counted on."""
_FORWARD: Final = 1.0 / 3.0
"""Of a training step's FLOPs: backward is twice forward."""
_SHARING: Final = "plm_scaling.training.sharing"


def priced(
    plan: SweepPlan, device: DeviceProfile, *, n_devices: int = 1, time_limit_h: float | None = None
) -> SweepPlan:
    """The plan with what it costs on so many devices, and the predicted seconds of every run.

    Parameters
    ----------
    time_limit_h : longest time a job may take, hours; runs that take longer need several jobs.

    Raises
    ------
    PlanError : a number of devices or a limit that cannot be, or a shape that the profile has no speed of.
    """
    if n_devices < 1:
        raise PlanError(f"{n_devices} devices cannot train anything", where="devices")
    if time_limit_h is not None and not (math.isfinite(time_limit_h) and time_limit_h > 0):
        raise PlanError(f"a time limit of {time_limit_h:g} hours leaves no time", where="time_limit_h")
    seconds_of = run_pricer(device)
    costs = tuple(_run_cost(run.run_id, seconds_of(run), device, time_limit_h) for run in plan.runs)
    runs = tuple(
        run.model_copy(update={"predicted_seconds": cost.seconds}) for run, cost in zip(plan.runs, costs, strict=True)
    )
    total = PlanCosts(
        device=device,
        n_devices=n_devices,
        time_limit_h=time_limit_h,
        runs=costs,
        wall_seconds=wall_seconds(plan.runs, [cost.seconds for cost in costs], workers=n_devices),
        device_hours=math.fsum(cost.device_hours for cost in costs),
        usd=_sum(cost.usd for cost in costs),
        energy_kwh=_sum(cost.energy_kwh for cost in costs),
        segments=sum(cost.segments for cost in costs),
    )
    return plan.model_copy(update={"runs": runs, "costs": total})


def run_pricer(device: DeviceProfile) -> Callable[[PlannedRun], float]:
    """Seconds of a run on one device: start, steps, evaluations of `val_iid`, and the teacher's forward passes.

    By measured steps where the profile has them, else C_exact / (peak x MFU at the run's width).

    What is returned raises `PlanError` where the profile has no speed for a run.

    **Source:** MFU as in Chowdhery et al. 2022, appendix B; forward passes are a third of a training step.
    """
    steps: Mapping[StepShape, float] = dict(device.step_seconds)

    def seconds(run: PlannedRun) -> float:
        config = run.config
        if steps:
            training = run.steps * _known(steps.get(step_shape(config)), config, device)
        else:
            mfu = _known(device.mfu_by_width.get(config.d_model), config, device)
            training = run.C_exact / (_known(device.peak_flops_per_s, config, device) * mfu)
        # The teacher is not in a step that was timed alone, and is no part of C_exact.
        taught = training * (1.0 + (run.C_teacher or 0.0) / run.C_exact) * run.computed_share
        scored = config.validation_points * config.validation_tokens
        return START_S + taught + training / config.D * scored * _FORWARD

    return seconds


def _known(value: float | None, config: RunConfig, device: DeviceProfile) -> float:
    if value is None:
        shape = f"{config.n_layers}x{config.d_model}"
        raise PlanError(f"the profile of {device.name} does not say how fast it trains {shape} models", where="device")
    return value


def segments_of(seconds: float, time_limit_h: float | None) -> int:
    """Jobs that a run of so many seconds takes."""
    return 1 if time_limit_h is None else max(1, math.ceil(seconds / (3600.0 * time_limit_h * TRAINING_SHARE)))


def _run_cost(run_id: str, seconds: float, device: DeviceProfile, time_limit_h: float | None) -> RunCost:
    hours = seconds / 3600.0
    return RunCost(
        run_id=run_id,
        seconds=seconds,
        device_hours=hours,
        usd=None if device.usd_per_hour is None else hours * device.usd_per_hour,
        energy_kwh=None if device.watts is None else hours * device.watts / 1000.0,
        segments=segments_of(seconds, time_limit_h),
    )


def _sum(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if any(value is None for value in known) else math.fsum(value for value in known if value is not None)


def price_doubts(plan: SweepPlan) -> tuple[str, ...]:
    """Sentences on what a plan's prices rest on, where that is not much; none for a plan without prices."""
    if plan.costs is None:
        return ()
    device = plan.costs.device
    single = 0 if device.step_seconds or not device.peak_is_half else sum(r.config.dtype == "fp32" for r in plan.runs)
    unknown = sum(run.has_unknown_teacher for run in plan.runs)
    said = {
        f"speed or price of {device.name} is unverified (hardware.toml): hours and money may be far off; "
        "--measure times steps on the machine itself": device.unverified,
        f"{single} runs are fp32 and the peak of {device.name} is half precision: their times are lower bounds": single,
        f"the teachers of {unknown} runs are not in their times: their size is not known": unknown,
    }
    return tuple(text for text, true in said.items() if true)


# ---- measured here ---------------------------------------------------------------------------------------------------


def measured_profile(plan: SweepPlan, *, gpus: int | None = None) -> DeviceProfile:
    """The speed of this machine for every shape of the plan: a few steps of each are timed, as `run` would train them.

    A device is a GPU where there are any, else one of the one-thread processes of which `run` keeps one per core; all
    of these are kept busy while one is timed.

    Parameters
    ----------
    gpus : number of GPUs to count on; None for those there are.

    Raises
    ------
    PlanError : a shape that cannot be trained here.
    """
    configs = {step_shape(run.config): run.config for run in plan.runs}
    if count_gpus() if gpus is None else gpus:
        reports = {shape: _gpu_seconds(config, "cuda") for shape, config in sorted(configs.items())}
        name = next((name for name, _ in reports.values()), "GPU")
        times = {shape: seconds for shape, (_, seconds) in reports.items()}
    else:
        name = f"{processor_name()}, one core"
        times = measure_steps(set(configs), workers=default_workers())
    return DeviceProfile(name=name, source="measured", step_seconds=tuple(sorted(times.items())))


def _gpu_seconds(config: RunConfig, device: str, *, seconds: float = 2.0) -> tuple[str, float]:
    """Name of the device, and seconds per step of one run on it; in a process of its own: planning needs no torch."""
    command = [sys.executable, "-m", _SHARING, "--config", config.model_dump_json(), "--device", device, "--json"]
    command += ["--processes", "1", "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        report = json.loads(done.stdout)
        row = report["rows"][0]
        speed = row["tokens_per_s"]
    except (ValueError, KeyError, IndexError):
        raise PlanError("a training step could not be timed", why=done.stderr.strip()[-400:]) from None
    if not speed:
        raise PlanError(
            f"a step of {config.n_layers}x{config.d_model} cannot be made on this device",
            why=str(row.get("reason", "")),
            hint="leave the size out, or lower batch_tokens",
        )
    return str(report["device"]), config.batch_tokens / float(speed)
