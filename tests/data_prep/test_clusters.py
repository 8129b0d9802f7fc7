"""Cluster numbers: nested, dense, on first rows only; found by MMseqs2 or by a stand-in that names random clusters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import clusters
from data_prep.clusters import LONGEST, NO_CLUSTER, cluster_draft, searchable
from plm_scaling.core.alphabet import EOS, encode
from plm_scaling.core.errors import CorpusError
from plm_scaling.corpus import homology
from plm_scaling.corpus.homology import Mmseqs, MmseqsWork, find_mmseqs

LETTERS = np.array(list("ACDEFGHIKLMNPQRSTVWY"))
PROGRAM = Mmseqs(Path("/nowhere/mmseqs"), "0-test")


@dataclass
class Piece:
    rows: np.ndarray
    tokens: np.ndarray
    sizes: np.ndarray


@dataclass
class FakeDraft:
    folder: Path
    sequences: list[str]
    piece: int = 7

    @property
    def n_rows(self) -> int:
        return len(self.sequences)

    def first_rows(self) -> list[int]:
        return list({sequence: row for row, sequence in reversed(list(enumerate(self.sequences)))}.values())[::-1]

    def first_sequences(self) -> Iterator[Piece]:
        rows = sorted(self.first_rows())
        for start in range(0, len(rows), self.piece):
            part = rows[start : start + self.piece]
            tokens = [np.append(encode(self.sequences[row]), np.uint8(EOS)) for row in part]
            yield Piece(np.array(part), np.concatenate(tokens), np.array([len(one) for one in tokens]))


def read(draft: FakeDraft, name: str) -> np.ndarray:
    return np.fromfile(draft.folder / "cluster" / name, dtype=np.uint32)


def groups(number: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(number == n).tolist()) for n in np.unique(number[number != NO_CLUSTER])}


def protein(length: int, rng: np.random.Generator) -> str:
    return "".join(rng.choice(LETTERS, length))


def mutated(sequence: str, share: float, rng: np.random.Generator) -> str:
    out = list(sequence)
    for i in rng.choice(len(out), round(share * len(out)), replace=False):
        out[i] = rng.choice(LETTERS[out[i] != LETTERS])
    return "".join(out)


@dataclass
class Oracle:
    """Stands in for MMseqs2: given clusters of row numbers, those in the FASTA file come back."""

    near: list[set[int]]
    far: list[set[int]]
    calls: list[str]

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: dict[Path, list[int]] = {}

        def database(work: MmseqsWork, fasta: Path) -> Path:
            seen[fasta] = [int(line[1:]) for line in fasta.read_text().splitlines() if line.startswith(">")]
            return fasta

        def answer(verb: str, sets: list[set[int]]) -> object:
            def call(work: MmseqsWork, database: Path, alike: object) -> Iterator[tuple[np.ndarray, np.ndarray]]:
                self.calls.append(verb)
                here = set(seen[database])
                pairs = [(max(group & here), row) for group in sets if group & here for row in group & here]
                for start in range(0, len(pairs), 3):
                    heads, members = np.array(pairs[start : start + 3]).T
                    yield heads, members

            return call

        monkeypatch.setattr(MmseqsWork, "database", database)
        monkeypatch.setattr(MmseqsWork, "linclust", answer("linclust", self.near))
        monkeypatch.setattr(MmseqsWork, "cluster", answer("cluster", self.far))


def partition(rows: list[int], rng: np.random.Generator, n: int) -> list[set[int]]:
    label = rng.integers(0, n, len(rows))
    return [{row for row, k in zip(rows, label, strict=True) if k == group} for group in range(n)]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_numbers_are_nested_and_dense(tmp_path_factory: pytest.TempPathFactory, seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    unique = [protein(int(rng.integers(1, 40)), rng) for _ in range(n)]
    draft = FakeDraft(tmp_path_factory.mktemp("draft"), [unique[i] for i in rng.integers(0, n, 2 * n)])
    first = draft.first_rows()
    near, far = partition(first, rng, max(1, n // 2)), partition(first, rng, max(1, n // 5))
    oracle = Oracle(near, far, [])
    with pytest.MonkeyPatch.context() as monkeypatch:
        oracle.install(monkeypatch)
        monkeypatch.setattr(clusters, "_CHUNK", 5)
        stats = cluster_draft(draft, mmseqs=PROGRAM, threads=1)
    c90, c50 = read(draft, "c90.u32"), read(draft, "c50.u32")
    copies = np.setdiff1d(np.arange(draft.n_rows), first)
    assert (c90[copies] == NO_CLUSTER).all()
    assert (c50[copies] == NO_CLUSTER).all()
    # By brute force: what is long enough is grouped as the oracle says, the representative (largest row) leading.
    long = {row for row in first if len(draft.sequences[row]) >= homology.SHORTEST}
    alone = [frozenset({row}) for row in first if row not in long]
    truth90 = [frozenset(group & long) for group in near if group & long] + alone
    assert groups(c90) == set(truth90)
    head = {row: max(group) for group in truth90 for row in group}
    truth50: dict[object, set[int]] = {}
    for row in first:
        label = next((k for k, group in enumerate(far) if head[row] in group and row in long), ("alone", head[row]))
        truth50.setdefault(label, set()).add(row)
    assert groups(c50) == {frozenset(group) for group in truth50.values()}
    for number, count in ((c90, stats.n_clusters90), (c50, stats.n_clusters50)):
        assert sorted(set(number[first].tolist())) == list(range(count))
    assert stats.largest50 == max(Counter(c50[first].tolist()).values())
    assert any(f"alone: {len(alone)} " in setting for setting in stats.settings) == bool(alone)


def test_an_interrupted_run_goes_on_after_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    draft = FakeDraft(tmp_path, [protein(40, rng) for _ in range(12)] + ["MK"])
    oracle = Oracle([{0, 1}, {2, 3}], [{1, 3}], [])
    oracle.install(monkeypatch)

    def fail(work: MmseqsWork, database: Path, alike: object) -> None:
        raise CorpusError("killed")

    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(MmseqsWork, "cluster", fail)
        with pytest.raises(CorpusError):
            cluster_draft(draft, mmseqs=PROGRAM, threads=1)
    assert not (tmp_path / "cluster" / "c50.u32").exists()
    stats = cluster_draft(draft, mmseqs=PROGRAM, threads=1)
    assert oracle.calls == ["linclust", "cluster"]
    assert frozenset({0, 1, 2, 3}) in groups(read(draft, "c50.u32"))
    assert "alone: 1 " in stats.settings[-1]
    # Another program may cluster otherwise: nothing of the older one's is used.
    cluster_draft(draft, mmseqs=Mmseqs(PROGRAM.path, "1-test"), threads=1)
    assert oracle.calls == ["linclust", "cluster", "linclust", "cluster"]


def test_nothing_that_can_be_clustered(tmp_path: Path) -> None:
    draft = FakeDraft(tmp_path, ["MK", "A", "MK", "G" * 13])
    stats = cluster_draft(draft, mmseqs=PROGRAM, threads=1)  # the program is not even called
    assert (stats.n_clusters90, stats.n_clusters50, stats.largest50) == (3, 3, 1)
    assert read(draft, "c50.u32").tolist() == [0, 1, NO_CLUSTER, 2]


def test_a_damaged_table_of_members_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = FakeDraft(tmp_path, ["M" * 20, "K" * 20, "L" * 20])
    Oracle([], [], []).install(monkeypatch)
    pairs = [(np.array([1, 2]), np.array([0, 1]))]  # row 1 leads a cluster and is in another
    monkeypatch.setattr(MmseqsWork, "linclust", lambda *_: iter(pairs))
    with pytest.raises(CorpusError, match="not in its own cluster"):
        cluster_draft(draft, mmseqs=PROGRAM, threads=1)


def test_too_short_and_too_long_are_left_out(tmp_path: Path) -> None:
    sequences = ["M" * n for n in (13, 14, 100, LONGEST, LONGEST + 1)]
    draft = FakeDraft(tmp_path, sequences, piece=2)
    batches = list(searchable(draft.first_sequences()))
    assert np.concatenate([rows for rows, _, _ in batches]).tolist() == [1, 2, 3]
    assert all(len(tokens) == sizes.sum() for _, tokens, sizes in batches)
    wanted = np.array([True, False, True, False, True])
    assert [rows.tolist() for rows, _, _ in searchable(draft.first_sequences(), wanted)] == [[2]]


@pytest.mark.slow  # test_stages clusters families by MMseqs2, too
def test_planted_families(tmp_path: Path) -> None:
    try:
        program = find_mmseqs()
    except CorpusError:
        pytest.skip("MMseqs2 is not installed here")
    rng = np.random.default_rng(5)
    sequences: list[str] = []
    for _ in range(15):
        ancestor = protein(200, rng)
        cousin = mutated(ancestor, 0.25, rng)
        sequences += [ancestor, mutated(ancestor, 0.04, rng), cousin, mutated(cousin, 0.04, rng), ancestor]
    draft = FakeDraft(tmp_path, [*sequences, "MKV", "W" * 30])
    stats = cluster_draft(draft, mmseqs=program, threads=2)
    assert groups(read(draft, "c90.u32")) >= {frozenset({5 * i + k, 5 * i + k + 1}) for i in range(15) for k in (0, 2)}
    assert groups(read(draft, "c50.u32")) >= {frozenset(range(5 * i, 5 * i + 4)) for i in range(15)}
    assert (stats.n_clusters90, stats.n_clusters50, stats.largest50) == (32, 17, 4)
    assert program.version in stats.tool
    assert stats.settings[0].startswith("linclust --min-seq-id 0.9 -c 0.8")
    assert stats.settings[1].startswith("cluster --min-seq-id 0.5 -c 0.8")
    assert sorted(path.name for path in (tmp_path / "cluster").iterdir()) == [
        "c50.u32",
        "c90.u32",
        "rep90.json",
        "rep90.u32",
    ]
