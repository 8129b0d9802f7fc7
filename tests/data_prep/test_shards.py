from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.shards import IndexWriter, ShardWriter
from plm_scaling.corpus.format import INDEX_SCHEMA


def test_shard_is_what_was_written(tmp_path: Path) -> None:
    tokens = np.arange(100, dtype=np.uint8)
    path = tmp_path / "shards" / "000003.bin"
    with ShardWriter(path) as shard:
        shard.write(tokens[:60])
        shard.write(tokens[60:][::2])  # not contiguous
        entry = shard.close()
    expected = tokens[:60].tobytes() + tokens[60::2].tobytes()
    assert path.read_bytes() == expected
    assert (entry.name, entry.bytes, entry.sha256) == (
        "shards/000003.bin",
        80,
        hashlib.sha256(expected).hexdigest(),
    )


def test_index_columns_and_nulls(tmp_path: Path) -> None:
    path = tmp_path / "index" / "000000.parquet"
    digests = np.frombuffer(bytes(range(32)), dtype="V16")
    with IndexWriter(path) as index:
        for begin in (0, 2):
            index.write(
                accession=pa.chunked_array([[f"P{begin}"], [f"P{begin + 1}"]]),
                source=np.array([0, 1]),
                length=np.array([5, 7]),
                hash=digests,
                offset=np.array([begin, 2**40]),
                first=np.array([True, False]),
                split=np.array([0, 4]),
                cluster50=None,
                cluster90=np.array([1, 2], dtype=np.uint32),
                taxon=np.array([9606, 0]),
                members=np.array([3, 0]),
                rep_id=pa.chunked_array([pa.array(["X_HUMAN", None], pa.string())]),
                evidence=np.array([1, 0]),
                flags=np.array([1, 6]),
            )
        entry = index.close()
    table = pq.read_table(path)
    assert table.schema.equals(INDEX_SCHEMA)
    assert table.num_rows == 4
    assert table["accession"].to_pylist() == ["P0", "P1", "P2", "P3"]
    assert table["hash"][1].as_py() == bytes(range(16, 32))
    assert table["cluster50"].null_count == 4
    assert table["rep_id"].to_pylist()[:2] == ["X_HUMAN", None]
    assert table["offset"].to_pylist() == [0, 2**40, 2, 2**40]
    assert pq.ParquetFile(path).num_row_groups == 2
    assert entry.name == "index/000000.parquet"
    assert entry.bytes == path.stat().st_size
