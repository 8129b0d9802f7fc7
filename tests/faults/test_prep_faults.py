"""Preparations that are killed, starved of disk, or whose input changes: never a corpus that verifies but is wrong."""

from __future__ import annotations

import gzip
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data_prep.pipeline import SourceInput, prepare_corpus
from data_prep.verify import verify_corpus
from plm_scaling.core.errors import CorpusError
from plm_scaling.core.files import sha256_file
from plm_scaling.corpus.format import Manifest

ROOT = Path(__file__).parents[2]

PREPARE = """
import sys
from pathlib import Path
from data_prep.pipeline import PrepSpec, SourceInput, prepare_corpus
from plm_scaling.execution.local import LocalExecutor
folder, workers = Path(sys.argv[1]), int(sys.argv[2])
inputs = [SourceInput("a", [folder / "a.fasta"]), SourceInput("b", [folder / "b.fasta.gz"])]
executor = LocalExecutor(workers, preload=("data_prep.stages",)) if workers > 1 else None
spec = PrepSpec(max_shard_bytes=400_000)
prepare_corpus(inputs, folder / "corpus", spec, part_bytes=300_000, executor=executor)
"""


def fasta(n: int, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    letters = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", dtype=np.uint8)
    shared = np.random.default_rng(99)
    out = []
    for i in range(n):
        source = shared if i % 10 == 0 else rng
        out.append(b">s%d_%d\n%s\n" % (seed, i, letters[source.integers(0, 20, 30 + i % 500)].tobytes()))
    return b"".join(out)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "a.fasta").write_bytes(fasta(4000, 1))
    (folder / "b.fasta.gz").write_bytes(gzip.compress(fasta(2000, 2)))
    return folder


def place(inputs: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file in inputs.iterdir():
        if not (folder / file.name).exists():
            shutil.copy2(file, folder / file.name)
    return folder


def start(folder: Path, workers: int) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PREPARE, str(folder), str(workers)]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, env=environment, stderr=log, start_new_session=True)


def content(corpus: Path) -> dict[str, str]:
    return {str(path.relative_to(corpus)): sha256_file(path) for path in corpus.rglob("*.*") if path.suffix != ".json"}


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "least"), [(1, 6), (2, 4)])
def test_killed_at_random_moments(inputs: Path, tmp_path: Path, workers: int, least: int) -> None:
    reference = place(inputs, tmp_path / "reference")
    began = time.monotonic()
    assert start(reference, workers).wait() == 0
    whole = time.monotonic() - began
    expected = Manifest.read(reference / "corpus" / "manifest.json").content_hash()
    assert verify_corpus(reference / "corpus") == []
    folder = place(inputs, tmp_path / "killed")
    rng = random.Random(workers)
    kills = finished = resumed = 0
    while kills < least or (not resumed and kills < 30):  # on a busy machine a run may hardly have begun
        had_work = any((folder / ".corpus.preparing" / "parts").glob("0*/part.json"))
        process = start(folder, workers)
        try:
            process.wait(timeout=rng.uniform(0.4, 1.0) * whole)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            resumed += had_work
            if (folder / "corpus").exists():  # killed between the last rename and its end
                assert Manifest.read(folder / "corpus" / "manifest.json").content_hash() == expected
                shutil.rmtree(folder / "corpus")
            continue
        assert process.returncode == 0, (folder / "log").read_text()
        finished += 1
        assert Manifest.read(folder / "corpus" / "manifest.json").content_hash() == expected
        shutil.rmtree(folder / "corpus")
    assert resumed >= 1  # some runs really began with what a killed one had left
    shutil.rmtree(folder / "corpus", ignore_errors=True)
    assert start(folder, workers).wait() == 0
    assert verify_corpus(folder / "corpus") == []
    assert content(folder / "corpus") == content(reference / "corpus")
    assert not (folder / ".corpus.preparing").exists()


FILL_DISK = """
import subprocess, sys
from pathlib import Path
import pytest
from data_prep.pipeline import PrepSpec, SourceInput, prepare_corpus
from data_prep.verify import verify_corpus
from plm_scaling.core.errors import UnfinishedError

inputs, mount, other = map(Path, sys.argv[1:])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", mount], check=True)
sources = [SourceInput("a", [inputs / "a.fasta"]), SourceInput("b", [inputs / "b.fasta.gz"])]
spec = PrepSpec(max_shard_bytes=400_000)
with pytest.raises(UnfinishedError, match="No space left"):
    prepare_corpus(sources, mount / "corpus", spec, part_bytes=300_000)
assert not (mount / "corpus").exists()
assert any((mount / ".corpus.preparing" / "parts").glob("0*/part.json"))
subprocess.run(["mount", "-o", "remount,size=60m", mount], check=True)
manifest = prepare_corpus(sources, mount / "corpus", spec, part_bytes=300_000)
assert verify_corpus(mount / "corpus") == []
assert manifest.content_hash() == prepare_corpus(sources, other, spec).content_hash()
"""


@pytest.mark.slow
def test_full_disk(inputs: Path, tmp_path: Path) -> None:
    # A mount namespace of its own: the small file system is gone with the process, however that ends.
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("a small file system to fill can only be mounted by root")
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["unshare", "--mount", sys.executable, "-c", FILL_DISK, inputs, mount, tmp_path / "corpus"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("grown", [True, False])
def test_a_file_that_changes_under_our_feet(inputs: Path, tmp_path: Path, grown: bool) -> None:
    folder = place(inputs, tmp_path / "x")
    path, seen = folder / "a.fasta", []

    def change(event: object) -> None:
        if not seen:
            text = path.read_bytes()
            path.write_bytes(text + b">new\nACDEF\n" if grown else text.replace(b"A", b"C", 1))
            seen.append(event)

    with pytest.raises(CorpusError, match="was changed while it was being read"):
        prepare_corpus([SourceInput("a", [path])], tmp_path / "corpus", progress=change)
    assert seen
    assert not (tmp_path / "corpus").exists()


def test_a_file_that_changes_after_it_was_read(inputs: Path, tmp_path: Path) -> None:
    folder = place(inputs, tmp_path / "x")
    path, stages = folder / "a.fasta", []

    def change(event: object) -> None:
        stages.append(event.stage)  # type: ignore[attr-defined]
        if stages.count("writing") == 1 and stages[-1] == "writing":
            path.write_bytes(path.read_bytes() + b">new\nACDEF\n")

    with pytest.raises(CorpusError, match="was changed"):
        prepare_corpus([SourceInput("a", [path])], tmp_path / "corpus", progress=change)
    assert "writing" in stages
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize("victim", ["shards/000000.bin", "index/000000.parquet", "manifest.json"])
def test_flipped_bytes_are_found(inputs: Path, tmp_path: Path, victim: str) -> None:
    prepare_corpus([SourceInput("b", [inputs / "b.fasta.gz"])], tmp_path / "corpus")
    assert verify_corpus(tmp_path / "corpus") == []
    path = tmp_path / "corpus" / victim
    data = bytearray(path.read_bytes())
    rng, missed = random.Random(0), []
    for _ in range(10):
        at = rng.randrange(len(data))
        changed = bytes([*data[:at], data[at] ^ 1 << rng.randrange(8), *data[at + 1 :]])
        path.write_bytes(changed)
        if not verify_corpus(tmp_path / "corpus"):
            missed.append((at, bytes(data[at - 30 : at + 30])))
    if victim == "manifest.json":  # dates, versions and the checksums of input files cannot be checked
        assert len(missed) < 10
    else:
        assert not missed
    path.write_bytes(bytes(data))
    assert verify_corpus(tmp_path / "corpus") == []
