"""From FASTA to decision: wall and CPU seconds of a whole study of real proteins, and the interval of N_opt it reaches.

    python benchmarks/bench_study.py DATA OUT [--scale 1] [--workers 2] [--stop-dominated]

DATA/corpus holds FASTA files, two of which (the distant genome and the second strain) are held out. Stages: prep, plan,
run, fit, size, report, each by the function of that name; nothing is reused from an earlier study. CLM, four budgets of
five sizes and four replicates; by the speed of earlier sweeps about ten minutes of two idle cores at scale 1. With
`--stop-dominated` runs of the larger budgets are halted where their predicted ends cannot move N_opt, and the fit takes
these ends.

CPU seconds are those of this process and its children, and say more than wall seconds on a machine that others use.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

os.environ.setdefault("OMP_NUM_THREADS", "1")

from plm_scaling import api
from plm_scaling.core.errors import ConfigError, RefusedError
from plm_scaling.laws.law_fit import LawFit

HELD_OUT: Final = {"distant": "UP000221734-K.stuttgartiensis", "close": "UP000008962-S.typhimurium"}
BUDGETS: Final = (1.5e11, 3e11, 6e11, 1.2e12)
SPEC: Final = """\
name = "study"
objectives = ["clm"]
context = 256
currency = "C_exact"
batch_tokens = 512
validation_tokens = 200_000
validation_points = 1

[[isoflop]]
C = 1.5e11
sizes = ["1x8", "1x12", "1x16", "2x16", "2x24"]

[[isoflop]]
C = 1.5e11
sizes = ["1x12", "1x16"]
seeds = [1, 2]

[[isoflop]]
C = 3e11
sizes = ["1x8", "1x12", "1x16", "2x16", "2x24"]

[[isoflop]]
C = 6e11
sizes = ["1x12", "1x16", "2x16", "2x24", "2x32"]

[[isoflop]]
C = 1.2e12
sizes = ["1x16", "2x16", "2x24", "2x32", "2x48"]
"""
BEYOND: Final = 10.0
"""The decision asked for: the model that so many times the largest budget pays for."""


class Clock:
    """Seconds of every stage."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, float, float]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is done inside."""
        wall, cpu = time.perf_counter(), cpu_seconds()
        yield
        self.stages.append((name, time.perf_counter() - wall, cpu_seconds() - cpu))
        print(f"{name}: {self.stages[-1][1]:.1f} s wall, {self.stages[-1][2]:.1f} s CPU", flush=True)

    def total(self) -> tuple[float, float]:
        """Wall and CPU seconds of all stages."""
        return sum(wall for _, wall, _ in self.stages), sum(cpu for *_, cpu in self.stages)


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("data", type=Path, nargs="?")
    asked.add_argument("out", type=Path, nargs="?", help="a folder that does not exist")
    asked.add_argument("--scale", type=float, default=1.0, help="factor on all budgets")
    asked.add_argument("--workers", type=int, default=os.cpu_count())
    asked.add_argument("--stop-dominated", action="store_true")
    given = asked.parse_args()
    if given.data is None or given.out is None:
        print("passed over: name the data and a folder to write")
        return
    given.out.mkdir(parents=True)
    study(given.data, given.out, given.scale, given.workers, given.stop_dominated)


def study(data: Path, out: Path, scale: float, workers: int, stop: bool) -> None:
    clock = Clock()
    with clock.stage("prep"):
        files = sorted((data / "corpus").glob("*.fasta.gz"))
        held = {name: [path for path in files if path.name.startswith(stem)] for name, stem in HELD_OUT.items()}
        inputs = {p.name.removesuffix(".fasta.gz"): [p] for p in files if [p] not in held.values()}
        corpus = api.prep(inputs, out / "corpus", hold_out=held, workers=workers)
    with clock.stage("plan"):
        (out / "sweep.toml").write_text(SPEC)
        plan = api.plan(out / "sweep.toml", out / "plan.json", corpus=out / "corpus", scale=scale)
    with clock.stage("run"):
        outcome = api.run(out / "plan.json", workers=workers, stop_dominated=stop)
    with clock.stage("fit"):
        law = api.fit(out / "runs", objective="clm", partial=stop, out=out / "fit-clm.json")
    unique = float(sum(source.unique_tokens for source in corpus.sources))
    with clock.stage("size"):
        said = decision(out, BEYOND * scale * BUDGETS[-1], unique)
    with clock.stage("report"):
        api.report(out)
    wall, cpu = clock.total()
    spent = f"{sum(run.C_exact for run in plan.runs):.3g} exact FLOPs"
    states = f"{outcome.n_complete} complete, {len(outcome.halted)} halted, {len(outcome.failed)} failed"
    print(f"\n{len(plan.runs)} runs planned, {spent}; {states}")
    print("\n".join(interval_lines(law)))
    print(f"decision: {said}")
    print(f"from FASTA to decision: {wall:.0f} s wall, {cpu:.0f} s CPU, {workers} workers")


def decision(out: Path, flops: float, unique_tokens: float) -> str:
    """What is advised for a budget beyond the sweep."""
    laws = [out / "fit-clm.json"]
    try:
        advice = api.size(objective="clm", flops=flops, unique_tokens=unique_tokens, laws=laws, out=out / "size.json")
    except (RefusedError, ConfigError) as error:  # the latter: no shape is as small
        return f"none: {error.what}"
    return f"N {advice.N:.3g}, D {advice.D:.3g} for {flops:.3g} FLOPs"


def interval_lines(law: LawFit) -> list[str]:
    """N_opt at every budget: by the surface, and by the row's own minimum."""
    lines = [
        f"N_opt by {law.surface.form if law.surface else 'none'} at {o.C:.3g} (6 N D): {o.N.value:.3g} "
        f"({o.N.low:.3g} to {o.N.high:.3g}, a factor {o.N.high / o.N.low:.2f}) {' '.join(o.flags)}"
        for o in law.optima
    ]
    for row in law.isoflop.rows if law.isoflop else ():
        best = f"{row.N_opt.value:.3g} ({row.N_opt.low:.3g} to {row.N_opt.high:.3g})" if row.N_opt else "none"
        lines.append(f"N_opt of the row at {row.C:.3g}: {best} {' '.join(row.flags)}")
    return [*lines, *(f"refused: {refusal.quantity}: {refusal.reason}" for refusal in law.refusals)]


if __name__ == "__main__":
    main()
