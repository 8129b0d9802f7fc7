from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from plm_scaling.core.errors import FitError
from plm_scaling.core.run_table import RunTable
from plm_scaling.laws.budgets import gather_budgets
from plm_scaling.laws.choices import CHOICE_SENTENCES, ChoiceTable, analyst_choices
from plm_scaling.laws.isoflop import fit_isoflop
from plm_scaling.laws.power_laws import fit_power_law

Simulate = Callable[..., RunTable]


@pytest.fixture
def table(truth: Any, simulate: Simulate) -> RunTable:
    return simulate(truth, sizes=7, step=1.6, budgets=np.geomspace(1e11, 1e13, 5), sd=0.004)


def noisier(table: RunTable, sd: float) -> RunTable:
    draws = sd * np.random.default_rng(1).standard_normal(len(table))
    return RunTable(
        tuple(r.model_copy(update={"loss": r.loss + d}) for r, d in zip(table, draws.tolist(), strict=True))
    )


def test_every_combination_is_a_row(table: RunTable) -> None:
    result = analyst_choices({"last": noisier(table, 0.01), "denoised": table}, "clm")
    assert len(result.rows) == 2 * 4 * 2 * 2
    assert len({(r.loss, r.rule, r.tolerance, r.space) for r in result.rows}) == len(result.rows)
    assert {r.loss for r in result.rows} == {"last", "denoised"}
    assert {r.rule for r in result.rows} == {"argmin", "parabola", "near_parabola", "cubic"}
    assert {r.n_budgets for r in result.rows} == {5}
    exponents = [r.a_N for r in result.rows if r.a_N is not None]
    assert result.a_N == (min(exponents), max(exponents))
    sizes = [r.N_opt for r in result.rows if r.N_opt is not None]
    assert result.N_opt == (min(sizes), max(sizes))
    assert pytest.approx(1e13) == result.C


def test_rows_are_the_separate_analyses(table: RunTable) -> None:
    result = analyst_choices({"final": table}, "clm", C=1e14)
    rows = {(r.rule, r.space): r for r in result.rows if r.tolerance == 0.03}
    budgets = gather_budgets(table, "C_6nd", None)
    C = [b.C for b in budgets]
    argmin = [b.N[np.argmin(b.loss)] for b in budgets]
    for space in ("log", "linear"):
        a, k = fit_power_law(C, argmin, method=space)  # type: ignore[arg-type]
        assert (rows["argmin", space].a_N, rows["argmin", space].k_N) == pytest.approx((a, k))
        assert rows["argmin", space].N_opt == pytest.approx(k * 1e14**a)
    for rule, settings in (("parabola", {}), ("near_parabola", {"window": 1.2}), ("cubic", {"curve": "cubic"})):
        fit = fit_isoflop(table, "clm", currency="C_6nd", noise_sd=0.01, draws=1, **settings)  # type: ignore[arg-type]
        minima = [r.N_opt.value for r in fit.rows if r.N_opt]
        assert rows[rule, "log"].n_minima == len(minima) == 5  # type: ignore[index]
        assert rows[rule, "log"].a_N == pytest.approx(fit_power_law(C, minima)[0])  # type: ignore[index]


def test_sizes_count_equally(table: RunTable) -> None:
    few = [row.model_copy(update={"seed": 1, "run_id": row.run_id + "s"}) for row in table.rows[::3]]
    errors = [r.model_copy(update={"loss_se": 0.001 * (1 + i % 5)}) for i, r in enumerate((*table, *few))]
    plain, unequal = (analyst_choices({"a": t}, "clm") for t in (table, RunTable(tuple(errors))))
    assert [row.a_N for row in unequal.rows] == pytest.approx([row.a_N for row in plain.rows], abs=1e-12)


def test_what_moves_the_exponent_is_told_apart(table: RunTable) -> None:
    same = analyst_choices({"a": table, "b": table}, "clm", rules=("parabola",), spaces=("log",))
    assert same.a_N_moved_by == {"loss": 0.0, "rule": 0.0, "tolerance": 0.0, "space": 0.0}
    apart = analyst_choices({"a": table, "b": noisier(table, 0.03)}, "clm", rules=("parabola",), spaces=("log",))
    assert apart.a_N_moved_by["loss"] > 0.01
    assert apart.a_N_moved_by["space"] == apart.a_N_moved_by["rule"] == 0.0
    assert apart.a_N is not None
    assert apart.a_N_moved_by["loss"] <= apart.a_N[1] - apart.a_N[0] + 1e-12


def test_a_clean_table_agrees_with_itself(truth: Any, simulate: Simulate) -> None:
    clean = simulate(truth, sizes=9, step=1.3, budgets=np.geomspace(1e11, 1e13, 5), offset=0)
    result = analyst_choices({"final": clean}, "clm", rules=("parabola", "near_parabola", "cubic"))
    assert result.a_N is not None
    assert result.a_N == pytest.approx((truth.a_N, truth.a_N), abs=0.01)
    assert result.flags == ()
    assert result.N_opt is not None
    assert result.N_opt == pytest.approx((truth.N_opt(1e13), truth.N_opt(1e13)), rel=0.1)


def test_choices_that_disagree_are_named(table: RunTable) -> None:
    assert "CHOICES_DISAGREE" in analyst_choices({"a": table, "b": noisier(table, 0.05)}, "clm", C=1e17).flags


def test_edges_and_refusals_are_named(truth: Any, simulate: Simulate) -> None:
    table = simulate(truth, sizes=5, budgets=(1e11, 4e11, 1.6e12), offset=0)
    edge = table.where(lambda r: r.C_6nd != 1e11 or truth.N_opt(1e11) * 1.1 < r.N)
    more = simulate(truth, sizes=9, budgets=(1e11,), offset=0).where(lambda r: truth.N_opt(1e11) * 3 < r.N)
    result = analyst_choices({"final": RunTable((*edge, *more))}, "clm", tolerances=(0.03,), spaces=("log",))
    flags = {row.rule: row.flags for row in result.rows}
    assert flags["argmin"] == ("EDGE_MINIMA",)
    assert flags["parabola"] == flags["near_parabola"] == flags["cubic"] == ("REFUSED_MINIMA",)
    counts = {row.rule: (row.n_minima, row.n_budgets) for row in result.rows}
    assert counts["argmin"] == (3, 3)
    assert counts["parabola"] == (2, 3)


def test_a_rule_without_two_minima_has_no_exponent(truth: Any, simulate: Simulate) -> None:
    table = simulate(truth, sizes=5, budgets=(1e11, 4e11), offset=0)
    left = table.where(lambda r: r.C_6nd != 1e11 or truth.N_opt(1e11) * 0.9 < r.N)
    result = analyst_choices({"final": left}, "clm", rules=("argmin", "parabola"))
    assert "CHOICES_WITHOUT_ANSWER" in result.flags
    assert {row.a_N is None for row in result.rows if row.rule == "parabola"} == {True}
    assert {row.a_N is None for row in result.rows if row.rule == "argmin"} == {False}


def test_what_cannot_be(table: RunTable) -> None:
    with pytest.raises(FitError, match="no table"):
        analyst_choices({}, "clm")
    with pytest.raises(FitError, match="mlm"):
        analyst_choices({"a": table}, "mlm")
    with pytest.raises(FitError, match="parabolla"):
        analyst_choices({"a": table}, "clm", rules=("parabolla",))  # type: ignore[arg-type]
    small = sorted({row.N for row in table})[:1]
    with pytest.raises(FitError, match="three sizes"):
        analyst_choices({"a": table.where(lambda r: r.N in small)}, "clm")


def test_each_flag_has_its_sentence_and_the_table_survives_the_disk(table: RunTable, tmp_path: Any) -> None:
    result = analyst_choices({"a": table, "b": noisier(table, 0.05)}, "clm", C=1e17)
    assert {*result.flags, *(flag for row in result.rows for flag in row.flags)} <= set(CHOICE_SENTENCES)
    assert all(text.isascii() and text.endswith(".") for text in CHOICE_SENTENCES.values())
    assert ChoiceTable.read(result.write(tmp_path / "choices.json")) == result
