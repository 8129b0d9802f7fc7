from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from plm_scaling.core.errors import FitError
from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.isoflop import fit_isoflop
from plm_scaling.laws.law_fit import IsoflopFit

Simulate = Callable[..., RunTable]


def one_row(losses: list[float], seeds: int = 1, C: float = 1e12, **values: Any) -> RunTable:
    rows = []
    for j, loss in enumerate(losses):
        N = 1e4 * 2.0**j
        for s in range(seeds):
            base: dict[str, Any] = {
                "run_id": f"{C}{j}{s}",
                "objective": "clm",
                "role": "isoflop",
                "N": N,
                "D": C / 6 / N,
                "seed": s,
            }
            jitter = 0.001 * (-1) ** s if seeds > 1 else 0.0
            rows.append(
                RunRow.model_validate(base | {"loss": loss + jitter, "C_6nd": C, "validation_id": "v"} | values)
            )
    return RunTable(tuple(rows))


def fit(table: RunTable, **settings: Any) -> IsoflopFit:
    return fit_isoflop(table, "clm", currency="C_6nd", **({"draws": 200} | settings))


def test_an_exact_parabola_is_recovered() -> None:
    u = np.log(2.0) * np.arange(5)
    result = fit(one_row((1.5 + 0.07 * (u - 1.6) ** 2).tolist()), noise_sd=1e-5)
    row = result.rows[0]
    assert row.N_opt is not None
    assert row.N_opt.value == pytest.approx(1e4 * np.exp(1.6), rel=1e-9)
    assert row.L_opt == pytest.approx(1.5, rel=1e-9)
    assert row.curvature == pytest.approx(0.07, rel=1e-9)
    assert row.D_opt == pytest.approx(1e12 / 6 / row.N_opt.value, rel=1e-9)
    assert row.N_band is not None
    half_width = np.sqrt(0.01 / 0.07)
    assert np.log(row.N_band) == pytest.approx(np.log(1e4) + 1.6 + np.array([-half_width, half_width]), rel=1e-9)
    assert row.depth == pytest.approx(0.07 * ((u[4] - 1.6) ** 2 - (u[2] - 1.6) ** 2))
    assert row.flags == ()


def test_planted_exponents_are_recovered(truth: Any, simulate: Simulate) -> None:
    table = simulate(truth, sizes=5, budgets=np.geomspace(1e11, 1e13, 5))
    result = fit(table, noise_sd=1e-4)
    assert result.a_N is not None
    assert result.a_D is not None
    assert result.a_N.value == pytest.approx(truth.a_N, abs=0.005)
    assert result.a_D.value == pytest.approx(1 - truth.a_N, abs=0.005)
    assert result.k_N is not None
    assert result.k_D is not None
    assert result.k_N * 1e12**result.a_N.value == pytest.approx(truth.N_opt(1e12), rel=0.03)
    assert result.k_D * 1e12**result.a_D.value == pytest.approx(1e12 / 6 / truth.N_opt(1e12), rel=0.03)
    assert "WEAK_MINIMA" not in result.flags


class TestRowsThatAreRefused:
    def test_lowest_loss_at_an_edge(self) -> None:
        result = fit(one_row([1.50, 1.52, 1.58, 1.7], seeds=2))
        row = result.rows[0]
        assert "NO_INTERIOR_MINIMUM" in row.flags
        assert row.N_opt is None
        assert "TOO_FEW_MINIMA" in result.flags
        assert result.a_N is None
        assert result.k_N is None

    def test_vertex_beyond_the_sizes_though_the_lowest_loss_is_inside(self) -> None:
        # Table row of a real demo: 2.111, 2.082, 2.214, 2.257 puts the vertex below the smallest size.
        result = fit(one_row([2.111, 2.082, 2.214, 2.257], seeds=2))
        assert result.rows[0].N_opt is None
        assert "NO_INTERIOR_MINIMUM" in result.rows[0].flags

    def test_two_sizes(self) -> None:
        assert fit(one_row([1.5, 1.6], seeds=2)).rows[0].flags == ("TOO_FEW_SIZES",)

    def test_concave(self) -> None:
        row = fit(one_row([1.5, 1.7, 1.75, 1.6], seeds=2)).rows[0]
        assert "CONCAVE" in row.flags
        assert row.N_opt is None


def test_a_shallow_minimum_is_named_and_its_interval_is_open() -> None:
    row = fit(one_row([1.502, 1.500, 1.501]), noise_sd=0.01).rows[0]
    assert "SHALLOW_MINIMUM" in row.flags
    assert "OPEN_INTERVAL" in row.flags
    assert row.N_opt is not None
    assert row.N_opt.low == pytest.approx(1e4)
    assert row.N_opt.high == pytest.approx(4e4)
    assert row.depth == pytest.approx(0.001)


def test_a_deep_minimum_is_not_shallow() -> None:
    assert fit(one_row([1.6, 1.5, 1.6]), noise_sd=0.01).rows[0].flags == ()


def test_a_refused_minimum_is_not_called_shallow() -> None:
    row = fit(one_row([1.500, 1.501, 1.502, 1.503]), noise_sd=0.01).rows[0]
    assert "NO_INTERIOR_MINIMUM" in row.flags
    assert "SHALLOW_MINIMUM" not in row.flags


@pytest.mark.parametrize(("n_clean", "weak"), [(2, False), (1, True), (0, True)])
def test_exponents_through_doubtful_minima_are_named(n_clean: int, weak: bool) -> None:
    deep, shallow = [1.6, 1.5, 1.6], [1.502, 1.500, 1.501]
    rows = [one_row(deep if i < n_clean else shallow, C=1e12 * 4.0**i) for i in range(3)]
    result = fit(RunTable(tuple(run for row in rows for run in row)), noise_sd=0.01)
    assert sum("SHALLOW_MINIMUM" not in row.flags for row in result.rows) == n_clean
    assert result.a_N is not None
    assert ("WEAK_MINIMA" in result.flags) == weak


def test_without_exponents_weak_minima_are_not_named() -> None:
    assert "WEAK_MINIMA" not in fit(one_row([1.502, 1.500, 1.501]), noise_sd=0.01).flags


class TestWhereTheNoiseComesFrom:
    def rows(self, *seeds: int) -> RunTable:
        made = [one_row([1.6, 1.5, 1.6], seeds=n, C=1e12 * 4.0**i) for i, n in enumerate(seeds)]
        return RunTable(tuple(run for row in made for run in row))

    def test_one_budget_of_several(self) -> None:
        assert "NOISE_FROM_ONE_BUDGET" in fit(self.rows(1, 2, 1)).flags

    def test_two_budgets(self) -> None:
        assert "NOISE_FROM_ONE_BUDGET" not in fit(self.rows(1, 2, 2)).flags

    def test_a_single_budget_a_stated_noise_and_no_replicates(self) -> None:
        assert "NOISE_FROM_ONE_BUDGET" not in fit(self.rows(2)).flags
        assert "NOISE_FROM_ONE_BUDGET" not in fit(self.rows(1, 2, 1), noise_sd=0.01).flags
        assert "NOISE_FROM_ONE_BUDGET" not in fit(self.rows(1, 1, 1)).flags


def test_more_seeds_narrow_the_interval(truth: Any, simulate: Simulate) -> None:
    def width(seeds: int) -> float:
        rows = fit(simulate(truth, seeds=seeds), noise_sd=0.01).rows
        return float(np.median([np.log(r.N_opt.high / r.N_opt.low) for r in rows if r.N_opt]))

    assert width(8) < 0.6 * width(1)


def test_validation_error_widens_the_interval(truth: Any, simulate: Simulate) -> None:
    table = simulate(truth)
    noisy = RunTable(tuple(row.model_copy(update={"loss_se": 0.02}) for row in table))
    narrow, wide = (fit(t, noise_sd=0.002).rows[1].N_opt for t in (table, noisy))
    assert narrow is not None
    assert wide is not None
    assert wide.high / wide.low > narrow.high / narrow.low


def test_without_replicates_the_scatter_about_the_parabola_is_the_noise(truth: Any, simulate: Simulate) -> None:
    result = fit(simulate(truth, sd=0.01, sizes=5))
    assert "NO_REPLICATES" in result.flags
    assert "NO_NOISE_ESTIMATE" not in result.flags


def test_without_any_noise_estimate_the_interval_is_the_bracket() -> None:
    result = fit(one_row([1.6, 1.5, 1.58]))
    assert "NO_NOISE_ESTIMATE" in result.flags
    row = result.rows[0]
    assert row.N_opt is not None
    assert 1e4 < row.N_opt.low < 1.2e4
    assert 3.5e4 < row.N_opt.high < 4e4


def test_scatter_beyond_the_seeds_widens_and_is_named() -> None:
    table = one_row([1.60, 1.50, 1.53, 1.48, 1.60])
    assert "POOR_PARABOLA" in fit(table, noise_sd=0.002).flags
    wide, narrow = fit(table, noise_sd=0.002).rows[0].N_opt, fit(table, noise_sd=0.0201).rows[0].N_opt
    assert wide is not None
    assert narrow is not None
    assert wide.high / wide.low > 0.5 * narrow.high / narrow.low


def test_repeated_data_is_named() -> None:
    assert "REPEATED_DATA" in fit(one_row([1.6, 1.5, 1.6], epochs=6.0), noise_sd=0.01).rows[0].flags


class TestRefusals:
    def test_no_runs(self) -> None:
        with pytest.raises(FitError, match="mlm"):
            fit_isoflop(one_row([1.6, 1.5, 1.6]), "mlm", currency="C_6nd")

    def test_no_exact_compute(self) -> None:
        with pytest.raises(FitError, match="C_exact"):
            fit_isoflop(one_row([1.6, 1.5, 1.6]), "clm", currency="C_exact")

    def test_mixed_validation_sets(self) -> None:
        a, b = one_row([1.6, 1.5, 1.6]), one_row([1.6, 1.5, 1.6], validation_id="other")
        with pytest.raises(FitError, match="validation_id"):
            fit(RunTable((*a, *b)))


def coverage(truth: Any, simulate: Simulate, tables: int, **design: Any) -> tuple[float, float, int]:
    """Shares of simulated tables whose intervals hold the true exponent and the true N_opt."""
    exponent, size = [], []
    for seed in range(tables):
        result = fit(simulate(truth, seed=seed, **design), seed=seed)
        if result.a_N is not None:
            exponent.append(result.a_N.low <= truth.a_N <= result.a_N.high)
        size += [r.N_opt.low <= truth.N_opt(r.C) <= r.N_opt.high for r in result.rows if r.N_opt]
    return float(np.mean(exponent)), float(np.mean(size)), len(exponent)


def test_intervals_cover_the_truth(truth: Any, simulate: Simulate) -> None:
    exponent, size, n = coverage(truth, simulate, 90, sd=0.01, seeds=2, sizes=4)
    assert n > 80
    # Binomial 3 sigma about 95 % with 90 tables: .88.
    assert exponent >= 0.88
    assert size >= 0.91


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [3, 4, 5])
@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("sd", [0.003, 0.01])
def test_coverage_over_designs(truth: Any, simulate: Simulate, sizes: int, seeds: int, sd: float) -> None:
    exponent, size, n = coverage(truth, simulate, 400, sd=sd, seeds=seeds, sizes=sizes)
    assert n > 300
    assert 0.91 <= exponent <= 1.0
    assert 0.91 <= size <= 1.0
