from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.core.errors import FitError
from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.budgets import Budget, batch_range, check_runs, gather_budgets, noise_from_one_budget
from plm_scaling.laws.noise import LossNoise, law_runs, replicate_groups


def run(C: float, j: int, role: str = "isoflop", **values: Any) -> RunRow:
    N = 1e4 * 2.0**j
    base = {"run_id": f"{C}{j}{role}{values}", "objective": "clm", "N": N, "D": C / 6 / N, "C_6nd": C, "seed": 0}
    return RunRow.model_validate(base | {"role": role, "loss": 1.5 + 0.1 * abs(j - 1)} | values)


def row(C: float = 1e12, sizes: int = 3, **values: Any) -> list[RunRow]:
    return [run(C, j, **values) for j in range(sizes)]


def budgets(*runs: RunRow, tolerance: float = 0.03) -> list[Budget]:
    return gather_budgets(law_runs(RunTable(runs), "clm"), "C_6nd", LossNoise(0.01), tolerance)


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


class TestTolerance:
    @pytest.mark.parametrize(("tolerance", "sizes"), [(0.03, 3), (0.1, 4)])
    def test_strict_and_lenient(self, tolerance: float, sizes: int) -> None:
        (*_, budget) = budgets(*row(), run(0.93e12, 3), tolerance=tolerance)
        assert len(budget.N) == sizes
        assert pytest.approx(1e12) == budget.C

    @pytest.mark.parametrize("tolerance", [0.0, -0.1, 0.5, math.nan])
    def test_what_is_none(self, tolerance: float) -> None:
        with pytest.raises(FitError, match="tolerance"):
            budgets(*row(), tolerance=tolerance)

    def test_a_run_that_fell_short_does_not_split_a_budget(self) -> None:
        # From the lower end a window of 2 x 3 % would take .945 and .995 and leave the rest.
        short, full = budgets(run(0.945e12, 0), *[run(C, j + 1) for j, C in enumerate((0.995e12, 1e12, 1.004e12))])
        assert (len(short.N), len(full.N)) == (1, 3)

    def test_of_two_groups_as_large_the_tighter_one_is_the_budget(self) -> None:
        groups = budgets(*[run(1e12 * math.exp(x), j) for j, x in enumerate((0.0, 0.025, 0.05, 0.06))])
        assert [len(b.N) for b in groups] == [1, 3]

    def test_replicates_of_one_budget_are_found_with_the_same_tolerance(self) -> None:
        pairs = [run(C, j, seed=seed) for C, j in ((1e12, 1), (1.08e12, 2)) for seed in (0, 1)]
        runs = RunTable((*pairs, run(1e12, 0), run(1e12, 3), *row(4e12)))
        for tolerance, one in ((0.03, False), (0.1, True)):
            found = budgets(*runs, tolerance=tolerance)
            assert noise_from_one_budget(runs, "C_6nd", found, tolerance) is one


@given(
    logs=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=25), tolerance=st.floats(0.01, 0.3), shuffle=st.randoms()
)
@settings(max_examples=60, deadline=None)
def test_budgets_share_out_the_runs_of_rows(logs: list[float], tolerance: float, shuffle: Any) -> None:
    runs = [run(1e12 * math.exp(x), j % 7, seed=j) for j, x in enumerate(logs)]
    found = budgets(*runs, tolerance=tolerance)
    assert sum(int(b.n_seeds.sum()) for b in found) == len(runs)
    assert [b.C for b in found] == sorted(b.C for b in found)
    compute = np.concatenate([b.D * b.N * 6 for b in found])
    assert compute.min() >= 0.999e12
    for b in found:
        near = np.abs(np.log(b.D * b.N * 6 / b.C))
        assert near.max() <= 2.0 * math.log1p(tolerance) * (1 + 1e-6)
    shuffle.shuffle(runs)
    assert [b.C for b in budgets(*runs, tolerance=tolerance)] == pytest.approx([b.C for b in found])


def test_published_tables_state_no_exact_compute() -> None:
    (budget,) = budgets(*row())
    assert np.isnan(budget.other_C).all()
    assert gather_budgets(RunTable(tuple(row())), "C_exact", None) == []


def test_only_some_sizes() -> None:
    (budget,) = budgets(*row(sizes=4))
    part = budget.only(budget.N > 1e4)
    assert part.N.tolist() == [2e4, 4e4, 8e4]
    assert len(part.se) == len(part.D) == len(part.loss) == len(part.n_seeds) == len(part.other_C) == 3
    assert part.C == budget.C


@pytest.mark.parametrize(
    ("name", "usual", "odd"),
    [
        *(("schedule", "cosine", "wsd"), ("architecture", "plm", "esm2"), ("mask_ratio", 0.15, 0.3)),
        *(("regularisation", "", "dropout=0.1"), ("regularisation", "dropout=0.1", "weight_decay=1")),
    ],
)
def test_runs_of_several_recipes_are_refused_with_their_numbers(name: str, usual: object, odd: object) -> None:
    runs = [*row(sizes=3, **{name: usual}), *row(2e12, sizes=2, **{name: odd})]
    check_runs(RunTable(tuple(runs[:3])), "clm", "C_6nd")
    with pytest.raises(FitError, match=f"mix values of {name}: 3 of {usual or 'the default'}, 2 of {odd}") as caught:
        check_runs(RunTable(tuple(runs)), "clm", "C_6nd")
    # What the hint says mends it.
    assert f"row.{name} == {usual!r}" in caught.value.hint
    check_runs(RunTable(tuple(runs)).where(lambda r: getattr(r, name) == usual), "clm", "C_6nd")


def test_a_mask_ratio_that_is_not_stated_passes_for_any() -> None:
    check_runs(RunTable((*row(), *row(2e12, mask_ratio=0.15))), "clm", "C_6nd")


@pytest.mark.parametrize(
    ("name", "usual", "odd"), [("schedule", "cosine", "wsd"), ("regularisation", "", "dropout=0.1")]
)
def test_seeds_of_another_recipe_are_no_replicates(name: str, usual: str, odd: str) -> None:
    other = run(1e12, 1, seed=1, loss=9.0, **{name: odd})
    assert replicate_groups(RunTable((*row(), other))) == []
    assert len(replicate_groups(RunTable((*row(), other.model_copy(update={name: usual}))))) == 1
