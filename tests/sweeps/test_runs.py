from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plm_scaling.core.errors import FitError, RecordError, RefusedError
from plm_scaling.core.run import LedgerRow, RunRecord, ValidationLoss
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import RunOrder
from plm_scaling.core.run_table import RunTable
from plm_scaling.corpus.reader import Corpus
from plm_scaling.corpus.val_losses import read_val
from plm_scaling.laws.budgets import check_runs
from plm_scaling.laws.noise import law_runs
from plm_scaling.sweeps.plan import plan_sweep
from plm_scaling.sweeps.plan_records import GridArm, PlannedRun, SweepPlan, SweepSpec, TransferArm
from plm_scaling.sweeps.runs import collect_runs, paired_gap


@pytest.fixture
def plan(corpus: Corpus) -> SweepPlan:
    spec = SweepSpec(
        name="t",
        corpus="c",
        context=64,
        grid=(GridArm(sizes=("1x16", "1x24"), D=(2e4,), objectives=("clm",), seeds=(0, 1)),),
        transfer=(TransferArm(size="2x16", D=2e4, D_source=3e4),),
    )
    return plan_sweep(spec, corpus)


N_ROWS = 6


def train(runs: Path, run: PlannedRun, sets: tuple[str, ...] = ("val_iid",)) -> None:
    """Leave the files of a run that saw half of its tokens once (a target's source had seen half of those)."""
    folder, config = RunFolder(runs / run.run_id), run.config
    RunOrder(config=config, roles=run.roles, corpus="../../corpus").write(folder.order_path)
    targets = np.arange(10, 10 + 3 * N_ROWS, 3)
    sums = [targets * (2.0 + number + 0.1 * np.sin(np.arange(N_ROWS))) for number in range(len(sets))]
    losses = [
        ValidationLoss(
            set_name=name,
            validation_id=f"{name}-{config.objective}-{config.context}",
            per_token=loss_sum.sum() / targets.sum(),
            per_residue=0.0,
            se=0.01,
            n_targets=int(targets.sum()),
            n_sequences=N_ROWS,
        )
        for name, loss_sum in zip(sets, sums, strict=True)
    ]
    backwards = np.arange(N_ROWS)[::-1]  # readers must not rely on the order
    tables = [val_table(name, s, targets, backwards) for name, s in zip(sets, sums, strict=True)]
    pq.write_table(pa.concat_tables(tables), folder.val_path)
    seen = config.D // 4 if config.init_from else 0
    total = LedgerRow(
        source="*",
        tokens=config.D,
        residues=config.D,
        unique=config.D // 2 - seen,
        repeated_epoch=config.D // 2,
        repeated_duplicate=0,
        seen_earlier=seen,
    )
    RunRecord(
        config=config,
        roles=run.roles,
        status="complete",
        steps=100,
        D=config.D,
        D_unique=total.unique,
        ledger=(total.model_copy(update={"source": "known", "unique": 0}), total),
        C_6nd=config.C_6nd,
        C_exact=1.5 * config.C_6nd,
        device_s=1.0,
        tokens_per_s=1e5,
        attempts=1,
        threads=1,
        validation=tuple(losses),
        source_run_id=config.init_from,
        flags=("TEST",),
    ).write(folder.record_path)


def val_table(name: str, loss_sum: np.ndarray, targets: np.ndarray, order: np.ndarray) -> pa.Table:
    values = {"loss_sum": loss_sum, "n_targets": targets, "residue_loss_sum": loss_sum, "n_residue_targets": targets}
    return pa.table({"set": [name] * len(order), "row": 10 * order, **{k: v[order] for k, v in values.items()}})


@pytest.fixture
def runs(plan: SweepPlan, tmp_path: Path) -> Path:
    for run in plan.runs:
        train(tmp_path / "runs", run)
    return tmp_path / "runs"


def change(runs: Path, run_id: str, **update: Any) -> None:
    record = RunFolder(runs / run_id).record()
    assert record is not None
    record.model_copy(update=update).write(RunFolder(runs / run_id).record_path)


def of_role(plan: SweepPlan, role: str) -> str:
    return next(run.run_id for run in plan.runs if role in run.roles)


def test_one_row_per_complete_run(plan: SweepPlan, runs: Path, tmp_path: Path) -> None:
    table = collect_runs(runs)
    assert [row.run_id for row in table] == sorted(run.run_id for run in plan.runs)
    planned = {run.run_id: run for run in plan.runs}
    for row in table:
        run = planned[row.run_id]
        assert (row.objective, row.N, row.D, row.seed) == (
            run.config.objective,
            run.config.N,
            run.config.D,
            run.config.seed,
        )
        assert row.role == ",".join(run.roles)
        assert row.C_6nd == run.config.C_6nd
        assert row.C_exact == 1.5 * run.config.C_6nd
        assert (row.corpus_id, row.flags, row.schedule_complete) == (plan.corpus_id, "TEST", True)
        assert row.validation_id == f"val_iid-{row.objective}-64"
        assert json.loads(row.streams or "") == [stream.identity() for stream in run.config.streams]
    assert RunTable.read(table.write(tmp_path / "t.csv")) == table


def test_epochs_count_what_this_run_saw(plan: SweepPlan, runs: Path) -> None:
    for row in collect_runs(runs):
        assert row.D_unique == row.D / 2
        assert row.epochs == 2.0
    change(runs, plan.runs[0].run_id, ledger=(), D_unique=4_000)
    rows = {row.run_id: row for row in collect_runs(runs)}
    assert rows[plan.runs[0].run_id].D_unique == 4_000


def test_what_a_source_had_seen_and_how_masks_were_drawn(plan: SweepPlan, runs: Path) -> None:
    rows = {row.run_id: row for row in collect_runs(runs)}
    target, source = of_role(plan, "transfer_target"), of_role(plan, "transfer_source")
    assert rows[target].seen_earlier == rows[target].D // 4
    assert rows[source].seen_earlier == 0
    assert rows[target].mask_refresh
    record = RunFolder(runs / target).record()
    assert record is not None
    change(runs, target, ledger=(), config=record.config.model_copy(update={"mask_refresh": False}))
    (row,) = (row for row in collect_runs(runs) if row.source_run_id)
    assert row.seen_earlier is None
    assert not row.mask_refresh


def test_how_a_run_was_regularised_and_what_its_teacher_cost(plan: SweepPlan, runs: Path) -> None:
    first, second = plan.runs[:2]
    assert {(row.regularisation, row.C_teacher) for row in collect_runs(runs)} == {("", None)}
    dropped = first.config.model_copy(update={"dropout": 0.1, "weight_decay": 1.0})
    change(runs, first.run_id, config=dropped)
    change(runs, second.run_id, C_teacher=7e9)
    rows = {row.run_id: row for row in collect_runs(runs)}
    assert rows[dropped.run_id].regularisation == "dropout=0.1,weight_decay=1"
    assert rows[second.run_id].C_teacher == 7e9


def test_runs_of_another_weight_decay_are_on_no_common_law(plan: SweepPlan, runs: Path) -> None:
    clm = [run for run in plan.runs if run.config.objective == "clm"]
    change(runs, clm[0].run_id, config=clm[0].config.model_copy(update={"weight_decay": 1.0}))
    with pytest.raises(FitError, match=f"mix values of regularisation: {len(clm) - 1} of the default, 1 of weight_"):
        check_runs(law_runs(collect_runs(runs), "clm"), "clm", "C_6nd")


def test_source_columns_come_from_the_source_record(plan: SweepPlan, runs: Path) -> None:
    rows = {row.run_id: row for row in collect_runs(runs)}
    target, source = rows[of_role(plan, "transfer_target")], rows[of_role(plan, "transfer_source")]
    assert target.source_run_id == source.run_id
    assert (target.source_objective, target.N_source, target.D_source) == ("clm", source.N, source.D)
    assert target.C_source == source.C_exact
    assert (source.source_run_id, source.C_source) == (None, None)
    change(runs, target.run_id, C_source=7.0, source_objective="clm")  # what the record says itself comes first
    RunFolder(runs / source.run_id).record_path.unlink()
    [target] = [row for row in collect_runs(runs) if row.source_run_id]
    assert (target.C_source, target.source_objective, target.D_source) == (7.0, "clm", None)


def test_incomplete_runs_and_stray_files_are_left_out(plan: SweepPlan, runs: Path) -> None:
    (runs / "notes.txt").write_text("mine")
    change(runs, plan.runs[0].run_id, status="diverged")
    RunFolder(runs / plan.runs[1].run_id).record_path.unlink()
    assert len(collect_runs(runs)) == len(plan.runs) - 2


def test_later_roles_are_seen(plan: SweepPlan, runs: Path) -> None:
    folder = RunFolder(runs / plan.runs[0].run_id)
    order = folder.order()
    order.model_copy(update={"roles": (*order.roles, "repeats")}).write(folder.order_path)
    row = next(row for row in collect_runs(runs) if row.run_id == plan.runs[0].run_id)
    assert row.has_role("repeats")
    folder.order_path.unlink()
    assert not next(row for row in collect_runs(runs) if row.run_id == plan.runs[0].run_id).has_role("repeats")


def test_another_validation_set_can_be_asked_for(plan: SweepPlan, runs: Path) -> None:
    run_id = plan.runs[0].run_id
    train(runs, plan.runs[0], sets=("val_iid", "heldout_lab"))
    [row] = collect_runs(runs, validation="heldout_lab")
    assert (row.run_id, row.validation_id) == (run_id, f"heldout_lab-{row.objective}-64")
    with pytest.raises(RecordError, match="no run was scored on 'heldout_lap'") as caught:
        collect_runs(runs, validation="heldout_lap")
    assert caught.value.hint == "did you mean heldout_lab?"


def test_no_runs(tmp_path: Path) -> None:
    assert len(collect_runs(tmp_path)) == 0
    with pytest.raises(RecordError, match="no runs folder"):
        collect_runs(tmp_path / "none")


def test_a_damaged_record_is_an_error_that_names_it(plan: SweepPlan, runs: Path) -> None:
    path = RunFolder(runs / plan.runs[0].run_id).record_path
    path.write_text("{")
    with pytest.raises(RecordError) as caught:
        collect_runs(runs)
    assert caught.value.where == str(path)


def write_val(folder: RunFolder, loss_sum: np.ndarray, targets: np.ndarray, order: np.ndarray) -> None:
    pq.write_table(val_table("val_iid", loss_sum, targets, order), folder.val_path)


def test_paired_gap_is_that_of_the_jackknife(plan: SweepPlan, runs: Path) -> None:
    random = np.random.default_rng(0)
    n = 400
    targets = random.integers(5, 200, n)
    common = random.normal(2.5, 0.5, n)  # sequences differ much, runs little
    sums = [targets * (common + shift + random.normal(0, 0.05, n)) for shift in (0.0, -0.02)]
    a, b = (run.run_id for run in plan.runs if "grid" in run.roles and run.config.d_model == 16)
    for run_id, loss_sum in zip((a, b), sums, strict=True):
        write_val(RunFolder(runs / run_id), loss_sum, targets, random.permutation(n))
    gap, se = paired_gap(runs, a, b)
    difference = sums[0] - sums[1]
    assert gap == pytest.approx(difference.sum() / targets.sum(), rel=1e-12)
    left_out = (difference.sum() - difference) / (targets.sum() - targets)
    jackknife = math.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())
    assert se == pytest.approx(jackknife, rel=0.01)
    unpaired = math.sqrt(sum(((s / targets).std() ** 2) / n for s in sums))
    assert se < unpaired / 5
    reverse, se_back = paired_gap(runs, b, a)
    assert (reverse, se_back) == (pytest.approx(-gap), pytest.approx(se))
    assert paired_gap(runs, a, a) == (0.0, 0.0)


def test_one_sequence_has_no_standard_error(plan: SweepPlan, runs: Path) -> None:
    a, b = (run.run_id for run in plan.runs if "grid" in run.roles and run.config.d_model == 16)
    for run_id in (a, b):
        write_val(RunFolder(runs / run_id), np.array([3.0]), np.array([2]), np.array([0]))
    gap, se = paired_gap(runs, a, b)
    assert gap == 0.0
    assert math.isnan(se)


def test_read_val_sorts_by_row(plan: SweepPlan, runs: Path) -> None:
    losses = read_val(runs, plan.runs[0].run_id)
    record = RunFolder(runs / plan.runs[0].run_id).record()
    assert isinstance(record, RunRecord)
    assert losses.row.tolist() == [0, 10, 20, 30, 40, 50]
    assert losses.n_targets.tolist() == [10, 13, 16, 19, 22, 25]
    assert losses.loss_sum.sum() / losses.n_targets.sum() == pytest.approx(record.validation[0].per_token)
    assert losses.residue_loss_sum.tolist() == losses.loss_sum.tolist()


def test_losses_that_cannot_be_paired_are_refused(plan: SweepPlan, runs: Path) -> None:
    clm, mlm = of_role(plan, "transfer_source"), of_role(plan, "transfer_target")
    with pytest.raises(RefusedError, match="cannot be paired"):
        paired_gap(runs, clm, mlm)
    a, b = (run.run_id for run in plan.runs if "grid" in run.roles and run.config.d_model == 16)
    write_val(RunFolder(runs / a), np.ones(3), np.array([1, 2, 3]), np.arange(3))
    with pytest.raises(RefusedError):
        paired_gap(runs, a, b)


def test_missing_losses_are_named(plan: SweepPlan, runs: Path) -> None:
    a, b = plan.runs[0].run_id, plan.runs[1].run_id
    with pytest.raises(RecordError, match="not scored on 'val_id'"):
        paired_gap(runs, a, b, "val_id")
    with pytest.raises(RecordError, match="not scored on 'val_id'"):
        read_val(runs, a, "val_id")
    RunFolder(runs / a).val_path.write_bytes(b"torn")
    with pytest.raises(RecordError, match="no per-sequence losses"):
        read_val(runs, a)
    RunFolder(runs / b).record_path.unlink()
    with pytest.raises(RecordError, match="not complete"):
        paired_gap(runs, b, a)


def test_a_source_of_shuffled_residues_makes_its_targets_controls_and_enters_no_law(
    plan: SweepPlan, tmp_path: Path
) -> None:
    runs = {run.roles[0]: run for run in plan.runs}
    source, target = runs["transfer_source"], runs["transfer_target"]
    streams = tuple(stream.model_copy(update={"shuffled": True}) for stream in source.config.streams)
    shuffled = source.model_copy(
        update={"config": (config := source.config.model_copy(update={"streams": streams})), "run_id": config.run_id}
    )
    moved = target.config.model_copy(update={"init_from": config.run_id})
    control = target.model_copy(update={"config": moved, "run_id": moved.run_id})
    for run in (source, target, shuffled, control):
        train(tmp_path, run)
    table = collect_runs(tmp_path)
    assert {row.run_id: row.source_control for row in table if row.source_run_id} == {
        target.run_id: None,
        control.run_id: "shuffled",
    }
    assert [row.run_id for row in law_runs(table, "clm")] == [source.run_id]
