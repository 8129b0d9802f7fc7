from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.errors import ConfigError, PlanError
from plm_scaling.core.run import RunConfig
from plm_scaling.sizing.costs import Gpu, Hardware
from plm_scaling.sizing.device_profiles import find_hardware, hardware_profile, with_prices_of
from plm_scaling.sweeps import costs
from plm_scaling.sweeps.cost_records import DeviceProfile, StepShape
from plm_scaling.sweeps.costs import measured_profile, price_doubts, priced, run_pricer, segments_of
from plm_scaling.sweeps.forecast import START_S, step_shape
from plm_scaling.sweeps.plan_records import PlannedRun, SweepPlan

DEVICE = DeviceProfile(
    name="a device",
    source="hardware file",
    peak_flops_per_s=1e12,
    mfu_by_width={16: 0.1, 64: 0.5},
    usd_per_hour=2.0,
    watts=500.0,
)


def planned(run_id: str = "a", **changes: Any) -> PlannedRun:
    values = {"corpus_id": "c", "objective": "clm", "n_layers": 1, "d_model": 64, "context": 64, "D": 10_000}
    values |= {"batch_tokens": 256, "peak_lr": 1e-3, "recipe": "small", "validation_tokens": 1000}
    of_run = {name: changes.pop(name) for name in list(changes) if name in PlannedRun.model_fields}
    known = {"roles": (), "C_exact": 3.6e15, "unique_tokens": 1, "epochs": 1, "steps": 100, "memory_bytes": 1}
    return PlannedRun(run_id=run_id, config=RunConfig.model_validate(values | changes), **(known | of_run))


def plan(*runs: PlannedRun) -> SweepPlan:
    return SweepPlan(name="t", corpus="c", corpus_id="c", currency="C_exact", runs=runs)


def test_a_run_takes_its_flops_over_the_useful_speed_and_its_validation() -> None:
    # 3.6e15 / (1e12 x 0.5) = 7200 s; 5 evaluations of 1,000 tokens at a third of the price of 10,000 training tokens.
    assert run_pricer(DEVICE)(planned()) == pytest.approx(START_S + 7200 * (1 + 5 * 1000 / 10_000 / 3))


def test_a_branch_pays_only_for_its_own_steps_and_a_student_for_its_teacher() -> None:
    whole, validated = 7200.0, 7200 * 5 * 1000 / 10_000 / 3
    branch = run_pricer(DEVICE)(planned(begin_step=75, trunk="b"))
    assert branch == pytest.approx(START_S + 0.25 * whole + validated)
    taught = run_pricer(DEVICE)(planned(C_teacher=1.8e15))
    assert taught == pytest.approx(START_S + 1.5 * whole + validated)


def test_measured_steps_count_before_any_peak() -> None:
    run = planned(validation_tokens=1)
    measured = DeviceProfile(name="here", source="measured", step_seconds=((step_shape(run.config), 0.25),))
    assert run_pricer(measured)(run) == pytest.approx(START_S + 25.0, rel=1e-3)
    assert run_pricer(measured)(planned(steps=200, validation_tokens=1)) == pytest.approx(START_S + 50.0, rel=1e-3)


def test_a_shape_without_a_speed_is_named() -> None:
    with pytest.raises(PlanError, match="a device does not say how fast it trains 1x32"):
        run_pricer(DEVICE)(planned(d_model=32))


@settings(max_examples=25, deadline=None)
@given(flops=st.lists(st.floats(1e12, 1e17), min_size=1, max_size=8), devices=st.integers(1, 4))
def test_costs_add_up(flops: list[float], devices: int) -> None:
    made = priced(plan(*(planned(str(k), C_exact=C) for k, C in enumerate(flops))), DEVICE, n_devices=devices)
    total = made.costs
    assert total is not None
    assert total.device_hours == pytest.approx(sum(cost.seconds for cost in total.runs) / 3600)
    assert total.usd == pytest.approx(2.0 * total.device_hours)
    assert total.energy_kwh == pytest.approx(0.5 * total.device_hours)
    assert [run.predicted_seconds for run in made.runs] == [cost.seconds for cost in total.runs]
    hours = total.wall_seconds / 3600
    assert total.device_hours / devices - 1e-9 <= hours <= total.device_hours + 1e-9
    assert hours >= max(cost.device_hours for cost in total.runs) - 1e-9


def test_what_has_no_price_has_none_instead_of_zero() -> None:
    made = priced(plan(planned()), DEVICE.model_copy(update={"usd_per_hour": None, "watts": None}))
    assert made.costs is not None
    assert (made.costs.usd, made.costs.energy_kwh) == (None, None)
    assert [(cost.usd, cost.energy_kwh) for cost in made.costs.runs] == [(None, None)]


@pytest.mark.parametrize(
    ("hours", "limit", "jobs"), [(1, None, 1), (1, 24, 1), (22.8, 24, 1), (23, 24, 2), (96, 24, 5)]
)
def test_jobs_within_a_time_limit(hours: float, limit: float | None, jobs: int) -> None:
    assert segments_of(hours * 3600, limit) == jobs


@pytest.mark.parametrize("bad", [{"n_devices": 0}, {"time_limit_h": 0.0}, {"time_limit_h": math.inf}])
def test_devices_and_limits_that_cannot_be(bad: dict[str, Any]) -> None:
    with pytest.raises(PlanError):
        priced(plan(planned()), DEVICE, **bad)


def test_doubts_about_prices_are_said() -> None:
    unsure = DEVICE.model_copy(update={"unverified": True})
    said = price_doubts(priced(plan(planned(dtype="fp32"), planned("b", dtype="bf16")), unsure))
    assert len(said) == 2
    assert "unverified" in said[0]
    assert said[1].startswith("1 runs are fp32")
    assert price_doubts(plan(planned())) == ()
    gpu, hardware = find_hardware("cpu")
    assert all("half precision" not in doubt for doubt in price_doubts(on_processor(gpu, hardware)))


def on_processor(gpu: Gpu, hardware: Hardware) -> SweepPlan:
    return priced(plan(planned(dtype="fp32")), hardware_profile(gpu, hardware, (64,)))


def test_an_entry_of_the_hardware_file_is_a_profile() -> None:
    gpu, hardware = find_hardware("H100")
    profile = hardware_profile(gpu, hardware, (320, 1280, 320))
    assert profile.peak_flops_per_s == gpu.peak_tflops * 1e12
    assert profile.mfu_by_width == {320: pytest.approx(gpu.mfu * 0.25), 1280: pytest.approx(gpu.mfu)}
    assert profile.watts == pytest.approx(gpu.watts * hardware.watt_load * hardware.pue)
    measured = DeviceProfile(name="here", source="measured", step_seconds=((step_shape(planned().config), 0.25),))
    both = with_prices_of(measured, gpu, hardware)
    assert (both.name, both.step_seconds, both.usd_per_hour) == ("here", measured.step_seconds, gpu.usd_per_hour.mid)
    with pytest.raises(ConfigError, match="unknown accelerator"):
        find_hardware("h1000")


def test_this_machine_is_timed_for_every_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[set[StepShape]] = []

    def measure(shapes: set[StepShape], *, workers: int) -> dict[StepShape, float]:
        asked.append(shapes)
        return {shape: 0.001 * shape[1] for shape in shapes}

    monkeypatch.setattr(costs, "measure_steps", measure)
    swept = plan(planned("a"), planned("b", d_model=16), planned("c", seed=1))
    profile = measured_profile(swept, gpus=0)
    assert asked == [{step_shape(run.config) for run in swept.runs}]
    assert [run_pricer(profile)(run) > START_S + 0.1 * run.config.d_model for run in swept.runs] == [True] * 3


@pytest.mark.slow
def test_a_gpus_steps_are_timed_by_the_program_that_shares_it() -> None:
    name, seconds = costs._gpu_seconds(planned(d_model=16).config, "cpu", seconds=0.2)
    assert name == "cpu"
    assert 0 < seconds < 60
    with pytest.raises(PlanError, match="could not be timed"):
        costs._gpu_seconds(planned().config, "no such device")
