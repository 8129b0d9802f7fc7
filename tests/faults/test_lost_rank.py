"""Of several processes one is lost, fails or diverges: none of the others is left hanging."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from data_prep.pipeline import PrepSpec, SourceInput, prepare_corpus
from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import RunOrder
from plm_scaling.corpus.batches import Batches
from plm_scaling.corpus.reader import Corpus
from plm_scaling.training.checkpoint import load_weights
from plm_scaling.training.loop import train

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
import ranks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("ranks")
    rng = np.random.default_rng(0)
    records = ("".join(rng.choice(list(STANDARD), int(rng.integers(5, 60)))) for _ in range(200))
    (folder / "a.fasta").write_text("".join(f">{k}\n{s}\n" for k, s in enumerate(records)))
    prepare_corpus([SourceInput("a", [folder / "a.fasta"])], folder / "corpus", PrepSpec(val_share=0.1))
    return Corpus.open(folder / "corpus")


def order(folder: RunFolder, corpus: Corpus, *, parallel: str, D: int = 1_500) -> RunFolder:
    config = RunConfig(
        corpus_id=corpus.corpus_id,
        objective="clm",
        n_layers=1,
        d_model=8,
        context=32,
        D=D,
        batch_tokens=96,
        peak_lr=1e-2,
        recipe="small",
        validation_tokens=500,
    )
    values = {"config": config, "corpus": str(corpus.path), "device": "cpu", "checkpoint_every_s": 0.0}
    RunOrder.model_validate(values | {"parallel": parallel}).write(folder.order_path)
    return folder


@pytest.mark.parametrize("rank", [0, 1])
def test_a_fault_of_one_process_ends_all_and_is_named(corpus: Corpus, tmp_path: Path, rank: int) -> None:
    folder = order(RunFolder(tmp_path / "runs" / "r"), corpus, parallel="replicated")
    at = {"rank": rank, "step": 3, "full": 1}
    assert ranks.end(ranks.start(2, ranks.train_main, str(folder.path), str(tmp_path), at)) == [1, 1]
    status = folder.status()
    assert status.status == "failed"
    assert "disk full" in status.reason
    assert ("process 1" in status.reason) == (rank == 1)
    assert len(folder.attempts()) == 1


def test_all_processes_end_when_one_diverges(corpus: Corpus, tmp_path: Path) -> None:
    folder = order(RunFolder(tmp_path / "runs" / "r"), corpus, parallel="replicated")
    at = {"rank": 1, "step": 3, "nan": 1}
    assert ranks.end(ranks.start(2, ranks.train_main, str(folder.path), str(tmp_path), at)) == [1, 1]
    assert folder.status().status == "diverged"
    assert "not finite" in folder.status().reason


def torchrun(folder: RunFolder, log: Path, *options: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *options]
    words += ["-m", "plm_scaling.training", str(folder.path), "--quiet"]
    settings = {"OMP_NUM_THREADS": "1", "TORCHELASTIC_ERROR_FILE": str(log.with_suffix(".json"))}
    with log.open("w") as handle:
        return subprocess.Popen(words, env=os.environ | settings, stdout=handle, stderr=handle)


def workers(agent: int) -> list[psutil.Process]:
    return [p for p in psutil.Process(agent).children() if "plm_scaling.training" in p.cmdline()]


def wait_for_step(folder: RunFolder, step: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while newest(folder) < step:
        assert process.poll() is None, "the run ended too early"
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def newest(folder: RunFolder) -> int:
    marks = folder.checkpoint_path.glob("step-*.dcp/complete.json")
    return max((int(mark.parent.stem.split("-")[1]) for mark in marks), default=0)


def test_a_killed_process_is_replaced_and_the_run_ends_the_same(corpus: Corpus, tmp_path: Path) -> None:
    hit = order(RunFolder(tmp_path / "hit" / "r"), corpus, parallel="sharded", D=3_000)
    whole = order(RunFolder(tmp_path / "whole" / "r"), corpus, parallel="sharded", D=3_000)
    assert ranks.end(ranks.start(2, ranks.train_main, str(whole.path), str(tmp_path), {})) == [0, 0]
    n_steps = Batches(corpus, whole.order().config).n_steps
    process = torchrun(hit, tmp_path / "log", "--max-restarts", "4")
    killed = []
    try:
        wait_for_step(hit, n_steps // 4, process)
        victim = workers(process.pid)[-1]
        victim.send_signal(signal.SIGKILL)
        killed.append(victim.wait(30))
        assert process.wait(120) == 0, (tmp_path / "log").read_text()
    finally:
        process.kill()
        process.wait()
    assert len(killed) == 1
    ours, theirs = hit.record(), whole.record()
    assert ours is not None
    assert theirs is not None
    assert ours.attempts >= 2
    assert hit.attempts()[0].status().status != "complete"  # type: ignore[union-attr]
    assert (ours.validation, ours.ledger, ours.flags, ours.steps) == (
        *(theirs.validation, theirs.ledger, theirs.flags, theirs.steps),
    )
    weights, others = load_weights(hit.weights_path), load_weights(whole.weights_path)
    assert {n: t.numpy().tobytes() for n, t in weights.items()} == {n: t.numpy().tobytes() for n, t in others.items()}
    assert train(hit.path) == ours
