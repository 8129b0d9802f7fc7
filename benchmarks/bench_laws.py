"""Fit of laws: the Chinchilla form beside the recipe and the packages it replaces, and the choice among all forms.

    PLM_SCALING_TEST_DATA=... python benchmarks/bench_laws.py [--quick] [--json]

Everything takes turns in one process on one thread; medians of process CPU time and of wall time. The recipe (Hoffmann
et al. 2022; Besiroglu et al. 2024): L-BFGS-B from a 4,500-point grid with finite differences, then one BFGS per
bootstrap resample from the published optimum; a share of both is timed and scaled up. Packages stand beside both
where they are installed (`pip install plm-scaling[bench]`). Without the published tables simulated ones are used.
Ratios mean something, seconds only on one machine.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ[_name] = "1"

import argparse  # noqa: E402
import csv  # noqa: E402
import json  # noqa: E402
import statistics  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections import defaultdict  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
from law_peers import (  # noqa: E402
    ALL_STARTS,
    PACKAGES,
    Runs,
    bfgs,
    descend,
    find_peers,
    huber_sum,
    missing_peers,
    recipe_starts,
)

from plm_scaling import api  # noqa: E402
from plm_scaling.core.run_table import RunRow, RunTable  # noqa: E402
from plm_scaling.laws.fit import fit_surface, resample  # noqa: E402
from plm_scaling.laws.forms import find_form  # noqa: E402
from plm_scaling.laws.newton import minimise  # noqa: E402
from plm_scaling.laws.problem import Reached, make_problem, make_sample, solve  # noqa: E402
from plm_scaling.laws.surface import surface_loss  # noqa: E402

DRAWS = 4000
DATA = os.environ.get("PLM_SCALING_TEST_DATA", "")
Seconds = tuple[float, float]
"""Of process CPU time, of wall time."""


class Clock:
    """Seconds by name, one entry per call."""

    def __init__(self) -> None:
        self.cpu: dict[str, list[float]] = defaultdict(list)
        self.wall: dict[str, list[float]] = defaultdict(list)

    def time(self, name: str, call: Callable[[], Any], per: int = 1) -> Any:
        """Call and note the seconds of each of its `per` parts."""
        cpu, wall = time.process_time(), time.perf_counter()
        out = call()
        self.cpu[name].append((time.process_time() - cpu) / per)
        self.wall[name].append((time.perf_counter() - wall) / per)
        return out

    def median(self, name: str) -> Seconds:
        """Of all calls."""
        return statistics.median(self.cpu[name]), statistics.median(self.wall[name])


def load_runs() -> Runs:
    path = Path(DATA) / "law_tables" / "epoch_chinchilla.csv"
    if DATA and path.is_file():
        with path.open(newline="") as handle:
            rows = [row for row in csv.DictReader(handle) if row["outlier"] == "False"]
        N, D, loss = (np.array([float(row[name]) for row in rows]) for name in ("N", "D", "loss"))
        return Runs(path.name, N, D, loss)
    rng = np.random.default_rng(0)
    N, D = np.exp(rng.uniform(np.log(6e7), np.log(1.6e10), 240)), np.exp(rng.uniform(np.log(1e9), np.log(3e11), 240))
    loss = (1.82 + 480 * N**-0.348 + 2085 * D**-0.366) * np.exp(0.004 * rng.standard_t(3, 240))
    return Runs("simulated", N, D, loss)


def optimum(runs: Runs) -> Reached:
    """The full fit: starts guessed, each followed to its minimum."""
    sample = make_sample(runs.N, runs.D, runs.loss)
    return solve(make_problem(find_form("chinchilla"), sample, 1e-3), sample.weights)


def random_starts(runs: Runs, count: int) -> float:
    """Share of random starts in centred coordinates that end within 1e-6 of the best objective.

    E, A0 and B0 anywhere below the lowest loss, both exponents anywhere below one.
    """
    sample = make_sample(runs.N, runs.D, runs.loss)
    problem = make_problem(find_form("chinchilla"), sample, 1e-3)
    rng = np.random.default_rng(0)
    terms, exponents = rng.uniform(0, float(sample.loss.min()), (count, 3)), rng.uniform(0, 1, (count, 2))
    _, values = minimise(problem, np.concatenate([np.log(terms), exponents], axis=1), sample.weights)
    best = min(optimum(runs).value, float(values.min()))
    return float(np.mean(values <= best * (1 + 1e-6)))


def bench_fits(runs: Runs, repetitions: int, starts: int, resamples: int, quick: bool) -> dict[str, Any]:
    """Parts (a) to (c)."""
    clock, rng = Clock(), np.random.default_rng(0)
    grid = recipe_starts()
    assert len(grid) == ALL_STARTS
    order = rng.permutation(ALL_STARTS)
    weights = resample(len(runs.N), repetitions * resamples, 1)
    best: dict[str, list[float]] = defaultdict(list)
    published = np.array([np.log(482.01), np.log(2085.43), np.log(1.8169), 0.3478, 0.3658])
    peers = find_peers(runs, quick=quick)
    optimum(runs)  # the first call imports
    for k in range(repetitions):
        some = grid[order[k * starts : (k + 1) * starts]]
        for name, gradient in (("recipe start", False), ("recipe start, gradient", True)):
            ends = clock.time(name, lambda: descend(runs, some, gradient=gradient), starts)  # noqa: B023
            best[name] += [value for value, _ in ends]
        part = weights[k * resamples : (k + 1) * resamples]
        clock.time("recipe resample", lambda: bfgs(runs, published, part), resamples)  # noqa: B023
        for _ in range(5):
            best["ours"].append(clock.time("fit", lambda: optimum(runs)).value)
        clock.time("fit_surface", lambda: fit_surface(runs.N, runs.D, runs.loss, draws=1))
        fitted = clock.time("fit_surface, draws", lambda: fit_surface(runs.N, runs.D, runs.loss, draws=DRAWS))
    best["ours, surface"].append(huber_sum(surface_loss(fitted, runs.N, runs.D), runs.loss))
    what = {peer.name: peer.what for peer in peers}
    for peer in peers:
        best[peer.name].append(huber_sum(clock.time(peer.name, peer.fit), runs.loss))
        if peer.draw and not quick:
            clock.time(f"{peer.name}, draws", lambda: peer.draw(DRAWS))  # noqa: B023
    return report(clock, best) | {
        "table": runs.name,
        "runs": len(runs.N),
        "peers": what,
        "peers_missing": missing_peers(),
    }


def report(clock: Clock, best: dict[str, list[float]]) -> dict[str, Any]:
    """Ratios of the medians, scaled to the whole recipe."""
    one, both = clock.median("fit"), clock.median("fit_surface, draws")
    recipe, gradient = (clock.median(f"recipe start{end}") for end in ("", ", gradient"))
    each = clock.median("recipe resample")
    known = min(best["ours"])

    def ratio(of: Callable[[int], float], by: Seconds) -> list[float]:
        return [of(i) / by[i] for i in (0, 1)]

    fits, gradients = (ratio(lambda i, r=r: ALL_STARTS * r[i], one) for r in (recipe, gradient))
    whole = ratio(lambda i: ALL_STARTS * recipe[i] + DRAWS * each[i], both)
    alone = ratio(lambda i: DRAWS * each[i], both)
    return {
        "fit_ratio": fits[0],
        "bootstrap_ratio": whole[0],
        "objective": known,
        "fit_ratio_wall": fits[1],
        "fit_ratio_to_gradient": gradients[0],
        "bootstrap_ratio_wall": whole[1],
        "bootstrap_ratio_resamples_alone": alone[0],
        "recipe_objective": min(best["recipe start"] + best["recipe start, gradient"]),
        "recipe_starts_timed": len(best["recipe start"]),
        "recipe_starts_at_best": float(np.mean(np.array(best["recipe start"]) <= known * (1 + 1e-3))),
        "objectives": {name: min(values) for name, values in best.items()},
        "cpu_s": {name: clock.median(name)[0] for name in clock.cpu},
        "wall_s": {name: clock.median(name)[1] for name in clock.wall},
    }


def simulated_world(folder: Path, count: int = 200) -> Path:
    """Runs of a bounded law with a batch term on ten budgets, as a CSV."""
    rng = np.random.default_rng(0)
    E, A, B, alpha, beta, L0, critical = 1.2, 120.0, 5000.0, 0.25, 0.4, 2.889, 5e5
    rows = []
    for i in range(count):
        C = float(np.geomspace(1e17, 3e20, 10)[i % 10])
        N = 2e6 * (C / 1e17) ** 0.6 * float(np.exp(rng.uniform(-1.4, 1.4)))
        D, batch = C / 6 / N, float(rng.choice([131072, 262144, 524288, 1048576]))
        R = A * N**-alpha + B * (D / (1 + batch / critical)) ** -beta
        loss = (E + (L0 - E) * R / (L0 - E + R)) * float(np.exp(0.002 * rng.standard_t(4)))
        row = {"run_id": f"r{i}", "objective": "clm", "role": "grid", "N": N, "D": D, "loss": loss}
        rows.append(RunRow.model_validate(row | {"batch_tokens": batch, "C_6nd": C}))
    return RunTable(tuple(rows)).write(folder / "simulated.csv")


def bench_auto(repetitions: int, objectives: tuple[str, ...]) -> dict[str, Any]:
    """Part (d): every form with its rolling test, the best with 4,000 draws, intervals and optima."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables = [("simulated", simulated_world(folder), "clm")]
        logs = Path(DATA) / "cheng2024_logs"
        if DATA and logs.is_dir():
            api.import_runs("cheng2024", logs, folder / "cheng.csv")
            tables += [(f"cheng2024 {objective}", folder / "cheng.csv", objective) for objective in objectives]
        clock = Clock()
        for _ in range(repetitions):
            for label, table, objective in tables:
                law = clock.time(label, lambda: api.fit(table, objective=objective, draws=DRAWS))  # noqa: B023
                best = law.forms[0]
                found[label] = {"runs": law.n_runs, "form": best.form, "extrapolation": best.extrapolation}
        for label in found:
            found[label]["cpu_s"], found[label]["wall_s"] = clock.median(label)
    return {"auto_fit_s": found["simulated"]["cpu_s"], "auto": found}


def show(result: dict[str, Any]) -> None:
    seconds, objectives = result["cpu_s"], result["objectives"]
    print(f"{result['table']}, {result['runs']} runs; one thread, medians of process CPU time")
    print(f"{'':56s}{'seconds':>10s}  objective (sum of Huber losses)")
    recipe = seconds["recipe start"] * ALL_STARTS
    lines = [
        ("ours: fit, 8 starts to the end", seconds["fit"], objectives["ours"]),
        ("ours: with influence of each run and doubts", seconds["fit_surface"], None),
        (f"ours: the same with {DRAWS:,} draws", seconds["fit_surface, draws"], None),
        (f"recipe: {ALL_STARTS:,} starts", recipe, objectives["recipe start"]),
        ("recipe with gradient", seconds["recipe start, gradient"] * ALL_STARTS, objectives["recipe start, gradient"]),
        (f"recipe: {DRAWS:,} resamples", seconds["recipe resample"] * DRAWS, None),
        *[(f"{name}: {what}", seconds[name], objectives[name]) for name, what in result["peers"].items()],
        *[(name, seconds[name], None) for name in seconds if name.partition(", draws")[0] in PACKAGES and "," in name],
    ]
    for label, value, objective in lines:
        print(f"{label:56s}{value:10.3f}  {'' if objective is None else f'{objective:.12g}'}")
    for name in result["peers_missing"]:
        print(f"{name:56s}{'not installed':>10s}")
    share = result["recipe_starts_at_best"]
    print(f"recipe: {result['recipe_starts_timed']} starts timed, {share:.0%} reach the optimum to 1e-3")
    print(f"ours: {result['random_starts']:.1%} of random centred starts reach it to 1e-6 (goal 95 %)")
    for name, goal in (("fit", 2000), ("bootstrap", 80)):
        cpu, wall = result[f"{name}_ratio"], result[f"{name}_ratio_wall"]
        print(f"{name + '_ratio':18s}{cpu:8.0f} of CPU time, {wall:8.0f} of wall time (goal {goal:,})")
    print(f"to the recipe with gradient {result['fit_ratio_to_gradient']:.0f}; resamples alone "
          f"{result['bootstrap_ratio_resamples_alone']:.0f}")  # fmt: skip
    print(f"fit --form auto, {DRAWS:,} draws (goal 5 s of CPU time on 200 runs)")
    for label, row in result["auto"].items():
        error = "" if row["extrapolation"] is None else f", error beyond the runs fitted {row['extrapolation']:.3%}"
        seconds_text = f"{row['cpu_s']:6.2f} s CPU {row['wall_s']:6.2f} s"
        print(f"  {label:16s}{row['runs']:4d} runs {seconds_text}  {row['form']}{error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: within a minute")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    runs = load_runs()
    repetitions, starts, resamples = (3, 20, 10) if args.quick else (9, 40, 30)
    result = bench_fits(runs, repetitions, starts, resamples, quick=args.quick)
    result["random_starts"] = random_starts(runs, 400 if args.quick else 1000)
    result |= bench_auto(1, ("clm",)) if args.quick else bench_auto(3, ("clm", "mlm"))
    if args.json:
        print(json.dumps(result))
    else:
        show(result)


if __name__ == "__main__":
    main()
