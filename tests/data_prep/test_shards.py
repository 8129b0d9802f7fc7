from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.shards import BATCH_ROWS, IndexWriter, ShardWriter
from plm_scaling.core.errors import ConfigError
from plm_scaling.corpus.format import INDEX_SCHEMA, MAX_SHARD_BYTES


@given(st.lists(st.lists(st.integers(1, 9), max_size=12), max_size=6), st.integers(9, 30))
@settings(max_examples=60, deadline=None)
def test_shards_hold_whole_sequences_and_are_as_full_as_they_can_be(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]], max_bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    tokens = np.arange(sum(map(sum, batches)), dtype=np.uint8)
    with ShardWriter(folder, max_bytes) as writer:
        start = 0
        for sizes in batches:
            writer.write(tokens[start : start + sum(sizes)], np.array(sizes, dtype=np.int64))
            start += sum(sizes)
        entries = writer.close()
    data = [(folder / entry.name).read_bytes() for entry in entries]
    assert b"".join(data) == tokens.tobytes()
    assert [entry.name for entry in entries] == [f"shards/{i:06d}.bin" for i in range(len(entries))]
    assert [(e.bytes, e.sha256) for e in entries] == [(len(d), hashlib.sha256(d).hexdigest()) for d in data]
    # Greedy by hand: a sequence opens a new shard only if it does not fit.
    expected: list[int] = []
    for size in (size for sizes in batches for size in sizes):
        if expected and expected[-1] + size <= max_bytes:
            expected[-1] += size
        else:
            expected.append(size)
    assert [entry.bytes for entry in entries] == expected


@pytest.mark.parametrize("size", [1, 0, -5, MAX_SHARD_BYTES + 1])
def test_impossible_shard_sizes(tmp_path: Path, size: int) -> None:
    with pytest.raises(ConfigError, match="max_shard_bytes is"):
        ShardWriter(tmp_path, size)


def write_batch(writer: IndexWriter, n: int, start: int = 0) -> None:
    rows = np.arange(start, start + n)
    writer.write(
        accession=[f"p{row}" for row in rows],
        source=rows % 3,
        length=rows + 1,
        digest=np.frombuffer(b"".join(int(row).to_bytes(16, "big") for row in rows), dtype="V16"),
        offset=rows * 10,
        first=rows % 2 == 0,
        split=rows % 5,
    )


def test_index_holds_what_was_written_in_the_declared_schema(tmp_path: Path) -> None:
    with IndexWriter(tmp_path) as writer:
        write_batch(writer, 5)
        write_batch(writer, 2, start=5)
        [entry] = writer.close()
    file = pq.ParquetFile(tmp_path / entry.name)
    assert file.schema_arrow.equals(INDEX_SCHEMA)
    assert file.num_row_groups == 2
    rows = file.read().to_pylist()
    assert [row["accession"] for row in rows] == [f"p{i}" for i in range(7)]
    assert rows[6] == {
        "accession": "p6",
        "source": 0,
        "length": 7,
        "hash": (6).to_bytes(16, "big"),
        "offset": 60,
        "first": True,
        "split": 1,
        "cluster": None,
    }
    assert entry.bytes == (tmp_path / entry.name).stat().st_size
    assert entry.sha256 == hashlib.sha256((tmp_path / entry.name).read_bytes()).hexdigest()


def test_a_new_index_file_after_sixteen_batches(tmp_path: Path) -> None:
    with IndexWriter(tmp_path) as writer:
        for batch in range(17):
            write_batch(writer, 1, start=batch)
        entries = writer.close()
    assert [pq.ParquetFile(tmp_path / entry.name).metadata.num_rows for entry in entries] == [16, 1]
    assert BATCH_ROWS * 16 == 1 << 20
