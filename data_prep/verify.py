"""Check a prepared corpus against its manifest: every file's content, every count."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from plm_scaling.core.errors import RecordError
from plm_scaling.core.files import sha256_file
from plm_scaling.corpus.format import MANIFEST_NAME, FileEntry, Manifest

__all__ = ["verify_corpus"]

Counts = dict[str, npt.NDArray[np.int64]]


def verify_corpus(path: Path) -> list[str]:
    """Problems of a prepared corpus, one sentence each; an empty list if there are none.

    Every shard and index file is hashed, and the counts of the manifest are counted again from the index.
    """
    try:
        manifest = Manifest.read(path / MANIFEST_NAME)
    except RecordError as error:
        return [str(error)]
    problems = [problem for entry in (*manifest.shards, *manifest.index) if (problem := _file_problem(path, entry))]
    if problems:
        return problems
    stored = sum(entry.bytes for entry in manifest.shards)
    if stored != manifest.unique_tokens:
        problems.append(f"shards: {stored} tokens are stored, the manifest says {manifest.unique_tokens}")
    return problems + list(_count_problems(path, manifest))


def _file_problem(path: Path, entry: FileEntry) -> str:
    file = path / entry.name
    if not file.is_file():
        return f"{entry.name}: missing"
    if file.stat().st_size != entry.bytes:
        return f"{entry.name}: {file.stat().st_size} bytes, the manifest says {entry.bytes}"
    if sha256_file(file) != entry.sha256:
        return f"{entry.name}: its content is not what was written (SHA-256 differs)"
    return ""


def _count_problems(path: Path, manifest: Manifest) -> Iterator[str]:
    counted = _counts(path, manifest)
    for source, (sequences, residues, unique, unique_tokens) in zip(manifest.sources, counted["sources"], strict=True):
        yield from _compare(f"source {source.name}", "sequences", sequences, source.sequences)
        yield from _compare(f"source {source.name}", "residues", residues, source.residues)
        yield from _compare(f"source {source.name}", "tokens", residues + sequences, source.tokens)
        yield from _compare(f"source {source.name}", "unique sequences", unique, source.unique_sequences)
        yield from _compare(f"source {source.name}", "unique tokens", unique_tokens, source.unique_tokens)
        duplicates = source.duplicate_sequences, source.duplicate_tokens
        yield from _compare(f"source {source.name}", "duplicate sequences", sequences - unique, duplicates[0])
        yield from _compare(
            f"source {source.name}", "duplicate tokens", residues + sequences - unique_tokens, duplicates[1]
        )
    for split, (sequences, tokens) in zip(manifest.splits, counted["splits"], strict=True):
        yield from _compare(f"split {split.name}", "sequences", sequences, split.sequences)
        yield from _compare(f"split {split.name}", "tokens", tokens, split.tokens)


def _compare(what: str, unit: str, found: int, said: int) -> Iterator[str]:
    if found != said:
        yield f"{what}: {found} {unit} in the index, the manifest says {said}"


def _counts(path: Path, manifest: Manifest) -> Counts:
    """Per source: sequences, residues, unique sequences and tokens. Per split: unique sequences and tokens."""
    sources = np.zeros((len(manifest.sources), 4), dtype=np.int64)
    splits = np.zeros((len(manifest.splits), 2), dtype=np.int64)
    for entry in manifest.index:
        file = pq.ParquetFile(path / entry.name)
        for batch in file.iter_batches(columns=["source", "length", "first", "split"]):
            source, length, first, split = (column.to_numpy(zero_copy_only=False) for column in batch.columns)
            length = length.astype(np.int64)
            np.add.at(sources[:, 0], source, 1)
            np.add.at(sources[:, 1], source, length)
            np.add.at(sources[:, 2], source[first], 1)
            np.add.at(sources[:, 3], source[first], length[first] + 1)
            np.add.at(splits[:, 0], split[first], 1)
            np.add.at(splits[:, 1], split[first], length[first] + 1)
    return {"sources": sources, "splits": splits}
