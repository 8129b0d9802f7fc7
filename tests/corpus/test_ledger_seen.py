from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_scaling.corpus import ledger_seen
from plm_scaling.corpus.ledger_seen import Cover, PieceNumbers, SeenClusters, SeenPieces
from plm_scaling.corpus.ledger_visits import pack_docs
from plm_scaling.corpus.windows import cut

chunks = st.lists(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), max_size=12), max_size=5)
spans = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 15)), max_size=12)


def columns(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    table = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


@settings(deadline=None, max_examples=150)
@given(visits=chunks)
def test_a_cluster_has_mates_once_another_sequence_of_it_came(visits: list[list[tuple[int, int]]]) -> None:
    met = SeenClusters(7)
    before: dict[int, set[int]] = {}
    for chunk in visits:
        expected = []
        for cluster, member in chunk:
            sequences = before.setdefault(cluster, set())
            expected.append(bool(sequences - {member}))
            sequences.add(member)
        assert met.visit(*columns(chunk)).tolist() == expected


@settings(deadline=None, max_examples=100)
@given(visits=chunks)
def test_a_piece_is_new_once(visits: list[list[tuple[int, int]]]) -> None:
    seen, before = SeenPieces(7), set()
    for chunk in visits:
        expected = []
        for piece, _ in chunk:
            expected.append(piece not in before)
            before.add(piece)
        assert seen.visit(columns(chunk)[0]).tolist() == expected


def test_long_chunks_and_large_numbers_sort_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 50, 1000)
    quick = ledger_seen._by_value(values)
    monkeypatch.setattr(ledger_seen, "_PLACE_BITS", 5)
    for one, other in zip(quick, ledger_seen._by_value(values), strict=True):
        np.testing.assert_array_equal(one, other)
    monkeypatch.undo()
    far = ledger_seen._by_value(values + (1 << 50))
    np.testing.assert_array_equal(far[0], quick[0])


@settings(deadline=None, max_examples=60)
@given(lengths=st.lists(st.integers(1, 90), min_size=1, max_size=20), context=st.integers(3, 40))
def test_every_piece_has_a_number_of_its_own(lengths: list[int], context: int) -> None:
    length = np.array(lengths)
    pieces = cut(np.arange(len(length)), length, context)
    numbers = PieceNumbers(length, context)
    assert sorted(numbers.of(pieces.row, pieces.begin).tolist()) == list(range(numbers.size))


@settings(deadline=None, max_examples=100)
@given(covered=st.lists(spans, max_size=3), asked=spans)
def test_cover_counts_addresses(covered: list[list[tuple[int, int]]], asked: list[tuple[int, int]]) -> None:
    union = {x for part in covered for begin, size in part for x in range(begin, begin + size)}
    cover = Cover.union([Cover.of(*columns(part)) for part in covered])
    found = cover.overlap(*columns(asked))
    assert found.tolist() == [len(union & set(range(begin, begin + size))) for begin, size in asked]
    for begin, _ in asked:
        assert begin + cover.gap(begin) == next(x for x in range(begin, 200) if x not in union)


def test_documents_are_laid_out_as_packing_does(small: object) -> None:
    from plm_scaling.core.run import Stream
    from plm_scaling.corpus.packing import open_windows
    from plm_scaling.corpus.reader import Corpus

    assert isinstance(small, Corpus)
    rows = small.pool(Stream())
    ours, packed = pack_docs(rows, small.length[rows], 32), open_windows(small, Stream(), 32)
    for name in ("doc_ptr", "doc_row", "doc_begin", "doc_length"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(packed, name))
