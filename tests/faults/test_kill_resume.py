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
from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import RunOrder
from plm_scaling.corpus.reader import Corpus
from plm_scaling.training.__main__ import run_one
from plm_scaling.training.checkpoint import load_weights

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["plm_scaling.training.__main__"])  # before anything starts the server


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("kills")
    rng = np.random.default_rng(0)
    records = ("".join(rng.choice(list(STANDARD), int(rng.integers(5, 90)))) for _ in range(300))
    (folder / "a.fasta").write_text("".join(f">{k}\n{s}\n" for k, s in enumerate(records)))
    prepare_corpus([SourceInput("a", [folder / "a.fasta"])], folder / "corpus", PrepSpec(val_share=0.1))
    return Corpus.open(folder / "corpus")


def order(folder: RunFolder, corpus: Corpus, D: int) -> RunFolder:
    config = RunConfig(
        corpus_id=corpus.corpus_id,
        objective="mlm",
        n_layers=2,
        d_model=16,
        context=64,
        D=D,
        batch_tokens=128,
        peak_lr=1e-2,
        recipe="small",
        validation_tokens=1000,
    )
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


def check(corpus: Corpus, folder: Path, *, kills: int, D: int) -> None:
    whole, hit = order(RunFolder(folder / "whole" / "r"), corpus, D), order(RunFolder(folder / "hit" / "r"), corpus, D)
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
    for name in ("metrics.parquet", "val.parquet"):
        assert pq.read_table(hit.path / name).equals(pq.read_table(whole.path / name))


def test_two_kills(corpus: Corpus, tmp_path: Path) -> None:
    check(corpus, tmp_path, kills=2, D=4_000)


@pytest.mark.slow
def test_twelve_kills(corpus: Corpus, tmp_path: Path) -> None:
    check(corpus, tmp_path, kills=12, D=30_000)
