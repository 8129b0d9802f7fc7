"""Check a prepared corpus against its manifest and itself: every file's content, every sequence's hash, every count."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from xxhash import xxh3_128_digest

from plm_scaling.core.alphabet import EOS
from plm_scaling.core.errors import RecordError
from plm_scaling.core.files import sha256_file
from plm_scaling.corpus.format import MANIFEST_NAME, FileEntry, Manifest

__all__ = ["verify_corpus"]

Int = npt.NDArray[np.int64]

_EOS: Final = bytes([EOS])
_COLUMNS: Final = ("source", "length", "hash", "offset", "first", "split")


def verify_corpus(path: Path) -> list[str]:
    """Problems of a prepared corpus, one sentence each; an empty list if there are none.

    Every file is hashed. Every record's tokens are hashed again where its row says that they are, the first
    occurrences must fill the shards without gaps, and the counts of the manifest are counted again.
    """
    try:
        manifest = Manifest.read(path / MANIFEST_NAME)
    except RecordError as error:
        return [str(error)]
    extra = (manifest.identity_file,) if manifest.identity_file else ()
    files = (*manifest.shards, *manifest.index, *extra)
    problems = [problem for entry in files if (problem := _file_problem(path, entry))]
    if problems:
        return problems
    stored = sum(entry.bytes for entry in manifest.shards)
    if stored != manifest.unique_tokens:
        problems.append(f"shards: {stored} tokens are stored, the manifest says {manifest.unique_tokens}")
    check = _Check(path, manifest)
    return [*problems, *check.rows(), *check.counts()]


def _file_problem(path: Path, entry: FileEntry) -> str:
    file = path / entry.name
    if not file.is_file():
        return f"{entry.name}: missing"
    if file.stat().st_size != entry.bytes:
        return f"{entry.name}: {file.stat().st_size} bytes, the manifest says {entry.bytes}"
    if sha256_file(file) != entry.sha256:
        return f"{entry.name}: its content is not what was written (SHA-256 differs)"
    return ""


class _Check:
    """Goes through all rows once, batch by batch."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        self.sources = np.zeros((len(manifest.sources), 4), dtype=np.int64)
        """Sequences, residues, unique sequences, unique tokens."""
        self.splits = np.zeros((len(manifest.splits), 2), dtype=np.int64)
        """Unique sequences and tokens."""
        sizes = [entry.bytes for entry in manifest.shards]
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
        self._stored = 0

    def rows(self) -> Iterator[str]:
        """Problems of single rows; the first one of each index file."""
        for entry in self.manifest.index:
            at = 0
            for batch in pq.ParquetFile(self.path / entry.name).iter_batches(columns=list(_COLUMNS)):
                problem = self._batch(batch)
                if problem:
                    yield f"{entry.name}: {problem} (rows {at} to {at + batch.num_rows - 1})"
                    break
                at += batch.num_rows

    def _batch(self, batch: pa.RecordBatch) -> str:
        source, length, offset, first, split = (
            batch.column(name).to_numpy(zero_copy_only=False) for name in _COLUMNS if name != "hash"
        )
        length, offset = length.astype(np.int64), offset.astype(np.int64)
        if source.max(initial=0) >= len(self.sources) or split.max(initial=0) >= len(self.splits):
            return "a source or a split that the manifest does not know"
        np.add.at(self.sources[:, 0], source, 1)
        np.add.at(self.sources[:, 1], source, length)
        sizes = length[first] + 1
        np.add.at(self.sources[:, 2], source[first], 1)
        np.add.at(self.sources[:, 3], source[first], sizes)
        np.add.at(self.splits[:, 0], split[first], 1)
        np.add.at(self.splits[:, 1], split[first], sizes)
        ends = self._stored + np.cumsum(sizes)
        if not np.array_equal(offset[first], ends - sizes):
            return "first occurrences do not follow each other in the shards"
        self._stored = int(ends[-1]) if len(ends) else self._stored
        return self._content(batch.column("hash"), offset, length)

    def _content(self, digests: pa.Array, offset: Int, length: Int) -> str:
        """Hash the tokens of each row, shard by shard."""
        shard = np.searchsorted(self._starts, offset, side="right") - 1
        for number in np.unique(shard).tolist():
            tokens = np.memmap(self.path / self.manifest.shards[number].name, dtype=np.uint8, mode="r")
            view = tokens.data
            here = np.flatnonzero(shard == number)
            begin = offset[here] - self._starts[number]
            end = begin + length[here]
            if end.max() >= len(tokens) or np.any(tokens[end] != EOS):
                return "a sequence does not end where its row says"
            for row, low, high in zip(here.tolist(), begin.tolist(), end.tolist(), strict=True):
                if xxh3_128_digest(view[low:high]) != digests[row].as_py():
                    return f"the tokens of row {row} of the batch are not those that were hashed"
        return ""

    def counts(self) -> Iterator[str]:
        """Counts that differ from the manifest's."""
        for source, row in zip(self.manifest.sources, self.sources.tolist(), strict=True):
            sequences, residues, unique, unique_tokens = row
            expected = {
                "sequences": (sequences, source.sequences),
                "residues": (residues, source.residues),
                "tokens": (residues + sequences, source.tokens),
                "unique sequences": (unique, source.unique_sequences),
                "unique tokens": (unique_tokens, source.unique_tokens),
                "duplicate sequences": (sequences - unique, source.duplicate_sequences),
                "duplicate tokens": (residues + sequences - unique_tokens, source.duplicate_tokens),
            }
            yield from _differences(f"source {source.name}", expected)
        for split, (sequences, tokens) in zip(self.manifest.splits, self.splits.tolist(), strict=True):
            yield from _differences(
                f"split {split.name}", {"sequences": (sequences, split.sequences), "tokens": (tokens, split.tokens)}
            )


def _differences(what: str, counts: dict[str, tuple[int, int]]) -> Iterator[str]:
    for unit, (found, said) in counts.items():
        if found != said:
            yield f"{what}: {found} {unit} in the index, the manifest says {said}"
