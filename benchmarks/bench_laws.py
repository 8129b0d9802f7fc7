"""Fit of the Chinchilla form: ours against the many-starts recipe it replaces, on the same runs in one process.

    PLM_SCALING_TEST_DATA=... python benchmarks/bench_laws.py [--starts 90] [--resamples 1000]

The recipe (Hoffmann et al. 2022; Besiroglu et al. 2024): L-BFGS-B from a 4,500-point grid with finite differences,
then one BFGS per bootstrap resample from the published optimum. A share of it is timed and scaled up. Without the
published table a simulated one of 240 runs is used. Ratios mean something, seconds only on one machine.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from plm_scaling.laws.fit import fit_surface

Array = npt.NDArray[np.float64]
ALL_STARTS = 4500


def load_runs() -> tuple[str, Array, Array, Array]:
    path = Path(os.environ.get("PLM_SCALING_TEST_DATA", "")) / "law_tables" / "epoch_chinchilla.csv"
    if path.is_file():
        with path.open(newline="") as handle:
            rows = [row for row in csv.DictReader(handle) if row["outlier"] == "False"]
        N, D, loss = (np.array([float(row[name]) for row in rows]) for name in ("N", "D", "loss"))
        return path.name, N, D, loss
    rng = np.random.default_rng(0)
    N, D = np.exp(rng.uniform(np.log(6e7), np.log(1.6e10), 240)), np.exp(rng.uniform(np.log(1e9), np.log(3e11), 240))
    loss = (1.82 + 480 * N**-0.348 + 2085 * D**-0.366) * np.exp(0.004 * rng.standard_t(3, 240))
    return "simulated", N, D, loss


def recipe_objective(theta: Array, log_N: Array, log_D: Array, target: Array, weights: Array) -> float:
    a, b, e, alpha, beta = theta
    terms = np.stack([a - alpha * log_N, b - beta * log_D, np.full_like(log_N, e)])
    residual = np.abs(np.logaddexp.reduce(terms, axis=0) - target)
    huber = np.where(residual <= 1e-3, 0.5 * residual**2, 1e-3 * (residual - 5e-4))
    return float((weights * huber).sum())


def time_recipe(N: Array, D: Array, loss: Array, starts: int, resamples: int) -> tuple[float, float, float]:
    """Seconds per start, seconds per resample, best objective reached."""
    data = (np.log(N), np.log(D), np.log(loss))
    grid = list(product([0, 5, 10, 15, 20, 25], [0, 5, 10, 15, 20, 25], [-1, -0.5, 0, 0.5, 1], np.arange(0, 2.1, 0.5),
                        np.arange(0, 2.1, 0.5)))  # fmt: skip
    chosen = [grid[i] for i in np.random.default_rng(0).choice(len(grid), starts, replace=False)]
    ones = np.ones(len(N))
    begin = time.perf_counter()
    ends = [minimize(recipe_objective, np.array(s, float), args=(*data, ones), method="L-BFGS-B") for s in chosen]
    per_start = (time.perf_counter() - begin) / starts
    best = min(ends, key=lambda end: end.fun)
    weights = np.random.default_rng(1).multinomial(len(N), ones / len(N), size=resamples).astype(float)
    begin = time.perf_counter()
    for w in weights:
        minimize(recipe_objective, best.x, args=(*data, w), method="BFGS")
    return per_start, (time.perf_counter() - begin) / resamples, float(best.fun)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--starts", type=int, default=90, help="starts of the recipe that are timed")
    parser.add_argument("--resamples", type=int, default=1000, help="our bootstrap resamples")
    args = parser.parse_args()
    name, N, D, loss = load_runs()
    fit_surface(N, D, loss, draws=1)
    begin = time.perf_counter()
    alone = fit_surface(N, D, loss, draws=1)
    one = time.perf_counter() - begin
    begin = time.perf_counter()
    fit_surface(N, D, loss, draws=args.resamples)
    full = time.perf_counter() - begin
    per_start, per_resample, reached = time_recipe(N, D, loss, args.starts, max(10, args.starts // 3))
    recipe_one = per_start * ALL_STARTS
    recipe_full = recipe_one + per_resample * args.resamples
    print(f"table {name}, {len(N)} runs")
    print(f"objective       ours {alone.objective_value:.13g}   recipe ({args.starts} starts) {reached:.13g}")
    print(f"one fit         ours {one:8.3f} s   recipe {recipe_one:8.1f} s   ratio {recipe_one / one:8.0f}")
    print(f"+{args.resamples} draws ours {full:6.3f} s   recipe {recipe_full:8.1f} s   ratio {recipe_full / full:8.0f}")


if __name__ == "__main__":
    main()
