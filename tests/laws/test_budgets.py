from __future__ import annotations

from typing import Any

import pytest

from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.budgets import Budget, batch_range, gather_budgets
from plm_scaling.laws.noise import LossNoise, law_runs


def run(C: float, j: int, role: str = "isoflop", **values: Any) -> RunRow:
    N = 1e4 * 2.0**j
    base = {"run_id": f"{C}{j}{role}{values}", "objective": "clm", "N": N, "D": C / 6 / N, "C_6nd": C, "seed": 0}
    return RunRow.model_validate(base | {"role": role, "loss": 1.5 + 0.1 * abs(j - 1)} | values)


def row(C: float = 1e12, sizes: int = 3, **values: Any) -> list[RunRow]:
    return [run(C, j, **values) for j in range(sizes)]


def budgets(*runs: RunRow) -> list[Budget]:
    return gather_budgets(law_runs(RunTable(runs), "clm"), "C_6nd", LossNoise(0.01))


@pytest.mark.parametrize("role", ["transfer_scratch", "transfer_source", "repeats,transfer_source"])
def test_runs_of_transfers_are_no_further_seeds(role: str) -> None:
    (budget,) = budgets(*row(), run(1.001e12, 1, role, seed=1, loss=9.0))
    assert budget.loss.tolist() == pytest.approx([1.6, 1.5, 1.6])
    assert budget.n_seeds.tolist() == [1, 1, 1]


def test_they_are_runs_of_the_surface_all_the_same() -> None:
    runs = RunTable((*row(), run(1e12, 1, "transfer_scratch"), run(1e12, 1, "transfer_source")))
    assert len(law_runs(runs, "clm")) == 5


def test_seeds_are_counted_once() -> None:
    (budget,) = budgets(*row(), run(1e12, 1, seed=1, loss=1.6), run(1.01e12, 1, "grid", seed=1, loss=1.7))
    assert budget.n_seeds.tolist() == [1, 2, 1]
    assert budget.loss[1] == pytest.approx(1.6)


@pytest.mark.parametrize(("factor", "joins"), [(1.02, True), (0.98, True), (1.04, False), (0.96, False)])
def test_a_grid_run_joins_a_row_within_three_percent(factor: float, joins: bool) -> None:
    (budget,) = budgets(*row(), run(factor * 1e12, 3, "grid"))
    assert len(budget.N) == 3 + joins


def test_a_grid_run_nearby_does_not_split_a_row() -> None:
    spread = [run(C, j) for j, C in enumerate((0.99e12, 1e12, 1.02e12))]
    (budget,) = budgets(*spread, run(0.965e12, 0, "grid"))
    assert len(budget.N) == 3
    assert pytest.approx(1e12) == budget.C


def test_rows_apart_are_budgets_of_their_own_in_rising_order() -> None:
    assert [b.C for b in budgets(*row(4e12), *row(1e12), *row(1.1e12))] == [1e12, 1.1e12, 4e12]


def test_a_table_without_roles_and_a_grid_need_three_sizes_at_equal_compute() -> None:
    for role in ("", "grid"):
        (budget,) = budgets(*row(role=role), *row(C=3e11, sizes=2, role=role))
        assert budget.C == 1e12


def test_batches_that_differ_are_named() -> None:
    (budget,) = budgets(run(1e12, 0, batch_tokens=512), run(1e12, 1, batch_tokens=2048), run(1e12, 2))
    assert budget.flags == ("MIXED_BATCH",)
    assert budget.batch_tokens == (512, 2048)
    (equal,) = budgets(*row(batch_tokens=512))
    assert equal.flags == ()
    assert batch_range(row()) is None
