"""Whether the intervals of N_opt's exponent hold what they promise: simulated studies with a known law.

    python benchmarks/bench_coverage.py [--studies 200] [--draws 400] [--forms chinchilla bounded ...]

Each study has six isoFLOP budgets of seven sizes. A run's ln L has Student noise (5 degrees of freedom, sd 0.003) and
all runs of a study share one error (sd 0.002), as one validation set would give them. Prints a Markdown table: the
share of studies whose estimate lies within two standard errors of the truth, and of those whose 95 % intervals hold
it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from plm_scaling.laws.fit import TOLERANCE, interval_of, resample
from plm_scaling.laws.forms import Form, Rows, find_form, log_loss
from plm_scaling.laws.newton import minimise
from plm_scaling.laws.problem import make_problem, make_sample, solve
from plm_scaling.laws.profile import profile_intervals
from plm_scaling.laws.surface import optimal_exponent

Array = npt.NDArray[np.float64]

SD_RUN, SD_COMMON, DEGREES = 0.003, 0.002, 5
BOUNDED = {"E": 1.3, "A0": 1.5, "B0": 1.6, "alpha": 0.3, "beta": 0.35}
TRUTHS: dict[str, tuple[str, float | None, dict[str, float]]] = {
    "chinchilla": ("chinchilla", None, {"E": 1.8, "A0": 0.38, "B0": 0.38, "alpha": 0.35, "beta": 0.37}),
    "no_floor": ("no_floor", None, {"A0": 1.2, "B0": 1.3, "alpha": 0.05, "beta": 0.08}),
    "tied": ("tied", None, {"E": 1.8, "A0": 0.38, "B0": 0.5, "alpha": 0.35}),
    "kaplan": ("kaplan", None, {"A0": 2000.0, "B0": 1800.0, "r": 0.83, "a_D": 0.11}),
    "gamma": ("gamma", None, {"E": 1.5, "A0": 0.4, "B0": 0.5, "alpha": 0.4, "beta": 0.45, "g": 0.8}),
    "log_quadratic": (
        "log_quadratic",
        None,
        {"l0": 0.9, "lN": -0.05, "lD": -0.055, "lNN": 0.0087, "lND": -0.006, "lDD": 0.0094},
    ),
    "bounded, L0 given": ("bounded", 2.9, BOUNDED),
    "bounded": ("bounded", None, BOUNDED | {"L0": 2.9}),
    "bounded+batch": ("bounded+batch", None, BOUNDED | {"L0": 2.9, "B_c": 2e6}),
}
"""Name of a world -> form, plateau, parameters centred on the runs."""


@dataclass(frozen=True)
class Coverage:
    """What became of the studies of one form; shares of all studies."""

    world: str
    exponent: float
    studies: int
    within_2_se: float
    percentile: float
    profile: float | None
    width: float
    """Median width of the percentile interval."""
    no_interval: int
    cpu_s: float
    """Processor seconds per study."""


def design() -> tuple[Array, Array, Array]:
    """N, D and batch of the runs."""
    C = np.repeat(np.geomspace(1e18, 3e20, 6), 7)
    N = 3e8 * np.sqrt(C / 1e20) * np.tile(np.geomspace(0.15, 6.0, 7), 6)
    batch = np.where(N > 4e8, 2.0**20, 2.0**19) * np.where(np.arange(len(N)) % 5 == 0, 0.5, 1.0)
    return N, C / 6.0 / N, batch


def exponent_of(form: Form, theta: Array, rows: Rows) -> Array:
    """The exponent of N_opt, float64[B]; of the tied form, whose exponent of N_opt is one half, alpha."""
    return theta[:, form.index("alpha")] if form.name == "tied" else optimal_exponent(form, theta, rows)


def true_losses(form: Form, parameters: dict[str, float]) -> tuple[Array, float]:
    """True ln L of the design without noise, and the exponent of N_opt."""
    N, D, batch = design()
    log_N, log_D = np.log(N), np.log(D)
    N0, D0 = float(log_N.mean()), float(log_D.mean())
    rows = Rows(log_N - N0, log_D - D0, np.log(batch), log_N0=N0, log_D0=D0)
    theta = form.theta(np.array([[parameters[name] for name in form.names]]))
    return log_loss(form, theta, rows)[0], float(exponent_of(form, theta, rows)[0])


def measure(world: str, studies: int, draws: int, seed: int = 0, profiles: bool = True) -> Coverage:
    """Simulate and fit the studies of one world by its own form."""
    name, plateau, parameters = TRUTHS[world]
    form = find_form(name, plateau)
    truth, exponent = true_losses(form, parameters)
    rng = np.random.default_rng(seed)
    started = time.process_time()
    results = [_study(form, truth, exponent, rng, draws, profiles) for _ in range(studies)]
    spent = time.process_time() - started
    within, covered, by_profile, widths = (np.array(column) for column in zip(*results, strict=True))
    return Coverage(
        world=world,
        exponent=exponent,
        studies=studies,
        within_2_se=float(within.mean()),
        percentile=float(covered.mean()),
        profile=float(by_profile.mean()) if profiles else None,
        width=float(np.nanmedian(widths)),
        no_interval=int(np.isnan(widths).sum()),
        cpu_s=spent / studies,
    )


def _study(
    form: Form, truth: Array, exponent: float, rng: np.random.Generator, draws: int, profiles: bool
) -> tuple[bool, bool, bool, float]:
    """One study: within two standard errors, held by the percentile and by the profile interval, and the width."""
    N, D, batch = design()
    noise = SD_RUN * rng.standard_t(DEGREES, len(N)) / np.sqrt(DEGREES / (DEGREES - 2)) + SD_COMMON * rng.normal()
    sample = make_sample(N, D, np.exp(truth + noise), batch)
    problem = make_problem(form, sample, 1e-3)
    reached = solve(problem, sample.weights, 8)
    weights = resample(len(sample), draws, int(rng.integers(2**31)))
    ends, _ = minimise(problem, np.repeat(reached.theta[None], draws, axis=0), weights, tolerance=TOLERANCE)
    found = exponent_of(form, ends, problem.rows)
    estimate = float(exponent_of(form, reached.theta[None], problem.rows)[0])
    within = abs(estimate - exponent) <= 2.0 * float(np.nanstd(found))
    interval = interval_of(estimate, found)
    by_profile = False
    if profiles:
        quantities: dict[str, Any] = {"a": lambda t: exponent_of(form, t, problem.rows)}
        profile = profile_intervals(problem, reached.theta, sample.weights, quantities)["a"]
        by_profile = profile.low <= exponent <= profile.high
    if interval is None:
        return within, False, by_profile, float("nan")
    return within, interval.low <= exponent <= interval.high, by_profile, interval.high - interval.low


def table(rows: Sequence[Coverage]) -> str:
    """The results as Markdown."""
    lines = [
        "| form | exponent | within 2 SE | percentile 95 % | profile 95 % | median width | CPU s per study |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        profile = "-" if row.profile is None else f"{100 * row.profile:.1f} %"
        shares = f"{100 * row.within_2_se:.1f} % | {100 * row.percentile:.1f} % | {profile}"
        lines.append(f"| {row.world} | {row.exponent:.3f} | {shares} | {row.width:.3f} | {row.cpu_s:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--forms", nargs="*", default=list(TRUTHS), choices=list(TRUTHS))
    args = parser.parse_args()
    rows = [measure(world, args.studies, args.draws, args.seed) for world in args.forms]
    print(f"{args.studies} studies of {len(design()[0])} runs, {args.draws} bootstrap draws each, seed {args.seed}\n")
    print(table(rows))


if __name__ == "__main__":
    main()
