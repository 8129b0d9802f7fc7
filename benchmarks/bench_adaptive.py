"""Fixed isoFLOP grids, the adaptive planner, and the planner with paused runs, at equal total compute.

    python benchmarks/bench_adaptive.py BANK --make-bank   # once: simulates a corpus and trains 72 small CLMs
    python benchmarks/bench_adaptive.py BANK [--mixtures 9] [--worlds 0]

Designs draw their runs from the bank: budgets of 4, 4, 6 and 6 sizes, a fifth four times as large of four, three seeds.
A trial holds one run of every cell (budget, size): of one seed, or of a seed drawn for each cell (`--mixtures`). The
planner chooses among the cells of the trial, so nothing is snapped. Asked is ln N_opt at the bank's largest budget; the
answer is that of all runs of the bank.

- fixed: four sizes at each of the three smallest budgets, then at the four smallest, then all six at the last two of
  these.
- adaptive: the two smallest budgets of the grid, then `propose` again and again, runs taken that fit in.
- completion: the same, but every later run is paused at half of its schedule, costs half, and enters with its predicted
  end; one whose end cannot be told to 1 % goes on.

`--worlds` replaces every loss by the bank's own law and fresh noise, so that the true N_opt is known (no curves there).
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from adaptive_bank import BUDGETS, SEEDS, SIZES, make_bank

from plm_scaling.core.errors import FitError, RefusedError
from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_table import RunRow, RunTable
from plm_scaling.corpus.reader import Corpus
from plm_scaling.laws.clusters import ResampledLosses
from plm_scaling.laws.combine import fit_laws
from plm_scaling.laws.completed_table import complete_table
from plm_scaling.laws.curves import Curve, Curves
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.laws.surface import surface_loss
from plm_scaling.sweeps.adaptive import log_optima, propose
from plm_scaling.sweeps.drafts import RunParts
from plm_scaling.sweeps.plan import run_parts
from plm_scaling.sweeps.plan_records import IsoflopArm, SweepPlan, SweepSpec
from plm_scaling.sweeps.runs import collect_runs
from plm_scaling.sweeps.unfinished import training_curves

DRAWS: Final = 300
GRID: Final = ((0, 1, 2, 3), (0, 1, 2, 3), (0, 2, 3, 5), (0, 2, 3, 5), (0, 1, 2, 3))
"""Of every budget, the sizes of the fixed grid."""
SHARE: Final = 0.5
MOST_ROUNDS: Final = 12
MOST_UNCERTAIN: Final = float(os.environ.get("MOST_UNCERTAIN", "0.01"))
"""Standard error over the loss, up to which a predicted end is taken; `fit --partial` has .01."""
TOTALS: Final = (4.0 * sum(BUDGETS[:3]), 4.0 * sum(BUDGETS[:4]), 4.0 * sum(BUDGETS[:2]) + 6.0 * sum(BUDGETS[2:4]))
Cell = tuple[int, int]


@dataclass(frozen=True)
class Trial:
    """One run of every cell (budget, size)."""

    parts: RunParts
    configs: Mapping[Cell, RunConfig]
    rows: Mapping[str, RunRow]
    curves: Mapping[str, Curve]


@dataclass(frozen=True)
class Found:
    """What a design says about ln N_opt at the largest budget."""

    runs: int
    spent: float
    value: float
    low: float
    high: float
    form: str


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("bank", type=Path, nargs="?")
    asked.add_argument("--make-bank", action="store_true")
    asked.add_argument("--workers", type=int, default=1)
    asked.add_argument("--mixtures", type=int, default=9)
    asked.add_argument("--worlds", type=int, default=0)
    options = asked.parse_args()
    if options.bank is None:
        print("passed over: name a bank, made with --make-bank")
        return
    if options.make_bank:
        began = time.time()
        make_bank(options.bank, options.workers)
        print(f"bank made in {time.time() - began:.0f} s")
        return
    compare(options.bank, options.mixtures, options.worlds)


def compare(bank: Path, mixtures: int, worlds: int) -> None:
    parts, configs, rows, curves = read_bank(bank)
    table = RunTable(tuple(rows.values()))
    whole = fit_laws(table, "clm", currency="C_exact", draws=1000)
    answer = answer_of(parts, whole, len(rows), 0.0)
    if answer is None:
        raise SystemExit("the whole bank has no optimum at its largest budget")
    print(f"bank: {len(rows)} runs, {sum(row.C_exact or 0.0 for row in rows.values()):.3g} exact FLOPs, ", end="")
    print(f"seed noise {whole.noise_sd:.4f} nats; the law is {answer.form}")
    for row in whole.isoflop.rows if whole.isoflop else ():
        print(f"  C {row.C:.3g}: minimum {row.N_opt} {row.flags}")
    print(f"N_opt at {BUDGETS[-1]:.3g} FLOPs: {shown(answer)}")
    rng = np.random.default_rng(0)
    picks = [np.full((len(BUDGETS), 6), seed) for seed in range(len(SEEDS))]
    picks += [rng.integers(len(SEEDS), size=picks[0].shape) for _ in range(mixtures)]
    trials = [drawn(parts, configs, rows, curves, pick) for pick in picks]
    report("seeds of the bank", trials[: len(SEEDS)], answer.value, completion=True)
    if mixtures:
        report("every cell of a random seed", trials[len(SEEDS) :], answer.value, completion=True)
    if worlds:
        made = [simulated(trials[0], whole, rng) for _ in range(worlds)]
        report("worlds of the bank's own law", made, answer.value, completion=False)


# ---- the bank --------------------------------------------------------------------------------------------------------


def read_bank(
    bank: Path,
) -> tuple[RunParts, dict[tuple[int, int, int], RunConfig], dict[str, RunRow], dict[str, Curve]]:
    """Parts, configs by (budget, size, seed), rows and curves by run id."""
    corpus = Corpus.open(bank / "corpus")
    head = SweepSpec.model_validate(_toml(bank / "sweep.toml"))
    arms = tuple(
        IsoflopArm(C=C, sizes=tuple(sizes[s] for s in places))
        for C, sizes, places in zip(BUDGETS, SIZES, GRID, strict=True)
    )
    parts = run_parts(head.model_copy(update={"isoflop": arms}), corpus, scale=1.0, dtype="fp32")
    planned = {run.run_id: run.config for run in SweepPlan.read(bank / "plan.json").runs}
    rows = {row.run_id: row for row in collect_runs(bank / "runs") if row.run_id in planned}
    found: dict[tuple[int, int, int], RunConfig] = {}
    for b, (C, sizes) in enumerate(zip(BUDGETS, SIZES, strict=True)):
        for s, size in enumerate(sizes):
            shape = parts.shape(size, "bank")
            D = parts.tokens_for(C, shape, parts.all_streams(), "bank")
            for k, seed in enumerate(SEEDS):
                config = parts.config("clm", shape, D, parts.all_streams(), seed)
                if config.run_id not in rows:
                    raise SystemExit(f"{config.run_id} ({size} at {C:.3g}) is not complete: --make-bank goes on")
                found[b, s, k] = config
    return parts, found, rows, {curve.run_id: curve for curve in training_curves(bank / "runs", list(rows))}


def _toml(path: Path) -> dict[str, object]:
    import tomllib

    return tomllib.loads(path.read_text())


def drawn(
    parts: RunParts,
    configs: Mapping[tuple[int, int, int], RunConfig],
    rows: Mapping[str, RunRow],
    curves: Mapping[str, Curve],
    pick: np.ndarray,
) -> Trial:
    """The runs of the seed chosen for every cell."""
    cells = {(b, s): configs[b, s, int(pick[b, s])] for b in range(len(BUDGETS)) for s in range(len(SIZES[b]))}
    return Trial(parts, cells, rows, curves)


def simulated(trial: Trial, law: LawFit, rng: np.random.Generator) -> Trial:
    """The trial with losses of a law and the noise between seeds."""
    surface = law.surface
    assert surface is not None
    rows = {}
    for config in trial.configs.values():
        loss = float(surface_loss(surface, config.N, config.D, config.batch_tokens))
        loss += float(rng.normal(0.0, law.noise_sd or 0.0))
        rows[config.run_id] = trial.rows[config.run_id].model_copy(update={"loss": loss})
    return replace(trial, rows=rows, curves={})


# ---- designs ---------------------------------------------------------------------------------------------------------


def fixed(trial: Trial, total: float) -> Found | None:
    """The grid that the total pays for."""
    cells = [(b, s) for b in range(3 if total == TOTALS[0] else 4) for s in GRID[b]]
    if total == TOTALS[2]:
        cells += [(b, s) for b in (2, 3) for s in range(6) if s not in GRID[b]]
    rows = [trial.rows[trial.configs[cell].run_id] for cell in cells]
    try:
        return answer_of(trial.parts, fitted(RunTable(tuple(rows))), len(rows), cost_of(rows))
    except FitError:
        return None


def adaptive(trial: Trial, completion: bool) -> Iterator[tuple[float, Found | None]]:
    """The planner's answer at every total."""
    started = [trial.rows[trial.configs[b, s].run_id] for b in (0, 1) for s in GRID[b]]
    sweep = Growing(trial, completion, started)
    for total in TOTALS:
        for _ in range(MOST_ROUNDS):
            chosen = [run_id for run_id in sweep.next_runs() if sweep.added(run_id, total)]
            if not chosen:
                break
        yield total, sweep.answer()


class Growing:
    """A sweep that is told run by run what comes next."""

    def __init__(self, trial: Trial, completion: bool, started: Sequence[RunRow]) -> None:
        self.trial, self.completion = trial, completion
        self.rows = {row.run_id: row for row in started}
        self.paused: set[str] = set()
        self._fitted: tuple[object, RunTable, LawFit] | None = None

    def law(self) -> tuple[RunTable, LawFit]:
        """The rows as they enter, and what is fitted to them; fitted once."""
        table, losses = self.table()
        state = (frozenset(self.rows), frozenset(self.paused))
        if self._fitted is None or self._fitted[0] != state:
            self._fitted = state, table, fitted(table, losses)
        return self._fitted[1:]

    def table(self) -> tuple[RunTable, ResampledLosses | None]:
        """All rows, paused ones with their predicted ends; and the losses to resample."""
        if not self.paused:
            return RunTable(tuple(self.rows.values())), None
        rows = [halved(row) if name in self.paused else row for name, row in self.rows.items()]
        curves = [
            first_half(self.trial.curves[n], self.rows[n]) if n in self.paused else self.trial.curves[n]
            for n in self.rows
        ]
        completed = complete_table(RunTable(tuple(rows)), Curves.joined(curves), "clm", most_uncertain=MOST_UNCERTAIN)
        unknown = self.paused & set(completed.passed_over)
        if unknown:
            self.paused -= unknown
            return self.table()
        return completed.table, completed.losses(None)

    def spent(self) -> float:
        """Exact FLOPs so far."""
        return sum((SHARE if name in self.paused else 1.0) * (row.C_exact or 0.0) for name, row in self.rows.items())

    def added(self, run_id: str, total: float) -> bool:
        """Take in one run more if the total pays for it, cut or whole."""
        price = (SHARE if self.completion else 1.0) * (self.trial.rows[run_id].C_exact or 0.0)
        if self.spent() + price > 1.01 * total:
            return False
        self.rows[run_id] = self.trial.rows[run_id]
        if self.completion:
            self.paused.add(run_id)
            self.table()
            if self.spent() > 1.01 * total:
                # Its end cannot be told, and the rest is not to be had.
                del self.rows[run_id]
                return False
        return True

    def next_runs(self) -> list[str]:
        """What the planner proposes."""
        settings = list(self.trial.configs.values())
        try:
            drafts = propose(self.trial.parts, self.law()[0], "clm", self.law()[1], settings).drafts
            return [draft.config.run_id for draft in drafts]
        except (RefusedError, FitError) as error:
            REFUSED.append(error.what)
        # Refused: the next budget of the grid, as a user would go on.
        for b in range(len(BUDGETS)):
            names = [self.trial.configs[b, s].run_id for s in GRID[b]]
            left = [name for name in names if name not in self.rows]
            if left:
                return left
        return []

    def answer(self) -> Found | None:
        """What the runs so far say."""
        try:
            return answer_of(self.trial.parts, self.law()[1], len(self.rows), self.spent())
        except FitError:
            return None


REFUSED: Final[list[str]] = []


def halved(row: RunRow) -> RunRow:
    """The row of a run stopped at a share of its schedule."""
    spent = {name: SHARE * value for name in ("C_6nd", "C_exact") if (value := getattr(row, name)) is not None}
    update = {"D": SHARE * row.D, "D_planned": row.D, "schedule_complete": False, "final_loss": "training"}
    return row.model_copy(update=update | spent)


def first_half(curve: Curve, row: RunRow) -> Curve:
    seen = curve.D <= SHARE * row.D * (1.0 + 1e-9)
    return Curve(curve.run_id, curve.step[seen], curve.D[seen], curve.loss[seen], curve.validation_batch_id[seen])


def cost_of(rows: Sequence[RunRow]) -> float:
    return sum(row.C_exact or 0.0 for row in rows)


def fitted(table: RunTable, losses: ResampledLosses | None = None) -> LawFit:
    return fit_laws(table, "clm", currency="C_exact", draws=DRAWS, clusters=losses)


def answer_of(parts: RunParts, law: LawFit, runs: int, spent: float) -> Found | None:
    """N_opt at the largest budget by the fitted surface; None where more than a fortieth of the draws have none."""
    if law.surface is None:
        return None
    optima = log_optima(parts, "clm", law.surface, BUDGETS[-1])
    kept = optima[1:][np.isfinite(optima[1:])]
    if not math.isfinite(optima[0]) or len(kept) < 0.975 * len(optima[1:]):
        return None
    low, high = np.percentile(kept, (2.5, 97.5)).tolist()
    return Found(runs, spent, float(optima[0]), low, high, law.surface.form)


# ---- what came of them -----------------------------------------------------------------------------------------------


def report(title: str, trials: Sequence[Trial], truth: float, *, completion: bool) -> None:
    """One line per design and total, then the compute for the width that the grid has at the second total."""
    REFUSED.clear()
    designs: dict[str, list[tuple[float, Found | None]]] = {}
    for trial in trials:
        designs.setdefault("fixed grid", []).extend((total, fixed(trial, total)) for total in TOTALS)
        designs.setdefault("adaptive", []).extend(adaptive(trial, completion=False))
        if completion:
            designs.setdefault("adaptive + completion", []).extend(adaptive(trial, completion=True))
    print(f"\n{title}: {len(trials)} trials\n")
    print(
        "| design | total FLOPs | runs | spent | no interval | median width of ln N_opt | rms error | intervals hold |"
    )
    print("|---|---|---|---|---|---|---|---|")
    widths: dict[str, list[tuple[float, float]]] = {}
    for name, outcomes in designs.items():
        for total in TOTALS:
            here = [found for t, found in outcomes if t == total]
            good = [found for found in here if found]
            width = float(np.median([f.high - f.low if f else math.inf for f in here]))
            spent = float(np.mean([f.spent for f in good])) if good else math.nan
            widths.setdefault(name, []).append((spent, width))
            error = math.sqrt(float(np.mean([(f.value - truth) ** 2 for f in good]))) if good else math.nan
            inside = sum(f.low <= truth <= f.high for f in good)
            runs = float(np.mean([f.runs for f in good])) if good else math.nan
            cells = (name, f"{total:.3g}", f"{runs:.1f}", f"{spent:.3g}", f"{len(here) - len(good)}")
            print("| " + " | ".join((*cells, f"{width:.2f}", f"{error:.2f}", f"{inside} of {len(good)}")) + " |")
    print(f"\nrefused by the planner, and gone on with the grid: {len(REFUSED)} {sorted(set(REFUSED))[:3]}")
    wanted = widths["fixed grid"][1][1]
    print(f"compute for a width of {wanted:.2f}, that of the grid at {TOTALS[1]:.3g} FLOPs:")
    for name, points in widths.items():
        print(f"  {name}: {compute_for(points, wanted)}")


def compute_for(points: Sequence[tuple[float, float]], wanted: float) -> str:
    """Compute at which a design's width falls to `wanted`, log-log between the totals it was given."""
    if points[0][1] <= wanted:
        return f"at most {points[0][0]:.3g}"
    for (C0, w0), (C1, w1) in itertools.pairwise(points):
        if w1 <= wanted:
            part = 1.0 if math.isinf(w0) else math.log(w0 / wanted) / math.log(w0 / w1)
            return f"{C0 * (C1 / C0) ** part:.3g}"
    return f"more than {points[-1][0]:.3g}"


def shown(found: Found) -> str:
    return f"{math.exp(found.value):.4g} ({math.exp(found.low):.4g} to {math.exp(found.high):.4g})"


if __name__ == "__main__":
    main()
