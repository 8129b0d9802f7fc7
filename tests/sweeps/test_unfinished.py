"""Runs of a folder that have not ended: rows with what their schedules were made for, and courses to learn from."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from plm_scaling import api
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import RunOrder
from plm_scaling.corpus.reader import Corpus
from plm_scaling.sweeps.plan import plan_sweep
from plm_scaling.sweeps.plan_records import GridArm, SweepSpec

N_COMPLETE = 10


def log(folder: RunFolder, share: float, D: int, end: float) -> None:
    """Training losses of the first part of a run that ends at `end`, one of them broken off in its line."""
    attempt = folder.new_attempt() if not folder.attempts() else folder.attempts()[0]
    done = np.arange(1, 51) / 50.0
    lines = [
        {"step": int(50 * x), "D": int(D * x), "loss": end + 0.3 * (x**-0.2 - 1.0), "flops": 7.0 * D * x}
        for x in done[done <= share]
    ]
    attempt.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 99, "D"')


@pytest.fixture
def runs(corpus: Corpus, _trainer_folder: str, tmp_path: Path) -> list[RunFolder]:
    """Ten complete runs, one stopped half way, one stopped at the start, one not begun."""
    sizes = tuple(f"1x{width}" for width in range(16, 16 + 16 * (N_COMPLETE + 3), 16))
    spec = SweepSpec(name="t", corpus="c", context=64, objectives=("clm",), grid=(GridArm(sizes=sizes, D=(2e4,)),))
    folders = []
    for i, run in enumerate(plan_sweep(spec, corpus).runs):
        folder = RunFolder(tmp_path / "runs" / run.run_id)
        RunOrder(config=run.config, roles=run.roles, corpus="c").write(folder.order_path)
        if i < N_COMPLETE:
            import_module(_trainer_folder).run_one(str(folder.path))
        if i < N_COMPLETE + 2:
            log(folder, 1.0 if i < N_COMPLETE else 0.5 if i == N_COMPLETE else 0.1, run.config.D, 2.0)
        folders.append(folder)
    return folders


def test_a_stopped_run_is_a_row_whose_end_is_predicted(runs: list[RunFolder]) -> None:
    half, young, unbegun = (folder.path.name for folder in runs[N_COMPLETE:])
    completed = api.completed_runs(runs[0].path.parent)
    assert len(completed.table) == N_COMPLETE + 2
    assert unbegun not in {row.run_id for row in completed.table}
    assert [made.run_id for made in completed.completions] == [half]
    assert "only 10% of its schedule" in completed.passed_over[young]
    row = next(row for row in completed.table if row.run_id == half)
    config = runs[N_COMPLETE].order().config
    assert (row.N, row.D, row.is_imputed) == (config.N, config.D, True)
    assert row.C_exact == pytest.approx(7.0 * config.D)
    assert row.loss == pytest.approx(2.0, abs=0.01)
    assert row.validation_id == "v"


def test_nothing_changes_for_those_who_do_not_ask(runs: list[RunFolder]) -> None:
    assert len(api.collect(runs[0].path.parent)) == N_COMPLETE
