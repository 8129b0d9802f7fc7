from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plm_scaling.core.errors import FitError
from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.combine import fit_laws
from plm_scaling.laws.doubts import SENTENCES
from plm_scaling.laws.law_fit import LawFit, Recipe

Simulate = Callable[..., RunTable]


def test_everything_is_fitted_and_survives_the_disk(truth: Any, simulate: Simulate, tmp_path: Path) -> None:
    fit = fit_laws(simulate(truth, sd=0.003, seeds=2, sizes=5), "clm", draws=100)
    assert fit.isoflop is not None
    assert fit.isoflop.a_N is not None
    assert fit.surface is not None
    assert fit.isoflop_other_currency is not None
    assert fit.isoflop.currency == "C_exact"
    assert fit.isoflop_other_currency.currency == "C_6nd"
    assert fit.n_runs == 30
    assert fit.validation_id == "v"
    assert fit.noise_sd == pytest.approx(0.003, rel=0.5)
    assert fit.range_C == pytest.approx((1.5e11, 2.4e12))
    assert LawFit.read(fit.write(tmp_path / "fit.json")) == fit


@pytest.mark.parametrize("objective", ["clm", "mlm"])
def test_the_fit_says_on_what_and_how_its_runs_were_trained(truth: Any, simulate: Simulate, objective: str) -> None:
    def fit(**columns: Any) -> LawFit:
        rows = [row.model_copy(update=columns) for row in table]
        return fit_laws(RunTable(tuple(rows)), objective, form="chinchilla", draws=20)

    table = simulate(truth, sd=0.003, sizes=4, objective=objective)
    mask = 0.15 if objective == "mlm" else None
    known = fit(corpus_id="c", schedule="wsd", mask_ratio=mask)
    assert known.corpus_id == "c"
    assert known.recipe == Recipe(schedule="wsd", architecture="plm", mask_ratio=mask)
    plain = fit(corpus_id=None, mask_ratio=mask)
    assert (plain.corpus_id, plain.recipe) == (None, None)
    assert (fit(corpus_id="c", mask_ratio=None).recipe is None) == (objective == "mlm")
    table = RunTable((*[row.model_copy(update={"corpus_id": "c"}) for row in table.rows[:-1]], table.rows[-1]))
    assert table.rows[-1].corpus_id is None
    partly = fit(mask_ratio=mask)
    assert (partly.corpus_id, partly.recipe) == (None, None)


def test_every_flag_has_its_sentence(truth: Any, simulate: Simulate) -> None:
    fit = fit_laws(simulate(truth, sd=0.02, seeds=1, sizes=4), "clm", form="chinchilla", draws=20)
    assert fit.flags
    assert {note.split(":")[0] for note in fit.notes} == set(fit.flags)


def test_a_row_note_names_its_budget_and_the_edge(truth: Any, simulate: Simulate) -> None:
    table = simulate(truth, seeds=2, sizes=4, sd=1e-4)
    lowest = min(table, key=lambda r: r.C_6nd or 0.0).C_6nd
    small = sorted({r.N for r in table if r.C_6nd == lowest})[:2]
    cut = table.where(lambda r: r.C_6nd != lowest or r.N not in small)
    wide = simulate(truth, seeds=2, sizes=7, sd=1e-4, budgets=(1.25e11,))
    above = wide.where(lambda r: 1.4 * truth.N_opt(1.25e11) < r.N)
    fit = fit_laws(RunTable((*cut.where(lambda r: r.C_6nd != lowest), *above)), "clm", form="chinchilla", draws=50)
    note = next(note for note in fit.notes if note.startswith("NO_INTERIOR_MINIMUM"))
    assert "1.5e+11 FLOPs" in note
    assert "smaller sizes" in note


def test_the_other_currency_moves_the_optimum_the_right_way(truth: Any, simulate: Simulate) -> None:
    # Small models pay relatively more than 6 N D, so equal exact compute favours larger ones.
    table = simulate(truth, sd=1e-5, seeds=2, sizes=5, exact=lambda N: (N / 4e4) ** -0.2)
    fit = fit_laws(table, "clm", form="chinchilla", currency="C_6nd", draws=50)
    assert fit.isoflop is not None
    assert fit.isoflop_other_currency is not None
    for row, moved in zip(fit.isoflop.rows, fit.isoflop_other_currency.rows, strict=True):
        assert row.N_opt is not None
        assert moved.N_opt is not None
        N = np.geomspace(1e3, 1e7, 20_001)
        D = moved.C * (N / 4e4) ** 0.2 / 6 / N
        expected = N[int(np.argmin(truth.E + truth.A * N**-truth.alpha + truth.B * D**-truth.beta))]
        assert row.N_opt.value < moved.N_opt.value
        assert moved.N_opt.value == pytest.approx(expected, rel=0.15)
    assert "CURRENCY_SHIFT" in fit.flags


def test_equal_currencies_up_to_a_factor_do_not_shift(truth: Any, simulate: Simulate) -> None:
    table = simulate(truth, sd=1e-4, seeds=2, sizes=5)
    assert "CURRENCY_SHIFT" not in fit_laws(table, "clm", form="chinchilla", draws=50).flags


def test_missing_exact_flops_fall_back_with_a_flag(truth: Any, simulate: Simulate) -> None:
    table = RunTable(tuple(r.model_copy(update={"C_exact": None}) for r in simulate(truth, seeds=2)))
    fit = fit_laws(table, "clm", form="chinchilla", currency="C_exact", draws=20)
    assert fit.currency == "C_6nd"
    assert "CURRENCY_MISSING" in fit.flags
    assert fit.isoflop_other_currency is None


def test_budgets_on_the_other_currency_are_suspected(truth: Any, simulate: Simulate) -> None:
    table = simulate(truth, seeds=2, exact=lambda N: (N / 4e4) ** -0.5)
    fit = fit_laws(table, "clm", form="chinchilla", currency="C_exact", draws=20)
    assert "NO_ISOFLOP" in fit.flags
    assert "TOO_FEW_SIZES" not in fit.flags
    assert any("other compute currency" in note for note in fit.notes)


def test_by_itself_it_takes_the_currency_that_the_budgets_lie_on(truth: Any, simulate: Simulate) -> None:
    odd = simulate(truth, seeds=2, exact=lambda N: (N / 4e4) ** -0.5)
    plain = simulate(truth, seeds=2)
    unknown = RunTable(tuple(r.model_copy(update={"C_exact": None}) for r in plain))
    for table, currency in ((odd, "C_6nd"), (plain, "C_exact"), (unknown, "C_6nd")):
        fit = fit_laws(table, "clm", form="chinchilla", draws=20)
        assert fit.currency == currency
        assert fit.isoflop is not None
        assert "NO_ISOFLOP" not in fit.flags


def test_doubtful_tables_are_named(truth: Any, simulate: Simulate) -> None:
    table = simulate(truth, seeds=2)
    odd = [table.rows[0].model_copy(update={"run_id": "cut", "schedule_complete": False})]
    wrong = RunTable(tuple(r.model_copy(update={"N": r.N * 1.05}) for r in table))
    assert "TRUNCATED_SCHEDULE" in fit_laws(RunTable((*table, *odd)), "clm", form="chinchilla", draws=20).flags
    assert "FLOPS_MISMATCH" in fit_laws(wrong, "clm", form="chinchilla", draws=20).flags


def test_few_runs_have_minima_but_no_surface(truth: Any, simulate: Simulate) -> None:
    fit = fit_laws(simulate(truth, sizes=3, budgets=(5e11, 2e12)), "clm", draws=20)
    assert fit.surface is None
    assert fit.optima == ()
    assert fit.disagreement is None
    assert "TOO_FEW_RUNS" in fit.flags
    assert [refusal.code for refusal in fit.refusals] == ["TOO_FEW_RUNS"]
    assert any(note.startswith("REFUSED: loss surface L(N, D): 6 runs") for note in fit.notes)
    assert fit.isoflop is not None
    assert fit.isoflop.a_N is not None
    assert "TWO_MINIMA" in fit.flags


def test_batches_that_differ_are_named_with_their_range(truth: Any, simulate: Simulate) -> None:
    table = simulate(truth, seeds=2)
    lowest = min(row.C_6nd or 0.0 for row in table)
    sizes = sorted({row.N for row in table if row.C_6nd == lowest})

    def batch(row: RunRow) -> float:
        return 512.0 if row.C_6nd != lowest or sizes[2] > row.N else 2048.0

    mixed = RunTable(tuple(row.model_copy(update={"batch_tokens": batch(row)}) for row in table))
    fit = fit_laws(mixed, "clm", form="chinchilla", draws=20)
    assert fit.surface is not None
    assert fit.isoflop is not None
    assert fit.surface.batch_tokens == (512, 2048)
    assert "MIXED_BATCH" in fit.surface.flags
    assert [row.batch_tokens for row in fit.isoflop.rows] == [(512, 2048), (512, 512), (512, 512)]
    assert ["MIXED_BATCH" in row.flags for row in fit.isoflop.rows] == [True, False, False]
    surface, row = (note for note in fit.notes if note.startswith("MIXED_BATCH"))
    assert "512 to 2,048 tokens" in surface
    assert "at C = 1.5e+11 FLOPs" in row
    assert "512 to 2,048 tokens" in row


def test_equal_batches_are_not_named(truth: Any, simulate: Simulate) -> None:
    table = RunTable(tuple(r.model_copy(update={"batch_tokens": 512}) for r in simulate(truth, seeds=2)))
    assert "MIXED_BATCH" not in fit_laws(table, "clm", form="chinchilla", draws=20).flags


def test_the_surface_is_held_against_the_minima_in_its_own_currency(truth: Any, simulate: Simulate) -> None:
    # Exact compute per 6 N D falls with N: the exponent of N_opt in exact compute is larger than beta/(alpha+beta).
    table = simulate(truth, sd=6e-4, seeds=2, sizes=5, budgets=np.geomspace(1e11, 6e12, 5))
    exact = RunTable(tuple(r.model_copy(update={"C_exact": (r.C_6nd or 0.0) ** 0.8 * 1e3}) for r in table))
    fit = fit_laws(exact, "clm", form="chinchilla", draws=100)
    assert fit.surface is not None
    assert fit.isoflop is not None
    assert fit.isoflop.a_N is not None
    assert fit.isoflop.currency == "C_exact"
    assert fit.isoflop.a_N.low > fit.surface.a_N.high
    assert "ISOFLOP_SURFACE_DISAGREE" not in fit.flags


def test_minima_and_surface_that_disagree_are_named(truth: Any, simulate: Simulate) -> None:
    table = simulate(truth, sd=1e-4, seeds=2, sizes=5, budgets=np.geomspace(1e11, 6e12, 5))
    # Most runs of the surface, on no row, follow another law.
    other = [
        RunRow(
            run_id=f"{N:g}{D:g}", objective="clm", role="transfer_scratch", N=N, D=D, loss=1 + N**-0.3 + 2e3 / D**0.7
        )
        for N in np.geomspace(3e3, 3e6, 10)
        for D in np.geomspace(1e5, 3e8, 12)
    ]
    odd = RunTable((*table, *(r.model_copy(update={"validation_id": "v"}) for r in other)))
    assert "ISOFLOP_SURFACE_DISAGREE" in fit_laws(odd, "clm", form="chinchilla", currency="C_6nd", draws=60).flags


class TestRefused:
    """What runs do not identify is refused with a code and a reason, and the file is valid all the same."""

    def refused(self, rows: list[tuple[float, float]], tmp_path: Path) -> LawFit:
        runs = (
            {"run_id": f"r{i}", "objective": "clm", "N": N, "D": D, "loss": 1.5 + N**-0.2 + D**-0.2}
            for i, (N, D) in enumerate(rows)
        )
        fit = fit_laws(RunTable(tuple(RunRow.model_validate(run) for run in runs)), "clm", draws=20)
        assert LawFit.read(fit.write(tmp_path / "fit.json")) == fit
        assert fit.surface is None
        assert fit.forms == ()
        assert any(note.startswith("REFUSED: ") for note in fit.notes)
        return fit

    def test_tokens_in_proportion_to_size(self, tmp_path: Path) -> None:
        fit = self.refused([(N, 20 * N) for N in np.geomspace(1e6, 1e9, 10)], tmp_path)
        assert [refusal.code for refusal in fit.refusals] == ["COLLINEAR_DESIGN", "NO_INTERIOR_MINIMUM"]
        assert "vary D at fixed N" in fit.refusals[0].reason
        assert "COLLINEAR_DESIGN" in fit.flags

    def test_one_budget(self, tmp_path: Path) -> None:
        fit = self.refused([(N, 1e18 / 6 / N) for N in np.geomspace(1e7, 1e9, 9)], tmp_path)
        assert fit.refusals[0].code == "COLLINEAR_DESIGN"
        assert "one budget" in fit.refusals[0].reason
        assert fit.isoflop is not None

    def test_two_sizes(self, tmp_path: Path) -> None:
        fit = self.refused([(N, D) for N in (1e7, 1e8) for D in np.geomspace(1e8, 1e10, 5)], tmp_path)
        assert fit.refusals[0].code == "TOO_FEW_LEVELS"

    def test_an_optimum_that_no_budget_holds(self, tmp_path: Path) -> None:
        rows = [(N, D) for N in np.geomspace(1e3, 4e3, 5) for D in np.geomspace(1e8, 1e9, 5)]
        runs = (
            {"run_id": f"{i}", "objective": "clm", "N": N, "D": D, "loss": 1.2 + 30 * N**-0.45 + 60 * D**-0.4}
            for i, (N, D) in enumerate(rows)
        )
        table = RunTable(tuple(RunRow.model_validate(run) for run in runs))
        fit = fit_laws(table, "clm", form="chinchilla", draws=20)
        assert fit.surface is not None  # it still predicts losses
        assert fit.surface.a_N is None
        assert fit.optima == ()
        assert fit.refusals[0].code == "OUT_OF_HULL"
        assert "beyond the sizes or tokens" in fit.refusals[0].reason


def test_larger_runs_are_left_out_on_request(truth: Any, simulate: Simulate) -> None:
    table = simulate(truth, sd=1e-3, seeds=2, sizes=5)
    fit = fit_laws(table, "clm", form="chinchilla", currency="C_6nd", max_compute=6e11, draws=20)
    assert fit.n_runs == 20
    assert fit.range_C[1] == pytest.approx(5e11)
    with pytest.raises(FitError, match="no run"):
        fit_laws(table, "clm", max_compute=1.0)


def test_the_form_asked_for_is_the_surface(truth: Any, simulate: Simulate) -> None:
    table = simulate(truth, sd=1e-3, seeds=2, sizes=5)
    fit = fit_laws(table, "clm", form="bounded", plateau=4.5, draws=20)
    assert fit.surface is not None
    assert (fit.surface.form, fit.surface.plateau, fit.chosen, fit.forms) == ("bounded", 4.5, "asked for", ())


def test_no_run_of_the_objective(truth: Any, simulate: Simulate) -> None:
    with pytest.raises(FitError, match="mlm"):
        fit_laws(simulate(truth), "mlm")


def test_sentences_are_plain_ascii() -> None:
    assert all(text.isascii() and text.endswith((".", "?")) for text in SENTENCES.values())
