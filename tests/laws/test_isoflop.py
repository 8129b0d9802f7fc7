from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from plm_scaling.core.errors import FitError
from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.isoflop import fit_isoflop
from plm_scaling.laws.isoflop_minimum import ISOFLOP_SENTENCES
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


def curve_of(a: float, c: float, sizes: int = 7, at: float = 2.1) -> list[float]:
    """Losses 1.5 + a v^2 + c v^3 at sizes a factor of two apart, v = ln N - ln N_opt."""
    v = np.log(2.0) * np.arange(sizes) - at
    return (1.5 + a * v**2 + c * v**3).tolist()


class TestCubic:
    def test_an_exact_cubic_is_recovered(self) -> None:
        result = fit(one_row(curve_of(0.07, 0.01)), noise_sd=1e-5, curve="cubic")
        row = result.rows[0]
        assert row.N_opt is not None
        assert row.N_opt.value == pytest.approx(1e4 * np.exp(2.1), rel=1e-9)
        assert row.L_opt == pytest.approx(1.5, rel=1e-9)
        assert row.curvature == pytest.approx(0.07, rel=1e-9)
        assert (row.curve, result.curve) == ("cubic", "cubic")
        assert row.N_band is not None
        v = np.log(row.N_band) - np.log(row.N_opt.value)
        assert 0.07 * v**2 + 0.01 * v**3 == pytest.approx(0.01, rel=1e-6)
        assert v[0] < 0 < v[1]

    def test_a_parabola_is_a_cubic_too(self) -> None:
        rows = [fit(one_row(curve_of(0.07, 0.0)), noise_sd=1e-4, curve=c).rows[0] for c in ("parabola", "cubic")]
        assert rows[0].N_opt is not None
        assert rows[1].N_opt is not None
        assert rows[1].N_opt.value == pytest.approx(rows[0].N_opt.value, rel=1e-9)
        assert rows[1].N_band == pytest.approx(rows[0].N_band, rel=1e-6)
        assert "CURVE_CHOICE" not in (*rows[0].flags, *rows[1].flags)

    def test_few_sizes_fall_back_to_the_parabola(self) -> None:
        cubic, parabola = (fit(one_row([1.6, 1.5, 1.53, 1.7]), noise_sd=0.01, curve=c) for c in ("cubic", "parabola"))
        assert cubic.rows[0].flags == ("CUBIC_TOO_FEW_SIZES", *parabola.rows[0].flags)
        assert cubic.rows[0].curve == "parabola"
        assert cubic.rows[0].N_opt == parabola.rows[0].N_opt

    def test_a_minimum_beyond_the_sizes_is_refused(self) -> None:
        # The lowest loss is inside by noise, the cubic still falls at the last size.
        losses = [1.9, 1.8, 1.7, 1.6, 1.5, 1.4, 1.42, 1.30, 1.32]
        row = fit(one_row(losses), noise_sd=0.01, curve="cubic").rows[0]
        assert "NO_INTERIOR_MINIMUM" in row.flags
        assert row.N_opt is None

    def test_a_local_minimum_above_an_edge_is_refused(self) -> None:
        # Behind a hump the losses fall to nearly the lowest, and the cubic to less than at its own minimum.
        losses = [1.56, 1.508, 1.50, 1.515, 1.53, 1.535, 1.501, 1.5005]
        row = fit(one_row(losses), noise_sd=0.001, curve="cubic").rows[0]
        assert row.N_opt is None
        assert "NO_INTERIOR_MINIMUM" in row.flags
        assert fit(one_row(losses[:5]), noise_sd=0.001, curve="cubic").rows[0].N_opt is not None

    def test_a_lopsided_valley_names_the_choice_of_the_curve(self) -> None:
        table = one_row(curve_of(0.07, 0.018, at=1.6))
        wrong, right = (fit(table, noise_sd=0.0005, curve=c).rows[0] for c in ("parabola", "cubic"))
        assert "CURVE_CHOICE" in right.flags
        assert right.N_opt is not None
        assert wrong.N_opt is not None
        assert abs(np.log(wrong.N_opt.value / right.N_opt.value)) > 0.1
        assert "CURVE_CHOICE" not in fit(table, noise_sd=0.05, curve="cubic").rows[0].flags

    def test_noise_alone_is_no_choice_of_the_curve(self, truth: Any, simulate: Simulate) -> None:
        flags = [
            row.flags
            for seed in range(25)
            for row in fit(simulate(truth, seed=seed, sd=0.01, seeds=2, sizes=5), seed=seed).rows
        ]
        # The interval alone would be left in a quarter of the rows.
        assert np.mean(["CURVE_CHOICE" in f for f in flags]) < 0.12

    def test_only_the_parabola_carries_an_error_of_shape(self) -> None:
        table = one_row(curve_of(0.07, 0.0, sizes=5, at=1.4))
        widths = []
        for curve in ("parabola", "cubic"):
            N_opt = fit(table, noise_sd=1e-6, curve=curve, draws=2000).rows[0].N_opt
            assert N_opt is not None
            widths.append(np.log(N_opt.high / N_opt.low))
        assert widths[0] == pytest.approx(2 * 1.96 * 0.005 * (4 * np.log(2)) ** 2, rel=0.1)
        assert widths[1] < 1e-3

    def test_without_noise_the_interval_is_the_bracket(self) -> None:
        row = fit(one_row(curve_of(0.07, 0.018, at=1.6)), noise_sd=0.0, curve="cubic").rows[0]
        assert row.N_opt is not None
        assert 2e4 < row.N_opt.low < 2.4e4
        assert 7e4 < row.N_opt.high < 8e4

    def test_an_unknown_curve_and_widths_that_are_none(self) -> None:
        with pytest.raises(FitError, match="quartic"):
            fit(one_row([1.6, 1.5, 1.6]), curve="quartic")
        for name in ("window", "band_nats", "band_share"):
            with pytest.raises(FitError, match=name):
                fit(one_row([1.6, 1.5, 1.6]), **{name: 0.0})


class TestWindow:
    def test_far_walls_do_not_bend_the_parabola(self) -> None:
        v = np.log(2.0) * (np.arange(9) - 4) - 0.2
        losses = (1.5 + 0.07 * v**2 + 0.02 * np.maximum(v - 1.0, 0.0) ** 3).tolist()
        near, far = (fit(one_row(losses), noise_sd=1e-4, window=w).rows[0] for w in (1.2, None))
        assert near.N_opt is not None
        assert far.N_opt is not None
        truth = 16e4 * np.exp(0.2)
        assert near.N_opt.value == pytest.approx(truth, rel=1e-6)
        assert abs(np.log(far.N_opt.value / truth)) > 0.05
        # What was tried is reported whole.
        assert len(near.N) == 9

    @pytest.mark.parametrize(("window", "edge"), [(0.8, 2.06), (1.5, 2.24), (2.2, 2.54), (None, 2.96)])
    def test_it_reaches_as_far_as_it_says(self, window: float | None, edge: float) -> None:
        losses = [2.0 + 0.06 * k**2 + 0.001 * (k > 0) for k in range(-4, 5)]
        assert fit(one_row(losses), noise_sd=0.001, window=window).rows[0].depth == pytest.approx(edge - 2.0)

    def test_a_distant_neighbour_takes_part(self) -> None:
        table = one_row([1.9, 9.0, 9.0, 1.5, 1.501, 1.503]).where(lambda r: r.loss < 9)
        # The size far below the lowest loss is all that bounds it.
        assert fit(table, noise_sd=0.001, window=0.8).rows[0].N_opt is not None

    def test_three_sizes_always_take_part(self) -> None:
        row = fit(one_row([1.6, 1.5, 1.6, 1.9, 2.4]), noise_sd=0.01, window=0.1).rows[0]
        assert row.N_opt is not None
        assert row.N_opt.value == pytest.approx(2e4)
        edge = fit(one_row([1.5, 1.6, 1.7, 1.9]), noise_sd=0.01, window=0.1).rows[0]
        assert "NO_INTERIOR_MINIMUM" in edge.flags


def test_the_width_of_the_band_is_an_argument() -> None:
    u = np.log(2.0) * np.arange(5)
    table = one_row((1.5 + 0.07 * (u - 1.6) ** 2).tolist())
    for settings, width in (({"band_nats": 0.02}, 0.02), ({"band_share": 0.002}, 0.003), ({}, 0.01)):
        band = fit(table, noise_sd=1e-5, **settings).rows[0].N_band
        half_width = np.sqrt(width / 0.07)
        assert np.log(band) == pytest.approx(np.log(1e4) + 1.6 + np.array([-half_width, half_width]), rel=1e-9)


def test_the_tolerance_of_budgets_is_an_argument() -> None:
    late = one_row([0.0, 0.0, 0.0, 1.65], C=1.07e12).where(lambda r: r.N == 8e4)
    table = RunTable((*one_row([1.6, 1.5, 1.55]), *late))
    assert [len(r.N) for r in fit(table, noise_sd=0.01).rows] == [3, 1]
    assert [len(r.N) for r in fit(table, noise_sd=0.01, tolerance=0.1).rows] == [4]


def test_every_new_flag_has_its_sentence() -> None:
    assert set(ISOFLOP_SENTENCES) == {"CUBIC_TOO_FEW_SIZES", "CURVE_CHOICE"}
    assert all(text.isascii() and text.endswith(".") for text in ISOFLOP_SENTENCES.values())


def coverage(
    truth: Any, simulate: Simulate, tables: int, curve: str = "parabola", **design: Any
) -> tuple[float, float, int]:
    """Shares of simulated tables whose intervals hold the true exponent and the true N_opt."""
    exponent, size = [], []
    for seed in range(tables):
        result = fit(simulate(truth, seed=seed, **design), seed=seed, curve=curve)
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


def test_intervals_of_a_cubic_cover_the_truth(truth: Any, simulate: Simulate) -> None:
    exponent, size, n = coverage(truth, simulate, 90, curve="cubic", sd=0.01, seeds=2, sizes=6)
    assert n > 80
    assert exponent >= 0.88
    assert size >= 0.91


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [3, 4, 5])
@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("sd", [0.003, 0.01])
def test_coverage_over_designs(truth: Any, simulate: Simulate, sizes: int, seeds: int, sd: float) -> None:
    exponent, size, n = coverage(truth, simulate, 120, sd=sd, seeds=seeds, sizes=sizes)
    assert n > 90
    assert 0.91 <= exponent <= 1.0
    assert 0.91 <= size <= 1.0
