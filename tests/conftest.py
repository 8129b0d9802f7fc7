"""Fixtures every test folder may use."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class Screen:
    """What a command left on the screen."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Screen]:
    """Run `plm-scaling` with these words in this process; its exit code and what it printed."""

    def call(*words: object) -> Screen:
        from plm_scaling.cli.main import main

        monkeypatch.setattr(sys, "argv", ["plm-scaling", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        return Screen(int(stop.value.code or 0), printed.out, printed.err)

    return call


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Real sequences and published tables, where the machine has them."""
    folder = os.environ.get("PLM_SCALING_TEST_DATA", "")
    if not folder:
        pytest.skip("PLM_SCALING_TEST_DATA is not set: real sequences and published tables are not here")
    if not Path(folder).is_dir():
        pytest.fail(f"PLM_SCALING_TEST_DATA={folder} is no folder")
    return Path(folder)


@pytest.fixture(scope="session")
def simulated_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small prepared corpus of both simulated sources (about 300 k residues)."""
    from data_prep import PrepSpec
    from plm_scaling import api

    folder = tmp_path_factory.mktemp("simulated")
    api.simulate(folder / "fasta", residues=300_000, seed=3)
    sources = {name: [folder / "fasta" / f"{name}.fasta"] for name in ("uniref_like", "metagenome_like")}
    api.prep(sources, folder / "corpus", PrepSpec(val_share=0.05))
    return folder / "corpus"


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[Path]:
    """A real Slurm on this machine: its folder; the commands reach it as SLURM_CONF is set.

    Two pretended nodes of 4 CPUs, 8 GB and 2 GPUs. Partitions: main; low and drop, whose jobs make way for
    those of main and are requeued or cancelled.
    """
    path = os.environ["PATH"] + ":/usr/sbin"
    missing = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed: no Slurm to test with")
    if os.getuid() != 0:
        pytest.skip("Slurm's daemons run as root here")
    home = Path(tempfile.mkdtemp(prefix="plm-slurm-"))  # short: it holds a socket
    scripts = Path(__file__).parent / "slurm"
    settings = {"SLURM_HOME": str(home), "BASE_PORT": str(_free_ports(4)), "OWNER_PID": str(os.getpid())}
    up = subprocess.run([scripts / "up.sh"], env=os.environ | settings, capture_output=True, text=True)
    assert up.returncode == 0, up.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(home / "slurm.conf"))
        try:
            yield home
        finally:
            subprocess.run([scripts / "down.sh"], env=os.environ | settings, check=True)


def _free_ports(number: int) -> int:
    """The first of `number` neighbouring ports that nobody listens on."""
    while True:
        first = random.randrange(20_000, 30_000)
        try:
            for port in range(first, first + number):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
