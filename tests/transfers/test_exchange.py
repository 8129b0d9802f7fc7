from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.combine import fit_laws
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.transfers.tokens import transferred_tokens
from plm_scaling.transfers.transfer_fit import TransferFit

Row = Callable[..., RunRow]


def scratch(N: float, D: float) -> float:
    return float(1.0 + 40 * N**-0.4 + 300 * D**-0.4)


@pytest.fixture(scope="module")
def law() -> LawFit:
    rows = [
        RunRow(run_id=f"{N:g}-{D:g}", objective="mlm", N=N, D=D, loss=scratch(N, D), C_exact=6 * N * D)
        for N in np.geomspace(1e4, 4e5, 5)
        for D in np.geomspace(5e5, 2e7, 5)
    ]
    fit = fit_laws(RunTable(tuple(rows)), "mlm", form="chinchilla", draws=20)
    assert fit.surface is not None
    return fit


def table(row: Row, rates: dict[float, float], *, noise: float = 0.0, **shared: float) -> RunTable:
    """Pairs at several sizes with D_t = rate * D_source and target and source of 2e6 and 1e6 tokens."""
    rows = []
    for i, (N, rate) in enumerate(rates.items()):
        D_source = shared.get("D_source", 1e6) * N ** shared.get("grow", 0.0)
        moved = {"source_run_id": "x", "source_objective": "clm", "D_source": D_source, "C_source": 6 * N * D_source}
        shift = noise * (-1.0) ** i
        rows += [row(f"s{N:g}", N=N, D=2e6, loss=scratch(N, 2e6), loss_se=shared.get("se"))]
        loss = scratch(N, 2e6 + rate * D_source) + shift
        rows.append(row(f"t{N:g}", N=N, D=2e6, loss=loss, loss_se=shared.get("se"), **moved))
    return RunTable(tuple(rows))


def codes(fit: TransferFit) -> set[str]:
    return {refusal.code for refusal in fit.refusals}


def test_a_planted_trend_crosses_where_it_was_planted(row: Row, law: LawFit) -> None:
    rates = {N: (N / 2e5) ** -0.5 for N in (2e4, 5e4, 1e5)}
    fit = transferred_tokens(table(row, rates, se=1e-4), {"mlm": law}, draws=500)
    (trend,) = fit.trends
    assert trend.rate == pytest.approx([rates[N] for N in trend.N], rel=1e-3)
    assert trend.slope.value == pytest.approx(-0.5, abs=1e-3)
    assert trend.slope.low < -0.5 < trend.slope.high
    assert trend.break_even_N is not None
    assert trend.break_even_N.value == pytest.approx(2e5, rel=1e-2)
    assert trend.break_even_N.low < 2e5 < trend.break_even_N.high
    assert set(trend.flags) == {"THREE_SIZES", "BREAK_EVEN_EXTRAPOLATED"}
    assert any(note.startswith("BREAK_EVEN_EXTRAPOLATED: CLM -> MLM") for note in fit.notes)


def test_a_crossing_inside_four_sizes_is_not_doubted(row: Row, law: LawFit) -> None:
    rates = {N: (N / 7e4) ** -0.7 for N in (2e4, 5e4, 1e5, 2e5)}
    (trend,) = transferred_tokens(table(row, rates), {"mlm": law}, draws=100).trends
    assert trend.flags == ()


def test_two_sizes_have_no_trend(row: Row, law: LawFit) -> None:
    fit = transferred_tokens(table(row, {2e4: 2.0, 2.01e4: 2.0, 9e4: 1.5}), {"mlm": law}, draws=20)
    assert fit.trends == ()
    assert "TOO_FEW_SIZES" in codes(fit)


def test_a_rate_that_hardly_moves_has_no_break_even(row: Row, law: LawFit) -> None:
    rates = {N: 2.0 * (N / 2e5) ** -0.02 for N in (2e4, 5e4, 1e5)}
    fit = transferred_tokens(table(row, rates, se=0.02), {"mlm": law}, draws=500)
    (trend,) = fit.trends
    assert trend.break_even_N is None
    assert "BREAK_EVEN_OPEN" in codes(fit)
    assert any("break-even size, CLM -> MLM refused" in note for note in fit.notes)


def test_a_share_that_grows_with_size_is_named(row: Row, law: LawFit) -> None:
    rates = {N: (N / 2e5) ** -0.5 for N in (2e4, 5e4, 1e5)}
    (trend,) = transferred_tokens(table(row, rates, D_source=3e2, grow=0.7), {"mlm": law}, draws=50).trends
    assert "SHARE_CONFOUNDED" in trend.flags


def test_directions_are_kept_apart(row: Row, law: LawFit) -> None:
    there = table(row, {N: (N / 2e5) ** -0.5 for N in (2e4, 5e4, 1e5)})
    opposite = {"mlm": "clm", "clm": "mlm"}
    back = [
        r.model_copy(
            update={
                "run_id": f"b{r.run_id}",
                "objective": "clm",
                "source_objective": opposite.get(r.source_objective or ""),
            }
        )
        for r in there
    ]
    laws = {"mlm": law, "clm": law.model_copy(update={"objective": "clm"})}
    fit = transferred_tokens(RunTable((*there, *back)), laws, draws=20)
    assert {(t.source_objective, t.objective) for t in fit.trends} == {("clm", "mlm"), ("mlm", "clm")}
    assert all(math.isclose(t.slope.value, -0.5, abs_tol=1e-2) for t in fit.trends)
