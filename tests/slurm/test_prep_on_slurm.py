"""A corpus prepared as Slurm jobs: the same bytes as in one process, also when jobs are killed on the way."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import psutil
import pytest

from data_prep.pipeline import PrepSpec, SourceInput, prepare_corpus
from data_prep.verify import verify_corpus
from plm_scaling.core.files import sha256_file
from plm_scaling.execution.slurm import SlurmExecutor
from plm_scaling.execution.slurm_options import SlurmOptions

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("slurm_cluster")]


def fasta(path: Path) -> Path:
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", dtype=np.uint8)
    records = [letters[rng.integers(0, 20, 50 + i % 300)].tobytes() for i in range(4000)]
    path.write_bytes(b"".join(b">s%d\n%s\n" % (i, record) for i, record in enumerate(records + records[:400])))
    return path


def kill_one_job(work: Path, killed: list[int], ended: threading.Event) -> None:
    """Kill the process of a job of this work folder, once a task has begun."""
    while not killed and not ended.wait(0.01):
        if not any(work.glob("tasks/*/attempts/*/started.json")):
            continue
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if any(str(work) in word for word in words) and any("submitit" in word for word in words):
                process.kill()
                killed.append(process.pid)
                return


def test_the_same_corpus_from_jobs(tmp_path: Path) -> None:
    inputs, spec = [SourceInput("x", (fasta(tmp_path / "x.fasta"),))], PrepSpec(max_shard_bytes=300_000)
    here = prepare_corpus(inputs, tmp_path / "here", spec)
    options = SlurmOptions(minutes=5, memory="1G", tasks_per_job=2)
    work = tmp_path / ".there.preparing" / "slurm"
    executor = SlurmExecutor(work, options, poll_s=0.2, lag_s=1.0)
    killed, ended = [], threading.Event()  # type: ignore[var-annotated]
    thread = threading.Thread(target=kill_one_job, args=(work, killed, ended))
    thread.start()
    try:
        there = prepare_corpus(inputs, tmp_path / "there", spec, executor=executor, part_bytes=200_000)
    finally:
        ended.set()
        thread.join()
    assert killed
    assert there.content_hash() == here.content_hash()
    for entry in (*here.shards, *here.index):
        assert sha256_file(tmp_path / "there" / entry.name) == entry.sha256
    assert verify_corpus(tmp_path / "there") == []
    assert not (tmp_path / ".there.preparing").exists()
