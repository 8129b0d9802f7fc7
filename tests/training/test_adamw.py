from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from plm_scaling.core.run import RunConfig
from plm_scaling.models.build import build_model
from plm_scaling.training.adamw import AdamW
from plm_scaling.training.flat import FlatParameters

MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def adamw(make_config: MakeConfig) -> AdamW:
    """After one update of gradient norm 1."""
    config = make_config(spike_factor=5.0)
    flat = FlatParameters.of(build_model(config.shape, causal=True, context=config.context, seed=0))
    made = AdamW(flat, config)
    assert update(made, 0, 1.0) == pytest.approx(1.0)
    return made


def update(adamw: AdamW, step: int, norm: float) -> float:
    """An update by a gradient of this norm, in one parameter; returns the norm told."""
    adamw.flat.grad.zero_()
    adamw.flat.grad[step] = norm
    return adamw.update(step, 1e-3).item()


@pytest.mark.parametrize(("norm", "told"), [(5.5, 5.5), (1e18, 1e18), (float("inf"), 1.0)])
def test_a_spike_changes_nothing_but_the_count(adamw: AdamW, norm: float, told: float) -> None:
    before = (adamw.flat.value.clone(), adamw.exp_avg.clone(), adamw.exp_avg_sq.clone())
    assert update(adamw, 1, norm) == pytest.approx(told)
    assert adamw.spikes.tolist() == pytest.approx([1.0, 1.0])
    for now, then in zip((adamw.flat.value, adamw.exp_avg, adamw.exp_avg_sq), before, strict=True):
        assert torch.equal(now, then)
    update(adamw, 2, 1.0)
    assert adamw.spikes.tolist() == pytest.approx([1.0, 1.0])


def test_a_norm_that_is_no_number_is_not_skipped_and_not_averaged(adamw: AdamW) -> None:
    assert update(adamw, 1, float("nan")) != update(adamw, 1, float("nan"))  # told as it is: the run ends by it
    assert adamw.spikes.tolist() == pytest.approx([1.0, 0.0])
    assert not adamw.flat.value.isfinite().all()


@pytest.mark.parametrize("norm", [float("nan"), float("inf")])
def test_the_mean_does_not_begin_with_a_norm_that_is_not_finite(make_config: MakeConfig, norm: float) -> None:
    config = make_config(spike_factor=5.0)
    made = AdamW(FlatParameters.of(build_model(config.shape, causal=True, context=config.context, seed=0)), config)
    assert update(made, 0, norm) != pytest.approx(0.0)
    assert made.spikes.tolist() == [0.0, 0.0]
