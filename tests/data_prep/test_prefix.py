from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_prep.fasta import RecordBlock
from data_prep.prefix import take_residues
from plm_scaling.core.alphabet import EOS


def block(lengths: list[int], first: int = 0) -> RecordBlock:
    tokens = np.concatenate([np.append(np.full(n, 5 + (first + i) % 20), EOS) for i, n in enumerate(lengths)] or [[]])
    headers = [b"p%d" % (first + i) for i in range(len(lengths))]
    return RecordBlock(headers, tokens.astype(np.uint8), np.array(lengths, dtype=np.int64), {})


@given(st.lists(st.integers(1, 9), max_size=30), st.integers(1, 120), st.lists(st.integers(0, 30), max_size=5))
def test_records_until_the_sum_is_reached(lengths: list[int], n: int, cuts: list[int]) -> None:
    """Against a plain loop, for any cut into blocks."""
    wanted = 0
    kept = 0
    while kept < len(lengths) and wanted < n:
        wanted += lengths[kept]
        kept += 1
    edges = sorted({0, len(lengths), *(cut for cut in cuts if cut < len(lengths))})
    blocks = [block(lengths[a:b], a) for a, b in itertools.pairwise(edges)]
    found = list(take_residues(iter(blocks), n))
    assert [header for part in found for header in part.headers] == [b"p%d" % i for i in range(kept)]
    assert sum(int(part.lengths.sum()) for part in found) == wanted
    tokens = b"".join(part.tokens.tobytes() for part in found)
    assert tokens == block(lengths[:kept]).tokens.tobytes()


def test_nothing_is_read_beyond_the_last_record() -> None:
    def blocks() -> Iterator[RecordBlock]:
        yield block([3, 4])
        yield block([5], 2)
        raise AssertionError("read too far")

    assert [len(part) for part in take_residues(blocks(), 12)] == [2, 1]
    assert [len(part) for part in take_residues(blocks(), 8)] == [2, 1]
    assert [len(part) for part in take_residues(blocks(), 7)] == [2]
    assert [len(part) for part in take_residues(blocks(), 3)] == [1]


def test_a_block_of_empty_records_only_is_passed_on() -> None:
    empty = RecordBlock([], np.empty(0, np.uint8), np.empty(0, np.int64), {"empty_records": 2})
    assert next(take_residues(iter([empty, block([3])]), 3)).counts == {"empty_records": 2}
