"""Compute that halting dominated runs saves, and N_opt with and without it: published logs replayed, a real sweep.

    python benchmarks/bench_dominated.py logs DATA    DATA/cheng2024_logs holds the released logs; a minute
    python benchmarks/bench_dominated.py again RUNS   a finished runs folder, its larger budgets cut at 50, 70 and 85 %
    python benchmarks/bench_dominated.py sweep WORK   24 tiny runs are trained in WORK; about 10 minutes of two cores

With the word `exponents` behind, the first two also fit the laws, which takes minutes. A replayed log is cut before the
noise that runs share is removed, so that nothing of its later part is known. The sweep is trained with
`stop_dominated`, its halted runs are then trained to their ends: the same runs make the full sweep.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from bench_completion import _stopped as stopped
from bench_completion import cut_runs

from plm_scaling import api
from plm_scaling.core.run_table import RunTable
from plm_scaling.laws.budgets import Currency, compute_of
from plm_scaling.laws.combine import fit_laws
from plm_scaling.laws.completed_table import CompletedTable, complete_table
from plm_scaling.laws.completion import Completion
from plm_scaling.laws.curves import Curve, Curves
from plm_scaling.laws.denoise import denoise
from plm_scaling.laws.imported import Imported
from plm_scaling.laws.isoflop import ISOFLOP_WINDOW, fit_isoflop
from plm_scaling.laws.law_fit import IsoflopRow, LawFit
from plm_scaling.laws.noise import law_runs
from plm_scaling.laws.published import import_table
from plm_scaling.sweeps.dominated import dominated_runs
from plm_scaling.sweeps.halting_report import HaltingReport, Verdict
from plm_scaling.sweeps.unfinished import training_curves

BUDGETS = (
    (2e10, ("1x8", "1x12", "1x16", "2x16", "2x24", "2x32")),
    (5e10, ("1x12", "1x16", "2x16", "2x24", "2x32", "2x48")),
    (1.25e11, ("1x16", "2x16", "2x24", "2x32", "2x48", "2x64")),
    (3.1e11, ("1x16", "2x16", "2x24", "2x32", "2x48", "2x64")),
)
WORKERS = 4
SPEC = """
name = "dominated"
corpus = "corpus"
objectives = ["clm"]
context = 128
currency = "C_exact"
batch_tokens = 512
validation_tokens = 120_000
validation_points = 1
"""
Cut = Callable[[set[str]], tuple[RunTable, Curves]]
PAUSED_FROM = 2.5e19
"""FLOPs (6 N D) of the replayed budgets that are paused; the cheaper ones go to their ends."""


def main() -> None:
    if len(sys.argv) < 3:
        print("logs DATA, or sweep WORK: see the top of this file")
    elif sys.argv[1] == "logs":
        imported = import_table("cheng2024", Path(sys.argv[2]) / "cheng2024_logs", columns=None, objective=None)
        whole = denoise(imported.table, imported.curves).table
        for objective in ("clm", "mlm"):
            replay(imported, whole, objective)
    elif sys.argv[1] == "again":
        again(Path(sys.argv[2]))
    else:
        sweep(Path(sys.argv[2]))


def replay(imported: Imported, whole: RunTable, objective: str) -> None:
    """The released runs, paused at half."""
    rows = [row for row in minima(whole, objective, "C_6nd") if row.C >= PAUSED_FROM]

    def cut(runs: set[str]) -> tuple[RunTable, Curves]:
        return cut_runs(imported, runs, 0.5)

    decided(whole, objective, "C_6nd", rows, cut, 0.5)


def again(runs: Path) -> None:
    """A finished folder, its budgets from the third on paused; a resumed run is the same run, so its log tells all."""
    everything = api.collect(runs)
    for objective in sorted({row.objective for row in everything}):
        whole = everything.of(objective)
        curves = training_curves(runs, [row.run_id for row in whole])
        rows = [row for row in minima(whole, objective, "C_exact") if len(row.N) >= 3][2:]
        for share in (0.5, 0.7, 0.85):
            cut = partial(shortened, whole, curves, share)
            decided(whole, objective, "C_exact", rows, cut, share)


def shortened(whole: RunTable, curves: Curves, share: float, names: set[str]) -> tuple[RunTable, Curves]:
    """The table and training losses with some runs stopped at a share of their steps."""
    parts, last = [], dict[str, float]()
    D = {row.run_id: row.D for row in whole}
    for curve in curves:
        seen = (share * D[curve.run_id] if curve.run_id in names else np.inf) >= curve.D
        parts.append(
            Curve(curve.run_id, curve.step[seen], curve.D[seen], curve.loss[seen], curve.validation_batch_id[seen])
        )
        last[curve.run_id] = float(curve.D[seen][-1])
    return RunTable(tuple(stopped(row, last) if row.run_id in names else row for row in whole)), Curves.joined(parts)


def decided(
    whole: RunTable, objective: str, currency: Currency, rows: Sequence[IsoflopRow], cut: Cut, share: float
) -> None:
    """Budget by budget as the controller goes: pause, decide, learn from those that went on."""
    cost = {row.run_id: compute_of(row, currency) for row in law_runs(whole, objective)}
    # Replicates go to their ends, and so does what is in no budget.
    plain = [r for r in law_runs(whole, objective) if not r.has_role("replicate") and not r.has_role("transfer_source")]
    waves = [[r.run_id for r in plain if abs(cost[r.run_id] / row.C - 1) < 0.031] for row in rows]
    left, halted, verdicts = [*waves], list[str](), list[Verdict]()
    for wave in waves:
        table, curves = cut({*halted, *(run_id for other in left for run_id in other)})
        completed = complete_table(table, curves, objective, most_uncertain=math.inf)
        made = dominated_runs(completed, wave, objective, halted=halted, currency=currency)
        verdicts += made
        halted += [verdict.run_id for verdict in made if verdict.halt]
        left = left[1:]
    table, curves = cut(set(halted))
    completed = complete_table(table, curves, objective, however_uncertain=halted)
    paused = [run_id for wave in waves for run_id in wave]
    spent, saved = sum(cost.values()), (1.0 - share) * sum(cost[run_id] for run_id in halted)
    print(f"\n{objective}, paused at {share:.0%}: {len(cost)} runs, {spent:.3g} FLOPs; {len(paused)} paused, ", end="")
    print(f"{len(halted)} halted; saved {saved:.3g}: {saved / spent:.1%} of all, ", end="")
    print(f"{saved / sum(cost[run_id] for run_id in paused):.1%} of the paused runs'")
    tell_minima(*(minima(found, objective, currency) for found in (whole, completed.table, table)))
    if "exponents" in sys.argv:
        tell_exponents((laws(whole, objective), laws(completed.table, objective, completed), laws(table, objective)))
    for verdict in verdicts:
        end = verdict.completion
        known = "" if end is None else f"end known to {end.loss_se / end.loss:.2%}; "
        print(f"  {'halt' if verdict.halt else 'goes on'} {verdict.run_id}: {known}{verdict.reason}")


def laws(table: RunTable, objective: str, completed: CompletedTable | None = None) -> LawFit:
    """The laws of a table, predicted ends drawn anew in every resample."""
    return fit_laws(table, objective, draws=500, clusters=completed.losses(None) if completed else None)


def minima(table: RunTable, objective: str, currency: Currency) -> tuple[IsoflopRow, ...]:
    return fit_isoflop(table, objective, currency=currency, window=ISOFLOP_WINDOW).rows


def tell_minima(full: Sequence[IsoflopRow], halted: Sequence[IsoflopRow], without: Sequence[IsoflopRow]) -> None:
    """N_opt by budget: everything trained; halted runs predicted; halted runs left out."""
    print("| C | sizes | N_opt, full sweep | halted, `--partial` | width over full | halted, left out |")
    print("|---|---|---|---|---|---|")
    for row in full:
        ours, bare = (nearest(rows, row.C) for rows in (halted, without))
        width = "-"
        if ours and ours.N_opt and row.N_opt:
            width = f"{log_width(ours) / log_width(row):.2f}"
        print(f"| {row.C:.3g} | {len(row.N)} | {told(row)} | {told(ours)} | {width} | {told(bare)} |")


def nearest(rows: Sequence[IsoflopRow], C: float) -> IsoflopRow | None:
    return next((row for row in rows if abs(math.log(row.C / C)) < 0.05), None)


def log_width(row: IsoflopRow) -> float:
    return math.log(row.N_opt.high / row.N_opt.low) if row.N_opt else math.nan


def told(row: IsoflopRow | None) -> str:
    if row is None or row.N_opt is None:
        return "-"
    return f"{short(row.N_opt.value)} [{short(row.N_opt.low)}, {short(row.N_opt.high)}]"


def short(N: float) -> str:
    return f"{N / 1e6:.0f}M" if N >= 1e7 else f"{N / 1e3:.1f}k"


def tell_exponents(fits: Sequence[LawFit]) -> None:
    """The exponent of N_opt by the minima and by the surface: full, halted, left out."""
    for name, fit in zip(("full", "halted, predicted", "halted, left out"), fits, strict=True):
        a = fit.isoflop.a_N if fit.isoflop else None
        rows = f"{a.value:.3f} [{a.low:.3f}, {a.high:.3f}]" if a else "-"
        b = fit.surface.profiles.get("a_N") if fit.surface else None
        form = f"{fit.surface.form}: {b.value:.3f} [{b.low:.3f}, {b.high:.3f}]" if fit.surface and b else "-"
        print(f"  exponent a_N, {name}: minima {rows}; surface {form}")


def sweep(work: Path) -> None:
    """Train a small isoFLOP sweep with halting, then the halted rest, and hold the minima against each other."""
    corpus, plan = work / "corpus", work / "plan.json"
    if not corpus.exists():
        api.simulate(work / "fasta", residues=4_000_000)
        api.prep({path.stem: [path] for path in sorted((work / "fasta").glob("*.fasta"))}, corpus)
    if not plan.exists():
        (work / "sweep.toml").write_text(
            SPEC + "".join(f"[[isoflop]]\nC = {C}\nsizes = {list(s)}\n" for C, s in BUDGETS)
        )
        api.plan(work / "sweep.toml", plan)
    outcome = api.run(plan, device="cpu", workers=WORKERS, stop_dominated=True)
    assert outcome.halting is not None
    tell(outcome.halting)
    runs = work / "runs"
    halted = api.completed_runs(runs)
    partial, without = minima(halted.table, "clm", "C_exact"), minima(api.collect(runs), "clm", "C_exact")
    fits = (laws(halted.table, "clm", halted), laws(api.collect(runs), "clm"))
    api.run(plan, device="cpu", workers=WORKERS, resume_halted=True)
    whole = api.collect(runs)
    tell_minima(minima(whole, "clm", "C_exact"), partial, without)
    tell_exponents((laws(whole, "clm"), *fits))
    tell_ends(whole, halted.completions)


def tell(report: HaltingReport) -> None:
    seconds = "" if report.seconds_saved is None else f", {report.seconds_saved:.0f} device-seconds"
    saved = f"{report.C_saved:.3g} of {report.C_planned:.3g} FLOPs ({report.C_saved / report.C_planned:.1%})"
    print(f"{report.n_halted} of {report.n_runs} runs halted, saved {saved}{seconds}")
    for verdict in report.verdicts:
        print(f"  {'halt' if verdict.halt else 'goes on'} {verdict.run_id}: {verdict.reason}")


def tell_ends(whole: RunTable, predicted: Sequence[Completion]) -> None:
    """Ends as predicted when the runs were halted, and as they came."""
    came = {row.run_id: row.loss for row in whole}
    for one in predicted:
        where = "inside" if one.low <= came[one.run_id] <= one.high else "outside"
        print(f"  {one.run_id}: {one.loss:.4f} +- {one.loss_se:.4f} predicted, {came[one.run_id]:.4f} came, {where}")


if __name__ == "__main__":
    main()
