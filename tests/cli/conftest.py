from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

# ---- a small corpus ------------------------------------------------------------------------------------------------


def proteins(name: str, n: int, seed: int) -> str:
    """FASTA text of random sequences of 20 to 120 residues."""
    random = Random(seed)
    sequences = ("".join(random.choices("ACDEFGHIKLMNPQRSTVWY", k=random.randint(20, 120))) for _ in range(n))
    return "".join(f">{name}_{k}\n{sequence}\n" for k, sequence in enumerate(sequences))


@pytest.fixture(scope="session")
def fasta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `known.fasta` (300 sequences, the last ten twice) and `meta.fasta` (150, ten of them known ones)."""
    folder = tmp_path_factory.mktemp("fasta")
    known = proteins("known", 300, seed=1)
    copies = "".join(f">{record}" for record in known.split(">")[-10:])
    (folder / "known.fasta").write_text(known + copies)
    (folder / "meta.fasta").write_text(proteins("meta", 140, seed=2) + copies)
    return folder


@pytest.fixture(scope="session")
def corpus(fasta: Path) -> Path:
    """The two files, prepared."""
    from data_prep import PrepSpec
    from plm_scaling import api

    inputs = {name: [fasta / f"{name}.fasta"] for name in ("known", "meta")}
    api.prep(inputs, fasta / "corpus", PrepSpec(val_share=0.1))
    return fasta / "corpus"


# ---- a stand-in for training ---------------------------------------------------------------------------------------

TRAINER = '''
"""Leaves the files a real run leaves, with losses from a known law; seed 13 fails until a file says otherwise."""
import json, os
from pathlib import Path

import numpy as np
import pandas  # pyarrow imports it at its first table: here once, for all runs
import pyarrow as pa
import pyarrow.parquet as pq


def run_one(run_dir):
    run = Path(run_dir)
    order = json.loads((run / "run.json").read_text())
    config = order["config"]
    attempt = run / "attempts" / f"{len(list((run / 'attempts').glob('*'))) + 1:04d}"
    attempt.mkdir(parents=True)

    def say(status, step, **more):
        values = {"schema_version": 1, "status": status, "step": step, "n_steps": 100, "D": config["D"], "loss": 2.5}
        (attempt / "tmp").write_text(json.dumps({**values, **more}))
        (attempt / "tmp").rename(attempt / "status.json")

    if config["seed"] == 13 and not (run.parent / "mended").exists():
        say("failed", 40, reason="unlucky")
        return 1
    n_layers, d = config["n_layers"], config["d_model"]
    N, D = n_layers * (12 * d * d + 2 * d), config["D"]
    loss = 1.0 + 40.0 * N**-0.5 + 120.0 * D**-0.45 - (0.05 if config["init_from"] else 0.0)
    common, own = np.random.default_rng(0), np.random.default_rng([N, D, config["seed"], bool(config["init_from"])])
    loss += 0.001 * own.standard_normal()
    n = np.full(40, 50)
    losses = n * (loss + 0.01 * common.standard_normal(40)) + 0.05 * own.standard_normal(40)
    columns = {"set": ["val_iid"] * 40, "row": np.arange(40), "loss_sum": losses, "n_targets": n}
    pq.write_table(pa.table(columns | {"residue_loss_sum": losses, "n_residue_targets": n}), run / "val.parquet")
    mean = float(losses.sum() / n.sum())
    source = {}
    if config["init_from"]:
        origin = json.loads((run.parent / config["init_from"] / "record.json").read_text())
        source = {"source_run_id": config["init_from"], "source_objective": origin["config"]["objective"]}
        source |= {"N_source": N, "D_source": origin["D"], "C_source": origin["C_exact"]}
    (run / "record.json").write_text(json.dumps({
        "schema_version": 1, "config": config, "roles": order["roles"], "status": "complete", "steps": 100, "D": D,
        "D_unique": D, "C_6nd": 6.0 * N * D, "C_exact": 6.6 * N * D, "device_s": 1.0, "tokens_per_s": 123456.0,
        "attempts": 1, "threads": 1,
        "ledger": [{"source": "*", "tokens": D, "residues": D - 10, "unique": D, "repeated_epoch": 0,
                    "repeated_duplicate": 0, "seen_earlier": 0}],
        "validation": [{"set_name": "val_iid", "validation_id": config["objective"], "per_token": mean,
                        "per_residue": mean, "se": 0.01, "n_targets": 2000, "n_sequences": 40}],
        **source,
    }))
    say("complete", 100)
'''


@pytest.fixture(scope="session")
def _trainer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("trainer")
    (folder / "law_abiding_trainer.py").write_text(TRAINER)
    sys.path.append(str(folder))
    return "law_abiding_trainer:run_one"


@pytest.fixture
def trainer(_trainer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`plm-scaling run` starts the stand-in for training."""
    from plm_scaling.sweeps import reconcile

    monkeypatch.setattr(reconcile, "TRAINER", _trainer)


SPEC = """\
name = "small"
corpus = "{corpus}"
context = 64
currency = "C_6nd"
batch_tokens = 256
max_epochs = 1000
"""


@pytest.fixture
def write_spec(corpus: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A study's folder with a spec that asks for these arms; returns the spec."""

    def write(arms: str) -> Path:
        (tmp_path / "study").mkdir(exist_ok=True)
        path = tmp_path / "study" / "sweep.toml"
        path.write_text(SPEC.format(corpus=corpus) + arms)
        return path

    return write


STUDY = """
[[isoflop]]
C = 3e9
sizes = ["1x16", "2x16", "2x24"]
objectives = ["clm"]
[[isoflop]]
C = 1e10
sizes = ["1x16", "2x16", "2x24", "2x32"]
objectives = ["clm"]
[[transfer]]
size = "2x16"
D = 2e4
D_source = 2e4
scratch_D = [4e4, 1e4]
overlap = "shared"
"""


@pytest.fixture(scope="session")
def _study(corpus: Path, _trainer: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from plm_scaling import api
    from plm_scaling.sweeps import reconcile

    folder = tmp_path_factory.mktemp("session") / "study"
    folder.mkdir()
    (folder / "sweep.toml").write_text(SPEC.format(corpus=corpus) + STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconcile, "TRAINER", _trainer)
        api.plan(folder / "sweep.toml", folder / "plan.json")
        assert api.run(folder / "plan.json", workers=2).all_complete
    return folder


@pytest.fixture
def study(_study: Path, tmp_path: Path) -> Path:
    """A study whose runs are complete: CLM at two budgets, and a transfer pair with three scratch runs of MLM."""
    shutil.copytree(_study, tmp_path / "study")
    return tmp_path / "study"


def without_ids(text: str) -> str:
    """A screen with run ids as `ID`, and without the spaces that end a line."""
    return re.sub(r"\b[0-9a-f]{12}\b", "ID", re.sub(r" +$", "", text, flags=re.MULTILINE))


@pytest.fixture
def masked() -> Callable[[str], str]:
    return without_ids


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def files_of() -> Callable[[Path], dict[str, tuple[int, int]]]:
    return snapshot
