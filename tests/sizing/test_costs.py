from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from plm_scaling.core.configs import find_config
from plm_scaling.core.errors import ConfigError
from plm_scaling.core.units import exact_training_flops
from plm_scaling.sizing.costs import (
    Budget,
    Hardware,
    MfuByWidth,
    PriceRange,
    bill_for,
    compute_of,
    exact_over_6nd,
    gpu_named,
    load_hardware,
    mfu_at_width,
    throughput_for,
)
from plm_scaling.sizing.shapes import typical_width


@pytest.fixture(scope="module")
def hardware() -> Hardware:
    return load_hardware()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "given: none"),
        ({"usd": 5.0, "flops": 1e20}, "given: usd, flops"),
        ({"gpu_hours": 0.0}, "gpu_hours = 0 is not a positive number"),
        ({"flops": math.inf}, "flops = inf"),
        ({"usd": -3.0}, "usd = -3"),
        ({"usd": 1e300}, "usd = 1e+300 is no budget of this world"),
    ],
)
def test_a_budget_is_one_positive_number(fields: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Budget(**fields)
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


def test_budgets_are_values() -> None:
    assert Budget(usd=10.0).content_hash() == Budget(usd=10.0).content_hash()
    assert Budget(usd=10.0).content_hash() != Budget(gpu_hours=10.0).content_hash()


def test_the_shipped_table_says_what_the_data_sheets_say(hardware: Hardware) -> None:
    a100, h100 = hardware.gpus["a100"], hardware.gpus["h100"]
    assert (a100.peak_tflops, a100.memory_gb, a100.mfu) == (312, 80, 0.45)
    assert (h100.peak_tflops, h100.usd_per_hour.mid, h100.mfu) == (989, 2.5, 0.40)
    assert set(hardware.gpus) == {"v100", "a100", "h100", "h200", "b200", "mi300x", "cpu"}
    assert {key for key, gpu in hardware.gpus.items() if gpu.status == "unverified"} == {
        "v100",
        "b200",
        "mi300x",
        "cpu",
    }
    assert all(gpu.source for gpu in hardware.gpus.values())


def test_an_unknown_accelerator_gets_a_suggestion(hardware: Hardware) -> None:
    assert gpu_named(" A100 ", hardware).peak_tflops == 312
    with pytest.raises(ConfigError, match="unknown accelerator 'a10'") as caught:
        gpu_named("a10", hardware)
    assert "a100" in caught.value.hint


def test_a_users_own_file_is_read_and_a_wrong_key_found(tmp_path: Path) -> None:
    text = find_config("hardware").read_text()
    own = tmp_path / "mine.toml"
    own.write_text(text.replace("mfu = 0.45", "mfu = 0.5"))
    assert load_hardware(own).gpus["a100"].mfu == 0.5
    own.write_text(text.replace("watt_load", "watt_laod"))
    with pytest.raises(ConfigError, match="watt_laod: unknown key") as caught:
        load_hardware(own)
    assert "watt_load" in caught.value.hint


def test_prices_and_curves_are_checked() -> None:
    with pytest.raises(ValidationError, match="rise from low to mid to high"):
        PriceRange(low=2.0, mid=1.0, high=3.0)
    with pytest.raises(ValidationError, match="rising widths"):
        MfuByWidth(widths=(640.0, 320.0), share=(0.1, 0.2))
    with pytest.raises(ValidationError, match="between 0 and 1"):
        MfuByWidth(widths=(320.0, 640.0), share=(0.1, 1.2))


@pytest.mark.parametrize(("width", "share"), [(320, 0.25), (640, 0.625), (1280, 1.0), (4096, 1.0), (160, 0.1)])
def test_mfu_follows_the_width(hardware: Hardware, width: int, share: float) -> None:
    gpu = hardware.gpus["h100"]
    assert mfu_at_width(gpu, width, hardware.mfu_by_width) == pytest.approx(gpu.mfu * share)


def test_mfu_between_two_widths_is_their_geometric_mean(hardware: Hardware) -> None:
    gpu, curve = hardware.gpus["h100"], hardware.mfu_by_width
    middle = mfu_at_width(gpu, math.sqrt(640 * 1280), curve)
    assert middle == pytest.approx(gpu.mfu * math.sqrt(0.625))


def test_the_overhead_is_the_exact_count_at_a_buildable_shape() -> None:
    # 12 x 768: proportions of 64; the count of units must agree up to the norm gains and the rounding of the width.
    exact = exact_training_flops(12, 768, positions=1e6, sum_length_squared=400e6) / 1e6
    assert exact_over_6nd(12 * 12 * 768**2) == pytest.approx(exact / (6 * 12 * 12 * 768**2), rel=0.01)


def test_attention_is_the_known_share_of_a_1280_wide_model() -> None:
    # s/(6 d): full windows of 1,024 add 13 % at ESM-2 650M's width, packed ones 5 %.
    N = 12 * 33 * 1280**2
    d = typical_width(N)
    head = 6.0 * d * 33 / (6.0 * N)
    assert exact_over_6nd(N, 1024) == pytest.approx(1 + 1024 / (6 * d) + head)
    assert exact_over_6nd(N, 400) < exact_over_6nd(N, 1024)


def test_the_bill_of_training_esm2_650m_again(hardware: Hardware) -> None:
    # 4.42196736e21 FLOPs at 40 % of 989 TFLOP/s: 3,104.97 H100 hours, $7,762 at $2.5.
    gpu = hardware.gpus["h100"]
    hours = 4.42196736e21 / (gpu.peak_tflops * 1e12 * gpu.mfu * 3600)
    bill = bill_for(hours, gpu, hardware)
    assert bill.gpu_hours == pytest.approx(3104.9652847994607)
    assert bill.usd_mid == pytest.approx(7762.413211998652)
    assert (bill.usd_low, bill.usd_high) == pytest.approx((2 * hours, 5 * hours))
    assert bill.energy_kwh == pytest.approx(2608.170839231547 * 0.9)


def test_the_users_price_replaces_the_range(hardware: Hardware) -> None:
    bill = bill_for(100.0, hardware.gpus["a100"], hardware, usd_per_gpu_hour=2.0)
    assert (bill.usd_low, bill.usd_mid, bill.usd_high) == (200.0, 200.0, 200.0)


def test_a_measured_mfu_is_used_as_it_is(hardware: Hardware) -> None:
    speed = throughput_for(1e7, hardware.gpus["a100"], hardware, mfu=0.3)
    assert speed.mfu == 0.3
    assert speed.flops_6nd_per_s * speed.exact_over_6nd == pytest.approx(0.3 * 312e12)


def test_below_the_smallest_model_speed_stays(hardware: Hardware) -> None:
    gpu = hardware.gpus["a100"]
    assert throughput_for(100.0, gpu, hardware) == throughput_for(49_280, gpu, hardware)
    assert throughput_for(1e6, gpu, hardware).mfu > throughput_for(49_280, gpu, hardware).mfu


@settings(max_examples=100, deadline=None)
@example(hours=0.01171875, exponent=0.890625)
@given(hours=st.floats(1e-2, 1e6), exponent=st.floats(0.2, 0.9))
def test_hours_and_flops_are_inverse(hours: float, exponent: float) -> None:
    hardware = load_hardware()
    gpu = hardware.gpus["a100"]

    def optimum(C: float) -> float:
        return 1e7 * (C / 1e18) ** exponent

    def speed(N: float) -> float:
        return throughput_for(N, gpu, hardware).flops_6nd_per_s

    C = compute_of(hours, optimum, speed)
    assert C / speed(optimum(C)) / 3600.0 == pytest.approx(hours, rel=1e-6)


def test_a_device_may_have_a_curve_of_its_own(hardware: Hardware) -> None:
    cpu, a100 = hardware.gpus["cpu"], hardware.gpus["a100"]
    assert cpu.mfu_by_width is not None
    for width, share in zip(cpu.mfu_by_width.widths, cpu.mfu_by_width.share, strict=True):
        assert mfu_at_width(cpu, width, hardware.mfu_by_width) == pytest.approx(share * cpu.mfu)
    assert mfu_at_width(a100, 320, hardware.mfu_by_width) == pytest.approx(0.25 * a100.mfu)
    # Measured there: 10.5 ms for a step of 512 tokens of a 2x64 model on one core, whose peak alone is 129 GFLOP/s.
    done = 6 * 98_560 * 512 / 10.5e-3
    assert mfu_at_width(cpu, 64, hardware.mfu_by_width) == pytest.approx(done / 129e9, rel=0.05)
