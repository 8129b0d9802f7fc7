"""One search of a split answers for every part of it as a search of the part does, and is kept by content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import plm_scaling.corpus.relatives as module
from data_prep import PrepSpec
from plm_scaling import api
from plm_scaling.core.alphabet import encode
from plm_scaling.core.errors import CorpusError
from plm_scaling.corpus.hits import Hits
from plm_scaling.corpus.homology import Mmseqs, find_mmseqs
from plm_scaling.corpus.nearest import find_nearest
from plm_scaling.corpus.reader import Corpus
from plm_scaling.corpus.relatives import find_relatives

LETTERS = np.array(list("ACDEFGHIKLMNPQRSTVWY"))
RNG = np.random.default_rng(5)


def mutated(sequence: str, share: float) -> str:
    out = list(sequence)
    for i in RNG.choice(len(out), round(share * len(out)), replace=False):
        out[i] = RNG.choice(LETTERS[out[i] != LETTERS])
    return "".join(out)


@pytest.fixture(scope="module")
def families() -> list[list[str]]:
    founders = ["".join(RNG.choice(LETTERS, int(RNG.integers(60, 240)))) for _ in range(12)]
    return [[mutated(one, share) for share in RNG.uniform(0.0, 0.7, 8)] for one in founders]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, families: list[list[str]]) -> Corpus:
    folder = tmp_path_factory.mktemp("relatives")
    members = [one for family in families for one in family]
    members += [members[0], *("".join(RNG.choice(LETTERS, 120)) for _ in range(40))]
    (folder / "a.fasta").write_text("".join(f">p{i}\n{one}\n" for i, one in enumerate(members)))
    api.prep({"a": [folder / "a.fasta"]}, folder / "corpus", PrepSpec(val_share=0.05))
    return Corpus.open(folder / "corpus")


@pytest.mark.slow
def test_a_part_has_the_nearest_that_a_search_of_it_alone_finds(corpus: Corpus, families: list[list[str]]) -> None:
    try:
        find_mmseqs()
    except CorpusError:
        pytest.skip("MMseqs2 is not installed here")
    texts = [mutated(family[k], share) for family in families for k, share in ((0, 0.1), (3, 0.4), (5, 0.6))]
    texts += [families[0][0][:50], families[1][1] + "".join(RNG.choice(LETTERS, 30)), texts[0], families[2][2], "MKV"]
    asked = [encode(text) for text in texts]
    found = find_relatives(corpus, asked, threads=2)
    train = corpus.rows("train")
    seen = 0
    for share, contained in ((0.6, True), (0.2, False)):
        part = RNG.permutation(train)[: round(share * len(train))]
        alone = find_nearest(corpus, part, asked, contained=contained, threads=2)
        taken = found.nearest(part, contained=contained)
        np.testing.assert_array_equal(taken.identity, alone.identity)
        np.testing.assert_array_equal(taken.is_copy, alone.is_copy)
        assert not taken.crowded.any()
        seen += int((taken.identity > 0).sum())
    assert 20 < seen < 2 * len(asked) - 5  # not all found, not all missed


def test_a_search_is_made_once_and_judged_for_each_part(
    corpus: Corpus, families: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = np.sort(corpus.rows("train"))
    planted = Hits(
        query=np.array([0, 0, 0, 1]),
        target=train[[3, 4, 5, 6]],
        identity=np.array([0.9, 0.6, 0.4, 0.3], dtype=np.float32),
        query_coverage=np.array([0.9, 0.7, 0.9, 0.9], dtype=np.float32),
        target_coverage=np.array([0.5, 0.9, 0.9, 0.9], dtype=np.float32),
        evalue=np.array([1e-9, 1e-9, 1e-9, 0.02]),
    )
    searched: list[int] = []
    before = set((corpus.path / "windows").glob("search-*.npz"))

    def search(corpus, rows, sequences, alike, program, **_):
        searched.append(len(sequences))
        return planted

    monkeypatch.setattr(module, "installed", lambda: Mmseqs(Path("mmseqs"), "planted"))
    monkeypatch.setattr(module, "search_records", search)
    a, b = sorted([encode("MKVLAW" * 4), encode("MKWLAW" * 4)], key=lambda one: one.tobytes())
    said: list[str] = []
    found = find_relatives(corpus, [b, a, b], tell=said.append)
    assert searched == [2]
    assert said == [f"MMseqs2 planted searches 2 sequences against the {len(train):,} records of train, once"]
    whole = found.nearest(train)
    np.testing.assert_allclose(whole.identity, [0.0, 0.4, 0.0], rtol=1e-6)  # covers both; unlikely enough by chance
    np.testing.assert_allclose(found.nearest(train, contained=True).identity, [0.0, 0.9, 0.0], rtol=1e-6)
    np.testing.assert_allclose(found.nearest(train[6:9]).identity, [0.3, 0.0, 0.3], rtol=1e-6)  # by chance less often
    assert found.nearest(train[:3]).row.tolist() == [-1, -1, -1]
    assert find_relatives(corpus, [a, b], tell=said.append).nearest(train).row.tolist() == [train[5], -1]
    assert (len(searched), len(said)) == (1, 1)
    (kept,) = set((corpus.path / "windows").glob("search-*.npz")) - before
    kept.write_bytes(kept.read_bytes()[:100])
    np.testing.assert_array_equal(find_relatives(corpus, [a, b]).hits.target, planted.target)
    monkeypatch.setattr(module, "MOST_HITS", 3)
    assert find_relatives(corpus, [a, b]).nearest(train).crowded.tolist() == [True, False]
    assert searched == [2, 2, 2]
    find_relatives(corpus, [a])
    find_relatives(corpus, [a, b], split="val_iid")
    assert searched == [2, 2, 2, 1, 2]
    (twice,) = np.flatnonzero(~corpus.first)  # a duplicate counts as the first copy, whose tokens it is
    copied = find_relatives(corpus, [encode(families[0][0])]).nearest(np.array([twice]))
    assert copied.is_copy.tolist() == [True]
