"""Writers of a corpus' two kinds of files: shards of tokens and the index of records."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from plm_scaling.core.errors import ConfigError
from plm_scaling.core.files import sha256_file
from plm_scaling.corpus.format import INDEX_SCHEMA, MAX_SHARD_BYTES, FileEntry

__all__ = ["BATCH_ROWS", "IndexWriter", "ShardWriter", "check_shard_bytes"]

BATCH_ROWS: Final = 1 << 16
"""Index rows written at a time: one row group."""
_BATCHES_PER_FILE: Final = 16


def check_shard_bytes(max_bytes: int) -> int:
    """The largest shard in bytes, if a corpus may have such shards.

    Raises
    ------
    ConfigError : it may not.
    """
    if not 2 <= max_bytes <= MAX_SHARD_BYTES:
        raise ConfigError(f"max_shard_bytes is {max_bytes}", why=f"it must lie between 2 and {MAX_SHARD_BYTES}")
    return max_bytes


class ShardWriter:
    """Writes tokens to numbered shards of at most `max_bytes`, never cutting a sequence.

    Parameters
    ----------
    folder : the corpus being written; shards go to `folder/shards`.
    max_bytes : largest size of a shard; one token is one byte.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_SHARD_BYTES) -> None:
        self.folder, self.max_bytes = folder, check_shard_bytes(max_bytes)
        (folder / "shards").mkdir(parents=True)
        self._done: list[FileEntry] = []
        self._handle: BinaryIO | None = None
        self._name = ""
        self._size = 0
        self._sha256 = hashlib.sha256()

    def write(self, tokens: npt.NDArray[np.uint8], sizes: npt.NDArray[np.int64]) -> None:
        """Append whole sequences.

        Parameters
        ----------
        tokens : uint8[sum(sizes)], `<eos>` included.
        sizes : int64[n], tokens of each sequence, none above `max_bytes`.
        """
        ends = np.cumsum(sizes)
        done, n_done = 0, 0
        while n_done < len(sizes):
            fits = int(np.searchsorted(ends, done + self.max_bytes - self._size, side="right"))
            if fits == n_done:
                self._close_shard()
                continue
            self._append(tokens[done : int(ends[fits - 1])])
            done, n_done = int(ends[fits - 1]), fits

    def close(self) -> tuple[FileEntry, ...]:
        """Finish the last shard; returns all of them."""
        self._close_shard()
        return tuple(self._done)

    def _append(self, tokens: npt.NDArray[np.uint8]) -> None:
        if self._handle is None:
            self._name = f"shards/{len(self._done):06d}.bin"
            self._handle = (self.folder / self._name).open("wb")
        data = np.ascontiguousarray(tokens).data
        self._handle.write(data)
        self._sha256.update(data)
        self._size += len(data)

    def _close_shard(self) -> None:
        if self._handle is None:
            return
        _sync_and_close(self._handle)
        self._done.append(FileEntry(name=self._name, bytes=self._size, sha256=self._sha256.hexdigest()))
        self._handle, self._size, self._sha256 = None, 0, hashlib.sha256()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.close()


class IndexWriter:
    """Writes index rows to numbered Parquet files, one row group per batch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "index").mkdir(parents=True)
        self._names: list[str] = []
        self._writer: Any = None
        self._n_batches = 0

    def write(
        self,
        *,
        accession: list[str],
        source: npt.NDArray[np.integer],
        length: npt.NDArray[np.integer],
        digest: npt.NDArray[np.bytes_],
        offset: npt.NDArray[np.integer],
        first: npt.NDArray[np.bool_],
        split: npt.NDArray[np.integer],
    ) -> None:
        """Append a batch of rows; all columns have one value per row, `digest` is void16[n]."""
        if self._n_batches % _BATCHES_PER_FILE == 0:
            self._next_file()
        n = len(accession)
        columns = [
            pa.array(accession, pa.string()),
            pa.array(source.astype(np.uint16)),
            pa.array(length.astype(np.uint32)),
            pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), n, [None, pa.py_buffer(digest.tobytes())]),
            pa.array(offset.astype(np.uint64)),
            pa.array(first),
            pa.array(split.astype(np.uint8)),
            pa.nulls(n, pa.uint64()),
        ]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=INDEX_SCHEMA), row_group_size=BATCH_ROWS)
        self._n_batches += 1

    def close(self) -> tuple[FileEntry, ...]:
        """Finish the last file; returns all of them."""
        self._close_file()
        return tuple(self._entry(name) for name in self._names)

    def _next_file(self) -> None:
        self._close_file()
        self._names.append(f"index/{len(self._names):06d}.parquet")
        self._writer = pq.ParquetWriter(
            self.folder / self._names[-1], INDEX_SCHEMA, compression="zstd", use_dictionary=["source", "split"]
        )

    def _close_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _entry(self, name: str) -> FileEntry:
        path = self.folder / name
        with path.open("rb") as handle:
            os.fsync(handle.fileno())
        return FileEntry(name=name, bytes=path.stat().st_size, sha256=sha256_file(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_file()


def _sync_and_close(handle: BinaryIO) -> None:
    handle.flush()
    os.fsync(handle.fileno())
    handle.close()
