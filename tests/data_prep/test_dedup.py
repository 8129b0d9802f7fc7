from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.dedup import Duplicates, count_shared_names, find_copies, write_pairs
from data_prep.keys import KeyReader, KeyWriter


def keys_of(folder: Path, rows: list[tuple[int, int]], run_rows: int) -> KeyReader:
    with KeyWriter(folder, 2, run_rows=run_rows) as out:
        for number, (high, low) in enumerate(rows):
            out.add(*(np.array([value], dtype=np.uint64) for value in (high, low, number)))
        out.finish()
    return KeyReader(folder, 2)


# Few distinct words, so that equal high words with different low words (64-bit collisions) occur all the time.
HIGH = st.sampled_from([0, 1, 5 << 56, (5 << 56) + 1, 2**64 - 1])


@given(
    st.lists(st.lists(st.tuples(HIGH, st.integers(0, 2)), max_size=40), min_size=1, max_size=3),
    st.integers(1, 90),
    st.data(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_copies_are_those_of_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[tuple[int, int]]], run_rows: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("dedup")
    readers = [keys_of(folder / str(number), part, run_rows) for number, part in enumerate(parts)]
    first_rows = np.cumsum([0, *map(len, parts)])[:-1]
    cut = data.draw(st.integers(1, 255))
    paths = []
    for number, buckets in enumerate(((0, cut), (cut, 256))):
        paths.append(folder / f"{number}.i64")
        write_pairs(find_copies(readers, first_rows, *buckets), paths[-1])
    duplicates = Duplicates(tuple(paths))
    hashes = [key for part in parts for key in part]
    first: dict[tuple[int, int], int] = {}
    expected = {row: first[key] for row, key in enumerate(hashes) if first.setdefault(key, row) != row}
    start = data.draw(st.integers(0, len(hashes)))
    stop = data.draw(st.integers(start, len(hashes)))
    copies, originals = duplicates.between(start, stop)
    found = dict(zip(copies.tolist(), originals.tolist(), strict=True))
    assert found == {row: owner for row, owner in expected.items() if start <= row < stop}
    assert list(found) == sorted(found)
    assert duplicates.first_rows(start, stop).tolist() == [expected.get(row, row) for row in range(start, stop)]


@pytest.mark.parametrize("run_rows", [1, 3, 100])
def test_shared_names_count_further_sequences(tmp_path: Path, run_rows: int) -> None:
    names = [1, 2, 1, 1, 3 << 60, 2, 1]
    hashes = [7, 8, 7, 9, 7, 8, 10]  # name 1 has three sequences, name 2 one sequence twice, name 3 one
    rows = list(zip(names, hashes, strict=True))
    readers = [keys_of(tmp_path / "a", rows[:4], run_rows), keys_of(tmp_path / "b", rows[4:], run_rows)]
    assert sum(count_shared_names(readers, *buckets) for buckets in ((0, 100), (100, 256))) == 2


def test_many_keys_agree_with_numpy(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**64, (50_000, 2), dtype=np.uint64)
    words[-5000:] = words[rng.integers(0, 20_000, 5000)]
    with KeyWriter(tmp_path, 2) as out:
        out.add(words[:, 0], words[:, 1], np.arange(len(words), dtype=np.uint64))
        out.finish()
    [*pairs] = find_copies([KeyReader(tmp_path, 2)], np.zeros(1, dtype=np.int64), 0, 256)
    found = {tuple(pair) for group in pairs for pair in group.tolist()}
    _, first, inverse = np.unique(words, axis=0, return_index=True, return_inverse=True)
    owner = first[inverse.ravel()]
    assert found == {(row, int(owner[row])) for row in range(len(words)) if owner[row] != row}
    assert len(found) >= 4500
