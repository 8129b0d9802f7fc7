"""Which runs of a table make its law of repeats, and what honest answer few of them give."""

from __future__ import annotations

import json

import numpy as np
import pytest

from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.fit import fit_surface
from plm_scaling.laws.law_fit import SurfaceFit
from plm_scaling.laws.noise import law_runs
from plm_scaling.laws.repeat_answers import repeat_loss
from plm_scaling.laws.repeat_table import repeat_runs, repeats_of_table, unique_tokens_of


def loss_of(N: float, D: float) -> float:
    return 1.2 + 40 * N**-0.45 + 90 * D**-0.4


def row(run_id: str, N: float, D: float, loss: float, **more: object) -> RunRow:
    return RunRow.model_validate({"run_id": run_id, "objective": "mlm", "N": N, "D": D, "loss": loss} | more)


def law_rows(sd: float = 0.001, **more: object) -> list[RunRow]:
    rng = np.random.default_rng(0)
    return [
        row(f"law-{i}-{j}", N, D, loss_of(N, D) * np.exp(sd * rng.standard_normal()), role="isoflop", **more)
        for i, N in enumerate(np.geomspace(1e4, 1e6, 5))
        for j, D in enumerate(np.geomspace(1e6, 1e8, 5))
    ]


def repeated_rows(sizes: tuple[float, ...] = (3e4, 1e5, 3e5), **more: object) -> list[RunRow]:
    """Ten million tokens over 1 to 50 epochs, worn out with R_D = 5."""
    rng = np.random.default_rng(1)
    rows = []
    for N in sizes:
        for epochs in (2.0, 5.0, 15.0, 50.0):
            U = 1e7 / epochs
            worth = U * (1.0 - 5.0 * np.expm1(-(epochs - 1.0) / 5.0))
            loss = loss_of(N, worth) * np.exp(0.001 * rng.standard_normal())
            own = {"role": "repeats", "D_unique": U, "epochs": epochs} | more
            rows.append(row(f"repeats-{N:g}-{epochs:g}", N, 1e7, loss, **own))
    return rows


def surface_of(rows: list[RunRow]) -> SurfaceFit:
    runs = law_runs(RunTable(tuple(rows)), "mlm")
    return fit_surface(runs.column("N"), runs.column("D"), runs.column("loss"), draws=30)


def table(*rows: list[RunRow]) -> RunTable:
    return RunTable(tuple(row for part in rows for row in part))


def test_repeats_of_a_sweep_are_held_against_its_surface() -> None:
    rows = law_rows()
    surface = surface_of(rows)
    fit = repeats_of_table(table(rows, repeated_rows()), "mlm", surface, draws=60)
    assert fit is not None
    assert (fit.n_runs, fit.n_repeated) == (37, 12)
    assert fit.base_from == surface.content_hash()
    assert {score.form for score in fit.rivals} == {"none", "data_decay", "size_decay", "decay", "penalty"}
    decay = next(score for score in fit.rivals if score.form == "data_decay").parameters["R_D"]
    assert decay.low < 5.0 < decay.high
    assert fit.form in ("data_decay", "decay")
    assert "offset" not in fit.parameters
    # Where the repeats stand, losses are met within their noise.
    worn = repeated_rows()[3]
    assert repeat_loss(fit, worn.N, worn.D, worn.D_unique) == pytest.approx(worn.loss, rel=0.01)


def test_without_a_surface_the_base_law_is_fitted_too() -> None:
    for surface in (None, fit_surface_of_form("log_quadratic")):
        fit = repeats_of_table(table(law_rows(), repeated_rows()), "mlm", surface, draws=2)
        assert fit is not None
        assert fit.base_from == ""
        assert {"E", "alpha"} <= set(fit.fitted)
        assert fit.parameters["R_D"].value == pytest.approx(5.0, rel=0.4)


def fit_surface_of_form(form: str) -> SurfaceFit:
    runs = RunTable(tuple(law_rows()))
    return fit_surface(runs.column("N"), runs.column("D"), runs.column("loss"), form=form, draws=2)


def test_no_repeats_no_law() -> None:
    rows = law_rows()
    assert repeats_of_table(table(rows), "mlm", surface_of(rows)) is None
    assert repeats_of_table(table(rows, repeated_rows()), "clm", surface_of(rows)) is None
    assert repeats_of_table(table(repeated_rows()[:3]), "mlm", None) is None


@pytest.mark.parametrize(
    "change",
    [
        {"schedule_complete": False},
        {"source_run_id": "x"},
        {"source_objective": "clm"},
        {"flags": "STUCK"},
        {"mask_refresh": False},
        {"role": "diversity", "streams": json.dumps([{"unique_tokens": 5}])},
    ],
)
def test_runs_that_do_not_belong(change: dict[str, object]) -> None:
    rows = law_rows()
    assert len(repeat_runs(table(rows, repeated_rows(**change)), "mlm")) == len(rows)


def test_unique_tokens_come_from_what_the_table_states() -> None:
    assert unique_tokens_of(row("a", 1e6, 1e8, 2.0, D_unique=3e7, epochs=9.0)) == 3e7
    assert unique_tokens_of(row("a", 1e6, 1e8, 2.0, D_unique=3e9)) == 1e8
    assert unique_tokens_of(row("a", 1e6, 1e8, 2.0, epochs=4.0)) == 2.5e7
    assert unique_tokens_of(row("a", 1e6, 1e8, 2.0, epochs=0.5)) == 1e8
    assert unique_tokens_of(row("a", 1e6, 1e8, 2.0)) == 1e8


def test_another_corpus_at_one_number_of_epochs_is_only_an_offset() -> None:
    """One size, one repeated corpus, 13 epochs, three runs: a shift and the cost of repeating cannot be told apart."""
    rows = [*law_rows(corpus_id="full", validation_id="v"), row("x", 1e5, 1e7, loss_of(1e5, 1e7), role="grid")]
    rows[-1] = rows[-1].model_copy(update={"corpus_id": "full", "validation_id": "v"})
    other = {"role": "repeats", "D_unique": 1e7 / 13, "corpus_id": "half", "validation_id": "w"}
    repeats = [row(f"r{k}", 1e5, 1e7, loss_of(1e5, 1e7) * np.exp(0.02 + 0.001 * k), **other) for k in range(3)]
    fit = repeats_of_table(table(rows, repeats), "mlm", surface_of(rows), draws=50)
    assert fit is not None
    assert fit.form == "none"
    expected = {"OFFSET_CONFOUNDED", "R_D_UNIDENTIFIED", "ONE_SIZE_REPEATED", "ANCHORED"}
    assert expected <= set(fit.flags)
    assert "NO_REPEAT_EFFECT" not in fit.flags
    assert not fit.is_identified("R_D")
    assert fit.parameters["offset"].value == pytest.approx(0.021, abs=0.0015)


def test_two_other_corpora_share_one_offset_and_say_so() -> None:
    rows = law_rows(corpus_id="full")
    repeats = [*repeated_rows((3e4,), corpus_id="a"), *repeated_rows((1e5,), corpus_id="b")]
    fit = repeats_of_table(table(rows, repeats), "mlm", surface_of(rows), draws=20)
    assert fit is not None
    assert "MIXED_CORPORA" in fit.flags
    assert "offset" in fit.parameters


def test_an_unrepeated_partner_takes_the_surface_s_own_error_off() -> None:
    """All runs of one size lie 2 % above the surface: without partners this would pass for a cost of repeating."""
    rows, high = law_rows(0.0), 1.02
    surface = surface_of(rows)
    partner = row("p", 6e4, 1e7, high * loss_of(6e4, 1e7), role="grid")
    repeats = [r.model_copy(update={"loss": r.loss * high}) for r in repeated_rows((6e4,))]

    def R_D(runs: RunTable) -> float:
        fit = repeats_of_table(runs, "mlm", surface, draws=5)
        assert fit is not None
        return next(score.parameters["R_D"].value for score in fit.rivals if score.form == "data_decay")

    assert R_D(table(rows, [partner], repeats)) == pytest.approx(5.0, rel=0.1)
    assert R_D(table(rows, repeats)) < 4.0


def test_law_runs_that_repeat_make_the_surface_no_base() -> None:
    rows = law_rows()
    rows += [r.model_copy(update={"role": "grid"}) for r in repeated_rows()]
    fit = repeats_of_table(table(rows), "mlm", surface_of(rows), draws=2)
    assert fit is not None
    assert fit.base_from == ""
    assert fit.n_repeated == 12


def test_repeats_of_another_recipe_stay_out() -> None:
    rows = law_rows(mask_ratio=0.15)
    own, other = repeated_rows(mask_ratio=0.15), repeated_rows(mask_ratio=0.3)
    wsd = repeated_rows(mask_ratio=0.15, schedule="wsd")
    dropped = repeated_rows(mask_ratio=0.15, regularisation="dropout=0.1")
    kept = repeat_runs(table(rows, wsd, other, dropped, own), "mlm")
    assert len(kept) == len(rows) + len(own)
    assert {r.recipe_key for r in kept} == {("cosine", "plm", 0.15, "")}
