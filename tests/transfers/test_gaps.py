from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.noise import PAIRED_SHARE, LossNoise
from plm_scaling.transfers.gaps import Gap, Sampling, draw_noise, measure_gap, run_scatter

Row = Callable[..., RunRow]
SAMPLING = Sampling(20000, 0)


def test_two_losses_on_the_same_sequences_share_most_of_their_error(row: Row) -> None:
    gap = measure_gap(row("t", loss=1.9, loss_se=0.01), row("s", loss=2.0, loss_se=0.02), None, None)
    assert gap.value == pytest.approx(-0.1)
    assert gap.se == pytest.approx(PAIRED_SHARE * 0.02)
    assert measure_gap(row("t"), row("s"), None, lambda *_: (-0.3, float("nan"))).se is None


def test_noise_has_the_size_of_its_causes(row: Row) -> None:
    noise = draw_noise(Gap(-0.1, 0.003, LossNoise(0.004)), row("t"), "s", SAMPLING)
    assert noise.gap.std() == pytest.approx(np.sqrt(0.003**2 + 2 * 0.004**2), rel=0.03)
    assert noise.validation.std() == pytest.approx(0.003, rel=0.03)
    assert noise.partner.std() == pytest.approx(0.004, rel=0.03)


def test_a_partner_of_two_pairs_has_one_noise(row: Row) -> None:
    first, second = (draw_noise(Gap(-0.1, 0.0, LossNoise(0.004)), row(t), "s", SAMPLING) for t in "tu")
    assert (first.partner == second.partner).all()
    assert np.corrcoef(first.gap, second.gap)[0, 1] == pytest.approx(0.5, abs=0.03)
    other = draw_noise(Gap(-0.1, 0.0, LossNoise(0.004)), row("u"), "other", SAMPLING)
    assert abs(np.corrcoef(first.gap, other.gap)[0, 1]) < 0.03


def test_few_replicates_are_bounded_many_are_not(row: Row) -> None:
    few, many = (
        draw_noise(Gap(-0.1, None, LossNoise(0.001, df)), row("t"), "s", SAMPLING, most=0.003) for df in (1.0, 6.0)
    )
    assert few.sd.max() == pytest.approx(0.003)
    assert few.sd.min() < 0.001
    assert many.sd.max() > 0.003
    # A bound below the estimate itself is none.
    assert draw_noise(Gap(0.0, None, LossNoise(0.01, 1.0)), row("t"), "s", SAMPLING, most=1e-4).sd.max() == 0.01


def test_runs_scatter_about_a_parabola_of_their_size(row: Row) -> None:
    rng = np.random.default_rng(0)
    rows = [
        row(f"{N:g}-{i}", N=N, D=D, loss=2.0 * np.exp(-0.05 * np.log(D / 1e6) + 0.01 * rng.standard_normal()))
        for N in (1e4, 2e4, 4e4, 8e4)
        for i, D in enumerate(np.geomspace(1e6, 1e8, 12))
    ]
    assert run_scatter(RunTable(tuple(rows))) == pytest.approx(0.01, rel=0.3)
    assert run_scatter(RunTable(tuple(rows[:6]))) is None
