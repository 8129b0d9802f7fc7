from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.dedup import RowSorter, count_shared_names, find_duplicates, hash_names, hash_sequences, hash_words
from data_prep.fasta import RecordBlock
from plm_scaling.core.alphabet import EOS, encode


def block_of(*sequences: str) -> RecordBlock:
    tokens = np.concatenate([np.append(encode(s), np.uint8(EOS)) for s in sequences])
    return RecordBlock([""] * len(sequences), tokens, np.array([len(s) for s in sequences]), {})


def filled(folder: Path, columns: list[list[int]], run_rows: int, block: int = 7) -> RowSorter:
    sorter = RowSorter(folder, len(columns), run_rows=run_rows)
    arrays = [np.array(column, dtype=np.uint64) for column in columns]
    for start in range(0, len(columns[0]), block):
        sorter.add(*(array[start : start + block] for array in arrays))
    return sorter


def test_hashes_are_xxh3_128_of_the_residue_ids() -> None:
    digests = hash_sequences(block_of("ACD", "MKV", "ACD"))
    assert [digest.tobytes() for digest in digests] == [
        xxhash.xxh3_128_digest(encode(sequence).tobytes()) for sequence in ("ACD", "MKV", "ACD")
    ]


def test_words_are_the_big_endian_halves() -> None:
    [[high, low]] = hash_words(hash_sequences(block_of("ACD")))
    assert (int(high) << 64) + int(low) == xxhash.xxh3_128_intdigest(encode("ACD").tobytes())


def test_equal_names_hash_equal() -> None:
    first, second, third = hash_names(["P1", "P2", "P1"])
    assert first == third != second


@pytest.mark.parametrize("run_rows", [7, 300, 10_000])
def test_sorter_sorts_and_never_parts_equal_keys(tmp_path: Path, run_rows: int) -> None:
    rng = np.random.default_rng(0)
    columns = [rng.integers(0, 400, 3000).tolist(), rng.integers(0, 3, 3000).tolist(), list(range(3000))]
    ranges = list(filled(tmp_path / "s", columns, run_rows).ranges())
    assert np.concatenate(ranges).tolist() == sorted(map(list, zip(*columns, strict=True)))
    keys = [set(rows[:, 0].tolist()) for rows in ranges]
    assert sum(map(len, keys)) == len(set.union(*keys))


def test_sorter_needs_about_one_run_of_memory(tmp_path: Path) -> None:
    keys = np.random.default_rng(0).integers(0, 2**63, 200_000, dtype=np.uint64)
    sorter = RowSorter(tmp_path / "s", 2, run_rows=10_000)
    for piece in np.array_split(keys, 100):
        sorter.add(piece, piece)
    sizes = [len(rows) for rows in sorter.ranges()]
    assert sum(sizes) == 200_000
    assert max(sizes) < 20_000


def test_sorter_keeps_the_largest_keys(tmp_path: Path) -> None:
    keys = [2**64 - 1, 0, 2**63, 2**64 - 1, 1] * 50
    rows = np.concatenate(list(filled(tmp_path / "s", [keys], run_rows=11).ranges()))
    assert rows[:, 0].tolist() == sorted(keys)


def test_empty_sorter(tmp_path: Path) -> None:
    assert list(RowSorter(tmp_path / "s", 2).ranges()) == []
    assert not (tmp_path / "s").exists()


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), min_size=1, max_size=80),
    st.integers(1, 90),
    st.data(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_duplicates_are_those_of_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, hashes: list[tuple[int, int]], run_rows: int, data: st.DataObject
) -> None:
    # Few distinct words, so that equal high words with different low words (64-bit collisions) occur all the time.
    folder = tmp_path_factory.mktemp("dedup")
    rows = list(range(len(hashes)))
    sorter = filled(folder / "hashes", [[h for h, _ in hashes], [w for _, w in hashes], rows], run_rows)
    duplicates = find_duplicates(sorter, folder)
    first: dict[tuple[int, int], int] = {}
    expected = {row: first[key] for row, key in enumerate(hashes) if first.setdefault(key, row) != row}
    assert duplicates.n == len(expected)
    start = data.draw(st.integers(0, len(hashes)))
    stop = data.draw(st.integers(start, len(hashes)))
    copies, originals = duplicates.between(start, stop)
    found = dict(zip(copies.tolist(), originals.tolist(), strict=True))
    assert found == {row: owner for row, owner in expected.items() if start <= row < stop}
    assert list(found) == sorted(found)


@pytest.mark.parametrize("run_rows", [1, 3, 100])
def test_shared_names_count_further_sequences(tmp_path: Path, run_rows: int) -> None:
    names = [1, 2, 1, 1, 3, 2, 1]
    hashes = [7, 8, 7, 9, 7, 8, 10]  # name 1 has three sequences, name 2 one sequence twice, name 3 one
    assert count_shared_names(filled(tmp_path / "s", [names, hashes], run_rows, block=1)) == 2
