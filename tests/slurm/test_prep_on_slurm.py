"""A corpus prepared as Slurm jobs: the same bytes as in one process, also when jobs are killed on the way."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from data_prep.pipeline import PrepSpec, SourceInput, prepare_corpus
from data_prep.verify import verify_corpus
from plm_scaling.core.files import sha256_file
from plm_scaling.execution.slurm import SlurmExecutor
from plm_scaling.execution.slurm_options import SlurmOptions
from plm_scaling.execution.tasks import EventHandler, Task, TaskResult

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm"), pytest.mark.usefixtures("slurm_cluster")]

TARGETS = '''
import os, signal, time
from pathlib import Path
from plm_scaling.execution.task_server import invoke

def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

def append(path, text):
    with open(path, "a") as handle:
        handle.write(text + "\\n")

def stricken(log, fault, target, args):
    """Call `target`; the first time, the named process is killed before the call or after it."""
    append(log, "start")
    if Path(log).read_text().count("start") > 1:
        return invoke(target, args)
    victim, moment = fault.split()
    if moment == "after":
        assert invoke(target, args) == 0
    append(log, f"{victim} killed")
    server = os.getppid()
    os.kill({"task": os.getpid(), "server": server, "job": parent(server)}[victim], signal.SIGKILL)
    time.sleep(60)  # never reports: whoever killed its job's process ends it as well
'''
FAULTS = {
    "reading-00000": "job before",
    "reading-00001": "task after",
    "reading-00003": "server before",
    "comparing-00000": "job after",
    "writing-00000": "job after",
}


@dataclass(frozen=True)
class Stricken:
    """An executor some of whose tasks have themselves, their server or their job killed, once each."""

    inner: SlurmExecutor
    logs: Path

    def run(self, tasks: Sequence[Task], on_event: EventHandler | None = None) -> list[TaskResult]:
        return self.inner.run([self.stricken(task) for task in tasks], on_event)

    def stricken(self, task: Task) -> Task:
        if task.key not in FAULTS:
            return task
        args = (str(self.logs / task.key), FAULTS[task.key], task.target, list(task.args))
        return Task(task.key, "prep_targets:stricken", args, task.after)


def fasta(path: Path) -> Path:
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", dtype=np.uint8)
    records = [letters[rng.integers(0, 20, 50 + i % 300)].tobytes() for i in range(4000)]
    path.write_bytes(b"".join(b">s%d\n%s\n" % (i, record) for i, record in enumerate(records + records[:400])))
    return path


def test_the_same_corpus_from_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (tmp_path / "prep_targets.py").write_text(TARGETS)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    inputs, spec = [SourceInput("x", (fasta(tmp_path / "x.fasta"),))], PrepSpec(max_shard_bytes=300_000)
    here = prepare_corpus(inputs, tmp_path / "here", spec)
    options = SlurmOptions(minutes=5, memory="1G", tasks_per_job=2)
    work = tmp_path / ".there.preparing" / "slurm"
    executor = Stricken(SlurmExecutor(work, options, poll_s=0.2, lag_s=1.0), logs)
    there = prepare_corpus(inputs, tmp_path / "there", spec, executor=executor, part_bytes=200_000)
    expected = {key: f"start\n{fault.split()[0]} killed\nstart\n" for key, fault in FAULTS.items()}
    assert {path.name: path.read_text() for path in logs.iterdir()} == expected
    assert there.content_hash() == here.content_hash()
    for entry in (*here.shards, *here.index):
        assert sha256_file(tmp_path / "there" / entry.name) == entry.sha256
    assert verify_corpus(tmp_path / "there") == []
    assert not (tmp_path / ".there.preparing").exists()
