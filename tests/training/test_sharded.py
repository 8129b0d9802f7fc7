"""Parameters cut among processes: checkpoints, other numbers of processes, and when it is chosen."""

from __future__ import annotations

import pickle
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import torch

from plm_scaling.core.errors import CheckpointError, RunError
from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import RunOrder
from plm_scaling.corpus.batches import Batches
from plm_scaling.corpus.reader import Corpus
from plm_scaling.training.checkpoint import load_weights
from plm_scaling.training.loop import train
from plm_scaling.training.sharded import is_sharded
from plm_scaling.training.sharded_checkpoint import _IndexUnpickler
from plm_scaling.training.world import World

sys.path.insert(0, str(Path(__file__).parent))
import ranks

MakeRun = Callable[..., RunFolder]
MakeConfig = Callable[..., RunConfig]
SMALL = {"d_model": 8, "context": 32, "batch_tokens": 96}


def test_a_checkpoint_is_whole_or_passed_over(corpus: Corpus, make_config: MakeConfig, tmp_path: Path) -> None:
    values = make_config(**SMALL).model_dump_json()
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    assert ranks.end(ranks.start(2, ranks.checkpoint_checks, values, str(folder), str(corpus.path))) == [0, 0]


@pytest.mark.slow
def test_two_processes_then_one_then_two_go_on_with_the_same_batches(
    corpus: Corpus, make_run: MakeRun, tmp_path: Path
) -> None:
    changes = SMALL | {"D": 1_500, "validation_tokens": 500}
    folder = make_run(order={"parallel": "sharded", "checkpoint_every_s": 1000.0}, **changes)
    whole = make_run(parent="whole", **changes)
    term = int(signal.SIGTERM)
    stops = [{"rank": 1, "step": 4, "kill": term}, {"rank": 0, "step": 9, "kill": term}, {}]
    for size, at, codes in zip((2, 1, 2), stops, ([3, 3], [3], [0, 0]), strict=True):
        assert ranks.end(ranks.start(size, ranks.train_main, str(folder.path), str(tmp_path), at)) == codes
    expected, record = train(whole.path), folder.record()
    assert record is not None
    assert (record.world, record.attempts) == (2, 3)
    assert "WORLD_CHANGED" in record.flags
    batches = Batches(corpus, record.config)
    n_steps = batches.n_steps
    assert n_steps > 12
    lines = [path.read_text().count("\n") for path in tmp_path.glob("*.jsonl")]
    assert len(lines) == 5
    assert sum(lines) == 2 * n_steps - 5  # five steps were taken by one process; no step twice, none left out
    assert ranks.shown(tmp_path) == {step: batches.at(step).tokens.tolist() for step in range(n_steps)}
    ours, theirs = (pq.read_table(run.metrics_path).to_pandas() for run in (folder, whole))
    assert ours.step.tolist() == theirs.step.tolist()
    assert ours.loss.to_numpy() == pytest.approx(theirs.loss.to_numpy(), rel=1e-4)
    for one, other in zip(record.validation, expected.validation, strict=True):
        assert (one.validation_id, one.n_targets) == (other.validation_id, other.n_targets)
        assert (one.per_token, one.se) == pytest.approx((other.per_token, other.se), rel=1e-4)
    assert record.ledger == expected.ledger
    weights, others = load_weights(folder.weights_path), load_weights(whole.weights_path)
    assert {n: (w.shape, w.dtype) for n, w in weights.items()} == {n: (w.shape, w.dtype) for n, w in others.items()}
    assert [path.name for path in folder.checkpoint_path.iterdir()] == ["final.safetensors"]


class _Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("harm",))


def test_an_index_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / ".metadata"
    path.write_bytes(pickle.dumps(_Harm()))
    with path.open("rb") as handle, pytest.raises(pickle.UnpicklingError, match="print has no place"):
        _IndexUnpickler(handle).load()
    assert capsys.readouterr().out == ""


def order_of(config: RunConfig, **values: Any) -> RunOrder:
    return RunOrder(config=config, corpus="", device="cpu", **values)


def test_auto_cuts_what_does_not_fit(make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, cpu = make_config(), torch.device("cpu")
    monkeypatch.setattr(World, "totals", lambda self, counts: counts)
    memory = SimpleNamespace(total=64 * config.N_total)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    alone, two, crowd = World(), World(size=2, local_size=1), World(size=4, local_size=4)
    chosen = [is_sharded(order_of(config), world, cpu, tmp_path) for world in (alone, two, crowd)]
    assert chosen == [False, False, True]
    assert is_sharded(order_of(config, parallel="sharded"), alone, cpu, tmp_path)
    assert not is_sharded(order_of(config, parallel="replicated"), crowd, cpu, tmp_path)
    (tmp_path / "step-0000000001.dcp").mkdir()
    assert is_sharded(order_of(config), alone, cpu, tmp_path)  # as the run has begun
    (tmp_path / "step-0000000001.dcp").rename(tmp_path / "step-0000000001.safetensors")
    assert not is_sharded(order_of(config), crowd, cpu, tmp_path)


@pytest.mark.parametrize("changes", [{"spike_factor": 5.0}, {"lora_rank": 2, "init_from": "a"}])
def test_what_is_not_written_is_refused(make_config: MakeConfig, changes: dict[str, Any]) -> None:
    with pytest.raises(RunError, match=next(iter(changes))):
        ranks.engine_for(make_config(**changes), World(), parallel="sharded")


def test_whole_copies_do_not_continue_what_was_cut(make_run: MakeRun) -> None:
    folder = make_run(order={"parallel": "replicated"})
    (folder.checkpoint_path / "step-0000000001.dcp").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="cut among its processes"):
        train(folder.path)
