"""Ends predicted from the first part of a run: known worlds, what is left out, and released logs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from plm_scaling.core.errors import FitError
from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.combine import fit_laws
from plm_scaling.laws.completed_table import MOST_UNCERTAIN, complete_table
from plm_scaling.laws.completion import Course, complete, completion_check
from plm_scaling.laws.curves import Curve, Curves
from plm_scaling.laws.noise import law_runs
from plm_scaling.laws.student_process import StudentProcess


def loss_at(N: float, D: float, share: np.ndarray) -> np.ndarray:
    """A law of N and D that is reached at the end, above it a part that the learning rate's decay removes."""
    end = 1.6 + 9.0 * N**-0.15 + 60.0 * D**-0.25
    rate = 0.1 + 0.45 * (1.0 + np.cos(np.pi * share))
    return np.asarray(end + 0.02 * (rate - 0.1) + 60.0 * ((D * np.maximum(share, 1e-3)) ** -0.25 - D**-0.25))


def course(N: float, D: float, rng: np.random.Generator, seen: float = 1.0, noise: float = 5e-4) -> Course:
    """A run of the world; an unfinished one has no end."""
    share = np.arange(1, 101) / 100.0
    share = share[share <= seen + 1e-9]
    loss = loss_at(N, D, share) + noise * rng.standard_normal(len(share))
    end = float(loss_at(N, D, np.ones(1))[0] + noise * rng.standard_normal()) if seen == 1.0 else None
    return Course(f"{N:.3g}-{D:.3g}", N, D, share, loss, end)


def sweep(rng: np.random.Generator, n: int) -> list[tuple[float, float]]:
    return [(10 ** rng.uniform(6, 8), 10 ** rng.uniform(8.5, 10.5)) for _ in range(n)]


def test_intervals_of_ends_cover_and_errors_are_small() -> None:
    inside, errors = [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        settings = sweep(rng, 24)
        known = [course(N, D, rng) for N, D in settings[:14]]
        young = [course(N, D, rng, seen=0.5) for N, D in settings[14:]]
        for (made, _), (N, D) in zip(complete(known, young), settings[14:], strict=True):
            truth = float(loss_at(N, D, np.ones(1))[0])
            inside.append(made.low <= truth <= made.high)
            errors.append(abs(made.loss - truth) / truth)
    assert np.mean(errors) < 1.5e-3
    assert 0.90 <= np.mean(inside) <= 1.0


def test_leaving_one_out_is_what_fitting_without_it_says() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((20, 3))
    y = 0.3 + x @ [0.5, -0.2, 0.1] + 0.05 * rng.standard_normal(20)
    for i in (0, 7, 19):
        rest = np.arange(20) != i
        apart = StudentProcess(x[rest], y[rest]).at(x[i : i + 1])[0]
        together = StudentProcess(x, y).left_out()[i]
        # Units differ by a run's share in the spread, nothing else.
        assert together.value == pytest.approx(apart.value, abs=0.15 * apart.sd)
        assert together.sd == pytest.approx(apart.sd, rel=0.15)


def test_a_mixture_draws_what_its_quantiles_say() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((10, 2))
    [known] = StudentProcess(x, x @ [1.0, 0.5] + 0.1 * rng.standard_normal(10)).at(np.array([[3.0, -2.0]]))
    drawn = known.draw(20_000, rng)
    for at in (0.025, 0.5, 0.975):
        assert np.mean(drawn < known.quantile(at)) == pytest.approx(at, abs=0.01)
    assert known.shifted(2.0).value == pytest.approx(known.value + 2.0)


def test_intervals_widen_away_from_the_runs_that_are_known() -> None:
    rng = np.random.default_rng(1)
    known = [course(N, D, rng) for N, D in sweep(rng, 16)]
    (near, _), (far, _) = complete(known, [course(1e7, 3e9, rng, seen=0.5), course(1e10, 3e12, rng, seen=0.5)])
    assert far.loss_se > 3 * near.loss_se


def test_few_runs_and_young_ones() -> None:
    rng = np.random.default_rng(2)
    known = [course(N, D, rng) for N, D in sweep(rng, 7)]
    with pytest.raises(FitError, match=r"7 complete runs .* 8 are needed"):
        complete(known, [course(1e7, 1e9, rng, seen=0.5)])
    assert complete(known, [course(1e7, 1e9, rng, seen=0.2)]) == ()


def tables(rng: np.random.Generator, cut: float) -> tuple[RunTable, RunTable, Curves]:
    """An isoFLOP sweep complete, the same with the largest budget cut, and the curves of the latter."""
    full, partial, curves = [], [], []
    for C in (1e17, 1e18, 1e19):
        for N in np.geomspace(0.9, 14.0, 6) * np.sqrt(C / 600.0):
            D = C / (6.0 * N)
            run = course(float(N), D, rng)
            assert run.end is not None
            row = RunRow(run_id=run.run_id, objective="clm", role="isoflop", N=float(N), D=D, loss=run.end, C_6nd=C)
            full.append(row)
            seen = run.share <= (cut if C == 1e19 else 1.0)
            curves.append(
                Curve(row.run_id, run.share[seen], D * run.share[seen], run.loss[seen], np.full(sum(seen), ""))
            )
            stopped = {"D": cut * D, "D_planned": D, "C_6nd": cut * C, "schedule_complete": False}
            partial.append(row.model_copy(update=stopped) if C == 1e19 else row)
    return RunTable(tuple(full)), RunTable(tuple(partial)), Curves.joined(curves)


def test_a_sweep_cut_in_its_largest_budget_finds_the_same_optimum_and_says_what_it_did() -> None:
    full, partial, curves = tables(np.random.default_rng(5), 0.6)
    completed = complete_table(partial, curves, "clm")
    assert len(completed.completions) == 6
    assert not completed.passed_over
    rows = [row for row in completed.table if row.is_imputed]
    assert {row.D for row in rows} == {row.D for row in full if row.C_6nd == 1e19}
    assert all(row.C_6nd == pytest.approx(1e19) and row.loss_se and row.final_loss == "predicted" for row in rows)
    whole = fit_laws(full, "clm", form="chinchilla", draws=60)
    made = fit_laws(completed.table, "clm", form="chinchilla", draws=60, clusters=completed.losses(None))
    assert "IMPUTED_RUNS" in made.flags
    assert "IMPUTED_RUNS" not in whole.flags
    assert len(law_runs(partial, "clm")) == 12
    assert made.isoflop is not None
    assert whole.isoflop is not None
    ours, theirs = made.isoflop.rows[-1].N_opt, whole.isoflop.rows[-1].N_opt
    assert ours is not None
    assert theirs is not None
    assert ours.low <= theirs.value <= ours.high
    assert ours.high / ours.low >= theirs.high / theirs.low


def test_every_resample_draws_predicted_ends_anew_and_leaves_the_others() -> None:
    _, partial, curves = tables(np.random.default_rng(6), 0.5)
    completed = complete_table(partial, curves, "clm")
    source = completed.losses(None)
    assert source is not None
    ids = [row.run_id for row in completed.table]
    drawn = source.resampled(ids, completed.table.column("loss"), 2000, 0)
    assert drawn is not None
    imputed = np.array([row.is_imputed for row in completed.table])
    assert np.ptp(drawn[:, ~imputed], axis=0).max() == 0.0
    stated = completed.table.column("loss_se")[imputed] / completed.table.column("loss")[imputed]
    np.testing.assert_allclose(drawn[:, imputed].std(axis=0), stated, rtol=0.15)


def test_what_stays_out_is_said_by_name() -> None:
    _, partial, curves = tables(np.random.default_rng(7), 0.6)
    cut = [i for i, row in enumerate(partial) if not row.schedule_complete]
    rows = list(partial)
    rows[cut[0]] = rows[cut[0]].model_copy(update={"D_planned": None})
    rows[cut[1]] = rows[cut[1]].model_copy(update={"D_planned": 10 * rows[cut[1]].D})
    rows[cut[2]] = rows[cut[2]].model_copy(update={"run_id": "unlogged"})
    passed = complete_table(RunTable(tuple(rows)), curves, "clm").passed_over
    assert "D_planned" in passed[rows[cut[0]].run_id]
    assert passed[rows[cut[1]].run_id].startswith("only 10% of its schedule")
    assert passed["unlogged"] == "no losses on its way are known"
    alone = RunTable(tuple(row for row in partial if not row.schedule_complete))
    assert all("0 complete runs" in why for why in complete_table(alone, curves, "clm").passed_over.values())


def test_runs_that_somebody_relied_on_are_taken_in_however_uncertain_their_ends() -> None:
    _, partial, curves = tables(np.random.default_rng(8), 0.6)
    least = min(made.loss_se / made.loss for made in complete_table(partial, curves, "clm").completions)
    asked = next(row.run_id for row in partial if not row.schedule_complete)
    completed = complete_table(partial, curves, "clm", most_uncertain=0.5 * least, however_uncertain={asked})
    assert least < MOST_UNCERTAIN
    assert [made.run_id for made in completed.completions] == [asked]
    assert set(completed.ends) == {row.run_id for row in completed.table if row.is_imputed} == {asked}
    assert len(completed.passed_over) == 5
    assert all("is known to" in why for why in completed.passed_over.values())


def evaluated(run: Course, times: int) -> Course:
    """What is known of a course from so many evaluations at equal distances over its schedule."""
    kept = np.arange(1, len(run.share) + 1) % (100 // times) == 0
    return Course(run.run_id, run.N, run.D, run.share[kept], run.loss[kept], run.end)


def of_courses(courses: list[Course]) -> tuple[RunTable, Curves]:
    """Rows and curves of courses, complete and unfinished."""
    rows, curves = [], []
    for run in courses:
        values = {"run_id": run.run_id, "objective": "clm", "role": "isoflop", "N": run.N}
        values |= {"D": run.D * run.seen, "loss": run.end or run.loss[-1]}
        values |= {} if run.end else {"schedule_complete": False, "D_planned": run.D}
        rows.append(RunRow.model_validate(values))
        curves.append(Curve(run.run_id, run.share, run.share * run.D, run.loss, np.full(len(run.share), "")))
    return RunTable(tuple(rows)), Curves.joined(curves)


def test_a_share_that_too_few_runs_were_logged_for_leaves_the_others_their_ends() -> None:
    rng = np.random.default_rng(9)
    settings = sweep(rng, 18)
    known = [evaluated(course(N, D, rng), 10) for N, D in settings[:16]]
    late = evaluated(course(*settings[16], rng, seen=0.9), 10)
    young = course(*settings[17], rng, seen=0.3)
    completed = complete_table(*of_courses([*known, late, young]), "clm")
    assert [made.run_id for made in completed.completions] == [late.run_id]
    assert [check.share for check in completed.checks] == pytest.approx([0.9])
    assert completed.passed_over == {
        young.run_id: "0 complete runs to learn an end from, and 8 are needed: "
        "a run counts with 3 evaluations in either part of its schedule's first 30%"
    }


def test_predictions_are_checked_at_a_share_that_was_learned_at() -> None:
    """At .5 the complete runs have two evaluations in their later part, at .504 there are three."""
    rng = np.random.default_rng(10)
    at = np.array([0.02, 0.13, 0.16, 0.19, 0.303, 0.4, 0.504, 0.8, 1.0])
    known, settings = [], sweep(rng, 13)
    for N, D in settings[:12]:
        run = course(N, D, rng)
        known.append(Course(run.run_id, N, D, at, np.interp(at, run.share, run.loss), run.end))
    N, D = settings[12]
    half = Course("half", N, D, at[:7], loss_at(N, D, at[:7]))
    completed = complete_table(*of_courses([*known, half]), "clm")
    assert [made.run_id for made in completed.completions] == ["half"]
    assert [(check.share, check.n) for check in completed.checks] == [(pytest.approx(0.504), 12)]


def with_data(table: RunTable, whole: dict[str, object], part: dict[str, object]) -> RunTable:
    """The table with these columns in its complete rows, and those in the unfinished ones."""
    return RunTable(tuple(row.model_copy(update=whole if row.schedule_complete else part) for row in table))


def ends_of(table: RunTable, curves: Curves) -> list[RunRow]:
    """The rows with predicted ends."""
    return [row for row in complete_table(table, curves, "clm").table if row.is_imputed]


def test_passes_over_the_data_are_those_of_the_whole_schedule() -> None:
    _, partial, curves = tables(np.random.default_rng(11), 0.4)
    unfinished = {row.run_id: row for row in partial if not row.schedule_complete}
    first_pass = [row.model_copy(update={"D_unique": row.D, "epochs": 1.0}) for row in partial]
    for row in ends_of(RunTable(tuple(first_pass)), curves):
        assert (row.D_unique, row.epochs) == (row.D, 1.0)
    # A run that repeats its data has seen all of them.
    second = [row.model_copy(update={"D_unique": row.D / 1.25, "epochs": 1.25}) for row in partial]
    for row in ends_of(RunTable(tuple(second)), curves):
        assert row.D_unique == pytest.approx(unfinished[row.run_id].D / 1.25)
        assert row.epochs == pytest.approx(1.25 / 0.4)
    # Parts of an epoch tell how many there are; between .8 and 2 the run comes to the end of them.
    parts = [row if row.schedule_complete else row.model_copy(update={"epochs": 0.8}) for row in partial]
    for row in ends_of(RunTable(tuple(parts)), curves):
        assert (row.epochs, row.D_unique) == (pytest.approx(2.0), None)
    unstated = ends_of(partial, curves)
    assert len(unstated) == 6
    assert {(row.epochs, row.D_unique) for row in unstated} == {(None, None)}


def test_complete_runs_say_where_the_data_end() -> None:
    """Those of the table saw 6e8 distinct tokens and no more; the unfinished ones were cut in their first pass."""
    _, partial, curves = tables(np.random.default_rng(12), 0.4)
    pool = 6e8
    rows = [
        row.model_copy(update={"corpus_id": "c", "D_unique": min(row.D, pool), "epochs": max(1.0, row.D / pool)})
        for row in partial
    ]
    assert sum(pool < row.D for row in partial if row.schedule_complete) >= 2
    found = ends_of(RunTable(tuple(rows)), curves)
    assert any(row.D > pool > 0.4 * row.D for row in found)
    for row in found:
        assert row.D_unique == pytest.approx(min(row.D, pool))
        assert row.epochs == pytest.approx(max(1.0, row.D / pool))
    # What they saw is not what an unfinished run draws from that has seen more.
    unseen = [row.model_copy(update={"D_unique": row.D, "epochs": 1.0}) for row in rows]
    more = [row if row.schedule_complete else fresh for row, fresh in zip(rows, unseen, strict=True)]
    beyond = [row for row in ends_of(RunTable(tuple(more)), curves) if pool < 0.4 * row.D]
    assert beyond
    assert all(row.D_unique == row.D for row in beyond)


def test_a_run_that_ends_with_many_epochs_is_none_of_a_law() -> None:
    _, partial, curves = tables(np.random.default_rng(13), 0.5)
    plain = RunTable(tuple(row.model_copy(update={"role": ""}) for row in partial))
    assert len(ends_of(with_data(plain, {}, {"epochs": 1.9}), curves)) == 6
    completed = complete_table(with_data(plain, {}, {"epochs": 2.1}), curves, "clm")
    assert not completed.completions
    assert all("many epochs" in why for why in completed.passed_over.values())


@pytest.mark.slow
def test_ends_of_the_released_protein_runs(test_data: Path) -> None:
    """Half of a run tells its denoised end to .15 % on average, each run left out in turn."""
    from plm_scaling.api import import_runs
    from plm_scaling.laws.completed_table import courses_of

    imported = import_runs("cheng2024", test_data / "cheng2024_logs")
    curves = {curve.run_id: curve for curve in imported.curves}
    for objective in ("clm", "mlm"):
        rows = [row for row in law_runs(imported.table, objective) if row.final_loss == "denoised"]
        check = completion_check(courses_of(rows, curves), 0.5)
        assert check.n >= 50
        assert check.mean_relative_error <= 1.5e-3
        assert check.coverage >= 0.85
