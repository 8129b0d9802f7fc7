"""Tiny corpora by sources and splits; `made.make_corpus` writes them."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from plm_scaling.core.run import RunConfig
from plm_scaling.corpus.reader import Corpus

sys.path.insert(0, str(Path(__file__).parent))

from made import make_corpus


def write_corpus(
    folder: Path,
    sources: Mapping[str, Sequence[str]],
    split_of: Callable[[str], str] = lambda sequence: "train",
    n_shards: int = 1,
) -> Corpus:
    """Sequences by source -> opened corpus with one held-out split beside those of `made.SPLITS`."""
    flat = [sequence for sequences in sources.values() for sequence in sequences]
    return make_corpus(
        folder,
        flat,
        source=[number for number, sequences in enumerate(sources.values()) for _ in sequences],
        split=[split_of(sequence) for sequence in flat],
        names=list(sources),
        n_shards=n_shards,
    )


def random_sequences(rng: np.random.Generator, count: int, mean: float = 30, longest: int = 200) -> list[str]:
    lengths = np.clip(rng.lognormal(np.log(mean), 0.5, count).astype(int), 1, longest)
    letters = np.array(list("LAGVSERTIDPKQNFYMHWCXBUZO"))
    return ["".join(rng.choice(letters[:20] if rng.random() < 0.8 else letters, size)) for size in lengths]


def split_by_first_letters(sequence: str) -> str:
    """A property of the sequence, so that copies share it."""
    digest = hashlib.sha256(sequence.encode()).digest()[0]
    return "val_iid" if digest < 26 else "heldout_lab" if digest < 40 else "train"


def make_config(corpus: Corpus, **changes: object) -> RunConfig:
    fields: dict[str, object] = {
        "corpus_id": corpus.corpus_id,
        "objective": "clm",
        "n_layers": 1,
        "d_model": 16,
        "context": 32,
        "D": 10_000,
        "batch_tokens": 128,
        "peak_lr": 1e-3,
        "recipe": "small",
    }
    return RunConfig.model_validate(fields | changes)


@pytest.fixture(scope="session")
def write() -> Callable[..., Corpus]:
    return write_corpus


@pytest.fixture(scope="session")
def configure() -> Callable[..., RunConfig]:
    return make_config


@pytest.fixture(scope="session")
def sequences() -> Callable[..., list[str]]:
    return random_sequences


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Two sources with copies within and across them, three splits, three shards."""
    rng = np.random.default_rng(0)
    alpha = random_sequences(rng, 120)
    beta = random_sequences(rng, 80, mean=60)
    beta += [alpha[i] for i in rng.integers(0, 120, 20)] + [beta[i] for i in rng.integers(0, 80, 15)]
    alpha += [alpha[i] for i in rng.integers(0, 120, 25)]
    rng.shuffle(beta)
    return write_corpus(
        tmp_path_factory.mktemp("corpus") / "small", {"alpha": alpha, "beta": beta}, split_by_first_letters, n_shards=3
    )
