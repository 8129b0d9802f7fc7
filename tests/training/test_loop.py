from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from plm_scaling.core.errors import CheckpointError, CorpusError, Diverged, RunError
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import StatusFile, pause_step
from plm_scaling.core.schedule import Schedule
from plm_scaling.core.units import exact_training_flops
from plm_scaling.corpus.batches import Batches
from plm_scaling.corpus.reader import Corpus
from plm_scaling.training.checkpoint import load_weights
from plm_scaling.training.loop import Interrupted, Paused, train

MakeRun = Callable[..., RunFolder]


def weights(folder: RunFolder) -> dict[str, bytes]:
    return {name: t.numpy().tobytes() for name, t in load_weights(folder.weights_path).items()}


def metrics(folder: RunFolder) -> list[dict[str, Any]]:
    """All columns but those that tell of the machine."""
    table = pq.read_table(folder.metrics_path).drop_columns(["tokens_per_s", "mfu", "memory_bytes"])
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def stop_at(step: int) -> Callable[[StatusFile], None]:
    """A progress callback that sends SIGTERM to this process once."""
    sent: list[int] = []

    def stop(status: StatusFile) -> None:
        if status.step >= step and status.status == "running" and not sent:
            sent.append(status.step)
            os.kill(os.getpid(), signal.SIGTERM)

    return stop


@pytest.fixture
def report_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plm_scaling.training.attempt_log._STATUS_EVERY_S", 0.0)


def test_a_run_leaves_a_full_account(make_run: MakeRun, corpus: Corpus) -> None:
    folder = make_run(order={"roles": ("isoflop", "replicate")})
    seen: list[StatusFile] = []
    record = train(folder.path, on_progress=seen.append)
    config, batches = record.config, Batches(corpus, record.config)
    assert record == folder.record()
    assert (record.status, record.roles, record.attempts) == ("complete", ("isoflop", "replicate"), 1)
    assert record.steps == batches.n_steps
    assert record.D == batches.tokens_at(batches.n_steps) == record.ledger[-1].tokens
    assert abs(record.D - config.D) < 0.1 * config.D
    assert 0 < record.D_unique <= record.D
    assert record.C_6nd == 6 * config.N * record.D
    spent = batches.stats_at(batches.n_steps)
    assert record.C_exact == exact_training_flops(
        2, 16, positions=spent.positions, sum_length_squared=spent.sum_length_squared
    )
    names = [v.set_name for v in record.validation]
    assert [name for name in names if "@" not in name] == ["val_iid", "heldout_lab"]
    assert record.validation[0].per_token < np.log(24)  # it learned at least which symbols occur
    assert record.versions["torch"]
    assert record.device_s > 0
    assert (seen[0].status, seen[-1].status, seen[-1].step) == ("running", "complete", record.steps)
    assert folder.status().status == "complete"
    assert sorted(p.name for p in folder.checkpoint_path.iterdir()) == ["final.safetensors"]


def test_a_run_that_shares_its_device_is_charged_its_share(make_run: MakeRun) -> None:
    folder = make_run(D=2000, order={"runs_per_device": 4})
    record = train(folder.path)
    assert 0 < record.device_s <= folder.status().seconds / 4


def test_metrics_follow_the_schedule_and_fall(make_run: MakeRun, corpus: Corpus) -> None:
    folder = make_run(validation_points=3)
    record = train(folder.path)
    rows = metrics(folder)
    batches = Batches(corpus, record.config)
    assert [r["step"] for r in rows] == list(range(1, record.steps + 1))
    assert [r["D"] for r in rows] == [batches.tokens_at(step) for step in range(1, record.steps + 1)]
    assert [r["lr"] for r in rows] == [Schedule.of(record.config, record.steps, 1.0).at(s) for s in range(record.steps)]
    assert rows[0]["loss"] == pytest.approx(np.log(33), abs=0.2)
    assert np.mean([r["loss"] for r in rows[-5:]]) < rows[0]["loss"] - 0.5
    scored = [r["step"] for r in rows if r["val_loss"] is not None]
    assert scored == [-(-record.steps // 3), -(-2 * record.steps // 3), record.steps]
    assert rows[-1]["val_loss"] == record.validation[0].per_token
    table = pq.read_table(folder.val_path).to_pandas()
    own = table[table["set"] == "val_iid"]
    assert own.loss_sum.sum() / own.n_targets.sum() == pytest.approx(record.validation[0].per_token)


def test_a_complete_run_is_not_trained_again(make_run: MakeRun) -> None:
    folder = make_run(D=2000)
    record = train(folder.path)
    assert train(folder.path) == record
    assert len(folder.attempts()) == 1


@pytest.mark.usefixtures("report_every_step")
@pytest.mark.parametrize("changes", [{"objective": "clm", "reverse_share": 0.4}, {"objective": "mlm"}], ids=str)
def test_an_interrupted_run_ends_like_one_that_was_not(make_run: MakeRun, changes: dict[str, Any]) -> None:
    whole, cut = make_run(**changes), make_run(parent="cut", **changes)
    expected = train(whole.path)
    for number, step in enumerate((3, 10, 11), start=1):
        with pytest.raises(Interrupted, match="SIGTERM") as caught:
            train(cut.path, on_progress=stop_at(step))
        assert caught.value.exit_code == 3
        assert (cut.status().status, len(cut.attempts())) == ("interrupted", number)
        assert "SIGTERM" in cut.status().reason
    record = train(cut.path)
    assert weights(cut) == weights(whole)
    assert metrics(cut) == metrics(whole)
    assert record.validation == expected.validation
    assert record.attempts == 4
    assert record.ledger == expected.ledger


def test_a_paused_run_goes_on_like_one_that_was_not(make_run: MakeRun) -> None:
    whole, cut = make_run(dropout=0.1), make_run(parent="cut", dropout=0.1, order={"pause_share": 0.4})
    expected, order = train(whole.path), cut.order()
    half = pause_step(expected.steps, 0.4)
    for attempts in (1, 2):  # the second has nothing to do, and pauses again
        with pytest.raises(Paused, match="paused at 41%") as caught:
            train(cut.path)
        status = cut.status()
        assert caught.value.exit_code == 0
        assert (status.status, status.step, len(cut.attempts())) == ("interrupted", half, attempts)
        assert status.reason.startswith("paused at 41% for a decision")
    assert max(line["step"] for line in cut.metrics()) == half
    order.model_copy(update={"pause_share": None}).write(cut.order_path)
    record = train(cut.path)
    assert weights(cut) == weights(whole)
    assert metrics(cut) == metrics(whole)
    assert (record.validation, record.ledger, record.attempts) == (expected.validation, expected.ledger, 3)


def test_a_time_limit_leaves_a_checkpoint(make_run: MakeRun) -> None:
    folder = make_run()
    with pytest.raises(Interrupted, match="time limit"):
        train(folder.path, time_limit_s=0.0)
    assert folder.status().step >= 0
    assert list(folder.checkpoint_path.glob("step-*"))


def test_a_resume_under_other_conditions_is_refused_unless_forced(make_run: MakeRun) -> None:
    folder = make_run()
    with pytest.raises(Interrupted):
        train(folder.path, time_limit_s=0.0)
    with pytest.raises(CheckpointError, match="threads 1 -> 2"):
        train(folder.path, threads=2)
    assert folder.status().status == "failed"
    record = train(folder.path, threads=2, force_resume=True)
    assert record.flags == ("FORCED_RESUME",)
    assert record.threads == 2
    assert torch.get_num_threads() == 1


def test_a_checkpoint_of_another_run_is_refused(make_run: MakeRun) -> None:
    folder, other = make_run(), make_run(seed=9)
    with pytest.raises(Interrupted):
        train(folder.path, time_limit_s=0.0)
    folder.checkpoint_path.rename(other.checkpoint_path)
    with pytest.raises(CheckpointError, match=f"of run {folder.path.name}"):
        train(other.path)


@pytest.mark.usefixtures("report_every_step")
def test_a_damaged_checkpoint_costs_only_what_came_after_the_one_before(make_run: MakeRun) -> None:
    whole, cut = make_run(), make_run(parent="cut", order={"checkpoint_every_s": 0})
    train(whole.path)
    with pytest.raises(Interrupted):
        train(cut.path, on_progress=stop_at(8))
    newest = sorted(cut.checkpoint_path.glob("step-*"))[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    seen: list[StatusFile] = []
    record = train(cut.path, on_progress=seen.append)
    assert next(s.step for s in seen if s.n_steps and s.step) == int(newest.stem.split("-")[1]) - 1
    assert record.flags == ("DAMAGED_CHECKPOINT",)
    assert weights(cut) == weights(whole)


def test_a_diverged_run_says_so(make_run: MakeRun) -> None:
    folder = make_run(peak_lr=1e30, grad_clip=1e30)
    with pytest.raises(Diverged, match="not finite"):
        train(folder.path)
    status = folder.status()
    assert status.status == "diverged"
    assert "lower the learning rate" in status.reason
    assert folder.record() is None
    assert not list(folder.checkpoint_path.glob("*"))


def test_a_transferred_run_starts_from_its_source(make_run: MakeRun) -> None:
    source = make_run(D=4000)
    target = make_run(objective="mlm", D=4000, init_from=source.path.name, peak_lr=1e-30, weight_decay=0)
    with pytest.raises(RunError, match="not complete"):
        train(target.path)
    first = train(source.path)
    record = train(target.path)
    assert weights(target) == weights(source)  # at a learning rate of nothing it stays where it began
    assert (record.source_run_id, record.source_objective) == (source.path.name, "clm")
    assert (record.N_source, record.D_source, record.C_source) == (first.config.N, first.D, first.C_exact)
    total = record.ledger[-1]
    assert total.seen_earlier_clm == total.seen_earlier > 0
    assert record.D_unique == total.unique + total.seen_earlier


def test_a_source_of_another_shape_is_refused(make_run: MakeRun) -> None:
    source = make_run(D=2000)
    train(source.path)
    target = make_run(D=2000, d_model=32, init_from=source.path.name)
    with pytest.raises(CheckpointError, match="do not fit"):
        train(target.path)


def test_a_run_of_another_corpus_fails_and_says_why(make_run: MakeRun) -> None:
    folder = make_run(corpus_id="0" * 64)
    with pytest.raises(CorpusError, match="another corpus"):
        train(folder.path)
    assert folder.status().status == "failed"
    assert "another corpus" in folder.status().reason


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(make_run: MakeRun) -> None:
    with pytest.raises(RunError, match="CUDA"):
        train(make_run(order={"device": "cuda"}).path)


def test_bf16_trains(make_run: MakeRun) -> None:
    record = train(make_run(dtype="bf16", D=4000).path)
    assert record.validation[0].per_token < np.log(33)


def test_of_two_starters_only_one_trains(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plm_scaling.core.run_folder._LOCK_PATIENCE_S", 0.05)
    folder = make_run(D=2000)
    with folder.locked():
        assert folder.status().status == "running"
        with pytest.raises(RunError, match="another process"):
            train(folder.path)
    assert folder.attempts() == ()
    train(folder.path)


def test_strays_of_a_killed_writer_are_removed(make_run: MakeRun) -> None:
    folder = make_run(D=2000)
    stray = folder.checkpoint_path / ".step-0000000001.safetensors.123.tmp"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"half")
    train(folder.path)
    assert not stray.exists()


def test_static_masks_and_weighted_streams_train(make_run: MakeRun, tmp_path: Path) -> None:
    streams = [{"sources": ["near"], "unique_tokens": 2000, "weight": 3}, {"sources": ["far"]}]
    record = train(make_run(objective="mlm", mask_refresh=False, streams=streams).path)
    by_source = {row.source: row for row in record.ledger}
    assert by_source["near"].repeated_epoch > 0
    assert by_source["near"].tokens > 2 * by_source["far"].tokens
