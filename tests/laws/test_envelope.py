from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from plm_scaling.core.errors import FitError
from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.curves import Curves
from plm_scaling.laws.envelope import ENVELOPE_SENTENCES, EnvelopeFit, fit_envelope

Simulate = Callable[..., RunTable]
SIZES, TOKENS = np.geomspace(5e3, 2e6, 14), np.geomspace(1e6, 3e8, 7)


def grid(
    truth: Any,
    sizes: Sequence[float] | np.ndarray = SIZES,
    tokens: Sequence[float] | np.ndarray = TOKENS,
    sd: float = 0.0,
    seed: int = 0,
    **values: Any,
) -> RunTable:
    rng = np.random.default_rng(seed)
    return RunTable(
        tuple(
            RunRow.model_validate(
                {
                    "run_id": f"{N:.0f}-{D:.0f}",
                    "objective": "clm",
                    "N": N,
                    "D": D,
                    "loss": truth.loss(N, D) + sd * rng.standard_normal(),
                    "C_6nd": 6 * N * D,
                }
                | values
            )
            for N in sizes
            for D in tokens
        )
    )


def along(table: RunTable, excess: float, points: int = 200) -> Curves:
    """Curves that end at the runs' losses and lie above what shorter runs would reach by up to `excess` nats."""
    share = np.arange(1, points + 1) / points
    ids = np.repeat([row.run_id for row in table], points)
    D = np.concatenate([row.D * share for row in table])
    loss = np.concatenate([row.loss + excess * (1 - share) + 0.3 * (share**-0.3 - 1) for row in table])
    return Curves(ids, np.tile(np.arange(points, dtype=float), len(table)), D, loss, np.full(len(ids), ""))


def fit(table: RunTable, curves: Curves | None = None, **settings: Any) -> EnvelopeFit:
    return fit_envelope(table, "clm", curves, **({"draws": 20} | settings))


class TestEndPoints:
    def test_a_grid_recovers_planted_exponents(self, truth: Any) -> None:
        result = fit(grid(truth))
        assert result.a_N is not None
        assert result.a_D is not None
        assert result.a_N.value == pytest.approx(truth.a_N, abs=0.02)
        assert result.a_D.value == pytest.approx(1 - truth.a_N, abs=0.02)
        assert result.k_N is not None
        assert result.k_D is not None
        middle = float(np.median([p.C for p in result.points if p.bracketed]))
        assert result.k_N * middle**result.a_N.value == pytest.approx(truth.N_opt(middle), rel=0.1)
        assert result.k_D * middle**result.a_D.value == pytest.approx(middle / 6 / truth.N_opt(middle), rel=0.1)

    def test_isoflop_rows_recover_them_too(self, truth: Any, simulate: Simulate) -> None:
        table = simulate(truth, sizes=7, step=1.6, budgets=np.geomspace(1e11, 1e13, 6), offset=0)
        result = fit(table)
        assert result.a_N is not None
        assert result.a_N.value == pytest.approx(truth.a_N, abs=0.02)
        assert result.flags == ()
        # Single end points reach no further than runs that share a budget.
        assert {round(math.log(p.C / 1e11) / math.log(100) * 5, 0) for p in result.points} == set(range(6))

    def test_points_are_the_lowest_losses_near_their_compute(self, truth: Any) -> None:
        result = fit(grid(truth))
        for point in result.points:
            assert pytest.approx(point.C / 6 / point.N) == point.D
            assert point.loss == pytest.approx(truth.loss(point.N, point.D), rel=0.003)
            if point.bracketed:
                others = [truth.loss(N, point.C / 6 / N) for N in SIZES if 1e6 <= point.C / 6 / N <= 3e8]
                assert point.loss <= min(others) * 1.003
        assert list(result.sizes) == sorted({p.N for p in result.points if p.bracketed})

    def test_equal_runs_are_averaged(self, truth: Any) -> None:
        table = grid(truth)
        apart = [
            RunTable(tuple(r.model_copy(update={"run_id": r.run_id + s, "loss": r.loss + d}) for r in table))
            for s, d in (("a", 0.01), ("b", -0.01))
        ]
        both = fit(RunTable((*apart[0], *apart[1])))
        assert both.n_runs == 2 * len(table)
        assert [p.N for p in both.points] == [p.N for p in fit(table).points]

    def test_far_end_points_are_not_joined(self, truth: Any) -> None:
        result = fit(grid(truth, SIZES[:5], [1e6, 1e8]))
        gap = [p.C for p in result.points]
        assert max(np.diff(np.log(gap))) > 2.0

    def test_exact_compute_carries_its_own_tokens(self, truth: Any, simulate: Simulate) -> None:
        result = fit(simulate(truth, sizes=5, budgets=(1e11, 4e11, 1.6e12), offset=0), currency="C_exact")
        assert all(pytest.approx(p.C / 1.2 / 6 / p.N) == p.D for p in result.points)

    def test_runs_stopped_early_stay_out(self, truth: Any) -> None:
        table = grid(truth)
        cut = grid(truth, tokens=[2e7], run_id="cut", loss=0.5, schedule_complete=False)
        assert fit(RunTable((*table, *cut))).points == fit(table).points


class TestFlags:
    def test_edges_of_the_sizes(self, truth: Any) -> None:
        # The smallest size alone has so little compute, the largest alone so much.
        assert fit(grid(truth)).flags == ("ENVELOPE_AT_SMALLEST", "ENVELOPE_AT_LARGEST")
        ends = fit(grid(truth)).points
        assert not ends[0].bracketed
        assert not ends[-1].bracketed

    def test_an_envelope_along_one_size_has_no_exponents(self, truth: Any) -> None:
        result = fit(grid(truth, SIZES[:2]))
        assert "FEW_SIZES_ON_ENVELOPE" in result.flags
        assert result.a_N is None
        assert result.k_D is None
        assert result.sizes == ()

    def test_two_sizes_have_exponents_without_a_check(self, truth: Any) -> None:
        table = grid(truth, [1e4, 3e4, 1e5, 3e5], np.geomspace(3e5, 1e9, 9))
        result = fit(table, draws=40)
        assert len(result.sizes) == 2
        assert {"FEW_SIZES_ON_ENVELOPE", "ENVELOPE_UNSTABLE"} <= set(result.flags)
        assert result.a_N is not None

    def test_each_has_its_sentence(self, truth: Any) -> None:
        flags = {flag for sizes in (SIZES, SIZES[:2]) for flag in fit(grid(truth, sizes)).flags}
        assert flags <= set(ENVELOPE_SENTENCES)
        assert all(text.isascii() and text.endswith(".") for text in ENVELOPE_SENTENCES.values())


class TestPointsAlongTheWay:
    def test_they_enter_on_demand_only(self, truth: Any) -> None:
        table = grid(truth)
        curves = along(table, 0.05)
        assert fit(table, curves) == fit(table)
        result = fit(table, curves, intermediate=True)
        assert "UNDECAYED" in result.flags
        assert result.intermediate
        assert "UNDECAYED" not in fit(table, curves).flags

    def test_cosine_runs_stand_above_runs_that_end_there(self, truth: Any) -> None:
        table = grid(truth, tokens=[3e8])
        result = fit(table, along(table, 0.2), intermediate=True)
        assert all(p.loss > truth.loss(p.N, p.D) for p in result.points[:-2])

    def test_the_mean_over_many_points_is_less_noisy_than_each(self, truth: Any) -> None:
        table = grid(truth, SIZES[:5], [3e8])
        clean = along(table, 0.05, points=4000)
        noise = 0.01 * np.random.default_rng(0).standard_normal(len(clean))
        noisy = Curves(clean.run_id, clean.step, clean.D, clean.loss + noise, clean.validation_batch_id)
        a, b = (fit(table, c, intermediate=True, grid=100) for c in (clean, noisy))
        upper = [(p, q) for p, q in zip(a.points, b.points, strict=True) if p.C > a.points[-1].C / 20]
        assert np.std([p.loss - q.loss for p, q in upper]) < 0.003

    def test_runs_stopped_early_enter(self, truth: Any) -> None:
        table = grid(truth, schedule_complete=False)
        with pytest.raises(FitError, match="clm"):
            fit(table)
        assert fit(table, along(table, 0.05), intermediate=True).n_runs == len(table)

    def test_a_constant_rate_needs_no_asking(self, truth: Any) -> None:
        table = grid(truth, tokens=[3e7])
        flagged = RunTable(tuple(r.model_copy(update={"flags": "OTHER, WSD"}) for r in table))
        plain, constant = (fit(t, along(t, 0.0)) for t in (table, flagged))
        assert len(constant.points) > len(plain.points)
        assert constant.n_runs == plain.n_runs == len(table)
        assert "UNDECAYED" not in constant.flags

    def test_what_cannot_be(self, truth: Any) -> None:
        table = grid(truth, tokens=[3e7])
        with pytest.raises(FitError, match="no curves"):
            fit(table, intermediate=True)
        strangers = RunTable(tuple(r.model_copy(update={"run_id": "x" + r.run_id}) for r in table))
        with pytest.raises(FitError, match="belongs to a run"):
            fit(table, along(strangers, 0.0), intermediate=True)
        with pytest.raises(FitError, match="mlm"):
            fit_envelope(table, "mlm")


def test_intervals_hold_the_truth(truth: Any) -> None:
    held = []
    for seed in range(8):
        result = fit(grid(truth, sd=0.003, seed=seed), draws=25, seed=seed)
        assert result.a_N is not None
        assert result.a_N.low < result.a_N.high
        held.append(result.a_N.low <= truth.a_N <= result.a_N.high)
    assert sum(held) >= 7


def test_linear_space_is_an_option(truth: Any) -> None:
    log, linear = (fit(grid(truth, sd=0.01), method=m, draws=2) for m in ("log", "linear"))
    assert linear.method == "linear"
    assert log.a_N is not None
    assert linear.a_N is not None
    assert log.a_N.value != linear.a_N.value
    assert log.points == linear.points


def test_it_survives_the_disk(truth: Any, tmp_path: Any) -> None:
    result = fit(grid(truth))
    assert EnvelopeFit.read(result.write(tmp_path / "envelope.json")) == result
