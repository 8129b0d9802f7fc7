"""An evaluation set against a corpus: copies by hash, relatives by MMseqs2, and what is said without that program."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep import PrepSpec
from plm_scaling import api
from plm_scaling.core.errors import CorpusError, PlanError
from plm_scaling.corpus.homology import find_mmseqs
from plm_scaling.corpus.overlap import OverlapReport, check_overlap
from plm_scaling.corpus.reader import Corpus

LETTERS = np.array(list("ACDEFGHIKLMNPQRSTVWY"))
Ask = Callable[..., OverlapReport]


def mutated(sequence: str, share: float, rng: np.random.Generator) -> str:
    out = list(sequence)
    for i in rng.choice(len(out), round(share * len(out)), replace=False):
        out[i] = rng.choice(LETTERS[out[i] != LETTERS])
    return "".join(out)


@pytest.fixture(scope="module")
def proteins() -> list[str]:
    rng = np.random.default_rng(0)
    return ["".join(rng.choice(LETTERS, 160)) for _ in range(60)] + ["MKUJ", "MKVL"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, proteins: list[str]) -> Corpus:
    folder = tmp_path_factory.mktemp("overlap")
    (folder / "a.fasta").write_text("".join(f">p{i} protein\n{one}\n" for i, one in enumerate(proteins)))
    api.prep({"a": [folder / "a.fasta"]}, folder / "corpus", PrepSpec(val_share=0.2))
    return Corpus.open(folder / "corpus")


def by_split(corpus: Corpus, split: str) -> list[int]:
    """Numbers of the proteins of a split."""
    return sorted(int(name[1:]) for name in corpus.accessions(corpus.rows(split)))


def test_copies_and_relatives(corpus: Corpus, proteins: list[str], tmp_path: Path) -> None:
    try:
        program = find_mmseqs()
    except CorpusError:
        pytest.skip("MMseqs2 is not installed here")
    rng = np.random.default_rng(1)
    train, val = by_split(corpus, "train"), by_split(corpus, "val_iid")
    a, b, c, d, e = [i for i in train if i < 60][:5]
    held = next(i for i in val if i < 60)
    asked = {
        "copy some words": f"{proteins[a].lower()}*",
        "near": mutated(proteins[b], 0.05, rng),
        "cousin": mutated(proteins[c], 0.35, rng),
        "far": mutated(proteins[d], 0.56, rng),
        "stranger": "".join(rng.choice(LETTERS, 150)),
        "part": proteins[e][:80] + "".join(rng.choice(LETTERS, 100)),
        "validation": proteins[held],
        "none": "-",
    }
    path = tmp_path / "set.fasta"
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in asked.items()))
    report = check_overlap(corpus, path)
    found = {query.name: query for query in report.queries}
    assert list(found) == ["copy", "near", "cousin", "far", "stranger", "part", "validation"]
    assert found["copy"].copy_of == found["copy"].nearest == f"p{a}"
    assert (found["copy"].nearest_identity, found["copy"].nearest_coverage, found["copy"].length) == (1.0, 1.0, 160)
    assert (found["near"].copy_of, found["near"].nearest) == (None, f"p{b}")
    assert found["near"].nearest_identity == pytest.approx(0.95, abs=0.02)
    assert found["cousin"].nearest == f"p{c}"
    assert found["cousin"].nearest_identity == pytest.approx(0.65, abs=0.05)
    for name in ("stranger", "part", "validation"):
        assert (found[name].nearest, found[name].nearest_identity) == (None, 0.0)
    assert (report.copies, report.near, report.empty) == (1, 3, 1)
    assert report.bins is not None
    assert (sum(report.bins), report.bins[2:]) == (7, (1, 2))
    assert report.tool == str(program)
    assert OverlapReport.model_validate_json(report.model_dump_json()) == report
    assert report.corpus_id == corpus.corpus_id


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ask:
    """Without MMseqs2."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def check(corpus: Corpus, content: bytes, **options: object) -> OverlapReport:
        path = tmp_path / "set.fasta"
        path.write_bytes(content)
        return check_overlap(corpus, path, **options)  # type: ignore[arg-type]

    return check


def test_without_the_program_copies_are_still_found(corpus: Corpus, proteins: list[str], ask: Ask) -> None:
    text = "".join(f">q{i}\n{one}\n" for i, one in enumerate(proteins)).encode()
    for split in ("train", "val_iid"):
        for content in (text, gzip.compress(text)):
            report = ask(corpus, content, split=split)
            copies = {int(query.name[1:]) for query in report.queries if query.copy_of == f"p{query.name[1:]}"}
            assert sorted(copies) == by_split(corpus, split)
            assert report.copies == report.near == len(copies)
            assert (report.tool, report.bins) == ("", None)


def test_normalised_as_the_corpus_is(corpus: Corpus, ask: Ask) -> None:
    split = "train" if 60 in by_split(corpus, "train") else "val_iid"
    assert ask(corpus, b">q\nmk-\nU.x*\n", split=split).copies == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "no sequence"), (b">q\n*\n", "no sequence"), (b">q\nMK1\n", "record 1"), (b">a\nM\n>b\nM@\n", "record 2")],
)
def test_files_that_cannot_be_used(corpus: Corpus, ask: Ask, content: bytes, says: str) -> None:
    with pytest.raises(CorpusError) as caught:
        ask(corpus, content)
    assert says in str(caught.value)
    assert "set.fasta" in caught.value.where


def test_missing_file_and_unknown_split(corpus: Corpus, ask: Ask, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="cannot read"):
        check_overlap(corpus, tmp_path / "absent.fasta")
    with pytest.raises(PlanError):
        ask(corpus, b">q\nMKV\n", split="nope")
