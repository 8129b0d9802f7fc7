"""The bill of a training: worked examples, the ladder of memory, segments."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.architecture import ModelShape
from plm_scaling.core.errors import ConfigError
from plm_scaling.core.memory_estimate import GPU_MEMORY_SHARE, shape_bytes
from plm_scaling.core.model_sizes import model_size
from plm_scaling.sizing.costs import load_hardware
from plm_scaling.sizing.memory_plan import plan_memory
from plm_scaling.sizing.run_bill import bill_line, run_bill, slurm_segments

SHAPES = st.builds(ModelShape, n_layers=st.integers(1, 60), d_model=st.sampled_from([64, 320, 640, 1280, 2560, 5120]))


@settings(max_examples=200, deadline=None)
@given(wall=st.floats(0.01, 1e5), limit=st.floats(0.5, 200), overhead=st.floats(0, 0.5))
def test_segments_hold_the_work_and_one_fewer_would_not(wall: float, limit: float, overhead: float) -> None:
    n = slurm_segments(wall, limit, overhead)
    useful = limit * (1 - overhead)
    assert n * useful >= wall * (1 - 1e-12)
    assert n == 1 or (n - 1) * useful < wall
    assert slurm_segments(wall, None, overhead) == 1


@pytest.mark.parametrize(("wall", "segments"), [(388.1206605999326, 18), (494.61855017410574, 22), (109.7137962, 5)])
def test_segments_of_worked_examples(wall: float, segments: int) -> None:
    assert slurm_segments(wall, 24, 0.05) == segments


def test_training_esm2_650m_again_is_billed_as_published_shapes_count() -> None:
    # 1e12 tokens of full windows: 4.42196736e21 FLOPs, 18 jobs of a day on eight H100, 2,347 kWh at a load of .9.
    shape = model_size("esm2-650m")
    bill = run_bill(
        shape.N, 1e12, shape=shape, gpu="h100", n_gpus=8, attended_tokens=1024, queue_limit_hours=24, mfu=0.4
    )
    assert bill.C_exact == pytest.approx(4.42196736e21, rel=1e-9)
    assert (bill.segments, bill.N_total) == (18, 651_043_254 - (33 * 20 + 1))
    assert bill.usd_mid == pytest.approx(7762.413211998652, rel=1e-9)
    assert bill.energy_kwh == pytest.approx(0.9 * 2608.170839231547, rel=1e-9)
    assert bill.co2_kg == pytest.approx(0.9 * 912.8597937310413, rel=1e-9)
    own = run_bill(shape.N, 1e12, shape=shape, gpu="h100", n_gpus=8, attended_tokens=1024, mfu=0.4, kg_co2_per_kwh=0.1)
    assert own.co2_kg == pytest.approx(own.energy_kwh * 0.1)


def test_the_line_says_all_of_it() -> None:
    line = bill_line(run_bill(2.5e9, 170e9, gpu="a100", n_gpus=64, queue_limit_hours=24))
    assert "\n" not in line
    for part in (
        "layers x",
        "FLOPs",
        "SXM 80GB hours",
        "h on 64 in 4 jobs of 24 h",
        "GB per GPU",
        "$",
        "kWh",
        "kg CO2",
    ):
        assert part in line, part
    assert "DOES NOT FIT" not in line


def test_a_model_too_large_for_its_gpus_is_said_to_be() -> None:
    bill = run_bill(15e9, 1e11, gpu="a100", n_gpus=2)
    assert f"{bill.memory.least_gpus} GPUs would do" in bill_line(bill)
    assert bill.flags == ("DOES_NOT_FIT",)
    assert not bill.memory.fits
    assert str(bill.memory.least_gpus) in bill.warnings[0]
    enough = run_bill(15e9, 1e11, gpu="a100", n_gpus=bill.memory.least_gpus)
    assert enough.memory.fits
    assert not run_bill(15e9, 1e11, gpu="a100", n_gpus=bill.memory.least_gpus - 1).memory.fits


@settings(max_examples=150, deadline=None)
@given(
    shape=SHAPES,
    n_gpus=st.integers(1, 64),
    memory=st.floats(4, 192),
    batch=st.integers(1, 2048),
    more=st.floats(1, 8),
)
def test_a_rung_is_no_higher_than_it_must_be(
    shape: ModelShape, n_gpus: int, memory: float, batch: int, more: float
) -> None:
    plan = plan_memory(shape, memory, n_gpus=n_gpus, batch_tokens=batch * 1024)
    if plan.fits:
        assert plan.total_gb <= GPU_MEMORY_SHARE * memory
        assert 1 <= plan.micro_windows <= max(1, math.ceil(batch / n_gpus))
        assert plan.micro_windows * plan.passes_per_step >= batch // n_gpus
        assert plan.least_gpus <= n_gpus
    roomier = plan_memory(shape, memory * more, n_gpus=n_gpus, batch_tokens=batch * 1024)
    assert roomier.rung <= plan.rung
    assert roomier.fits >= plan.fits
    deeper = shape.model_copy(update={"n_layers": shape.n_layers * 2})
    larger = plan_memory(deeper, memory, n_gpus=n_gpus, batch_tokens=batch * 1024)
    assert larger.rung >= plan.rung
    assert larger.fits <= plan.fits
    if n_gpus > 1:
        spread = plan_memory(shape, memory, n_gpus=n_gpus * 2, batch_tokens=batch * 1024)
        assert spread.rung <= plan.rung


def test_rungs_by_hand() -> None:
    shape = model_size("esm2-3b")  # 2.84e9 parameters: 45 GB of state
    one, two, eight = (plan_memory(shape, 80, n_gpus=n, batch_tokens=2**20) for n in (1, 2, 8))
    assert (one.parallel, one.recompute, one.fits) == ("replicated", "all", True)
    assert two.parallel == eight.parallel == "sharded"
    state, activations = shape_bytes(shape, 1024 * eight.micro_windows, eight.recompute)
    assert eight.state_gb * 1e9 == pytest.approx(state / 8 + 2 * 2 * shape.N / 36)
    assert eight.activations_gb * 1e9 == activations
    small = plan_memory(model_size("esm2-35m"), 80, n_gpus=8, batch_tokens=2**19)
    assert (small.rung, small.micro_windows) == (0, 64)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ConfigError, match="tokens"):
        run_bill(1e8, 0.0)
    with pytest.raises(ConfigError, match="overhead"):
        slurm_segments(1.0, 24.0, 1.0)
    with pytest.raises(ConfigError, match="memory plan"):
        plan_memory(ModelShape(n_layers=1, d_model=64), 0.0, n_gpus=1, batch_tokens=1024)


def test_the_hardware_file_states_the_grid() -> None:
    assert load_hardware().kg_co2_per_kwh == 0.35
