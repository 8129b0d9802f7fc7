from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.forms import find_form
from plm_scaling.laws.newton import Problem, expand
from plm_scaling.laws.problem import make_problem, make_sample
from plm_scaling.transfers.joint import joint_fits, joint_form
from plm_scaling.transfers.scratch_laws import ScratchLaws

Row = Callable[..., RunRow]
K, A, B = 1.5e6, 0.3, 0.2


def scratch(N: float, D: float) -> float:
    return float(1.0 + 40 * N**-0.4 + 300 * D**-0.4)


def simulated(row: Row, sizes: tuple[float, ...] = (2e4, 6e4, 2e5)) -> RunTable:
    rows = [
        row(f"s{N:g}-{D:g}", role="grid", N=N, D=D, loss=scratch(N, D))
        for N in np.geomspace(1e4, 4e5, 5)
        for D in np.geomspace(5e5, 2e7, 5)
    ]
    moved = {"source_run_id": "x", "source_objective": "clm", "role": "transfer_target"}
    for N in sizes:
        for D in (1.1e6, 3.3e6, 9e6):
            D_t = K * (D / 3e6) ** A * (N / 6e4) ** B
            rows.append(row(f"t{N:g}-{D:g}", N=N, D=D, loss=scratch(N, D + D_t), **moved))
    return RunTable(tuple(rows))


def test_transferred_runs_without_any_partner_give_the_law(row: Row) -> None:
    table = simulated(row)
    (fit,) = joint_fits(table, ScratchLaws(table))
    assert (fit.n_scratch, fit.n_transferred) == (25, 9)
    assert fit.a.value == pytest.approx(A, abs=0.01)
    assert fit.b.value == pytest.approx(B, abs=0.01)
    assert fit.k.value * (3e6 / fit.D0) ** A * (6e4 / fit.N0) ** B == pytest.approx(K, rel=0.01)
    assert fit.rms_relative_error < 1e-4


def test_a_design_that_does_not_identify_it_gives_none(row: Row) -> None:
    table = simulated(row, sizes=(6e4,))
    assert joint_fits(table, ScratchLaws(table)) == ()


@pytest.mark.parametrize("name", ["chinchilla", "bounded+batch", "gamma"])
def test_derivatives_are_exact(name: str) -> None:
    rng = np.random.default_rng(0)
    N, D = np.exp(rng.uniform(9, 13, 12)), np.exp(rng.uniform(13, 17, 12))
    loss = np.array([scratch(*point) for point in zip(N, D, strict=True)])
    base = find_form(name)
    plain = make_problem(base, make_sample(N, D, loss, rng.choice([256.0, 512.0], 12)), np.inf)
    form = joint_form(base, (np.arange(12) % 2).astype(float))
    low, high = np.full(len(form.names), -50.0), np.full(len(form.names), 50.0)
    problem = Problem(form, plain.rows, plain.target, np.inf, low, high)
    theta = np.full((1, len(form.names)), 0.3)
    if "L0" in form.names:
        theta[0, form.index("L0")] = 2.0
    if "B_c" in form.names:
        theta[0, form.index("B_c")] = 6.0
    weights = np.ones((1, 12))
    _, gradient, hessian, _ = expand(problem, theta, weights)
    step = 1e-5
    for i in range(len(form.names)):
        shift = np.zeros_like(theta)
        shift[0, i] = step
        up, down = (expand(problem, theta + sign * shift, weights) for sign in (1, -1))
        assert gradient[0, i] == pytest.approx((up[0][0] - down[0][0]) / (2 * step), rel=1e-5, abs=1e-7)
        assert hessian[0, i] == pytest.approx((up[1][0] - down[1][0]) / (2 * step), rel=1e-4, abs=1e-6)
