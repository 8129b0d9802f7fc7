"""A small corpus of two sources, and a stand-in for training that leaves the files a real run leaves."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plm_scaling.core.alphabet import EOS, FIRST_RESIDUE
from plm_scaling.corpus.format import INDEX_SCHEMA, MANIFEST_NAME, FileEntry, Manifest, SourceStats, SplitStats
from plm_scaling.corpus.reader import Corpus
from plm_scaling.sweeps import reconcile


def _entry(folder: Path, name: str) -> FileEntry:
    data = (folder / name).read_bytes()
    return FileEntry(name=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def build_corpus(folder: Path, *, sequences: dict[str, int], seed: int = 0) -> Corpus:
    """Random sequences of 10 to 150 residues per source, without duplicates; every tenth is validation."""
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
            rows.append((f"{name}_{place}", number, length, digest, address, True, split, None))
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
    columns = {field.name: [row[i] for row in rows] for i, field in enumerate(INDEX_SCHEMA)}
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
    )
    manifest.write(folder / MANIFEST_NAME)
    return Corpus.open(folder)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """About 72,000 training tokens of `known` and 36,000 of `meta`."""
    return build_corpus(tmp_path_factory.mktemp("corpus") / "c", sequences={"known": 1000, "meta": 500})


FAKE_TRAINER = '''
import json, math, os, signal, time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from plm_scaling.core.errors import RunError
from plm_scaling.core.run import LedgerRow, RunRecord, ValidationLoss
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import StatusFile

N_ROWS = 6

def run_one(run_dir):
    """What `run_dir`/behave says, one word per attempt: ok, fail, kill, stop, diverge, vanish, wait."""
    folder = RunFolder(Path(run_dir))
    behave = folder.path / "behave"
    with folder.locked():
        attempt = folder.new_attempt()
        words = behave.read_text().split() if behave.exists() else []
        word = words[attempt.number - 1] if attempt.number <= len(words) else "ok"
        say = lambda **kw: StatusFile(n_steps=100, pid=os.getpid(), host="here", **kw).write(attempt.status_path)
        say(status="running", step=40, loss=2.5)
        if word == "wait":
            (folder.path / "waiting").write_text(str(os.getpid()))
            time.sleep(60)
        if word == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "fail":
            say(status="failed", step=40, reason="no such thing")
            return 1
        if word == "diverge":
            say(status="diverged", step=40, reason="the loss is nan")
            return 1
        if word == "stop":
            say(status="interrupted", step=40, reason="SIGTERM")
            return 3
        if word == "vanish":
            return 0
        write_record(folder, attempt.number)
        say(status="complete", step=100, loss=2.0)
    return 0

def write_record(folder, attempts=1, sets=("val_iid",)):
    order = folder.order()
    config = order.config
    source = folder.sibling(config.init_from).record() if config.init_from else None
    if config.init_from and source is None:
        raise RunError("the source is not complete")
    base = 1.5 + 1e5 / config.N / 1e3 + 0.01 * config.seed
    values = {name: [] for name in ("set", "row", "loss_sum", "n_targets", "residue_loss_sum", "n_residue_targets")}
    losses = []
    for number, name in enumerate(sets):
        n_targets = [10 + 3 * i for i in range(N_ROWS)]
        sums = [n * (base + number + 0.1 * math.sin(i)) for i, n in enumerate(n_targets)]
        values["set"] += [name] * N_ROWS
        values["row"] += list(range(N_ROWS))[::-1]  # readers must not rely on the order
        for key, column in (("loss_sum", sums), ("n_targets", n_targets)):
            values[key] += column[::-1]
            values["residue_" + key if key == "loss_sum" else "n_residue_targets"] += column[::-1]
        losses.append(ValidationLoss(
            set_name=name, validation_id=f"{name}-{config.objective}-{config.context}", per_token=sum(sums) / sum(n_targets),
            per_residue=sum(sums) / sum(n_targets), se=0.01, n_targets=sum(n_targets), n_sequences=N_ROWS))
    pq.write_table(pa.table(values), folder.val_path)
    seen = config.D // 4 if source else 0
    RunRecord(
        config=config, roles=order.roles, status="complete", steps=100, D=config.D, D_unique=config.D // 2 - seen,
        ledger=(LedgerRow(source="*", tokens=config.D, residues=config.D, unique=config.D // 2 - seen,
                          repeated_epoch=config.D - config.D // 2, repeated_duplicate=0, seen_earlier=seen),),
        C_6nd=config.C_6nd, C_exact=1.5 * config.C_6nd, device_s=1.0, tokens_per_s=1e5, attempts=attempts, threads=1,
        validation=tuple(losses), source_run_id=config.init_from,
        source_objective=source.config.objective if source else None, flags=("TEST",),
    ).write(folder.record_path)
'''


@pytest.fixture(scope="session")
def _trainer_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("trainer")
    (folder / "fake_trainer.py").write_text(FAKE_TRAINER)
    sys.path.append(str(folder))
    return "fake_trainer"


@pytest.fixture
def trainer(_trainer_folder: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Sweeps start the stand-in for training; returns its module's name."""
    monkeypatch.setattr(reconcile, "TRAINER", f"{_trainer_folder}:run_one")
    return _trainer_folder


@pytest.fixture(scope="session")
def make_corpus() -> Callable[..., Corpus]:
    return build_corpus
