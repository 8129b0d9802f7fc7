from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.fit import fit_surface
from plm_scaling.laws.law_fit import SurfaceFit
from plm_scaling.transfers.curves import (
    LossCurves,
    ScratchCurve,
    curve_of,
    curves_through,
    non_increasing,
    surface_curves,
)

N = 3e4


def points(*loss: float) -> ScratchCurve:
    return ScratchCurve(np.log(1e6 * 2.0 ** np.arange(len(loss))), np.array(loss), np.ones(len(loss)))


def through(*loss: float) -> LossCurves:
    c = points(*loss)
    return curves_through(c, c.loss[None], None, N, None)


def truth(D: float) -> float:
    return float(1 + 40 * N**-0.4 + 300 * D**-0.4)


@pytest.fixture(scope="module")
def surface() -> SurfaceFit:
    N, D = (g.ravel() for g in np.meshgrid(np.geomspace(1e4, 1e5, 4), np.geomspace(1e6, 1e7, 4)))
    return fit_surface(N, D, 1 + 40 * N**-0.4 + 300 * D**-0.4, draws=3)


def test_pooling_by_hand() -> None:
    assert non_increasing(np.array([[3.0, 2.0, 2.4, 1.0]]), np.ones(4))[0].tolist() == pytest.approx([3, 2.2, 2.2, 1])
    assert non_increasing(np.array([[2.0, 2.4]]), np.array([3.0, 1.0]))[0].tolist() == pytest.approx([2.1, 2.1])


def pooled(values: list[float], weights: list[float]) -> list[float]:
    """Pool adjacent violators, the textbook's loop."""
    blocks: list[list[float]] = []
    for value, weight in zip(values, weights, strict=True):
        blocks.append([value, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] < blocks[-1][0]:
            b, a = blocks.pop(), blocks.pop()
            blocks.append([(a[0] * a[1] + b[0] * b[1]) / (a[1] + b[1]), a[1] + b[1], a[2] + b[2]])
    return [value for value, _, count in blocks for _ in range(int(count))]


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.5, 4.0), st.floats(1.0, 5.0)), min_size=2, max_size=8))
def test_pooling_is_the_textbooks(rows: list[tuple[float, float]]) -> None:
    values, weights = [v for v, _ in rows], [w for _, w in rows]
    level = non_increasing(np.array([values, values[::-1]]), np.array(weights))
    assert level[0].tolist() == pytest.approx(pooled(values, weights))
    assert level[1].tolist() == pytest.approx(pooled(values[::-1], weights))


@settings(deadline=None)
@given(st.floats(0.0, 1.0))
def test_reading_both_ways_agrees(share: float) -> None:
    c = through(3.0, 2.5, 2.2, 1.9)
    log_D = float(c.log_D[0] + share * (c.log_D[-1] - c.log_D[0]))
    assert c.log_D_for(c.at(log_D))[0] == pytest.approx(log_D, abs=1e-6)


def test_nothing_is_read_beyond_the_points() -> None:
    c = through(3.0, 2.5, 2.2)
    assert c.log_D_for(math.log(3.1))[0] == -math.inf
    assert c.log_D_for(math.log(2.1))[0] == math.inf
    assert math.isnan(c.at(float(c.log_D[-1]) + 0.1)[0])


def test_a_flat_stretch_reads_as_its_middle_wherever_it_is() -> None:
    for k, losses in enumerate([(2.5, 2.5, 2.3, 2.0), (3.0, 2.5, 2.5, 2.0), (3.0, 2.8, 2.5, 2.5)]):
        c = through(*losses)
        nodes = points(*losses).log_D
        assert c.log_D_for(math.log(2.5))[0] == pytest.approx(0.5 * (nodes[k] + nodes[k + 1]), abs=1e-6)


def test_a_single_point_knows_itself_alone() -> None:
    c = through(2.5)
    assert c.at(math.log(1e6))[0] == pytest.approx(math.log(2.5))
    assert math.isnan(c.at(math.log(1.1e6))[0])
    assert c.log_D_for(math.log(2.5))[0] == pytest.approx(math.log(1e6))


def test_many_curves_are_read_at_once_each_at_its_own_level() -> None:
    c = points(3.0, 2.5, 2.2)
    both = curves_through(c, np.array([[3.0, 2.5, 2.2], [2.9, 2.4, 2.0]]), None, N, None)
    assert both.log_D_for(np.log([2.5, 2.4])).tolist() == pytest.approx([math.log(2e6)] * 2)
    assert np.exp(both.at(np.log([1e6, 4e6]))).tolist() == pytest.approx([3.0, 2.0])


def test_between_runs_a_surface_leaves_no_bias(surface: SurfaceFit) -> None:
    """Straight lines in ln D overstate a convex curve; in the surface's ln loss it is straight."""
    c = points(*(truth(1e6 * 2.0**k) for k in range(4)))
    wanted = math.log(truth(1.4e6))
    straight = curves_through(ScratchCurve(c.log_D[:3], c.loss[:3], c.n_seeds[:3]), c.loss[None, :3], None, N, None)
    assert np.exp(straight.log_D_for(wanted))[0] > 1.01 * 1.4e6
    assert np.exp(curves_through(c, c.loss[None], surface, N, None).log_D_for(wanted))[0] == pytest.approx(
        1.4e6, rel=1e-4
    )
    # With four lengths a parabola takes most of it away.
    assert np.exp(curves_through(c, c.loss[None], None, N, None).log_D_for(wanted))[0] == pytest.approx(1.4e6, rel=3e-3)


def test_a_surface_that_turns_at_this_size_is_not_followed(surface: SurfaceFit) -> None:
    still = surface.parameters["beta"].model_copy(update={"value": 0.0})
    flat = surface.model_copy(update={"parameters": surface.parameters | {"beta": still}})
    c = points(3.0, 2.5, 2.2)
    with_flat = curves_through(c, c.loss[None], flat, N, None)
    without = curves_through(c, c.loss[None], None, N, None)
    assert with_flat.log_D_for(math.log(2.4)) == pytest.approx(without.log_D_for(math.log(2.4)))


def test_seeds_are_averaged_by_length(row: Callable[..., RunRow]) -> None:
    runs = RunTable((row("a", D=3e6, loss=1.0), row("b", D=1e6, loss=2.0), row("c", D=3.01e6, loss=1.2, seed=1)))
    c = curve_of(runs)
    assert c.loss.tolist() == pytest.approx([2.0, 1.1])
    assert c.n_seeds.tolist() == [1, 2]
    assert np.exp(c.log_D).tolist() == pytest.approx([1e6, 3.005e6], rel=1e-3)
    assert [c.nearest(math.log(D)) for D in (5e5, 1.2e6, 2.9e6, 9e6)] == [0, 0, 1, 1]


def test_a_surface_as_curves(surface: SurfaceFit) -> None:
    estimate, drawn = surface_curves(surface, N, math.log(2e6))
    assert np.exp(estimate.at(math.log(2e6)))[0] == pytest.approx(truth(2e6), rel=1e-6)
    for D in (5e4, 2.1e6, 3e6, 1e8):
        assert np.exp(estimate.log_D_for(math.log(truth(D))))[0] == pytest.approx(D, rel=2e-3)
    assert len(drawn.log_loss) == 3
    assert (np.diff(drawn.log_loss, axis=1) <= 0).all()
