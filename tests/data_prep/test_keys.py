from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.keys import BUCKETS, KeyReader, KeyWriter, bucket_groups, bucket_ranges


def written(folder: Path, keys: np.ndarray, run_rows: int, block: int = 7) -> KeyReader:
    with KeyWriter(folder, 1, run_rows=run_rows) as out:
        for start in range(0, len(keys), block):
            part = keys[start : start + block]
            out.add(part, np.arange(start, start + len(part), dtype=np.uint64))
        out.finish()
    return KeyReader(folder, 1)


@pytest.mark.parametrize("run_rows", [1, 7, 300, 10_000])
def test_every_row_comes_back_in_its_bucket_and_in_order(tmp_path: Path, run_rows: int) -> None:
    keys = np.random.default_rng(0).integers(0, 2**64, 3000, dtype=np.uint64)
    reader = written(tmp_path, keys, run_rows)
    top = (keys >> np.uint64(56)).astype(int)
    assert reader.counts().tolist() == np.bincount(top, minlength=BUCKETS).tolist()
    for first, last in ((0, 256), (0, 1), (17, 40), (255, 256)):
        found, rows = reader.read(first, last)
        assert np.array_equal(keys[rows.astype(int)], found)
        assert set(rows.tolist()) == set(np.flatnonzero((top >= first) & (top < last)).tolist())
        for bucket in np.unique(top[rows.astype(int)]):
            if run_rows >= 3000:
                assert np.all(np.diff(rows[top[rows.astype(int)] == bucket].astype(int)) > 0)


def test_no_rows(tmp_path: Path) -> None:
    reader = written(tmp_path, np.empty(0, dtype=np.uint64), 10)
    assert reader.counts().sum() == 0
    assert [column.size for column in reader.read(0, 256)] == [0, 0]


@given(st.lists(st.integers(0, 50), min_size=BUCKETS, max_size=BUCKETS), st.integers(1, 300), st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_groups_tile_the_range(counts: list[int], rows: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, BUCKETS - 1))
    last = data.draw(st.integers(first + 1, BUCKETS))
    groups = list(bucket_groups(np.array(counts), first, last, rows))
    assert [groups[0][0], *(end for _, end in groups)] == [*(begin for begin, _ in groups), last]
    assert groups[0][0] == first
    assert all(sum(counts[begin : end - 1]) < rows for begin, end in groups)


@pytest.mark.parametrize("n_rows", [0, 1, 99, 100, 101, 12_345, 10**9])
def test_ranges_tile_all_buckets(n_rows: int) -> None:
    ranges = bucket_ranges(n_rows, 100)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == BUCKETS
    assert all(a[1] == b[0] for a, b in itertools.pairwise(ranges))
    assert len(ranges) == max(1, min(BUCKETS, -(-n_rows // 100)))
    assert all(begin < end for begin, end in ranges)
