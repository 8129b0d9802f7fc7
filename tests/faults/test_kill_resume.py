"""A run killed with SIGKILL at random moments ends, bit for bit, like one that was never touched."""

from __future__ import annotations

import multiprocessing
import random
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.pipeline import PrepSpec, SourceInput, prepare_corpus
from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.errors import CheckpointError
from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import RunOrder
from plm_scaling.corpus.reader import Corpus
from plm_scaling.training.__main__ import run_one
from plm_scaling.training.attempt_log import remarked_flags
from plm_scaling.training.checkpoint import load_weights
from plm_scaling.training.loop import Interrupted, train

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["plm_scaling.training.__main__", "pyarrow.parquet"])  # before a server starts
_OF_THE_MACHINE = ["tokens_per_s", "mfu", "memory_bytes"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("kills")
    rng = np.random.default_rng(0)
    records = ("".join(rng.choice(list(STANDARD), int(rng.integers(5, 90)))) for _ in range(300))
    (folder / "a.fasta").write_text("".join(f">{k}\n{s}\n" for k, s in enumerate(records)))
    prepare_corpus([SourceInput("a", [folder / "a.fasta"])], folder / "corpus", PrepSpec(val_share=0.1))
    return Corpus.open(folder / "corpus")


def order(folder: RunFolder, corpus: Corpus, D: int, dtype: str) -> RunFolder:
    values = {"objective": "mlm", "n_layers": 2, "d_model": 16, "context": 64, "batch_tokens": 128, "peak_lr": 1e-2}
    values |= {"corpus_id": corpus.corpus_id, "D": D, "dtype": dtype, "recipe": "small", "validation_tokens": 1000}
    config = RunConfig.model_validate(values)
    # A checkpoint after every step: kills hit the writing of checkpoints as often as the arithmetic.
    RunOrder(config=config, corpus=str(corpus.path), device="cpu", checkpoint_every_s=0).write(folder.order_path)
    return folder


def start(folder: RunFolder) -> BaseProcess:
    process = PROCESSES.Process(target=run_one, args=(str(folder.path),))
    process.start()
    return process


def newest_step(folder: RunFolder) -> int:
    steps = [int(path.stem.split("-")[1]) for path in folder.checkpoint_path.glob("step-*.safetensors")]
    return max(steps, default=0)


def kill_after(folder: RunFolder, step: int, delay: float) -> bool:
    """Start the run, kill it some time after its checkpoint of `step`; whether it was alive until then."""
    process = start(folder)
    while newest_step(folder) < step and process.is_alive():
        time.sleep(0.002)
    time.sleep(delay)
    was_alive = process.is_alive()
    process.kill()
    process.join()
    return was_alive and process.exitcode == -9


def check(corpus: Corpus, folder: Path, *, kills: int, D: int, dtype: str = "fp32") -> None:
    whole, hit = (order(RunFolder(folder / name / "r"), corpus, D, dtype) for name in ("whole", "hit"))
    undisturbed = start(whole)
    undisturbed.join()
    n_steps = whole.status().n_steps
    rng = random.Random(4)
    landed = 0
    for number in range(kills):
        landed += kill_after(hit, 1 + n_steps * number // (kills + 1), rng.uniform(0, 0.03))
        assert hit.status().status == "interrupted"
        assert hit.record() is None
    assert landed == kills
    last = start(hit)
    last.join()
    assert (undisturbed.exitcode, last.exitcode) == (0, 0)
    one, other = whole.record(), hit.record()
    assert one is not None
    assert other is not None
    assert other.attempts == kills + 1
    assert other.validation == one.validation
    expected, got = load_weights(whole.weights_path), load_weights(hit.weights_path)
    assert {n: t.numpy().tobytes() for n, t in got.items()} == {n: t.numpy().tobytes() for n, t in expected.items()}
    assert pq.read_table(hit.val_path).equals(pq.read_table(whole.val_path))
    tables = [pq.read_table(folder.metrics_path).drop_columns(_OF_THE_MACHINE) for folder in (hit, whole)]
    assert tables[0].equals(tables[1])


def test_killed_and_started_with_other_threads(corpus: Corpus, tmp_path: Path) -> None:
    folder = order(RunFolder(tmp_path / "r"), corpus, 4_000, "fp32")
    assert kill_after(folder, 3, 0.0)
    step = newest_step(folder)
    with pytest.raises(CheckpointError, match="threads 1 -> 2"):
        train(folder.path, threads=2)
    assert folder.status().status == "failed"
    assert newest_step(folder) == step  # refused, and nothing touched
    with pytest.raises(Interrupted):
        train(folder.path, threads=2, force_resume=True, time_limit_s=0.0)
    assert newest_step(folder) == step + 1
    assert remarked_flags(folder) == ("FORCED_RESUME",)  # the record carries it, whichever attempt ends the run


def test_two_kills(corpus: Corpus, tmp_path: Path) -> None:
    check(corpus, tmp_path, kills=2, D=4_000)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "kills"), [("fp32", 12), ("bf16", 4)])
def test_many_kills(corpus: Corpus, tmp_path: Path, dtype: str, kills: int) -> None:
    check(corpus, tmp_path, kills=kills, D=6_000, dtype=dtype)
