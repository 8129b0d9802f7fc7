"""Tasks on several nodes, with a program that stands in for srun; a real one is in tests/slurm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from plm_scaling.execution import spread
from plm_scaling.execution.slurm import SlurmExecutor
from plm_scaling.execution.slurm_options import SlurmOptions
from plm_scaling.execution.spread import run_spread, spread_command
from plm_scaling.execution.tasks import Task

SHAPE = {"nodes": 2, "processes": 4, "cpus": 8}


@pytest.fixture
def srun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Does what the file `behave` says; its last argument is where an exit code goes."""
    program = tmp_path / "bin" / "srun"
    program.parent.mkdir()
    program.write_text(f"#!/bin/bash\nfor last; do :; done\nexport last\n. {tmp_path}/behave\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return tmp_path / "behave"


@pytest.mark.parametrize(
    ("words", "code"), [("echo -n 0 >$last", 0), ("echo -n 3 >$last; exit 1", 3), ("exit 1", 1), ("kill -9 $$", 1)]
)
def test_the_first_process_says_how_it_ended(srun: Path, tmp_path: Path, words: str, code: int) -> None:
    srun.write_text(words)
    (tmp_path / "exit_code").write_text("0")  # of an earlier start
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert run_spread("m:f", [1], str(tmp_path), SHAPE) == code
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_request_to_stop_is_handed_on(srun: Path, tmp_path: Path) -> None:
    up = tmp_path / "up"
    srun.write_text(f"trap 'echo -n 3 >$last; exit 1' TERM; touch {up}; while true; do sleep 0.05; done")

    def ask() -> None:
        end = time.monotonic() + 30
        while not up.exists() and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=ask)
    thread.start()
    try:
        assert run_spread("m:f", [], str(tmp_path), SHAPE) == 3
    finally:
        thread.join()
        signal.signal(signal.SIGTERM, before)


def test_what_is_started(tmp_path: Path) -> None:
    words = spread_command("m:f", ["a b"], tmp_path / "code", SHAPE, "host:20000")
    text = " ".join(words)
    assert text.startswith("srun --nodes 2 --ntasks 2 --ntasks-per-node=1 --cpus-per-task=8 ")
    assert "--nnodes 2 --nproc-per-node 4 " in text
    assert "--rdzv-endpoint host:20000 " in text
    assert words[-4:] == [spread.__name__, "m:f", '["a b"]', str(tmp_path / "code")]


@pytest.mark.parametrize(("rank", "code"), [("0", 7), ("1", None)])
def test_one_of_the_processes(tmp_path: Path, rank: str, code: int | None) -> None:
    words = [sys.executable, "-m", spread.__name__, "sys:exit", json.dumps([7]), str(tmp_path / "code")]
    done = subprocess.run(words, env=os.environ | {"RANK": rank}, check=False)
    assert done.returncode == 7
    assert (int((tmp_path / "code").read_text()) if (tmp_path / "code").exists() else None) == code


def test_a_job_of_several_nodes(tmp_path: Path) -> None:
    options = SlurmOptions(nodes=2, gpus=4)
    assert options.shape == {"nodes": 2, "processes": 4, "cpus": 1}
    assert SlurmOptions(nodes=2, processes=3).shape["processes"] == 3
    lines = SlurmExecutor(tmp_path, options).scripts([Task("t", "m:f")])[0].splitlines()
    assert {"#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=1"} <= set(lines)
