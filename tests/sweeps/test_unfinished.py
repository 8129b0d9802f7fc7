"""Runs of a folder that have not ended: rows with what their schedules were made for, and courses to learn from."""

from __future__ import annotations

import json
import random
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plm_scaling import api
from plm_scaling.core.halt import Halt
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import RunOrder, StatusFile
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


def test_halted_runs_are_taken_in_whatever_is_known_of_their_ends(runs: list[RunFolder]) -> None:
    """Ends that differ by 5 % are known to a few per cent; `fit --partial` says that it takes halted runs in."""
    rng = random.Random(0)
    for folder in runs[:N_COMPLETE]:
        record = json.loads(folder.record_path.read_text())
        record["validation"][0]["per_token"] = 2.0 + rng.gauss(0.0, 0.1)
        folder.record_path.write_text(json.dumps(record))
    half, place = runs[N_COMPLETE], runs[0].path.parent
    before = api.completed_runs(place)
    assert "% only" in before.passed_over[half.path.name]
    Halt(
        reason="far off", share=0.5, step=25, loss=2.0, loss_low=1.8, loss_high=2.2, n_known=10, effect=0.0,
        half_width=0.1, C_saved=1.0,
    ).write(half.halted_path)  # fmt: skip
    completed = api.completed_runs(place)
    assert [made.run_id for made in completed.completions] == [half.path.name]
    assert completed.completions[0].loss_se > 0.01 * completed.completions[0].loss
    assert half.path.name not in completed.passed_over
    assert [row.run_id for row in completed.table if row.is_imputed] == [half.path.name]


def test_a_run_that_diverged_has_no_end(runs: list[RunFolder]) -> None:
    half, young, _ = (folder.path.name for folder in runs[N_COMPLETE:])
    report = runs[N_COMPLETE].attempts()[-1].status_path
    StatusFile(status="diverged", step=25, n_steps=50, reason="the loss is nan").write(report)
    completed = api.completed_runs(runs[0].path.parent)
    assert completed.completions == ()
    assert completed.passed_over[half] == "it diverged: there is no end to predict"
    assert half not in {row.run_id for row in completed.table}
    assert young in completed.passed_over
    # A later attempt that is under way counts, not what became of an earlier one.
    StatusFile(status="interrupted", step=25, n_steps=50).write(runs[N_COMPLETE].new_attempt().status_path)
    assert [made.run_id for made in api.completed_runs(runs[0].path.parent).completions] == [half]


def test_runs_that_stay_out_do_not_keep_validation_sequences_from_being_resampled(
    runs: list[RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    n = np.full(6, 20)
    columns = {"set": ["val_iid"] * 6, "row": np.arange(6), "loss_sum": 40.0 + np.arange(6), "n_targets": n}
    columns |= {"residue_loss_sum": 40.0 + np.arange(6), "n_residue_targets": n}
    for folder in runs[:N_COMPLETE]:
        pq.write_table(pa.table(columns), folder.val_path)
    given: dict[str, Any] = {}

    class Seen(Exception):
        pass

    def seen(table: object, objective: str, **options: Any) -> None:
        given.update(options)
        raise Seen

    monkeypatch.setattr("plm_scaling.laws.combine.fit_laws", seen)
    place = runs[0].path.parent
    completed = api.completed_runs(place)
    assert [row.is_imputed for row in completed.table if not row.schedule_complete] == [False]
    with pytest.raises(Seen):
        api.fit(place, partial=completed)
    measured = given["clusters"].measured
    assert measured is not None
    assert set(measured.run_ids) == {folder.path.name for folder in runs[:N_COMPLETE]}
