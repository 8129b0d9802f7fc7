"""Laws by group: simulated sweeps with known group laws, and halves of real sweeps against each other.

    python benchmarks/bench_groups.py [--sweeps 200] [--processes 1]
    python benchmarks/bench_groups.py --runs RUNS --by COLUMN [--groups FILE] [--objective clm] [--splits 20]

The first prints, for each world of groups, how often 95 % intervals hold the truth and how far estimates are off it,
with shrinkage and without. The second fits a sweep's groups twice: on half of the validation sequences in half of the
runs, and on the other half of both, and prints how often the two agree within their 95 % errors.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from plm_scaling.core.run_table import RunTable
from plm_scaling.laws.fit import fit_surface
from plm_scaling.laws.group_losses import GroupLosses
from plm_scaling.laws.group_simulation import GroupWorld, simulate_groups
from plm_scaling.laws.groups import fit_group_laws
from plm_scaling.laws.law_fit import LawFit

Array = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

QUANTITIES = ("loss", "per doubling of N", "per doubling of D")
WORLDS = {
    "30 groups of 3 to 120 sequences, a line of tokens": GroupWorld(),
    "exponents differ too (sd .06)": GroupWorld(spread_exponent=0.06, per_ln_tokens=0.0),
    "12 groups of 3 to 9": GroupWorld(groups=12, smallest=3, largest=9, per_ln_tokens=0.0),
    "5 groups of 8 to 120": GroupWorld(groups=5, smallest=8, per_ln_tokens=0.0),
    "30 groups nearly alike": GroupWorld(spread_A=0.03, spread_B=0.03, per_ln_tokens=0.0),
}


def law_of(runs: RunTable, draws: int, form: str = "chinchilla") -> LawFit:
    """A law of all sequences without what groups do not need."""
    N, D, loss = (runs.column(name) for name in ("N", "D", "loss"))
    surface = fit_surface(N, D, loss, form=form, draws=draws)
    compute = 6.0 * N * D
    return LawFit(
        objective="clm", currency="C_6nd", n_runs=len(runs), surface=surface, data_hash=runs.content_hash(),
        range_C=(float(compute.min()), float(compute.max())),
    )  # fmt: skip


def one_sweep(job: tuple[str, int]) -> tuple[Array, bool | None]:
    """Rows of (quantity, sequences, inside, error shrunk, error alone), and whether the line of tokens was held."""
    name, seed = job
    world = WORLDS[name]
    made = simulate_groups(world, seed)
    losses = made.losses if world.per_ln_tokens else replace(made.losses, share=None)
    fit = fit_group_laws(made.runs, law_of(made.runs, 100), losses, by="g", validation="v", draws=400, seed=seed)
    truth = np.column_stack([made.loss(fit.N_largest, fit.D_largest), made.per_doubling(fit.N0, fit.D0)])
    place = {group: g for g, group in enumerate(made.losses.names)}
    rows = []
    for group in fit.groups:
        intervals = (group.loss, group.per_doubling_N, group.per_doubling_D)
        for k, (interval, alone) in enumerate(zip(intervals, group.alone, strict=True)):
            at = truth[place[group.name], k]
            rows.append((k, group.sequences, interval.low <= at <= interval.high, interval.value - at, alone - at))
    line = fit.homology.loss if fit.homology else None
    known = world.per_ln_tokens * np.log(2.0)
    return np.array(rows, dtype=np.float64), line.low <= known <= line.high if line else None


def coverage(sweeps: int, processes: int) -> None:
    """The table of all worlds."""
    print("| world | quantity | 95 % intervals hold the truth | of groups < 10 | rms error, shrunk / alone |")
    print("|---|---|---|---|---|", flush=True)
    with ProcessPoolExecutor(processes) as pool:
        for name in WORLDS:
            began = time.perf_counter()
            found = list(pool.map(one_sweep, [(name, seed) for seed in range(sweeps)]))
            rows = np.concatenate([one[0] for one in found])
            for k, quantity in enumerate(QUANTITIES):
                part = rows[rows[:, 0] == k]
                small = part[part[:, 1] < 10]
                few = f"{100 * small[:, 2].mean():.1f} %" if len(small) else "-"
                shrunk, alone = np.sqrt((part[:, 3:] ** 2).mean(axis=0))
                print(f"| {name} | {quantity} | {100 * part[:, 2].mean():.1f} % | {few} | {shrunk:.4f} / {alone:.4f} |")
            lines = [one[1] for one in found if one[1] is not None]
            held = f"line of tokens held in {100 * np.mean(lines):.0f} %; " if lines else ""
            print(f"| | | {held}{(time.perf_counter() - began) / sweeps:.2f} s a sweep | | |", flush=True)


def _half(losses: GroupLosses, runs: Int, sequences: Int) -> GroupLosses:
    return replace(
        losses,
        run_ids=tuple(losses.run_ids[int(r)] for r in runs),
        loss_sum=losses.loss_sum[np.ix_(runs, sequences)],
        n_targets=losses.n_targets[sequences],
        label=losses.label[sequences],
        length=losses.length[sequences],
    )


def halves(fitted: Any, runs: RunTable, losses: GroupLosses, splits: int) -> None:
    """How often a group's shrunk departure from the law agrees with that of other sequences in other runs."""
    from plm_scaling.laws.group_basis import GroupBasis
    from plm_scaling.laws.group_losses import evidence_of
    from plm_scaling.laws.group_posterior import draw_posterior
    from plm_scaling.laws.surface import surface_loss

    rng = np.random.default_rng(0)
    basis = GroupBasis(fitted.basis, fitted.law.surface, fitted.N0, fitted.D0, fitted.bends)
    at_end = basis.columns(np.array([fitted.N_largest]), np.array([fitted.D_largest]))
    functionals = np.concatenate([at_end, basis.doublings()])
    inside, shrunk, alone, fewest = [], [], [], []
    for split in range(splits):
        order, mixed = rng.permutation(len(runs)), rng.permutation(len(losses.label))
        parts = []
        for half in range(2):
            chosen = np.sort(order[half::2])
            rows = RunTable(tuple(runs.rows[int(r)] for r in chosen))
            N, D = rows.column("N"), rows.column("D")
            at = surface_loss(fitted.law.surface, N, D, rows.column("batch_tokens"))
            part = _half(losses, chosen, np.sort(mixed[half::2]))
            parts.append((part, at, rows.column("loss") - at, basis.columns(N, D)))
        counts = np.minimum(*(np.bincount(part[0].label, minlength=len(losses.names)) for part in parts))
        keep = np.flatnonzero(counts >= 5)
        a, b = (evidence_of(part[0].keep(keep), *part[1:]) for part in parts)
        made = draw_posterior(a.estimate, a.covariance, a.degrees, np.ones((len(keep), 1)), draws=600, seed=split)
        of_a, other = made.beta @ functionals.T, b.estimate @ functionals.T
        error = np.sqrt(np.einsum("ki,gij,kj->gk", functionals, b.covariance, functionals))
        tail = np.random.default_rng([split, 1]).standard_t(b.degrees, (600, len(keep)))
        low, high = np.percentile(of_a - other - tail[:, :, None] * error, [2.5, 97.5], axis=0)
        inside.append((low <= 0) & (high >= 0))
        shrunk.append(of_a.mean(axis=0) - other)
        alone.append(a.estimate @ functionals.T - other)
        fewest.append(counts[keep])
    held, size = np.concatenate(inside), np.concatenate(fewest)
    print("| quantity | agree within 95 % | of groups of 10 or more in a half | rms difference, shrunk | alone |")
    print("|---|---|---|---|---|")
    for k, quantity in enumerate(QUANTITIES):
        of = [np.sqrt(np.mean(np.concatenate(some)[:, k] ** 2)) for some in (shrunk, alone)]
        shares = " | ".join(f"{100 * held[size >= least, k].mean():.1f} %" for least in (0, 10))
        print(f"| {quantity} | {shares} | {of[0]:.4f} | {of[1]:.4f} |")
    print(f"{len(held)} groups in {splits} splits, {int((size >= 10).sum())} of 10 or more")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweeps", type=int, default=200)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--by", default="source")
    parser.add_argument("--groups", type=Path)
    parser.add_argument("--objective")
    parser.add_argument("--form", default="auto")
    parser.add_argument("--splits", type=int, default=20)
    options = parser.parse_args(arguments)
    if options.runs is None:
        coverage(options.sweeps, options.processes)
        return
    from plm_scaling.api_groups import fit_groups, grouped_losses

    fitted = fit_groups(
        options.runs, by=options.by, groups=options.groups, objective=options.objective, form=options.form, draws=500
    )
    read = grouped_losses(options.runs, by=options.by, groups=options.groups, objective=options.objective)
    halves(fitted, read.runs, read.losses, options.splits)


if __name__ == "__main__":
    main()
