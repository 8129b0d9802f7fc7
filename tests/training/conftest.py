"""A small corpus of short proteins with something to learn, and orders for runs on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.pipeline import PrepSpec, SourceInput, prepare_corpus
from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import RunOrder
from plm_scaling.corpus.reader import Corpus

torch.set_num_threads(1)


def proteins(n: int, seed: int) -> list[str]:
    """Sequences of 5 to 120 residues that mostly repeat a few words."""
    rng = np.random.default_rng(seed)
    letters = np.array(list(STANDARD))
    words = ["".join(letters[np.random.default_rng(k).integers(0, 20, 9)]) for k in range(6)]
    out = []
    for _ in range(n):
        text = "".join(words[k] for k in rng.integers(0, len(words), 14))
        text = "".join(c if rng.random() > 0.1 else str(rng.choice(letters)) for c in text)
        out.append(text[: int(rng.integers(5, 121))])
    return out


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("training")
    for name, n, seed in (("near", 500, 1), ("far", 200, 2), ("lab", 30, 3)):
        text = "".join(f">{name}{k}\n{s}\n" for k, s in enumerate(proteins(n, seed)))
        (folder / f"{name}.fasta").write_text(text)
    inputs = [SourceInput(name, [folder / f"{name}.fasta"]) for name in ("near", "far")]
    prepare_corpus(inputs, folder / "corpus", PrepSpec(val_share=0.1), hold_out={"lab": [folder / "lab.fasta"]})
    return Corpus.open(folder / "corpus")


MakeConfig = Callable[..., RunConfig]
MakeRun = Callable[..., RunFolder]


@pytest.fixture(scope="session")
def make_config(corpus: Corpus) -> MakeConfig:
    def make(**changes: Any) -> RunConfig:
        values: dict[str, Any] = {
            "corpus_id": corpus.corpus_id,
            "objective": "clm",
            "n_layers": 2,
            "d_model": 16,
            "context": 64,
            "D": 8_000,
            "batch_tokens": 256,
            "peak_lr": 1e-2,
            "recipe": "small",
            "validation_points": 2,
        }
        return RunConfig.model_validate(values | changes)

    return make


@pytest.fixture
def make_run(corpus: Corpus, make_config: MakeConfig, tmp_path: Path) -> MakeRun:
    """Write `run.json` of a run into a folder named by its id; returns the folder."""

    def make(*, parent: str = "runs", order: dict[str, Any] | None = None, **changes: Any) -> RunFolder:
        config = make_config(**changes)
        folder = RunFolder(tmp_path / parent / config.run_id)
        values = {"config": config, "corpus": str(corpus.path), "device": "cpu"} | (order or {})
        RunOrder.model_validate(values).write(folder.order_path)
        return folder

    return make
