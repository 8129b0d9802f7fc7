from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep import fragments
from data_prep.containment import _smaller, containment, count_reversed
from data_prep.fragments import find_fragments
from plm_scaling.core.alphabet import EOS, STANDARD, encode
from plm_scaling.corpus.format import RecordCount

HERE = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@dataclass(frozen=True)
class Made:
    rows: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.uint8]
    sizes: npt.NDArray[np.int64]


def pieces_of(sequences: list[str], per_piece: int = 5, first_row: int = 0) -> Callable[[], Iterator[Made]]:
    """The sequences as pieces; row numbers have gaps, as where copies were left out."""

    def pieces() -> Iterator[Made]:
        for at in range(0, len(sequences), per_piece):
            some = sequences[at : at + per_piece]
            tokens = np.concatenate([np.append(encode(sequence), np.uint8(EOS)) for sequence in some])
            rows = first_row + 3 * np.arange(at, at + len(some))
            yield Made(rows, tokens, np.array([len(sequence) + 1 for sequence in some]))

    return pieces


def brute_fragments(sequences: list[str]) -> list[int]:
    return [
        number
        for number, sequence in enumerate(sequences)
        if any(sequence != other and sequence in other for other in sequences)
    ]


def found_fragments(sequences: list[str], **options: int) -> list[int]:
    found = [rows for rows, _ in find_fragments(pieces_of(sequences), **options)]
    return (np.concatenate(found) // 3).tolist()


def random_text(rng: np.random.Generator, n: int, letters: str = STANDARD) -> str:
    return "".join(letters[i] for i in rng.integers(0, len(letters), n))


def planted(n: int = 60, seed: int = 0) -> list[str]:
    """Random sequences, pieces of them of all kinds, near pieces, and relatives with the same beginning."""
    rng = np.random.default_rng(seed)
    whole = [random_text(rng, int(rng.integers(70, 400))) for _ in range(n)]
    out = set(whole)
    for sequence in whole[: n // 2]:
        size = int(rng.integers(1, len(sequence)))
        start = int(rng.integers(0, len(sequence) - size + 1))
        out |= {sequence[start : start + size], sequence[:size], sequence[-size:]}
        piece = sequence[start : start + size]
        out.add(piece[:-1] + ("A" if piece[-1] != "A" else "C"))  # the same beginning, another end
    family = random_text(rng, 120)
    out |= {family[:80] + random_text(rng, int(rng.integers(1, 60))) for _ in range(20)}
    out |= {family[:size] for size in (64, 65, 79, 80)}
    return sorted(out, key=lambda s: (len(s) * 7919 % 101, s))


# ---- fragments ---------------------------------------------------------------------------------------------------


@given(st.sets(st.text("AC", min_size=1, max_size=12), min_size=1, max_size=40), st.integers(1, 200))
@settings(max_examples=80, **HERE)  # type: ignore[arg-type]
def test_fragments_of_two_letters_are_those_of_the_in_operator(sequences: set[str], query_tokens: int) -> None:
    ordered = sorted(sequences)
    assert found_fragments(ordered, query_tokens=query_tokens) == brute_fragments(ordered)


@given(st.lists(st.text("ACD", min_size=1, max_size=150), min_size=1, max_size=12, unique=True), st.data())
@settings(max_examples=40, **HERE)  # type: ignore[arg-type]
def test_fragments_of_every_length_are_found(sequences: list[str], data: st.DataObject) -> None:
    parent = data.draw(st.sampled_from(sequences))
    start = data.draw(st.integers(0, len(parent) - 1))
    piece = parent[start : data.draw(st.integers(start + 1, len(parent)))]
    unique = list(dict.fromkeys([*sequences, piece]))
    assert found_fragments(unique) == brute_fragments(unique)


@pytest.mark.parametrize("query_tokens", [1, 700, 1 << 26])
@pytest.mark.parametrize("run_tokens", [1, 300, 1 << 16])
def test_planted_fragments_are_found_whatever_the_passes_and_runs(
    monkeypatch: pytest.MonkeyPatch, query_tokens: int, run_tokens: int
) -> None:
    monkeypatch.setattr(fragments, "RUN_TOKENS", run_tokens)
    sequences = planted(n=15 if query_tokens == 1 else 50)
    expected = brute_fragments(sequences)
    assert 20 < len(expected) < len(sequences) - 20
    assert found_fragments(sequences, query_tokens=query_tokens) == expected


def test_many_places_are_compared_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fragments, "_MAX_PAIRS", 3)
    sequences = ["A" * n for n in (90, 64, 3)] + ["A" * n + "C" for n in range(60, 90, 3)] + ["C" + "A" * 70 + "D"]
    assert found_fragments(sequences) == brute_fragments(sequences)


@pytest.mark.parametrize("value", [0, 1])
def test_equal_hashes_are_compared_token_by_token(monkeypatch: pytest.MonkeyPatch, value: int) -> None:
    # With 1 all stretches of one length have one hash, with 0 all stretches whatever: only the tokens tell them apart.
    monkeypatch.setattr(fragments, "_VALUES", np.full(33, value, dtype=np.uint64))
    sequences = ["ACDEFGHIKL", "CDEF", "CDEG", "KL", "LA", "ACD", "DEFGHIK", "HIKLA", "W", "K"]
    assert found_fragments(sequences) == brute_fragments(sequences) == [1, 3, 4, 5, 6, 9]


def test_fragments_do_not_reach_over_the_end_of_a_sequence() -> None:
    assert found_fragments(["ACDE", "FGHI", "DEFG", "E"]) == [3]


def test_fragments_carry_their_rows_and_sizes() -> None:
    [(rows, sizes)] = find_fragments(pieces_of(["ACDEFG", "CDE", "KLM", "G"], first_row=10))
    assert rows.tolist() == [13, 19]
    assert sizes.tolist() == [4, 2]


def test_no_sequences() -> None:
    assert list(find_fragments(pieces_of([]))) == []


def test_found_queries_are_looked_for_no_longer() -> None:
    search = fragments._Search(fragments._joined(list(fragments._runs(next(pieces_of(["A", "AC", "ACD"])())))),
                               fragments._Hasher())  # fmt: skip
    assert set(search.levels) == {1, 2}
    run = fragments._joined(list(fragments._runs(next(pieces_of(["DACA"])()))))
    search.look_in(run)
    assert search.found.tolist() == [True, True, False]
    assert set(search.levels) == {2}
    assert search.levels[2].members.tolist() == [2]


# ---- read backwards ----------------------------------------------------------------------------------------------


def brute_reversed(sequences: list[str]) -> tuple[RecordCount, RecordCount]:
    held = set(sequences)
    turned = [s for s in sequences if s[::-1] in held and s != s[::-1]]
    same = [s for s in sequences if s == s[::-1]]
    first, second = (
        RecordCount(sequences=len(group), tokens=sum(len(s) + 1 for s in group)) for group in (turned, same)
    )
    return first, second


@given(st.sets(st.text("ACD", min_size=1, max_size=5), max_size=40), st.integers(1, 9))
@settings(max_examples=60, **HERE)  # type: ignore[arg-type]
def test_reversed_sequences_are_those_of_a_set(tmp_path: Path, sequences: set[str], per_piece: int) -> None:
    ordered = sorted(sequences)
    assert count_reversed(pieces_of(ordered, per_piece), tmp_path) == brute_reversed(ordered)


def test_the_smaller_hash_is_that_of_both_words() -> None:
    left = np.array([[1, 5], [1, 5], [2, 0], [0, 9]], dtype=np.uint64)
    right = np.array([[1, 4], [1, 6], [1, 9], [1, 0]], dtype=np.uint64)
    assert _smaller(left, right).tolist() == [[1, 4], [1, 5], [1, 9], [0, 9]]
    assert (_smaller(left, right) == _smaller(right, left)).all()


def test_all_counts_together(tmp_path: Path) -> None:
    sequences = ["ACD", "DCA", "AKA", "MACDM", "LLLL", "KK"]
    found = containment(pieces_of(sequences), tmp_path, fragments_file=tmp_path / "fragments.u64")
    assert found.reversed == RecordCount(sequences=2, tokens=8)
    assert found.palindromes == RecordCount(sequences=3, tokens=12)
    assert found.fragments == RecordCount(sequences=1, tokens=4)
    assert np.fromfile(tmp_path / "fragments.u64", dtype="<u8").tolist() == [0]


# ---- real sequences ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["UP000000625"])
def test_real_proteome_agrees_with_the_in_operator(test_data: Path, name: str) -> None:
    paths = sorted((test_data / "corpus").glob(f"*{name}*.gz"))
    if not paths:
        pytest.skip(f"the test data hold no proteome {name}")
    with gzip.open(paths[0], "rt") as handle:
        records = handle.read().split(">")[1:]
    text = ["".join(record.split("\n")[1:]) for record in records]
    sequences = list(dict.fromkeys(s for s in text if s and set(s) <= set(STANDARD)))[:1500]
    sequences += [s[3 : len(s) // 2] for s in sequences[:10]]
    sequences = list(dict.fromkeys(sequences))
    joined = "\n".join(sequences)
    expected = [i for i, s in enumerate(sequences) if joined.count(s) > 1]
    assert len(expected) >= 10
    assert found_fragments(sequences) == expected
