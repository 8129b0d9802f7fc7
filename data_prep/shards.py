"""Writers of a corpus' two kinds of files: a shard of tokens and an index file of records."""

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

from plm_scaling.core.files import sha256_file
from plm_scaling.corpus.format import INDEX_SCHEMA, FileEntry

__all__ = ["BATCH_ROWS", "IndexWriter", "ShardWriter"]

BATCH_ROWS: Final = 1 << 16
"""Index rows written at a time: one row group."""


class ShardWriter:
    """Writes tokens to one file; a context manager.

    Parameters
    ----------
    path : of the shard, below the corpus being written; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.n_bytes = path, 0
        self._handle: BinaryIO = path.open("wb")
        self._sha256 = hashlib.sha256()

    def write(self, tokens: npt.NDArray[np.uint8]) -> None:
        """Append tokens."""
        data = np.ascontiguousarray(tokens).data
        self._handle.write(data)
        self._sha256.update(data)
        self.n_bytes += len(data)

    def close(self) -> FileEntry:
        """Finish the file and say what it is."""
        self._handle.flush()
        os.fsync(self._handle.fileno())
        self._handle.close()
        return FileEntry(name=_name(self.path), bytes=self.n_bytes, sha256=self._sha256.hexdigest())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.close()


class IndexWriter:
    """Writes index rows to one Parquet file, a row group per batch; a context manager."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._writer: Any = pq.ParquetWriter(
            path, INDEX_SCHEMA, compression="zstd", use_dictionary=["source", "split", "taxon", "evidence", "flags"]
        )

    def write(self, **columns: Any) -> None:
        """Append a batch of rows: a value per row of each column of INDEX_SCHEMA, or None for all null.

        `hash` is void16[n]; accession and rep_id are Arrow columns; the others are arrays of numbers.
        """
        n = len(columns["length"])
        made = [_column(field, columns[field.name], n) for field in INDEX_SCHEMA]
        self._writer.write_table(pa.Table.from_arrays(made, schema=INDEX_SCHEMA), row_group_size=BATCH_ROWS)

    def close(self) -> FileEntry:
        """Finish the file and say what it is."""
        self._writer.close()
        with self.path.open("rb") as handle:
            os.fsync(handle.fileno())
        return FileEntry(name=_name(self.path), bytes=self.path.stat().st_size, sha256=sha256_file(self.path))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()


def _name(path: Path) -> str:
    """Name of a file within its corpus: shards/000000.bin."""
    return f"{path.parent.name}/{path.name}"


def _column(field: pa.Field, values: Any, n: int) -> Any:
    if values is None:
        return pa.nulls(n, field.type)
    if isinstance(values, pa.ChunkedArray):
        return values.combine_chunks()
    if pa.types.is_fixed_size_binary(field.type):
        return pa.FixedSizeBinaryArray.from_buffers(field.type, n, [None, pa.py_buffer(values.tobytes())])
    return pa.array(np.asarray(values).astype(field.type.to_pandas_dtype(), copy=False))
