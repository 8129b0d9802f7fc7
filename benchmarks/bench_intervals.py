"""Coverage of the bootstrap's 95 % intervals where the truth is known: `python benchmarks/bench_intervals.py`."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable

import numpy as np

from plm_scaling.evals.bootstrap import Bootstrapped, bootstrap_mean, bootstrap_metric, paired_difference

RHO = 0.6
SPEARMAN = 6 / math.pi * math.asin(RHO / 2)
"""Of normal pairs with this linear correlation. **Source:** Pearson 1907."""
DRAWS = 500


def pair(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    x = rng.normal(size=n)
    return x, RHO * x + math.sqrt(1 - RHO**2) * rng.normal(size=n)


def one_model(rng: np.random.Generator, seed: int, n: int, method: str) -> tuple[Bootstrapped, float]:
    return bootstrap_metric("spearman", *pair(rng, n), draws=DRAWS, seed=seed, method=method), SPEARMAN


def two_models(rng: np.random.Generator, seed: int, n: int, method: str) -> tuple[Bootstrapped, float]:
    truth = rng.normal(size=n)
    ours, theirs = (truth + rng.normal(size=n) for _ in range(2))
    return paired_difference("spearman", truth, ours, theirs, draws=DRAWS, seed=seed, method=method), 0.0


def by_protein(rng: np.random.Generator, seed: int, n: int, method: str) -> tuple[Bootstrapped, float]:
    protein = np.repeat(np.arange(n), 10)
    values = rng.normal(size=n)[protein] + rng.normal(size=10 * n)
    return bootstrap_mean(values, clusters=protein, draws=DRAWS, seed=seed, method=method), 0.0


CASES: dict[str, tuple[Callable[..., tuple[Bootstrapped, float]], int, str]] = {
    "Spearman, 60 rows, percentile": (one_model, 60, "percentile"),
    "Spearman, 60 rows, BCa": (one_model, 60, "bca"),
    "Spearman, 300 rows, percentile": (one_model, 300, "percentile"),
    "difference of two models, 80 rows, percentile": (two_models, 80, "percentile"),
    "difference of two models, 80 rows, BCa": (two_models, 80, "bca"),
    "mean, 40 proteins of 10 rows, percentile": (by_protein, 40, "percentile"),
    "mean, 8 proteins of 10 rows, percentile": (by_protein, 8, "percentile"),
    "mean, 4 proteins of 10 rows, percentile": (by_protein, 4, "percentile"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = {}
    for name, (case, n, method) in CASES.items():
        rng, started, hits = np.random.default_rng(2026), time.process_time(), 0
        for seed in range(options.simulations):
            interval, truth = case(rng, seed, n, method)
            hits += interval.low <= truth <= interval.high
        found[name] = hits / options.simulations
        if not options.json:
            print(f"{name:48s} {found[name]:.3f}   {time.process_time() - started:5.1f} CPU s", flush=True)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
