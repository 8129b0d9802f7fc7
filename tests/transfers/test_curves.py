from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.fit import fit_surface
from plm_scaling.transfers.curves import ScratchCurve, curve_of, surface_curve


def curve(*loss: float) -> ScratchCurve:
    return ScratchCurve(np.log(1e6 * 2.0 ** np.arange(len(loss))), np.array(loss), np.ones(len(loss)))


def test_pooling_by_hand() -> None:
    c = curve(3.0, 2.0, 2.4, 1.0)
    assert c.monotone(c.loss).tolist() == pytest.approx([3.0, 2.2, 2.2, 1.0])


@settings(deadline=None)
@given(st.lists(st.floats(0.5, 4.0), min_size=2, max_size=8))
def test_pooled_losses_never_rise_and_keep_their_mean(losses: list[float]) -> None:
    level = curve(*losses).monotone(np.array(losses))
    assert (np.diff(level) <= 1e-12).all()
    assert level.mean() == pytest.approx(np.mean(losses))


@settings(deadline=None)
@given(st.floats(0.0, 1.0))
def test_reading_both_ways_agrees(share: float) -> None:
    c = curve(3.0, 2.5, 2.2, 1.9)
    log_D = c.log_D[0] + share * (c.log_D[-1] - c.log_D[0])
    assert c.log_D_for(c.loss_at(log_D)) == pytest.approx(log_D, abs=1e-6)


def test_nothing_is_read_beyond_the_points() -> None:
    c = curve(3.0, 2.5, 2.2)
    assert c.log_D_for(3.1) == -math.inf
    assert c.log_D_for(2.1) == math.inf
    assert math.isnan(c.loss_at(float(c.log_D[-1]) + 0.1))


def test_a_flat_stretch_reads_as_its_middle() -> None:
    c = curve(3.0, 2.5, 2.5, 2.0)
    assert c.log_D_for(2.5) == pytest.approx(0.5 * (c.log_D[1] + c.log_D[2]), abs=1e-6)


def test_seeds_are_averaged_by_length(row: Callable[..., RunRow]) -> None:
    runs = RunTable((row("a", D=3e6, loss=1.0), row("b", D=1e6, loss=2.0), row("c", D=3.01e6, loss=1.2, seed=1)))
    c = curve_of(runs)
    assert c.loss.tolist() == pytest.approx([2.0, 1.1])
    assert c.n_seeds.tolist() == [1, 2]
    assert np.exp(c.log_D).tolist() == pytest.approx([1e6, 3.005e6], rel=1e-3)
    assert [c.nearest(math.log(D)) for D in (5e5, 1.2e6, 2.9e6, 9e6)] == [0, 0, 1, 1]


def test_a_surface_is_scaled_through_its_anchor() -> None:
    N, D = (g.ravel() for g in np.meshgrid(np.geomspace(1e4, 1e5, 4), np.geomspace(1e6, 1e7, 4)))
    surface = fit_surface(N, D, 1 + 40 * N**-0.4 + 300 * D**-0.4, draws=1)
    c = surface_curve(surface, 3e4, math.log(2e6), anchor=2.5)
    assert c.loss_at(math.log(2e6)) == pytest.approx(2.5)
    expected = (1 + 40 * 3e4**-0.4 + 300 * 4e6**-0.4) / (1 + 40 * 3e4**-0.4 + 300 * 2e6**-0.4)
    assert c.loss_at(math.log(4e6)) == pytest.approx(2.5 * expected, rel=1e-4)
