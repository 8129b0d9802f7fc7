"""A small planned sweep on a world of known law, for the tests of sealed predictions: nothing is trained."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np

from plm_scaling.core.run import RunConfig, RunRecord, ValidationLoss
from plm_scaling.core.run_order import StatusFile
from plm_scaling.core.run_row import RunRow, columns_of
from plm_scaling.core.run_table import RunTable
from plm_scaling.laws.combine import fit_laws
from plm_scaling.laws.law_fit import LawFit
from plm_scaling.sweeps.plan_records import PlannedRun, SweepPlan

SD = 0.004
"""Of ln L between runs of equal settings."""
SMALL = tuple(product(((2, 32), (2, 48), (2, 64), (3, 64), (3, 96)), (3e5, 6e5, 1.2e6, 2.4e6, 5e6)))
LARGE = tuple(product(((3, 128), (4, 128)), (3e6, 6e6)))


def config(shape: tuple[int, int], D: float, seed: int = 0, **more: object) -> RunConfig:
    values = {"corpus_id": "c" * 64, "objective": "clm", "n_layers": shape[0], "d_model": shape[1], "context": 64}
    values |= {"D": round(D), "batch_tokens": 512, "peak_lr": 1e-3, "recipe": "small", "seed": seed}
    return RunConfig.model_validate(values | more)


def true_loss(one: RunConfig) -> float:
    return float(1.5 + 12.0 * one.N**-0.3 + 60.0 * one.D**-0.35)


def planned(one: RunConfig, *roles: str) -> PlannedRun:
    return PlannedRun(run_id=one.run_id, config=one, roles=roles or ("isoflop",), C_exact=one.C_6nd, epochs=0.1,
                      unique_tokens=10**7, steps=100, memory_bytes=1)  # fmt: skip


def write_plan(folder: Path, runs: Sequence[PlannedRun]) -> Path:
    plan = SweepPlan(name="s", corpus="corpus", corpus_id="c" * 64, currency="C_6nd", runs=tuple(runs))
    return plan.write(folder / "plan.json")


def fitted_law(seed: int, draws: int = 100) -> LawFit:
    """Chinchilla's form fitted to 25 small runs of the world."""
    noise = np.random.default_rng(seed)
    rows = [
        RunRow.model_validate(
            columns_of(one) | {"role": "isoflop", "validation_id": "v", "loss": measured_loss(one, noise)}
        )
        for one in (config(shape, D) for shape, D in SMALL)
    ]
    return fit_laws(RunTable(tuple(rows)), "clm", form="chinchilla", draws=draws, seed=seed)


def silent(law: LawFit) -> LawFit:
    """The law as the fit of a plain CSV has it: nothing is known of its runs but N, D and loss."""
    return law.model_copy(update={"corpus_id": None, "recipe": None, "validation_id": None})


def measured_loss(one: RunConfig, noise: np.random.Generator) -> float:
    return true_loss(one) * float(np.exp(SD * noise.standard_normal()))


def begin(runs_dir: Path, one: RunConfig, status: str = "running", begun: float | None = None) -> Path:
    """The first attempt of a run, begun at a Unix time (default: in an hour)."""
    folder = runs_dir / one.run_id
    ended = (time.time() + 3600 if begun is None else begun) + 60.0
    report = StatusFile.model_validate({"status": status, "time": ended, "seconds": 60.0})
    report.write(folder / "attempts" / "0001" / "status.json")
    return folder


def finish(runs_dir: Path, one: RunConfig, loss: float, *, begun: float | None = None, validation: str = "v") -> None:
    """A complete run of this loss."""
    folder = begin(runs_dir, one, "complete", begun)
    scored = ValidationLoss(set_name="val_iid", validation_id=validation, per_token=loss, per_residue=loss, se=0.01,
                            n_targets=100, n_sequences=10)  # fmt: skip
    RunRecord(config=one, status="complete", steps=100, D=one.D, D_unique=one.D, ledger=(), C_6nd=one.C_6nd,
              C_exact=one.C_6nd, device_s=1.0, tokens_per_s=1.0, attempts=1, threads=1,
              validation=(scored,)).write(folder / "record.json")  # fmt: skip
