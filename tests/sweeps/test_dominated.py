"""The rule by which paused runs are halted: what it lets go, what it never does, and that N_opt stays where it was."""

from __future__ import annotations

import math

import numpy as np
import pytest

from plm_scaling.core.run_row import IMPUTED
from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.laws.completed_table import CompletedTable
from plm_scaling.laws.isoflop import ISOFLOP_WINDOW, fit_isoflop
from plm_scaling.laws.law_fit import Interval
from plm_scaling.laws.student_process import StudentMixture
from plm_scaling.sweeps.dominated import dominated_runs
from plm_scaling.sweeps.halting_report import Verdict

BUDGETS = (1e17, 3e17, 1e18, 3e18)
PAUSED = BUDGETS[2:]
NOISE = 0.003


def optimum(C: float) -> float:
    return 0.1 * math.sqrt(C)


def name(C: float, i: int) -> str:
    return f"{C:g}-{i}"


def sweep(rng: np.random.Generator, n: int = 7, shift: float = 0.0) -> RunTable:
    """Budgets of n sizes a factor of two apart; the minimum lies `shift` and some luck in ln N off their middle."""
    rows = []
    for C in BUDGETS:
        middle = math.log(optimum(C)) + shift + rng.uniform(-0.3, 0.3)
        for i, u in enumerate(middle + math.log(2.0) * (np.arange(n) - (n - 1) / 2.0)):
            off, N = u - math.log(optimum(C)), math.exp(u)
            loss = 2.5 - 0.1 * math.log(C / 1e17) + 0.03 * off**2 + 0.002 * off**3 + NOISE * rng.standard_normal()
            row = RunRow(run_id=name(C, i), objective="clm", role="isoflop", N=N, D=C / 6.0 / N, loss=loss, C_6nd=C)
            rows.append(row)
    return RunTable(tuple(rows))


def predicted(table: RunTable, rng: np.random.Generator, sd: float, only: set[str] | None = None) -> CompletedTable:
    """The table with the runs of the larger budgets paused, their ends predicted as well as stated."""
    rows, ends = [], {}
    for row in table:
        if row.C_6nd not in PAUSED or (only is not None and row.run_id not in only):
            rows.append(row)
            continue
        mean = row.loss + sd * float(rng.standard_t(20.0))
        ends[row.run_id] = StudentMixture(np.ones(1), np.array([mean]), np.array([sd]), 20.0)
        update = {"loss": mean, "loss_se": ends[row.run_id].sd, "flags": IMPUTED, "final_loss": "predicted"}
        rows.append(row.model_copy(update=update))
    return CompletedTable(RunTable(tuple(rows)), (), (), {}, ends)


def verdicts(completed: CompletedTable, **options: float) -> dict[str, Verdict]:
    found = dominated_runs(completed, list(completed.ends), "clm", currency="C_6nd", **options)
    return {verdict.run_id: verdict for verdict in found}


def minima(table: RunTable) -> list[Interval | None]:
    return [row.N_opt for row in fit_isoflop(table, "clm", currency="C_6nd", window=ISOFLOP_WINDOW, draws=300).rows]


@pytest.mark.parametrize("seed", range(3))
def test_what_is_halted_keeps_to_the_rule(seed: int) -> None:
    rng = np.random.default_rng(seed)
    completed = predicted(sweep(rng), rng, sd=0.002)
    found, lenient = verdicts(completed), verdicts(completed, tolerance=0.5)
    halted = {i for i, verdict in found.items() if verdict.halt}
    assert len(halted) >= 4
    assert halted <= {i for i, verdict in lenient.items() if verdict.halt}
    for C in PAUSED:
        mine = {i: verdict for i, verdict in found.items() if i in {name(C, k) for k in range(7)}}
        spent = sum(verdict.effect or 0.0 for i, verdict in mine.items() if i in halted)
        assert spent <= 0.1 * (next(iter(mine.values())).half_width or 0.0)
        assert len(mine.keys() - halted) >= 3
        for row in completed.table:
            if row.run_id in mine and abs(math.log(row.N / optimum(C))) < 0.35:
                assert not found[row.run_id].halt
                assert found[row.run_id].reason == "it stands next to the minimum"
            if row.run_id in mine and abs(math.log(row.N / optimum(C))) > 2.0:
                assert found[row.run_id].halt


def test_an_end_that_may_be_anywhere_matters_however_far_off_it_is() -> None:
    rng = np.random.default_rng(1)
    table = sweep(rng)
    completed = predicted(table, rng, 0.001)
    far = name(3e18, 0)
    assert verdicts(completed)[far].halt
    wide = StudentMixture(np.ones(1), completed.ends[far].mean, np.array([0.3]), 20.0)
    verdict = verdicts(CompletedTable(completed.table, (), (), {}, completed.ends | {far: wide}))[far]
    assert not verdict.halt
    assert "hangs on its end" in verdict.reason


def test_runs_halted_before_use_up_the_tolerance() -> None:
    rng = np.random.default_rng(4)
    completed = predicted(sweep(rng), rng, sd=0.002)
    inside = [i for i, verdict in verdicts(completed, tolerance=1.0).items() if verdict.halt and verdict.effect]
    assert inside
    last = max(inside, key=lambda i: verdicts(completed)[i].effect or 0.0)
    effect, half = (verdicts(completed)[last].effect or 0.0), (verdicts(completed)[last].half_width or 0.0)
    beside = [i for i in completed.ends if i.split("-")[0] == last.split("-")[0] and i != last]
    options = {"currency": "C_6nd", "tolerance": 1.05 * effect / half}
    [alone] = dominated_runs(completed, [last], "clm", **options)
    [after] = dominated_runs(completed, [last], "clm", halted=beside, **options)
    assert alone.halt
    assert not after.halt
    assert "used up the tolerance" in after.reason


def again(row: RunRow, off: float) -> RunRow:
    """The run by another seed."""
    return row.model_copy(update={"seed": 1, "run_id": f"{row.run_id}-s", "loss": row.loss + off})


def test_the_noise_between_seeds_is_that_of_measured_runs() -> None:
    """Second seeds of a paused budget, predicted .2 nats off, tell nothing about how far a minimum is known."""
    rng = np.random.default_rng(6)
    table = sweep(rng)
    first = RunTable(tuple(row.model_copy(update={"seed": 0}) for row in table))
    measured = [again(row, NOISE * rng.standard_normal()) for row in first if row.C_6nd == BUDGETS[0]]
    plain = predicted(RunTable((*first, *measured)), rng, sd=0.002)
    others = [again(row, 0.2) for row in plain.table if row.C_6nd == PAUSED[0]]
    more = CompletedTable(RunTable((*plain.table, *others)), (), (), {}, plain.ends)
    far = name(PAUSED[1], 0)
    before, after = (verdicts(completed)[far].half_width or 0.0 for completed in (plain, more))
    assert 0.5 < after / before < 2.0


def test_without_a_minimum_or_enough_sizes_all_go_on() -> None:
    rng = np.random.default_rng(2)
    edge = verdicts(predicted(sweep(rng, shift=5.0), rng, 0.001))
    assert {verdict.reason for verdict in edge.values()} == {"its budget has no minimum inside the sizes tried"}
    few = verdicts(predicted(sweep(rng, n=3), rng, 0.001))
    assert {verdict.reason for verdict in few.values()} == {"its budget has 3 sizes, 4 are needed"}
    assert not any(verdict.halt for verdict in (*edge.values(), *few.values()))
    young = CompletedTable(sweep(rng), (), (), {"x": "only 10% of its schedule was seen, and 25% is needed"}, {})
    [verdict] = dominated_runs(young, ["x"], "clm", currency="C_6nd")
    assert (verdict.halt, verdict.reason) == (False, young.passed_over["x"])


def test_optima_of_halted_sweeps_lie_in_the_intervals_of_full_ones() -> None:
    inside, widths, halted = [], [], 0
    for seed in range(15):
        rng = np.random.default_rng(100 + seed)
        table = sweep(rng, n=6)
        completed = predicted(table, rng, sd=0.003)
        stop = {i for i, verdict in verdicts(completed, draws=100).items() if verdict.halt}
        halted += len(stop)
        left = {row.run_id: row for row in completed.table}
        partial = RunTable(tuple(left[row.run_id] if row.run_id in stop else row for row in table))
        for ours, full in list(zip(minima(partial), minima(table), strict=True))[2:]:
            if full is not None:
                assert ours is not None
                inside.append(full.low <= ours.value <= full.high)
                widths.append(math.log(ours.high / ours.low) / math.log(full.high / full.low))
    assert halted >= 0.3 * 15 * 12
    assert len(inside) >= 24
    assert np.mean(inside) >= 0.9
    assert np.median(widths) <= 1.1
