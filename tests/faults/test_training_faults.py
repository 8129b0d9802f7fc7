"""Runs whose files are damaged, whose disk or memory ends, that are signalled, that explode: each fault is provoked."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from data_prep.pipeline import PrepSpec, SourceInput, prepare_corpus
from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.errors import CheckpointError, Diverged, RunError, TakenOver
from plm_scaling.core.files import writing_atomic
from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import RunOrder, StatusFile
from plm_scaling.corpus.batches import Batches
from plm_scaling.corpus.reader import Corpus
from plm_scaling.sweeps.decisions import decide
from plm_scaling.training import checkpoint
from plm_scaling.training.__main__ import run_one
from plm_scaling.training.checkpoint import kept_path, load_newest, load_weights
from plm_scaling.training.engine import ReplicatedEngine
from plm_scaling.training.faults import has_loss_spike, named_fault
from plm_scaling.training.loop import Interrupted, train

ROOT = Path(__file__).parents[2]
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["plm_scaling.training.__main__", "pyarrow.parquet"])  # before a server starts

MakeRun = Callable[..., RunFolder]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("faults")
    rng = np.random.default_rng(0)
    records = ("".join(rng.choice(list(STANDARD), int(rng.integers(5, 60)))) for _ in range(120))
    (folder / "a.fasta").write_text("".join(f">{k}\n{s}\n" for k, s in enumerate(records)))
    prepare_corpus([SourceInput("a", [folder / "a.fasta"])], folder / "corpus", PrepSpec(val_share=0.1))
    return Corpus.open(folder / "corpus")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report after every step, so that callbacks see each of them."""
    monkeypatch.setattr("plm_scaling.training.attempt_log._STATUS_EVERY_S", 0.0)


def written(folder: RunFolder, corpus: Corpus, order: dict[str, Any], changes: dict[str, Any]) -> RunFolder:
    values: dict[str, Any] = {
        "corpus_id": corpus.corpus_id,
        "objective": "clm",
        "n_layers": 1,
        "d_model": 16,
        "context": 64,
        "D": 1_500,
        "batch_tokens": 128,
        "peak_lr": 1e-2,
        "recipe": "small",
        "validation_points": 1,
        "validation_tokens": 300,
    }
    config = RunConfig.model_validate(values | changes)
    # A checkpoint after every step, unless said otherwise.
    circumstances = {"corpus": str(corpus.path), "device": "cpu", "checkpoint_every_s": 0} | order
    folder = RunFolder(folder.path / config.run_id)
    RunOrder.model_validate({"config": config, **circumstances}).write(folder.order_path)
    return folder


@pytest.fixture
def make_run(corpus: Corpus, tmp_path: Path) -> MakeRun:
    def make(parent: str = "runs", order: dict[str, Any] | None = None, **changes: Any) -> RunFolder:
        return written(RunFolder(tmp_path / parent), corpus, order or {}, changes)

    return make


Outcome = tuple[dict[str, bytes], list[dict[str, Any]], Any]


def outcome(folder: RunFolder) -> Outcome:
    """Weights, metrics and losses, without what tells of the machine."""
    record = folder.record()
    assert record is not None
    weights = {name: t.numpy().tobytes() for name, t in load_weights(folder.weights_path).items()}
    table = pq.read_table(folder.metrics_path).drop_columns(["tokens_per_s", "mfu", "memory_bytes"])
    return weights, table.to_pylist(), (record.validation, record.ledger, record.D, record.steps)


@pytest.fixture(scope="module")
def undisturbed(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What the run of `make_run()` comes to if nothing happens to it."""
    folder = written(RunFolder(tmp_path_factory.mktemp("undisturbed")), corpus, {"checkpoint_every_s": 60}, {})
    train(folder.path)
    return outcome(folder)


def at_step(step: int, act: Callable[[], None]) -> Callable[[StatusFile], None]:
    """A progress callback that acts once, when that step is done."""
    done: list[int] = []

    def callback(status: StatusFile) -> None:
        if status.step >= step and status.status == "running" and not done:
            done.append(status.step)
            act()

    return callback


def send(*numbers: int) -> Callable[[], None]:
    return lambda: [os.kill(os.getpid(), number) for number in numbers] and None


def stopped_at(folder: RunFolder, step: int) -> RunFolder:
    with pytest.raises(Interrupted):
        train(folder.path, on_progress=at_step(step, send(signal.SIGTERM)))
    return folder


def checkpoints(folder: RunFolder) -> list[Path]:
    return sorted(folder.checkpoint_path.glob("step-*.safetensors"))


# Damaged checkpoints


def damage(path: Path, kind: str) -> None:
    data = bytearray(path.read_bytes())
    if kind == "flipped":
        data[len(data) // 2] ^= 0x04
    path.write_bytes({"torn": bytes(data[: len(data) // 2]), "truncated": bytes(data[:-1])}.get(kind, bytes(data)))


@pytest.mark.parametrize("kind", ["torn", "truncated", "flipped"])
def test_a_damaged_checkpoint_is_passed_over_aloud(
    make_run: MakeRun, undisturbed: Outcome, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stopped_at(make_run(), 6)
    before, newest = checkpoints(folder)
    damage(newest, kind)
    with pytest.raises(CheckpointError):
        checkpoint._load(newest)  # it is damaged indeed
    stopped_at(folder, 8)  # the flag outlives an attempt that did not reach the end
    said = capsys.readouterr().err
    assert "DAMAGED_CHECKPOINT: a checkpoint is damaged and was passed over, the run goes on from step 6" in said
    assert str(newest.with_suffix(".damaged")) in said
    assert before.name == f"step-{6:010d}.safetensors"
    record = train(folder.path)
    assert record.flags == ("DAMAGED_CHECKPOINT",)
    assert outcome(folder) == undisturbed
    assert [path.name for path in folder.checkpoint_path.iterdir()] == ["final.safetensors"]


def test_a_run_without_a_whole_checkpoint_starts_anew_aloud(
    make_run: MakeRun, undisturbed: Outcome, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stopped_at(make_run(), 6)
    for path in checkpoints(folder):
        damage(path, "flipped")
    seen: list[int] = []
    record = train(folder.path, on_progress=lambda status: seen.append(status.step) if status.n_steps else None)
    assert seen[0] == 0
    assert record.flags == ("DAMAGED_CHECKPOINT", "STARTED_ANEW")
    assert "STARTED_ANEW: no checkpoint is whole" in capsys.readouterr().err
    assert outcome(folder) == undisturbed


# A full disk


class _Small:
    """A file on a disk with room for so many bytes."""

    def __init__(self, handle: BinaryIO, room: int) -> None:
        self.handle, self.room = handle, room

    def write(self, data: bytes) -> int:
        self.handle.write(data[: self.room])
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_is_full_at_a_checkpoint(
    make_run: MakeRun, undisturbed: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, writes = make_run(), [0]

    @contextmanager
    def on_a_small_disk(path: Path) -> Iterator[Any]:
        writes[0] += 1
        with writing_atomic(path) as handle:
            yield _Small(handle, 1000) if writes[0] == 5 else handle

    monkeypatch.setattr(checkpoint, "writing_atomic", on_a_small_disk)
    with pytest.raises(RunError, match="disk full") as caught:
        train(folder.path)
    assert writes == [5]
    assert caught.value.exit_code == 1
    assert "free some space" in caught.value.hint
    status = folder.status()
    assert status.status == "failed"
    assert "disk full" in status.reason
    assert "free some space" in status.reason
    assert not decide(folder, retry_failed=False, max_attempts=3).start
    assert [path.name for path in folder.checkpoint_path.iterdir() if path.suffix == ".tmp"] == []
    found = load_newest(folder.checkpoint_path, lambda error: pytest.fail(str(error)))
    assert found is not None
    assert found[0].step == 4
    assert train(folder.path).flags == ()
    assert outcome(folder) == undisturbed


def test_a_disk_that_is_full_at_a_line_of_metrics(
    make_run: MakeRun, undisturbed: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real, hits = make_run(), os.write, [0]

    def write(descriptor: int, data: bytes) -> int:
        if b'"step": 7,' in data and hits[0] == 0:
            hits[0] = 1
            return real(descriptor, data[:20])  # what there is room for
        if hits[0] == 1:
            hits[0] = 2
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(RunError, match="disk full"):
        train(folder.path)
    assert hits == [2]
    text = folder.attempts()[0].metrics_path.read_text()
    assert text.endswith("}\n")  # the half line is gone
    assert len(folder.metrics()) == 6
    train(folder.path)
    assert outcome(folder) == undisturbed


def test_a_status_that_cannot_be_written_does_not_end_a_run(
    make_run: MakeRun, undisturbed: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real, hits = make_run(), Path.write_text, []

    def write_text(path: Path, text: str, **options: Any) -> int:
        if path.name == ".status.json.tmp" and (path.parent / "status.json").exists():
            hits.append(path)
            path.write_bytes(b"{")
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, text, **options)

    monkeypatch.setattr(Path, "write_text", write_text)
    stopped_at(folder, 5)
    assert len(hits) > 5
    assert not hits[0].exists()
    status = StatusFile.read(folder.attempts()[0].status_path)  # the last words go where the file already is
    assert (status.status, status.step) == ("interrupted", 6)
    assert "SIGTERM" in status.reason
    train(folder.path)
    assert outcome(folder) == undisturbed


FILL_DISK = """
import shutil, subprocess, sys
from pathlib import Path
import pytest
from plm_scaling.core.errors import RunError
from plm_scaling.training.loop import train
order, mount = map(Path, sys.argv[1:])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", mount], check=True)
run = mount / order.parent.name
run.mkdir()
shutil.copy(order, run)
fill = mount / "other"
fill.write_bytes(bytes(200_000))
with pytest.raises(RunError, match="disk full"):
    train(run)
status = (run / "attempts" / "0001" / "status.json").read_text()
assert '"failed"' in status and "disk full" in status, status
assert list((run / "checkpoint").glob("step-*"))
assert not list((run / "checkpoint").glob("*.tmp"))
subprocess.run(["mount", "-o", "remount,size=20m", mount], check=True)
train(run)
for name in ("checkpoint/final.safetensors", "val.parquet"):
    target = order.parent / name
    target.parent.mkdir(exist_ok=True)
    shutil.copy(run / name, target)
"""


@pytest.mark.slow
def test_a_disk_that_is_really_full(make_run: MakeRun, undisturbed: Outcome, tmp_path: Path) -> None:
    # A mount namespace of its own: the small file system is gone with the process, however that ends.
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("a small file system to fill can only be mounted by root")
    mount, folder = tmp_path / "small", make_run()
    mount.mkdir()
    command = ["unshare", "--mount", sys.executable, "-c", FILL_DISK, folder.order_path, mount]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    weights = {name: t.numpy().tobytes() for name, t in load_weights(folder.weights_path).items()}
    assert weights == undisturbed[0]


# Memory


def _with_little_memory(run_dir: str, extra: int) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + extra, used + extra))
    raise SystemExit(run_one(run_dir))


def test_a_run_out_of_memory_fails_with_advice(make_run: MakeRun) -> None:
    # Its parameters fit, the 512 windows of a batch do not.
    folder = make_run(n_layers=4, d_model=64, batch_tokens=512 * 64, D=60_000)
    process = PROCESSES.Process(target=_with_little_memory, args=(str(folder.path), 150_000_000))
    process.start()
    process.join(200)
    status = folder.status()
    assert process.exitcode == 1, status
    assert status.status == "failed"
    assert "out of memory" in status.reason
    assert "--micro-windows 128 (" in status.reason
    assert "--recompute all (" in status.reason
    assert "512 windows of 64" in status.reason
    decision = decide(folder, retry_failed=False, max_attempts=3)
    assert not decision.start
    assert "out of memory" in decision.reason
    assert "out of memory" in folder.attempts()[0].log_path.read_text()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_what_counts_as_out_of_memory(make_run: MakeRun, error: Exception) -> None:
    folder = make_run()
    named = named_fault(error, folder, folder.order())
    assert named is not None
    assert named.what.startswith("out of memory")
    assert "--micro-windows 1 (" in named.hint
    assert named_fault(RuntimeError("shape mismatch"), folder, folder.order()) is None
    assert named_fault(OSError(errno.EACCES, "no"), folder, folder.order()) is None


def test_advice_ends_where_nothing_is_left_to_change(make_run: MakeRun) -> None:
    folder = make_run(order={"micro_windows": 1, "recompute": "all"})
    named = named_fault(MemoryError(), folder, folder.order())
    assert named is not None
    assert "--" not in named.hint
    assert "a smaller model" in named.hint


# Spikes and NaN


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, float], list[int]]:
    """Multiply the gradient of one step (counted over all attempts by its updates) by a factor."""

    def spoil(step: int, factor: float) -> list[int]:
        real, hits = ReplicatedEngine.update, list[int]()

        def update(engine: ReplicatedEngine, number: int, lr: float) -> torch.Tensor:
            if number != step:
                return real(engine, number, lr)
            hits.append(number)
            grad = engine.flat.grad
            grad[grad != 0] *= factor  # nothing times infinity is no number
            before = engine.flat.value.clone()
            norm = real(engine, number, lr)
            unchanged.append(torch.equal(before, engine.flat.value))
            return norm

        monkeypatch.setattr(ReplicatedEngine, "update", update)
        return hits

    unchanged: list[bool] = []
    spoil.unchanged = unchanged  # type: ignore[attr-defined]
    return spoil


@pytest.mark.parametrize("factor", [1e6, float("inf")])
def test_a_spike_is_skipped_and_counted(make_run: MakeRun, spoil: Any, factor: float) -> None:
    whole, cut = make_run(spike_factor=20), make_run("cut", spike_factor=20)
    hits = spoil(7, factor)
    record = train(whole.path)
    assert (hits, spoil.unchanged) == ([7], [True])
    assert (record.skipped_updates, record.flags) == (1, ("SPIKES_SKIPPED",))
    stopped_at(cut, 9)  # the count and the running mean are part of the checkpoint
    again = train(cut.path)
    assert (again.skipped_updates, again.flags) == (1, ("SPIKES_SKIPPED",))
    assert outcome(cut) == outcome(whole)


def test_without_a_factor_the_same_spike_changes_the_weights(make_run: MakeRun, spoil: Any) -> None:
    spoil(7, 1e6)
    record = train(make_run().path)
    assert (spoil.unchanged, record.skipped_updates) == ([False], 0)


@pytest.mark.parametrize("spike_factor", [None, 20])
def test_a_run_that_diverges_keeps_its_last_finite_state(
    make_run: MakeRun, spoil: Any, spike_factor: float | None
) -> None:
    folder = make_run(spike_factor=spike_factor)
    hits = spoil(7, float("nan"))
    with pytest.raises(Diverged, match="not finite at step 8") as caught:
        train(folder.path)
    assert (hits, spoil.unchanged) == ([7], [False])  # no update mends it, so it is none to skip
    assert caught.value.exit_code == 1
    assert folder.status().status == "diverged"
    found = load_newest(folder.checkpoint_path, lambda error: pytest.fail(str(error)))
    assert found is not None
    assert found[0].step == 7
    assert all(tensor.isfinite().all() for tensor in found[1].values())
    decision = decide(folder, retry_failed=True, max_attempts=3)
    assert (decision.start, decision.state) == (False, "diverged")


def test_what_counts_as_a_spike_of_the_loss() -> None:
    falling = [3.0 - 0.01 * k for k in range(100)]
    assert not has_loss_spike(falling)
    assert not has_loss_spike([*falling, 3.0, 2.0, 2.0])  # one noisy line
    assert has_loss_spike([*falling, 2.6, 2.6, 2.6])
    assert has_loss_spike([*falling, 2.6, 2.6, 2.6, *falling[50:]])  # it came back, but it was there
    assert not has_loss_spike([])


def test_a_loss_that_jumps_is_flagged(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plm_scaling.training.faults.SPIKE_NATS", 0.02)
    assert "LOSS_SPIKE" in train(make_run(peak_lr=0.3).path).flags


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT])
def test_a_signal_leaves_a_checkpoint_of_the_next_step(
    make_run: MakeRun, undisturbed: Outcome, number: signal.Signals
) -> None:
    folder = make_run(order={"checkpoint_every_s": 60})
    with pytest.raises(Interrupted, match=number.name) as caught:
        train(folder.path, on_progress=at_step(5, send(number)))
    assert caught.value.exit_code == 3
    assert [path.stem for path in checkpoints(folder)] == [f"step-{6:010d}"]
    assert folder.status().status == "interrupted"
    assert decide(folder, retry_failed=False, max_attempts=3).start
    train(folder.path)
    assert outcome(folder) == undisturbed


def test_more_signals_do_not_tear_a_checkpoint(
    make_run: MakeRun, undisturbed: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, hits = make_run(order={"checkpoint_every_s": 60}), []

    @contextmanager
    def disturbed(path: Path) -> Iterator[BinaryIO]:
        with writing_atomic(path) as handle:
            hits.append(path.stem)
            send(signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)()
            yield handle
            send(signal.SIGTERM)()

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "writing_atomic", disturbed)
        with pytest.raises(Interrupted):
            train(folder.path, on_progress=at_step(5, send(signal.SIGTERM)))
    assert hits == [f"step-{6:010d}"]
    found = load_newest(folder.checkpoint_path, lambda error: pytest.fail(str(error)))
    assert found is not None
    train(folder.path)
    assert outcome(folder) == undisturbed


def test_a_signal_after_the_last_step(make_run: MakeRun, undisturbed: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run()
    with monkeypatch.context() as patch:
        patch.setattr("plm_scaling.training.loop.score_set", lambda *_: send(signal.SIGTERM)())
        with pytest.raises(Interrupted, match="SIGTERM outside of the steps"):
            train(folder.path)
    assert folder.status().status == "interrupted"
    train(folder.path)
    assert outcome(folder) == undisturbed


# Branches of a longer run

WSD = {"schedule": "wsd", "warmup_tokens": 300, "peak_lr": 1e-2}


def branch_step(folder: RunFolder, D: int) -> int:
    from plm_scaling.core.schedule import Schedule
    from plm_scaling.corpus.batches import Batches

    order = folder.order()
    config = order.config.model_copy(update={"D": D})
    batches = Batches(Corpus.open(order.corpus_path(folder.path)), config)
    return Schedule.of(config, batches.n_steps, batches.mean_tokens_per_window * 2).decay_begins


def test_a_branch_is_the_run_from_scratch(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    scratch = make_run("scratch", D=1200, **WSD)
    begin = branch_step(scratch, 1200)
    trunk = make_run(order={"keep_steps": (begin, 9999), "checkpoint_every_s": 60}, D=2400, **WSD)
    branch = make_run(order={"trunk": trunk.path.name}, D=1200, **WSD)
    train(scratch.path)
    train(trunk.path)
    assert kept_path(trunk.checkpoint_path, begin).is_file()  # the end of the trunk did not delete it
    seen: list[int] = []
    record = train(branch.path, on_progress=lambda status: seen.append(status.step) if status.n_steps else None)
    assert seen[0] == begin > 0
    assert record.flags == ("BRANCHED",)
    assert f"the first {begin} of {record.steps} steps were taken over from run {trunk.path.name}" in (
        capsys.readouterr().err
    )
    assert outcome(branch)[0] == outcome(scratch)[0]
    assert outcome(branch)[2] == outcome(scratch)[2]
    assert outcome(branch)[1] == outcome(scratch)[1][begin:]
    assert [path.name for path in branch.checkpoint_path.iterdir()] == ["final.safetensors"]


@pytest.mark.parametrize(
    ("obstacle", "said"),
    [
        ("gone", "is not there"),
        ("torn", "not fully covered"),
        ("flipped", "checksum"),
        ("other", "the runs differ in seed"),
    ],
)
def test_a_branch_without_its_trunk_is_trained_from_scratch_aloud(
    make_run: MakeRun, obstacle: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trunk = make_run(order={"checkpoint_every_s": 60}, D=1600, **WSD)
    begin = branch_step(trunk, 800)
    RunOrder.model_validate(trunk.order().model_dump() | {"keep_steps": (begin,)}).write(trunk.order_path)
    changes = WSD | ({"seed": 5} if obstacle == "other" else {})
    branch = make_run(order={"trunk": trunk.path.name}, D=800, **changes)
    stopped_at(trunk, begin)
    kept = kept_path(trunk.checkpoint_path, begin)
    assert kept.is_file()
    if obstacle == "gone":
        kept.unlink()
    elif obstacle != "other":
        damage(kept, obstacle)
    seen: list[int] = []
    record = train(branch.path, on_progress=lambda status: seen.append(status.step) if status.n_steps else None)
    assert seen[0] == 0
    assert record.flags == ()
    text = capsys.readouterr().err
    assert f"trained from scratch, not branched from run {trunk.path.name}" in text
    assert said in text


# Two attempts at once, where the lock does not hold: a lost node that comes back, a file system without locks


@pytest.mark.parametrize("when", ["in the steps", "at the end"])
def test_an_attempt_that_was_overtaken_stops_and_the_later_one_ends_as_if_alone(
    make_run: MakeRun, undisturbed: Outcome, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    folder, taken = make_run(order={"checkpoint_every_s": 0 if when == "in the steps" else 60}), []

    def overtake() -> None:
        """The attempt hangs, and another trains the run from its last checkpoint to the end."""
        monkeypatch.setattr(RunFolder, "locked", lambda _: nullcontext())
        taken.append(folder.attempts()[-1].number)
        before = len(checkpoints(folder))
        train(folder.path)
        assert (before > 0) == (when == "in the steps")

    step = 4 if when == "in the steps" else load_steps(folder)
    with pytest.raises(TakenOver, match="overtaken") as caught:
        train(folder.path, on_progress=at_step(step, overtake))
    assert taken == [1]
    assert caught.value.exit_code == 5
    record = folder.record()
    assert record is not None
    assert record.attempts == 2
    first = folder.attempts()[0].status()
    assert first is not None
    assert (first.status, "overtaken" in first.reason) == ("interrupted", True)
    assert checkpoints(folder) == []  # it left nothing in a complete run
    assert outcome(folder) == undisturbed
    assert folder.status().status == "complete"


def load_steps(folder: RunFolder) -> int:
    """Steps of the whole run."""
    order = folder.order()
    return Batches(Corpus.open(order.corpus_path(folder.path)), order.config).n_steps


def test_a_run_whose_folder_is_deleted_ends_and_leaves_none(make_run: MakeRun) -> None:
    folder = make_run()
    with pytest.raises(TakenOver) as caught:
        train(folder.path, on_progress=at_step(4, lambda: shutil.rmtree(folder.path)))
    assert caught.value.why == "its folder was deleted"
    assert not folder.path.exists()


def test_the_loser_of_two_starters_says_so_by_its_exit_code(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plm_scaling.core.run_folder._LOCK_PATIENCE_S", 0.05)
    folder = make_run()
    with folder.locked():
        assert run_one(str(folder.path)) == 5
    assert folder.attempts() == ()


def _one_of_two(path: str, delay_s: float, locks: bool) -> None:
    if not locks:  # as on a file system that has none
        RunFolder.locked = lambda _: nullcontext()  # type: ignore[method-assign, assignment, return-value]
    time.sleep(delay_s)
    sys.exit(run_one(path))


@pytest.mark.slow
@pytest.mark.parametrize("locks", [True, False])
def test_of_two_processes_at_once_one_trains_the_run(make_run: MakeRun, undisturbed: Outcome, locks: bool) -> None:
    """Ten times, the second between nothing and the length of a run behind the first.

    With locks it waits, and finds the run complete. Without, it overtakes; a record that is about to be written at that
    very moment is written twice, with the same content.
    """
    rng, overtaken, refused = random.Random(0), 0, 0
    for trial in range(10):
        folder = make_run(parent=f"runs-{trial}")
        delays = (0.0, rng.uniform(0.0, 0.2))
        both = [PROCESSES.Process(target=_one_of_two, args=(str(folder.path), delay, locks)) for delay in delays]
        for process in both:
            process.start()
        for process in both:
            process.join(60)
        codes = [process.exitcode for process in both]
        assert set(codes) in ({0}, {0, 5})  # 5: overtaken, or tired of waiting for the lock
        ends = [attempt.status() for attempt in folder.attempts()]
        n_complete = [status.status for status in ends if status].count("complete")
        assert n_complete == 1 or (n_complete == 2 and not locks)
        assert outcome(folder) == undisturbed
        overtaken += 5 in codes and len(ends) == 2
        refused += len(ends) == 1
    assert refused == 10 if locks else overtaken > 0
