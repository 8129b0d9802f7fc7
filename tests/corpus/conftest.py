"""A tiny corpus writer, straight from corpus/format.py: sequences in, a folder that `Corpus.open` reads out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plm_scaling.core.alphabet import EOS, encode
from plm_scaling.core.run import RunConfig
from plm_scaling.corpus.format import INDEX_SCHEMA, MANIFEST_NAME, FileEntry, Manifest, SourceStats, SplitStats
from plm_scaling.corpus.reader import Corpus

SPLITS = ("train", "val_iid", "heldout_lab")


def entry(folder: Path, name: str) -> FileEntry:
    data = (folder / name).read_bytes()
    return FileEntry(name=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def write_corpus(
    folder: Path,
    sources: Mapping[str, Sequence[str]],
    split_of: Callable[[str], str] = lambda sequence: "train",
    n_shards: int = 1,
) -> Corpus:
    """Sequences by source -> shards, index (one file per source), manifest -> opened corpus."""
    (folder / "shards").mkdir(parents=True)
    (folder / "index").mkdir()
    first: dict[str, int] = {}
    unique: list[np.ndarray] = []
    address = 0
    index, stats = [], []
    split_counts = {name: [0, 0] for name in SPLITS}
    for number, (name, sequences) in enumerate(sources.items()):
        rows, counts = [], {"unique_sequences": 0, "unique_tokens": 0}
        for place, sequence in enumerate(sequences):
            new = sequence not in first
            if new:
                first[sequence] = address
                unique.append(np.append(encode(sequence), EOS).astype(np.uint8))
                address += len(sequence) + 1
                counts["unique_sequences"] += 1
                counts["unique_tokens"] += len(sequence) + 1
                split_counts[split_of(sequence)][0] += 1
                split_counts[split_of(sequence)][1] += len(sequence) + 1
            rows.append(
                {
                    "accession": f"{name}_{place}",
                    "source": number,
                    "length": len(sequence),
                    "hash": hashlib.md5(sequence.encode()).digest(),
                    "offset": first[sequence],
                    "first": new,
                    "split": SPLITS.index(split_of(sequence)),
                    "cluster": None,
                }
            )
        file = f"index/{number:06d}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), folder / file)
        index.append(entry(folder, file))
        tokens = sum(len(s) + 1 for s in sequences)
        stats.append(
            SourceStats(
                name=name,
                files=(),
                sequences=len(sequences),
                residues=tokens - len(sequences),
                tokens=tokens,
                duplicate_sequences=len(sequences) - counts["unique_sequences"],
                duplicate_tokens=tokens - counts["unique_tokens"],
                **counts,
            )
        )
    shards = []
    groups = np.array_split(np.arange(len(unique)), n_shards)
    for number, group in enumerate(groups):
        file = f"shards/{number:06d}.bin"
        (folder / file).write_bytes(b"".join(unique[i].tobytes() for i in group))
        shards.append(entry(folder, file))
    manifest = Manifest(
        name=folder.name,
        sources=tuple(stats),
        splits=tuple(SplitStats(name=n, sequences=c[0], tokens=c[1]) for n, c in split_counts.items()),
        val_share=0.1,
        split_seed=0,
        shards=tuple(shards),
        index=tuple(index),
    )
    manifest.write(folder / MANIFEST_NAME)
    return Corpus.open(folder)


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
