"""A small corpus of two sources, and a stand-in for training that leaves the files a real run leaves."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plm_scaling.core.alphabet import EOS, FIRST_RESIDUE
from plm_scaling.corpus.format import (
    FLAGS,
    INDEX_SCHEMA,
    MANIFEST_NAME,
    ClusterStats,
    FileEntry,
    Manifest,
    SourceStats,
    SplitStats,
)
from plm_scaling.corpus.reader import Corpus
from plm_scaling.execution.local import Task, TaskResult, run_tasks
from plm_scaling.sweeps import reconcile

_COLUMNS = ("accession", "source", "length", "hash", "offset", "first", "split")


def _entry(folder: Path, name: str) -> FileEntry:
    data = (folder / name).read_bytes()
    return FileEntry(name=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def build_corpus(
    folder: Path, *, sequences: dict[str, int], seed: int = 0, clusters: int = 0, taxa: Sequence[int] = (0,)
) -> Corpus:
    """Random sequences of 10 to 150 residues per source, without duplicates; every tenth is validation.

    Every fifth is flagged as a fragment; with `clusters` they are spread over so many; `taxa` are given in turn.
    """
    (folder / "shards").mkdir(parents=True)
    (folder / "index").mkdir()
    random = np.random.default_rng(seed)
    rows, tokens, address = [], [], 0
    counts = {name: np.zeros(2, dtype=int) for name in ("train", "val_iid")}
    stats = []
    for number, (name, n) in enumerate(sequences.items()):
        lengths = random.integers(10, 151, n)
        for place, length in enumerate(lengths.tolist()):
            residues = random.integers(FIRST_RESIDUE, FIRST_RESIDUE + 20, length).astype(np.uint8)
            split = int(place % 10 == 9)
            digest = hashlib.md5(residues.tobytes()).digest()
            rows.append((f"{name}_{place}", number, length, digest, address, True, split))
            tokens.append(np.append(residues, EOS).astype(np.uint8))
            address += length + 1
            counts["val_iid" if split else "train"] += (1, length + 1)
        total = int(lengths.sum()) + n
        stats.append(
            SourceStats(
                name=name,
                files=(),
                sequences=n,
                residues=total - n,
                tokens=total,
                unique_sequences=n,
                unique_tokens=total,
                duplicate_sequences=0,
                duplicate_tokens=0,
            )
        )
    n = len(rows)
    columns = {name: [row[i] for row in rows] for i, name in enumerate(_COLUMNS)}
    columns["cluster50"] = columns["cluster90"] = random.integers(0, clusters, n).tolist() if clusters else [None] * n
    columns |= {name: [0] * n for name in ("members", "evidence")} | {"rep_id": [None] * n}
    columns["taxon"] = [taxa[row % len(taxa)] for row in range(n)]
    columns["flags"] = [int(row % 5 == 0) << FLAGS.index("fragment") for row in range(n)]
    pq.write_table(pa.Table.from_pydict(columns, schema=INDEX_SCHEMA), folder / "index" / "000000.parquet")
    (folder / "shards" / "000000.bin").write_bytes(np.concatenate(tokens).tobytes())
    manifest = Manifest(
        name="test",
        sources=tuple(stats),
        splits=tuple(SplitStats(name=k, sequences=int(v[0]), tokens=int(v[1])) for k, v in counts.items()),
        val_share=0.1,
        split_seed=0,
        shards=(_entry(folder, "shards/000000.bin"),),
        index=(_entry(folder, "index/000000.parquet"),),
        clusters=ClusterStats(tool="none", settings=(), n_clusters90=clusters, n_clusters50=clusters, largest50=1)
        if clusters
        else None,
    )
    manifest.write(folder / MANIFEST_NAME)
    return Corpus.open(folder)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """About 72,000 training tokens of `known` and 36,000 of `meta`."""
    return build_corpus(tmp_path_factory.mktemp("corpus") / "c", sequences={"known": 1000, "meta": 500})


FAKE_TRAINER = '''
# Standard library only: a process of it starts in no time.
import fcntl, json, math, os, random, signal, time
from pathlib import Path

def run_one(run_dir):
    """What `run_dir`/behave says, one word per attempt: ok, fail, kill, stop, diverge, vanish, wait.

    With a file `law` beside the runs, losses are those of a parabola in ln N about N = 18000 sqrt(C / 2e9), and logged.
    """
    run = Path(run_dir)
    lock = os.open(run / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        return attempt_of(run)
    finally:
        os.close(lock)

def attempt_of(run):
    number = len(list((run / "attempts").glob("*"))) + 1
    attempt = run / "attempts" / f"{number:04d}"
    attempt.mkdir(parents=True)
    words = (run / "behave").read_text().split() if (run / "behave").exists() else []
    word = words[number - 1] if number <= len(words) else "ok"

    def say(status, step=40, **more):
        values = {"schema_version": 1, "status": status, "step": step, "n_steps": 100, "pid": os.getpid(), **more}
        (attempt / "tmp").write_text(json.dumps({**values, "host": "here", "loss": 2.5}))
        (attempt / "tmp").rename(attempt / "status.json")

    say("running")
    if word == "wait":
        (run / "waiting").write_text(str(os.getpid()))
        time.sleep(60)
    if word == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "fail":
        say("failed", reason="no such thing")
        return 1
    if word == "diverge":
        say("diverged", reason="the loss is nan")
        return 1
    if word == "stop":
        say("interrupted", reason="SIGTERM")
        return 3
    if word == "vanish":
        return 0
    order = json.loads((run / "run.json").read_text())
    last = math.ceil(100 * (order.get("pause_share") or 1.0))
    if (run.parent / "law").exists():
        (attempt / "metrics.jsonl").write_text("".join(lines_of(order["config"], last)))
    if last < 100:
        say("interrupted", last, reason="paused")
        return 0
    write_record(run)
    say("complete", step=100)

def end_of(config):
    n_layers, d = config["n_layers"], config["d_model"]
    N = n_layers * (12 * d * d + 2 * d)
    C = 6.0 * N * config["D"]
    noise = random.Random(json.dumps(config)).gauss(0.0, 1.0)
    return 2.0 - 0.1 * math.log(C / 2e9) + 0.02 * math.log(N / 18e3 / math.sqrt(C / 2e9)) ** 2 + 1e-3 * noise

def lines_of(config, last):
    rng = random.Random(config["D"])
    for step in range(2, last + 1, 2):
        loss = end_of(config) + 0.3 * ((step / 100) ** -0.2 - 1.0) + 1e-3 * rng.gauss(0.0, 1.0)
        yield json.dumps({"step": step, "D": config["D"] * step / 100, "loss": loss}) + "\\n"

def write_record(run):
    order = json.loads((run / "run.json").read_text())
    config = order["config"]
    if config["init_from"]:
        assert (run.parent / config["init_from"] / "record.json").exists(), "the source is not complete"
    n_layers, d = config["n_layers"], config["d_model"]
    C = 6.0 * n_layers * (12 * d * d + 2 * d) * config["D"]
    loss = end_of(config) if (run.parent / "law").exists() else 2.0
    (run / "record.json").write_text(json.dumps({
        "schema_version": 1, "config": config, "roles": order["roles"], "status": "complete", "steps": 100,
        "D": config["D"], "D_unique": config["D"], "ledger": [], "C_6nd": C, "C_exact": 1.5 * C, "device_s": 1.0,
        "tokens_per_s": 1e5, "attempts": 1, "threads": 1, "validation": [{
            "set_name": "val_iid", "validation_id": "v", "per_token": loss, "per_residue": loss, "se": 0.01,
            "n_targets": 100, "n_sequences": 6}],
    }))
'''


@pytest.fixture(scope="session")
def _trainer_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("trainer")
    (folder / "fake_trainer.py").write_text(FAKE_TRAINER)
    sys.path.append(str(folder))
    return "fake_trainer"


@pytest.fixture
def trainer(_trainer_folder: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Sweeps start the stand-in for training; returns its module's name.

    It writes no tables, so that its processes go without the seconds that pandas takes to import.
    """

    def run(tasks: Sequence[Task], *, preload: tuple[str, ...], **options: Any) -> list[TaskResult]:
        assert preload[0] == reconcile.TRAINER.partition(":")[0]
        return run_tasks(tasks, preload=preload[:1], **options)

    monkeypatch.setattr(reconcile, "TRAINER", f"{_trainer_folder}:run_one")
    monkeypatch.setattr(reconcile, "run_tasks", run)
    return _trainer_folder


@pytest.fixture(scope="session")
def make_corpus() -> Callable[..., Corpus]:
    return build_corpus
